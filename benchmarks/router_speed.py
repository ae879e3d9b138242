"""Compare the router, over drafters of several pairs, with an ideal choice by the known language.

    python -m benchmarks.router_speed --config recipes/configs/gemma-3-270m/de-en.yaml \
      --drafters runs/gemma-3-270m-drafter-{de,fr,ru,ja,zh}-en/drafter --out runs/route

The questions of the pairs alternate. Each is decoded with plain decoding, with the drafter of its pair, and with the
router, which does not know the pair. Both use the same drafters. The script writes results.json with its report to
--out, and prints the tables for all pairs together and for each pair. An interrupted run resumes.
"""

import argparse
import copy
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from accelerate import PartialState

from drafter_trainer.benchmark.measure import Setting, measure
from drafter_trainer.benchmark.methods import Method
from drafter_trainer.benchmark.page import write_report
from drafter_trainer.benchmark.report import report_tables
from drafter_trainer.benchmark.summary import summarize_run
from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.corpora.questions import Question, hash_questions, load_questions
from drafter_trainer.corpora.tasks import TRANSLATION
from drafter_trainer.drafters.repository import Repository
from drafter_trainer.errors import InputError
from drafter_trainer.hub.prompt_task import PromptTask
from drafter_trainer.hub.router import DrafterRouter
from drafter_trainer.languages import Pair
from drafter_trainer.provenance import collect_provenance
from drafter_trainer.results import DRAFTER, PLAIN, RESULTS, SCHEMA_VERSION, Results, find_method, write_results
from drafter_trainer.targets import Target

ROUTER = "router"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="Configuration of the target")
    parser.add_argument("--drafters", nargs="+", required=True, help="Hub ids or folders, one for each pair")
    parser.add_argument("--questions", nargs="+", help="Spec-Bench file of each drafter (default: the sample)")
    parser.add_argument("--max_questions", type=int, help="Of each pair (default: all)")
    parser.add_argument("--max_new_tokens", type=int, default=128)
    parser.add_argument("--out", type=Path, required=True, help="Folder of results.json and its report")
    options = parser.parse_args(argv)
    (_, where, *_), _ = parse_arguments("export", ["--config", options.config], __doc__)
    asked = interleave(options.drafters, options.questions, options.max_questions)
    results = measure_router(
        where.resolve(), where.dtype, options.drafters, asked, options.max_new_tokens, options.out
    )
    print(report_tables(results))
    over = find_method(results["runs"][0], ROUTER)["tokens_per_second"]
    over /= find_method(results["runs"][0], DRAFTER)["tokens_per_second"]
    print(f"\nrouter over knowing the language: {over:.4f}")


def interleave(drafters: Sequence[str], files: Sequence[str] | None, limit: int | None) -> list[tuple[Pair, Question]]:
    """Load the questions of each drafter's pair; the pairs take turns, so that the router switches drafters often."""
    files = files or ["sample"] * len(drafters)
    if len(files) != len(drafters):
        raise InputError(f"{len(files)} files of questions for {len(drafters)} drafters: name one for each")
    by_pair = []
    for drafter, file in zip(drafters, files):
        pair = Repository.open(drafter).description.translation
        if pair is None:
            raise InputError(f"{drafter} was trained for no pair: name drafters that translate")
        questions = load_questions(file, pair, limit)
        # A sentence can be a question of several pairs.
        by_pair.append(
            [(pair, dataclasses.replace(each, question_id=f"{pair}/{each.question_id}")) for each in questions]
        )
    return [each for turn in itertools.zip_longest(*by_pair) for each in turn if each is not None]


def measure_router(
    target: Target,
    dtype: str,
    drafters: Sequence[str],
    asked: Sequence[tuple[Pair, Question]],
    max_new_tokens: int,
    out: Path,
) -> Results:
    """Measure, and write results and report; the first run has all pairs, each other run has one pair."""
    chat, model = target.load_chat(), target.load_model(dtype, PartialState().device)
    router = DrafterRouter.from_hub(model, drafters, chat.tokenizer)
    known = {tuple(chat.encode_prompt(question.prompt)): pair for pair, question in asked}
    longest = router.generation_config.num_assistant_tokens
    methods = [
        Method(PLAIN),
        Method(DRAFTER, longest, {"assistant_model": with_known_pairs(router, known)}),
        Method(ROUTER, longest, {"assistant_model": router}),
    ]
    setting = Setting(0.0, 0, max_new_tokens)
    records = measure(model, chat, [question for _, question in asked], methods, setting, out / "journal.jsonl")
    pairs, runs = list(dict.fromkeys(str(pair) for pair, _ in asked)), []
    for chosen in (pairs, *([pair] for pair in pairs)) if len(pairs) > 1 else [pairs]:
        part = [question for pair, question in asked if str(pair) in chosen]
        ids = {question.question_id for question in part}
        described = {
            "pair": " ".join(chosen),
            "task": TRANSLATION,
            "draft_length": longest,
            "dtype": str(model.dtype).removeprefix("torch."),
            "questions": {"source": "mixed", "count": len(part), "sha256": hash_questions(part)},
        }
        own = [record for record in records if record["question_id"] in ids]
        runs.append(summarize_run(own, methods, setting, described))
    provenance = collect_provenance() | {"target": target.identity, "drafter": ", ".join(drafters)}
    results = {"schema_version": SCHEMA_VERSION, "provenance": provenance, "runs": runs}
    write_results(results, out / RESULTS)
    write_report(results, out)
    return results


def with_known_pairs(router: DrafterRouter, pairs: Mapping[tuple[int, ...], Pair]) -> DrafterRouter:
    """Return a router with the same drafters that looks up the pair of each prompt by the prompt's ids."""
    other = copy.copy(router)
    other.reader = _KnownPairs(pairs)
    return other


class _KnownPairs:
    def __init__(self, pairs: Mapping[tuple[int, ...], Pair]) -> None:
        self._pairs = pairs

    def read(self, prompt_ids: Sequence[int]) -> PromptTask:
        pair = self._pairs[tuple(prompt_ids)]
        return PromptTask(pair.source, pair.target, is_translation=True)


if __name__ == "__main__":
    main()

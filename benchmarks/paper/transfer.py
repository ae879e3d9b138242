"""Tokens per target pass of a drafter on other input languages, other output languages, and other kinds of text.

    python -m benchmarks.paper.transfer --config recipes/configs/gemma-3-270m/de-en.yaml \
        --drafter hub_cards/gemma-3-270m-drafter-de-en --data runs/transfer

The folder of `--data` contains text that is not in the training data:

    aligned/CODE.txt        the same sentences in each language, one per line; the first five are examples for prompts
                            in languages without examples in the chat template, the others are questions
    kinds/KIND.PAIR.jsonl   questions in the Spec-Bench format: other kinds of text, or other tasks
    text/CODE.txt           text in a language, for an n-gram table
    prompts/en.txt          sentences whose completions are counted in another n-gram table

The target completes all questions greedily, once. The completions are stored in completions/ in the same folder, so
that another drafter is replayed on the same completions. Each draft source drafts separately, at most 5 tokens per
round, so nothing depends on the clock. Each figure has the quality of its completions. Output languages in which the
target fails its task are not replayed.

Source: the questions are those of arXiv 2406.16758 (input against output language; Figures 5 and 8) and 2605.30580
(output languages).
"""

import argparse
import json
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reporting import RESULTS, report
from benchmarks.studies import replay_at_fixed_length
from drafter_trainer import load_drafter
from drafter_trainer.atomic import write_whole
from drafter_trainer.benchmark.quality import add_language_share, failed_checks, score
from drafter_trainer.benchmark.statistics import Interval, interval, resamples
from drafter_trainer.chat import ChatTokenizer
from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.corpora.files import read_lines
from drafter_trainer.corpora.questions import Question, hash_questions, load_questions
from drafter_trainer.corpora.sample import LANGUAGES as WITH_EXAMPLES
from drafter_trainer.decoding.metrics import Round, alpha, is_looping, mean_accepted_tokens
from drafter_trainer.decoding.target_cache import TargetTexts
from drafter_trainer.distillation.engines import TransformersEngine
from drafter_trainer.distillation.requests import Request
from drafter_trainer.drafters.loop.drafting import DraftingLoop
from drafter_trainer.drafters.loop.generate import loop_of
from drafter_trainer.drafters.loop.settings import HIGHEST_ORDER
from drafter_trainer.drafters.loop.sources import TAIL, NgramTable, PromptLookup
from drafter_trainer.drafters.ngram import count_table
from drafter_trainer.errors import InputError
from drafter_trainer.languages import Pair, get_pair, translation_prompt
from drafter_trainer.results import PLAIN
from drafter_trainer.targets import Target

EXAMPLES = 5
BATCH = 32
INPUTS, OUTPUTS, KINDS = "inputs", "outputs", "kinds"
PAIRS = {
    INPUTS: ["de-en", "fr-en", "ru-en", "es-en", "it-en", "tr-en", "en-de", "en-fr"],
    OUTPUTS: ["en-de", "en-fr", "en-es", "en-it", "en-tr", "en-ne", "en-yo", "en-ig"],
}
Completions = Sequence[tuple[list[int], list[int]]]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="Configuration of the target")
    parser.add_argument("--drafter", required=True, help="Folder or id of a published drafter")
    parser.add_argument("--data", type=Path, required=True, help="Folder of aligned/, kinds/ and text/")
    parser.add_argument("--compare", nargs="+", choices=(INPUTS, KINDS, OUTPUTS), default=[INPUTS, KINDS, OUTPUTS])
    parser.add_argument("--max_questions", type=int, default=30, help="Maximum number of questions of each set")
    parser.add_argument("--max_new_tokens", type=int, default=96)
    parser.add_argument("--draft_length", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(argv)
    (_, where, *_), _ = parse_arguments("export", ["--config", options.config], __doc__)
    target = where.resolve()
    chat, target_model = target.load_chat(), target.load_model(where.dtype)
    end_ids = frozenset(target.end_ids(chat.tokenizer))
    engine = TransformersEngine(target_model, chat.tokenizer.pad_token_id)
    kept = options.data / "completions"
    writer = Writer(target, where.dtype, chat, engine, options.max_new_tokens, kept)
    loop = loop_of(load_drafter(options.drafter, target_model, chat.tokenizer, follow_clock=False))
    target_texts = TargetTexts(target_model)
    for compared in options.compare:
        figures = []
        for kind, pair, questions in read_sets(compared, options.data):
            questions = questions[: options.max_questions]
            completions = writer.complete(questions, kind, pair)
            texts = [chat.tokenizer.decode(ids, skip_special_tokens=True).strip() for _, ids in completions]
            worth = judge(texts, completions, questions, pair)
            figures.append({"kind": kind, "pair": str(pair), "completions": len(texts)} | worth)
            if compared != OUTPUTS or worth["does the task"] == "yes":
                readers = COUNTED if compared == OUTPUTS else {}
                counted = {name: read(pair, options.data, writer) for name, read in readers.items()}
                tables = {"drafter's n-gram table": loop.table}
                tables |= {f"n-gram table of {name}": count_all_orders(ids) for name, ids in counted.items()}
                figures[-1] |= replay_sources(loop, tables, completions, options.draft_length, end_ids, target_texts)
                figures[-1] |= {f"tokens of {name}": sum(map(len, ids)) for name, ids in counted.items()}
            print(json.dumps(figures[-1], ensure_ascii=False), texts[:2], file=sys.stderr, flush=True)
        report(f"transfer_{compared}", figures, {}, options.out)


def read_sets(compared: str, data: Path) -> Iterator[tuple[str, Pair, list[Question]]]:
    """Yield the kind of text, the pair and the questions of each set of a comparison."""
    for name in PAIRS.get(compared, ()):
        asked = get_pair(name)
        lines = read_aligned(data / "aligned", asked)
        yield "news", asked, make_questions(asked, lines[:EXAMPLES], lines[EXAMPLES:])
    if compared == KINDS:
        for path in sorted((data / "kinds").glob("*.jsonl")):
            kind, _, pair = path.stem.rpartition(".")
            yield kind.replace("_", " "), get_pair(pair), load_questions(str(path), get_pair(pair))


def read_aligned(folder: Path, pair: Pair) -> list[tuple[str, str]]:
    """Read the lines of a pair from line-aligned files.

    Raises:
        InputError: If the two files have different numbers of lines.
    """
    sides = [[line for _, line in read_lines(folder / f"{language.code}.txt")] for language in pair.languages]
    if len(sides[0]) != len(sides[1]):
        raise InputError(f"{folder}: {pair} has {len(sides[0])} and {len(sides[1])} lines: align them")
    return list(zip(*sides))


def make_questions(
    pair: Pair, examples: Sequence[tuple[str, str]], lines: Iterable[tuple[str, str | None]]
) -> list[Question]:
    """Ask for translations, with examples in the prompt if the chat template has none in both languages.

    Args:
        lines (`Iterable[tuple[str, str | None]]`): Source sentences, each with a reference or `None`.
    """
    templated = {language.code for language in pair.languages} <= set(WITH_EXAMPLES)
    return [
        Question(
            str(number),
            translation_prompt(pair, source) if templated else few_shot_prompt(pair, examples, source),
            source,
            reference=reference,
        )
        for number, (source, reference) in enumerate(lines)
    ]


def few_shot_prompt(pair: Pair, examples: Iterable[tuple[str, str]], text: str) -> str:
    """Return a prompt in the form of the chat template for languages with examples."""
    source, target = pair.source.name, pair.target.name
    shown = "".join(f"{source}: {left}\n{target}: {right}\n\n" for left, right in examples)
    return f"{shown}{source}: {text}\n{target}:"


@dataclass(frozen=True)
class Writer:
    """The target and its stored completions.

    Args:
        kept (`Path`): Folder of the completions.
    """

    target: Target
    dtype: str
    chat: ChatTokenizer
    engine: TransformersEngine
    max_new_tokens: int
    kept: Path

    def complete(self, questions: Sequence[Question], kind: str, pair: Pair) -> Completions:
        """Read stored completions; if the file is missing or has other questions, let the target complete them."""
        limit = self.max_new_tokens
        path = self.kept / f"{kind.replace(' ', '_')}_{pair}.json"
        identity = f"{self.target.identity} {hash_questions(questions)} {limit} {self.dtype}"
        if not path.is_file() or json.loads(path.read_text(encoding="utf-8"))["of"] != identity:
            name, revision = self.target.name, self.target.revision
            prompts = [(question.question_id, self.chat.encode_prompt(question.prompt)) for question in questions]
            requests = [
                Request(tuple(ids), 0.0, 0, limit, number, kind, str(pair), name, revision) for number, ids in prompts
            ]
            batches = [requests[start : start + BATCH] for start in range(0, len(requests), BATCH)]
            answers = {
                request: answer.completion_ids
                for group in self.engine.complete(batches)
                for request, answer in zip(*group)
            }
            text = json.dumps({"of": identity, "completions": [[each.prompt_ids, answers[each]] for each in requests]})
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, text)
        return json.loads(path.read_text(encoding="utf-8"))["completions"]


def read_text(pair: Pair, data: Path, writer: Writer) -> list[list[int]]:
    """Return the token ids of text in a pair's output language; empty if there is none."""
    path = data / "text" / f"{pair.target.code}.txt"
    return [writer.chat.encode_text(line) for _, line in read_lines(path)] if path.is_file() else []


def complete_prompts(pair: Pair, data: Path, writer: Writer) -> list[list[int]]:
    """Return the target's completions of further sentences in a pair's input language; empty if there are none."""
    path = data / "prompts" / f"{pair.source.code}.txt"
    if not path.is_file():
        return []
    examples = read_aligned(data / "aligned", pair)[:EXAMPLES]
    questions = make_questions(pair, examples, ((line, None) for _, line in read_lines(path)))
    return [ids for _, ids in writer.complete(questions, "prompts", pair)]


# Sources of the n-gram tables of an output language.
COUNTED = {"text": read_text, "completions": complete_prompts}


def judge(
    texts: Sequence[str], completions: Completions, questions: Sequence[Question], pair: Pair
) -> dict[str, float | str | None]:
    """Score completions, and list the reasons why the target fails the task, by the limits of all benchmarks."""
    looping = sum(is_looping(ids) for _, ids in completions) / len(completions)
    plain: Any = {"name": PLAIN, "looping_share": looping}
    run: Any = {"task": "translation", "temperature": 0, "methods": [plain]}
    references = [question.reference for question in questions if question.reference is not None]
    if len(references) == len(texts):
        plain["quality"] = score(texts, references, pair.target)
    add_language_share(run, [{"methods": {PLAIN: {"text": text}}} for text in texts], pair.target)
    return {
        "chrF": plain.get("quality", {}).get("chrf"),
        "BLEU": plain.get("quality", {}).get("bleu"),
        "in the language": run.get("language_share"),
        "looping": looping,
        "does the task": "; ".join(failed_checks(run)) or "yes",
    }


def replay_sources(
    loop: DraftingLoop,
    tables: Mapping[str, NgramTable | None],
    completions: Completions,
    draft_length: int,
    end_ids: Collection[int],
    target_texts: TargetTexts,
) -> dict[str, float | None]:
    """Return the tokens per target pass of each source on stored completions; `None` for a missing table."""
    tokens = sum(len(ids) for _, ids in completions)
    drafted = {"lookup": replay_source(look_up, completions, draft_length, end_ids)}
    for name, table in tables.items():
        drafted[name] = [] if table is None else replay_source(ask_table(table), completions, draft_length, end_ids)
    network = [
        replay_at_fixed_length(loop.network, [each], draft_length, end_ids, target_texts) for each in completions
    ]
    yielded = tokens_per_pass(
        np.array([len(ids) for _, ids in completions]), np.array([len(rounds) for rounds in network])
    )
    draft_ids = range(loop.vocabulary) if loop.draft_ids is None else set(loop.draft_ids.tolist())
    return (
        {"tokens": tokens}
        | {name: mean_accepted_tokens(tokens, len(rounds)) for name, rounds in drafted.items()}
        | {"network": yielded.value, "from": yielded.low, "to": yielded.high}
        | {"network's α": alpha([round_ for rounds in network for round_ in rounds])}
        | {"in its draft vocabulary": sum(token in draft_ids for _, ids in completions for token in ids) / tokens}
    )


def tokens_per_pass(tokens: np.ndarray, passes: np.ndarray) -> Interval:
    """Compute tokens per target pass, totals over totals, with a bootstrap over completions.

    Args:
        tokens, passes (`np.ndarray` of shape `(completions,)`): Numbers for each completion.
    """
    chosen = resamples(len(tokens))
    return interval(tokens.sum() / passes.sum(), tokens[chosen].sum(axis=-1) / passes[chosen].sum(axis=-1))


Propose = Callable[[PromptLookup, list[int]], int | None]


def look_up(index: PromptLookup, draft: list[int]) -> int | None:
    """Propose the token that followed an earlier occurrence of the longest suffix of text and draft."""
    found = index.propose(index.tokens[-TAIL:] + draft)
    return None if found is None else found[0]


def ask_table(table: NgramTable) -> Propose:
    """Return a function that proposes tokens of a table."""

    def propose(index: PromptLookup, draft: list[int]) -> int | None:
        found = table.propose(index.tokens[-TAIL:] + draft)
        return None if found is None else found[0]

    return propose


def replay_source(
    propose: Propose, completions: Completions, draft_length: int, end_ids: Collection[int]
) -> list[Round]:
    """Replay greedy completions with a source without a network, as `replay_at_fixed_length` does.

    A round has fewer tokens if the source has no proposal.
    """
    rounds = []
    for prompt_ids, completion_ids in completions:
        index, left = PromptLookup(), list(completion_ids)
        index.extend(list(prompt_ids))
        while left:
            limit = draft_length if completion_ids[-1] in end_ids else min(draft_length, len(left) - 1)
            draft: list[int] = []
            while len(draft) < limit and not (draft and draft[-1] in end_ids):
                if (token := propose(index, draft)) is None:
                    break
                draft.append(token)
            rounds.append(Round.of(draft, left))
            index.extend(left[: rounds[-1].accepted + 1])
            left = left[rounds[-1].accepted + 1 :]
    return rounds


def count_all_orders(texts: Sequence[Sequence[int]]) -> NgramTable | None:
    """Count an n-gram table of all orders, of any size; `None` if there is no text."""
    return NgramTable(count_table(texts, range(1, HIGHEST_ORDER + 1))) if texts else None


if __name__ == "__main__":
    main()

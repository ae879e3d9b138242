"""Measure the router between drafters of several pairs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState

from drafter_trainer.benchmark.measure import Setting, measure
from drafter_trainer.benchmark.methods import Method
from drafter_trainer.benchmark.page import write_report
from drafter_trainer.benchmark.summary import summarise_run
from drafter_trainer.corpora.questions import hash_questions, load_mixed_questions
from drafter_trainer.corpora.tasks import TRANSLATION
from drafter_trainer.hub.router import DrafterRouter, with_known_pairs
from drafter_trainer.languages import get_pair
from drafter_trainer.provenance import collect_provenance
from drafter_trainer.repository import Repository
from drafter_trainer.results import DRAFTER, PLAIN, RESULTS, SCHEMA_VERSION, MeasuredRun, find_method, write_results
from drafter_trainer.runs import Step
from drafter_trainer.targets import Target

ROUTER = "router"


def benchmark_router(
    target: Target,
    drafters: Sequence[str],
    questions: str,
    *,
    output_dir: Path,
    max_questions: int | None = None,
    max_new_tokens: int = 128,
    repeats: int = 1,
    dtype: str = "auto",
    settings: Mapping[str, Any],
) -> Step:
    """Measure the router against the drafter of each question's own pair, and against plain decoding.

    Args:
        target (`Target`): The target.
        drafters (`Sequence[str]`): Hub ids or folders of drafters, one for each pair.
        questions (`str`): Question set by name, with translations of all the pairs.
        output_dir (`Path`): Folder of `results.json` and its report.
        max_questions (`int`, *optional*): Maximum number of questions of each pair.
        max_new_tokens, repeats, dtype: As for `drafter_trainer.benchmark`.
        settings (`Mapping[str, Any]`): What the step records, by which it is known again.
    Returns:
        `Step`: The step; finished before with the same settings, nothing is measured.
    Raises:
        InputError: If there is no such drafter, or the folder holds other measurements.
    """
    opened = [Repository.open(drafter) for drafter in drafters]
    pairs = list(dict.fromkeys(each.description.pair for each in opened))
    asked = load_mixed_questions(questions, [get_pair(pair) for pair in pairs], max_questions)
    inputs = {
        "target": target.identity,
        "drafters": ", ".join(each.identity for each in opened),
        "questions": hash_questions(question for _, question in asked),
    }
    step = Step(output_dir / "bench", "route", settings, inputs)
    if step.is_finished():
        return step
    chat = target.load_chat()
    target_model = target.load_model(dtype, PartialState().device)
    router = DrafterRouter.from_hub(target_model, drafters, chat.tokenizer)
    known = {tuple(chat.encode_prompt(question.prompt)): pair for pair, question in asked}
    longest = router.generation_config.num_assistant_tokens
    methods = [
        Method(PLAIN),
        Method(DRAFTER, longest, {"assistant_model": with_known_pairs(router, known)}),
        Method(ROUTER, longest, {"assistant_model": router}),
    ]
    setting = Setting(0.0, 0, max_new_tokens)
    with step:
        journal = step.folder / "journal.jsonl"
        records = measure(target_model, chat, [question for _, question in asked], methods, setting, journal, repeats)
        runs = []
        for chosen in (pairs, *([pair] for pair in pairs)) if len(pairs) > 1 else [pairs]:
            part = [question for pair, question in asked if str(pair) in chosen]
            ids = {question.question_id for question in part}
            described = {
                "pair": " ".join(chosen),
                "task": TRANSLATION,
                "draft_length": longest,
                "repeats": repeats,
                "dtype": str(target_model.dtype).removeprefix("torch."),
                "questions": {"source": Path(questions).name, "count": len(part), "sha256": hash_questions(part)},
            }
            own = [record for record in records if record["question_id"] in ids]
            runs.append(summarise_run(own, methods, setting, described))
        provenance = collect_provenance() | {"target": target.identity, "drafter": ", ".join(drafters)}
        results = {"schema_version": SCHEMA_VERSION, "provenance": provenance, "runs": runs}
        write_results(results, output_dir / RESULTS)
        write_report(results, output_dir)
        step.facts["over knowing the language"] = round(over_knowing(runs[0]), 4)
    return step


def over_knowing(run: MeasuredRun) -> float:
    """Return the router's tokens/s over those of the right drafters."""
    return find_method(run, ROUTER)["tokens_per_second"] / find_method(run, DRAFTER)["tokens_per_second"]

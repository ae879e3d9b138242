"""Find how the drafter of a run drafts best on this machine, and leave it as a step of the run."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from drafter_trainer.corpora.questions import load_decontaminator
from drafter_trainer.corpora.reading import describe_corpus
from drafter_trainer.corpora.user_data import UserData
from drafter_trainer.drafters.loop.sources import NETWORK
from drafter_trainer.languages import get_pair
from drafter_trainer.pipeline.tune import MAX_ANSWERS, tune
from drafter_trainer.runs import Run, Step, finished_step, read_step
from drafter_trainer.targets import Target
from drafter_trainer.training.packing import read_token_ids
from drafter_trainer.training.rows import Rows


def tune_run(
    run: Run,
    target: Target,
    *,
    sources: Sequence[str],
    rows: Path | None,
    other_tasks: Sequence[Path],
    table_corpora: Sequence[str],
    table_samples: int | None,
    evaluation_questions: Sequence[str],
    costs: Path | None,
    settings: Mapping[str, Any],
    **search: Any,
) -> list[dict[str, Any]]:
    """Time the target here, and search; see `drafter_trainer.tune` for a drafter without a run.

    Args:
        sources (`Sequence[str]`): Draft with these alone; with all if empty. Without "network" nothing has to be
            trained before.
        rows (`Path`, *optional*): Folder of rows; that of the run if left out.
        table_corpora (`Sequence[str]`): Corpora by name that n-gram tables are counted on too.
        evaluation_questions (`Sequence[str]`): Question sets that these corpora are decontaminated from.
        costs (`Path`, *optional*): Take the target's times from this step.
        search (`Any`): `longest_draft` and `dtype`, as for `drafter_trainer.tune`.
    Returns:
        `list[dict]`: The trials; none where it was finished before.
    """
    pair, network = get_pair(run.languages), not sources or NETWORK in sources
    folder, inputs = rows or run.rows, {"target": target.identity}
    if network:
        inputs["drafter"] = finished_step(run.finetuned, "finetune first")["fingerprint"]
    answered = network or rows is not None or read_step(folder) is not None or not table_corpora
    if answered:
        advice = "distill first, or name another folder as data" + ("" if network else ", or a corpus")
        inputs["rows"] = finished_step(folder, advice)["fingerprint"]
    for other in other_tasks:
        inputs[f"task {other}"] = finished_step(other, "distill it first")["fingerprint"]
    if costs:
        inputs["costs"] = finished_step(costs, "tune there first")["fingerprint"]
    corpora = [describe_corpus(name) for name in table_corpora]
    inputs |= dict(zip(table_corpora, map(str, corpora)))
    step = Step(run.tuned, "tune", settings, inputs)
    if step.is_finished():
        return []
    chat, drops = target.load_chat(), Counter[str]()

    def read_texts(split: str) -> Iterator[dict[str, Any]]:
        decontaminator = load_decontaminator(evaluation_questions, pair)
        limit, dropped = (table_samples, drops) if split == "train" else (MAX_ANSWERS, Counter())
        for name in table_corpora:
            for ids in read_token_ids(name, pair, split, chat, decontaminator, limit, dropped):
                yield {"token_ids": ids}

    with step:
        found = tune(
            run.finetuned,
            Rows(folder, target) if answered else None,
            target,
            texts=UserData("corpora", read_texts, {}) if table_corpora else None,
            other_rows=other_tasks,
            sources=sources,
            languages=run.languages,
            costs=costs,
            output_dir=step.folder,
            **search,
        )
        step.facts |= found.facts
        if "corpora" in found.facts:
            step.facts |= {"corpora": corpora} | ({"dropped": dict(drops)} if drops else {})
    return found.trials

"""Find how the drafter of a run drafts best on this machine, and leave it as a step of the run."""

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import AutoModelForCausalLM

from drafter_trainer.corpora import describe_corpus
from drafter_trainer.corpora.files import BadRows
from drafter_trainer.drafters.compatibility import hash_tokenizer
from drafter_trainer.drafters.loop.networkless import NetworklessDrafter
from drafter_trainer.drafters.loop.policy import NETWORK, SOURCES
from drafter_trainer.drafters.loop.repository import VOCABULARY, read_vocabulary
from drafter_trainer.languages import get_pair
from drafter_trainer.pipeline.tune import find_settings
from drafter_trainer.runs import Run, Step, finished_step, read_step
from drafter_trainer.targets import Target
from drafter_trainer.training.packing import rows_folder
from drafter_trainer.tuning.answers import continue_texts, load_answers, read_table_texts
from drafter_trainer.tuning.results import read_costs, write_costs, write_tuning


def tune_run(
    run: Run,
    target: Target,
    *,
    sources: Sequence[str],
    rows: Path | None,
    other_tasks: Sequence[Path],
    table_corpora: Sequence[str],
    table_samples: int | None,
    table_bytes: int,
    evaluation_questions: Sequence[str],
    skip_bad_rows: bool,
    max_answers: int,
    longest_draft: int,
    repeats: int,
    costs: Path | None,
    dtype: str,
    settings: Mapping[str, Any],
) -> tuple[Step, list[dict[str, Any]]]:
    """Time the target here, and search; see `drafter_trainer.tune` for a drafter without a run.

    Args:
        run (`Run`): The run, whose finetuned drafter is tuned.
        target (`Target`): The target.
        sources (`Sequence[str]`): Draft with these alone; with all if empty. Without "network" nothing has to be
            trained before.
        rows (`Path`, *optional*): Folder of rows; that of the run if left out.
        other_tasks (`Sequence[Path]`): Rows of other tasks.
        table_corpora (`Sequence[str]`): Corpora by name that n-gram tables are counted on too.
        table_samples (`int`, *optional*): Maximum number of documents of each of them.
        evaluation_questions, skip_bad_rows: As for `pretrain`, for these corpora.
        table_bytes, max_answers, longest_draft, repeats, costs, dtype: As for `drafter_trainer.tune`.
        settings (`Mapping[str, Any]`): What the step records, by which it is known again.
    Returns:
        `tuple` of the step and the trials; no trials where it was finished before.
    Raises:
        InputError: If a step that it needs is not finished, or the folder holds a tuning of other settings.
    """
    pair, network = get_pair(run.languages), not sources or NETWORK in sources
    folder, inputs = rows or run.rows, {"target": target.identity}
    if network:
        inputs["drafter"] = finished_step(run.finetuned, "finetune first")["fingerprint"]
    answered = network or rows is not None or read_step(folder) is not None or not table_corpora
    if answered:
        advice = "distill first, or name another folder as data" + ("" if network else ", or a table_corpus")
        inputs["rows"] = finished_step(folder, advice)["fingerprint"]
    for other in other_tasks:
        inputs[f"task {other}"] = finished_step(other, "distill it first")["fingerprint"]
    if costs:
        inputs["costs"] = finished_step(costs, "tune there first")["fingerprint"]
    corpora = []
    for name in table_corpora:
        if (written := rows_folder(name)) is not None:
            inputs[name] = finished_step(written, "distill it first")["fingerprint"]
            corpora.append({"name": f"rows:{written.parent.name}", "fingerprint": inputs[name]})
        else:
            corpora.append(describe_corpus(name))
            inputs[name] = str(corpora[-1])
    step = Step(run.tuned, "tune", settings, inputs)
    if step.is_finished():
        return step, []
    chat, drops = target.load_chat(), Counter()
    target_model = target.load_model(dtype, PartialState().device)
    if network:
        # Rounded as it will be published.
        draft_model = AutoModelForCausalLM.from_pretrained(run.finetuned, dtype=target.checkpoint_dtype())
    else:
        draft_model = NetworklessDrafter.for_vocabulary(target_model.config.get_text_config().vocab_size)
    draft_model.to(target_model.device, target_model.dtype).eval()
    read_texts = functools.partial(read_table_texts, table_corpora, pair, target, chat)
    texts = read_texts(table_samples, evaluation_questions, drops, BadRows(skip_bad_rows, drops))
    if answered:
        train, greedy, sampled = load_answers(folder, target, max_answers)
    else:
        bad_rows = BadRows(skip_bad_rows)  # each bad row counts once
        held_out = read_texts(max_answers, evaluation_questions, Counter(), bad_rows, "validation")
        train, (greedy, sampled) = [], continue_texts(target_model, chat.tokenizer, held_out, max_answers)
    others = [load_answers(other, target, max_answers)[1] for other in other_tasks]
    with step:
        vocabulary, trained_ids = run.finetuned / VOCABULARY, None
        if network and vocabulary.is_file():
            trained_ids = read_vocabulary(vocabulary, draft_model.config.vocab_size)
        timed = read_costs(costs, longest_draft) if costs else None
        found = find_settings(
            target_model, draft_model, train, texts, greedy, sampled, others, trained_ids, sources or SOURCES,
            table_bytes, timed, longest_draft, repeats,
        )  # fmt: skip
        write_costs(step.folder, found.costs)
        write_tuning(step.folder, found.choice, found.trials, hash_tokenizer(chat.tokenizer, pair.probes))
        step.facts |= found.facts
        if found.choice.slots is not None and "texts" in found.choice.counted_on:
            step.facts |= {"corpora": corpora} | ({"dropped": dict(drops)} if drops else {})
    return step, found.trials

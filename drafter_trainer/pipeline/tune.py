"""Find the fastest settings of a drafter on this machine, and write them into the drafter."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import AutoModelForCausalLM, PreTrainedModel

from drafter_trainer.atomic import whole_folder, write_json, write_whole
from drafter_trainer.corpora.questions import load_decontaminator
from drafter_trainer.corpora.reading import describe_corpus
from drafter_trainer.corpora.user_data import TEXT_COLUMNS, UserData, open_user_data
from drafter_trainer.decoding.target_cache import TargetTexts
from drafter_trainer.drafters.compatibility import hash_tokenizer
from drafter_trainer.drafters.description import FILE_NAME, DrafterDescription
from drafter_trainer.drafters.loop.build import VOCABULARY, read_vocabulary
from drafter_trainer.drafters.loop.networkless import NetworklessDrafter
from drafter_trainer.drafters.loop.settings import LoopSettings
from drafter_trainer.drafters.loop.sources import NETWORK, SOURCES
from drafter_trainer.drafters.ngram import LEAST_BYTES
from drafter_trainer.drafters.repository import target_of
from drafter_trainer.drafters.saving import TUNING, complete_folder, describe_drafter, set_special_ids
from drafter_trainer.errors import InputError
from drafter_trainer.languages import get_pair, read_languages
from drafter_trainer.pipeline.finetune import copy_drafter
from drafter_trainer.pipeline.publish import check_form
from drafter_trainer.runs import Run, Step, finished_step, read_step
from drafter_trainer.targets import Target, as_target, end_ids
from drafter_trainer.training.packing import read_token_ids
from drafter_trainer.training.rows import Rows, describe_rows
from drafter_trainer.tuning.completions import continue_texts, load_completions, typical_prompt, without_held_out
from drafter_trainer.tuning.costs import measure_costs, read_costs, write_costs
from drafter_trainer.tuning.search import TRIALS, Candidate, Tuning

MAX_COMPLETIONS = 60


@dataclass(frozen=True)
class TuningResult:
    """The result of tuning.

    Args:
        drafter (`Path`): Folder of the tuned drafter.
        speedup (`float`): Speedup over plain decoding, on the replayed held-out completions.
        settings (`LoopSettings`): Settings of the drafting loop.
        trials (`list[dict]`): The tried settings and their results.
        facts (`dict`): The record of the tuning in `drafter.json`.
    """

    drafter: Path
    speedup: float
    settings: LoopSettings
    trials: list[dict[str, Any]]
    facts: dict[str, Any]


def tune(
    drafter: str | Path,
    rows: Rows | str | Path | None = None,
    target: str | Target | PreTrainedModel | None = None,
    *,
    texts: Any = None,
    other_rows: Sequence[Rows | str | Path] = (),
    sources: Sequence[str] = (),
    languages: str | Iterable[str] | None = None,
    table_bytes: int = 1 << 21,
    max_completions: int = MAX_COMPLETIONS,
    longest_draft: int = 32,
    repeats: int = 5,
    costs: str | Path | None = None,
    dtype: str = "auto",
) -> TuningResult:
    """Find the fastest settings of a drafter on this machine, and write them into the drafter.

    The target's forward passes are timed. Draft vocabularies, n-gram tables, draft lengths and draft sources are tried
    on held-out completions. With the sources "lookup" and "ngram" only, no network needs to be trained, and `drafter`
    may be a new folder.

    Args:
        drafter (`str` or `Path`): Folder of the drafter, for instance from `DrafterTrainer.save_model`; it is changed.
        rows (`Rows`, `str` or `Path`, *optional*): Result of `distill`, or its folder, with greedy completions.
            Without rows, the n-gram table is counted on `texts`, and settings are tried on the target's continuations
            of held-out texts.
        target (`str`, `Target` or `PreTrainedModel`, *optional*): The target; defaults to the target of the rows, or
            to the Hub model that the drafter names.
        texts (*optional*): Further text for n-gram tables, as for `score_text`.
        other_rows (`Sequence`, *optional*): Rows of other tasks; all tasks have the same weight.
        sources (`Sequence[str]`, *optional*): Draft sources to use: any of "lookup", "ngram" and "network"; defaults
            to all.
        languages (`str` or `Iterable[str]`, *optional*): Languages of a new drafter; defaults to those of the rows.
        table_bytes (`int`, *optional*, defaults to 2 MiB): Maximum size of the n-gram table's file in bytes; smaller
            sizes are tried too.
        max_completions (`int`, *optional*, defaults to `60`): Maximum number of held-out completions.
        longest_draft (`int`, *optional*, defaults to `32`): Maximum draft length, in tokens.
        repeats (`int`, *optional*, defaults to `5`): Number of timings of each draft length.
        costs (`str` or `Path`, *optional*): Folder of a drafter that was tuned on this machine; its timings of the
            target are reused.
        dtype (`str`, *optional*, defaults to `"auto"`): The target's dtype; "auto" is the dtype of its checkpoint.
    Returns:
        `TuningResult`.
    Raises:
        InputError: If there is no drafter, there are no held-out greedy completions, or the machine is too busy for
            reliable timings.
    """
    check_form("stock", sources, None)
    folder, sources = Path(drafter), tuple(sources) or SOURCES
    network = NETWORK in sources
    if network and not (folder / "config.json").is_file():
        raise InputError(f"{folder} has no drafter: give a trainer's output folder, or leave network out of sources")
    if rows is not None and not isinstance(rows, Rows):
        rows = Rows.open(rows)
    if rows is None and texts is None:
        raise InputError("tuning needs rows (the result of distill) or texts, got neither")
    if table_bytes < LEAST_BYTES:
        raise InputError(f"table_bytes must be {LEAST_BYTES} or more, got {table_bytes}")
    if target is None and rows is not None:
        target = rows.target
    target = as_target(target) if target is not None else target_of(folder)
    if (folder / FILE_NAME).is_file():
        description = DrafterDescription.read(folder)
    else:
        spoken, pair = read_languages(languages) if languages else (rows.languages, rows.pair) if rows else ((), None)
        description = describe_drafter(folder.resolve().name, target, spoken, pair)
    chat, trained = target.load_chat(), _trained_vocabulary(folder)
    if texts is not None and not isinstance(texts, UserData):
        texts = open_user_data(texts, TEXT_COLUMNS)

    def read_texts(split: str) -> list[list[int]]:
        rows = texts.read(split) if texts is not None else ()
        return [chat.encode_text(row["text"]) if "text" in row else row["token_ids"] for row in rows]

    model = target.load_model(dtype, PartialState().device)
    if network:
        # Rounded as it will be published.
        draft_model = AutoModelForCausalLM.from_pretrained(folder, dtype=target.checkpoint_dtype())
    else:
        draft_model = NetworklessDrafter.for_vocabulary(model.config.get_text_config().vocab_size)
    draft_model.to(model.device, model.dtype).eval()
    counted = read_texts("train")
    if rows is not None:
        train, greedy, sampled = load_completions(rows.path, target, max_completions)
    else:
        train, (greedy, sampled) = [], continue_texts(model, chat.tokenizer, read_texts("validation"), max_completions)
    other_folders = [other.path if isinstance(other, Rows) else Path(other) for other in other_rows]
    others = [load_completions(other, target, max_completions)[1] for other in other_folders]
    held_out, available = [*greedy, *sampled, *itertools.chain(*others)], len(train) + len(counted)
    train, counted = without_held_out(train, held_out), without_held_out(counted, held_out)
    if costs is not None:
        timed = read_costs(Path(costs) / TUNING, longest_draft)
    else:
        timed = measure_costs(model, draft_model, None, typical_prompt(greedy), longest_draft, repeats)
    search = Tuning(
        draft_model,
        train,
        counted,
        greedy,
        sampled,
        timed,
        end_ids(model),
        read_vocabulary(trained, draft_model.config.vocab_size) if network and trained else None,
        sources=sources,
        table_bytes=table_bytes,
        other_tasks=others,
        target=TargetTexts(model),
    )
    choice = search.run()
    facts = _facts(search, choice, available - len(train) - len(counted))
    if choice.slots is not None and "texts" in choice.counted_on:
        facts |= texts.facts if "corpora" in texts.facts else {"corpora": [texts.facts]}
    learned = describe_rows([rows.path]) if rows is not None and not network else {}
    training = description.training | learned | {"tune": facts}
    description = dataclasses.replace(description, loop=choice.settings.to_dict(), training=training)
    result = TuningResult(folder, search.speedup, choice.settings, search.trials, facts)

    aside = folder / TUNING
    aside.mkdir(parents=True, exist_ok=True)
    write_costs(aside, timed)
    if trained is not None and trained.parent != aside:
        write_whole(aside / VOCABULARY, trained.read_bytes())
    write_json(aside / TRIALS, result.trials)
    if not network:
        set_special_ids(draft_model, target, chat.tokenizer, description.draft_length)
        draft_model.save_pretrained(folder)
    files = choice.files(hash_tokenizer(chat.tokenizer, description.probes))
    complete_folder(folder, description, chat.tokenizer, files)
    return result


def tune_run(
    run: Run,
    target: Target,
    settings: Mapping[str, Any],
    *,
    drafter: Path | None = None,
    rows: Path | None = None,
    other_rows: Sequence[str | Path] = (),
    table_corpora: Sequence[str] = (),
    max_texts: int | None = None,
    evaluation_questions: Sequence[str] = (),
    sources: Sequence[str] = (),
    costs: str | Path | None = None,
    **search: Any,
) -> list[dict[str, Any]]:
    """Tune a copy of a run's finetuned drafter, as a step of the run; see `tune`.

    Args:
        settings (`Mapping[str, Any]`): Settings to record; a finished step with the same settings is not repeated.
        drafter (`Path`, *optional*): Folder of the finetuned drafter; defaults to that of the run.
        rows (`Path`, *optional*): Folder of rows; defaults to that of the run.
        table_corpora (`Sequence[str]`, *optional*): Names of further corpora for n-gram tables.
        max_texts (`int`, *optional*): Maximum number of documents of each corpus.
        evaluation_questions (`Sequence[str]`, *optional*): Question sets that are removed from these corpora.
        other_rows, sources, costs, search: As for `tune`.
    Returns:
        `list[dict]`: The trials; empty if the step was already finished.
    """
    trained, network, asked = drafter or run.finetuned, not sources or NETWORK in sources, rows or run.rows
    inputs = {"target": target.identity}
    if network:
        inputs["drafter"] = finished_step(trained, "finetune first")["fingerprint"]
    has_rows = network or rows is not None or read_step(asked) is not None or not table_corpora
    if has_rows:
        advice = "distill first, or name another folder as data" + ("" if network else ", or a corpus")
        inputs["rows"] = finished_step(asked, advice)["fingerprint"]
    for other in other_rows:
        inputs[f"task {other}"] = finished_step(Path(other), "distill it first")["fingerprint"]
    if costs:
        inputs["costs"] = str(read_costs(Path(costs) / TUNING, 0).plain)
    corpora = [describe_corpus(name) for name in table_corpora]
    inputs |= dict(zip(table_corpora, map(str, corpora)))
    step = Step(run.tuned, "tune", settings, inputs)
    if step.is_finished() and _is_tuned(run.published, step.facts):
        return []
    chat, facts = target.load_chat(), {"corpora": corpora}

    def read_texts(split: str) -> Iterator[dict[str, Any]]:
        drops, pair = Counter[str](), get_pair(run.languages)
        decontaminator = load_decontaminator(evaluation_questions, pair)
        limit = max_texts if split == "train" else MAX_COMPLETIONS
        for name in table_corpora:
            for ids in read_token_ids(name, pair, split, chat, decontaminator, limit, drops):
                yield {"token_ids": ids}
        if drops and split == "train":
            facts["dropped"] = dict(drops)

    with step, whole_folder(run.published, run.name) as folder:
        if network:
            copy_drafter(trained, folder, run, target)
        result = tune(
            folder,
            Rows(asked, target) if has_rows else None,
            target,
            texts=UserData("corpora", read_texts, facts) if table_corpora else None,
            other_rows=other_rows,
            sources=sources,
            languages=run.languages,
            costs=costs,
            **search,
        )
        step.facts |= result.facts
    return result.trials


def _facts(search: Tuning, choice: Candidate, left_out: int) -> dict[str, Any]:
    """Return the record of the chosen settings; `left_out` is the number of texts with held-out completions."""
    facts: dict[str, Any] = {}
    if NETWORK in search.sources:
        facts["draft_vocabulary"] = "all" if choice.draft_ids is None else len(choice.draft_ids)
    if choice.slots is not None:
        facts["table"] = search.counted(choice)
    tried_on = "held-out completions" if search.train_completions else "continuations of held-out text"
    facts |= {
        "pass_milliseconds": [round(taken, 1) for taken in search.costs.passes],
        "speedup_on_validation": round(search.speedup, 2),
        "tried_on": f"{len(search.greedy)} {tried_on}",
    }
    if left_out:
        facts["left_out_of_tables"] = left_out
    if search.costs.spread is not None:
        facts["spread_of_passes"] = f"{search.costs.spread:.0%}" + ("" if search.costs.steady else ", unstable")
    return facts


def _is_tuned(drafter: Path, facts: Mapping[str, Any]) -> bool:
    """Return whether a folder still has the drafter that was tuned: finetuning may have replaced it."""
    return (drafter / FILE_NAME).is_file() and DrafterDescription.read(drafter).training.get("tune") == facts


def _trained_vocabulary(folder: Path) -> Path | None:
    """Return the file of the draft vocabulary that a drafter was trained with; the first tuning keeps a copy."""
    places = (folder / TUNING / VOCABULARY, folder / VOCABULARY)
    kept = next((path for path in places if path.is_file()), None)
    return None if (folder / TUNING / TRIALS).is_file() and kept == places[1] else kept

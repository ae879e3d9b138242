"""Find how a drafter drafts best on this machine, and write it into the drafter."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import AutoModelForCausalLM, PreTrainedModel

from drafter_trainer.atomic import write_whole
from drafter_trainer.chat import ChatTokenizer
from drafter_trainer.corpora.sources import TEXT_COLUMNS, read_source
from drafter_trainer.decoding.replay import Costs
from drafter_trainer.decoding.target_cache import TargetTexts
from drafter_trainer.drafters.compatibility import hash_tokenizer
from drafter_trainer.drafters.description import FILE_NAME, DrafterDescription
from drafter_trainer.drafters.loop.networkless import NetworklessDrafter
from drafter_trainer.drafters.loop.policy import NETWORK, NGRAM, SOURCES
from drafter_trainer.drafters.loop.repository import TABLE, VOCABULARY, read_vocabulary
from drafter_trainer.drafters.loop.settings import LoopSettings
from drafter_trainer.drafters.ngram import table_bytes as bytes_of_table
from drafter_trainer.drafters.saving import DRAFT_LENGTH, complete_folder, take_special_ids
from drafter_trainer.drafters.vocabulary import vocabulary_bytes
from drafter_trainer.errors import InputError
from drafter_trainer.languages import Language, Pair, probes_of, read_languages
from drafter_trainer.repository import target_of
from drafter_trainer.targets import Target, as_target, end_ids
from drafter_trainer.training.rows import Rows
from drafter_trainer.tuning.answers import apart_from, continue_texts, load_answers, typical_prompt
from drafter_trainer.tuning.costs import measure_costs
from drafter_trainer.tuning.results import TRIALS, read_costs, write_costs
from drafter_trainer.tuning.search import Candidate, Tuning

TUNING = "tuning"  # folder of trials and costs, within the drafter's


@dataclass(frozen=True)
class TuningResult:
    """What tuning found.

    Args:
        drafter (`Path`): Folder of the drafter that now drafts so.
        speedup (`float`): Over plain decoding, on the replayed held-out completions.
        settings (`LoopSettings`): Of the drafting loop.
        trials (`list[dict]`): What was tried, and what each gave.
    """

    drafter: Path
    speedup: float
    settings: LoopSettings
    trials: list[dict[str, Any]]


@dataclass(frozen=True)
class Found:
    """The choice of a search, with what led to it and what is recorded of it; `networkless` stands for no network."""

    choice: Candidate
    trials: list[dict[str, Any]]
    costs: Costs
    facts: dict[str, Any]
    speedup: float
    networkless: PreTrainedModel | None

    @property
    def counted_texts(self) -> bool:
        """Whether the table was counted on texts."""
        return self.choice.slots is not None and "texts" in self.choice.counted_on


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
    max_answers: int = 60,
    longest_draft: int = 32,
    repeats: int = 5,
    costs: str | Path | None = None,
    dtype: str = "auto",
) -> TuningResult:
    """Time the target's passes here, try settings on held-out completions, and write the best into the drafter.

    Draft vocabulary, n-gram table, draft lengths and sources of drafts are chosen. Without a network (`sources` of
    "lookup" and "ngram") nothing has to be trained before, and `drafter` may be a new folder.

    Args:
        drafter (`str` or `Path`): Folder of the drafter, as `DrafterTrainer.save_model` left it; it is changed.
        rows (`Rows`, `str` or `Path`, *optional*): What `distill` returned, or its folder; with greedy completions.
            Without rows the table is counted on `texts` alone, and settings are tried on continuations of them.
        target (`str`, `Target` or `PreTrainedModel`, *optional*): The target; that of the rows, or the one that the
            drafter names, on the Hub, if left out.
        texts (*optional*): More text to count n-gram tables on, as for `score_text`.
        other_rows (`Sequence`, *optional*): Rows of other tasks, each of which weighs as much as the first.
        sources (`Sequence[str]`, *optional*): Draft sources, of "lookup", "ngram" and "network"; all
            of them if left out.
        languages (`str` or `Iterable[str]`, *optional*): Languages of a new drafter; those of the rows if left out.
        table_bytes (`int`, *optional*, defaults to 2 MiB): Maximum size of an n-gram table's file in bytes;
            smaller ones are tried too.
        max_answers (`int`, *optional*, defaults to `60`): Maximum number of held-out completions that settings
            are tried on.
        longest_draft (`int`, *optional*, defaults to `32`): Maximum draft length, in tokens, that is timed
            and tried.
        repeats (`int`, *optional*, defaults to `5`): Number of timed rounds of each draft length.
        costs (`str` or `Path`, *optional*): Take the target's times from this drafter, tuned on the same machine.
        dtype (`str`, *optional*, defaults to `"auto"`): The target's dtype; that of its checkpoint by default.
    Returns:
        `TuningResult`.
    Raises:
        InputError: If there is no drafter, no held-out greedy completions, or the machine is too busy to be timed.
    """
    folder, sources = Path(drafter), tuple(sources) or SOURCES
    if NETWORK in sources and not (folder / "config.json").is_file():
        raise InputError(f"{folder} holds no drafter: name the folder that a trainer left, or sources without network")
    if rows is not None and not isinstance(rows, Rows):
        rows = Rows.open(rows)
    if rows is None and texts is None:
        raise InputError("give rows, as distill left them, or texts")
    if target is None and rows is not None:
        target = rows.target
    target = as_target(target) if target is not None else target_of(folder)
    spoken, pair = read_languages(languages) if languages else (rows.languages, rows.pair) if rows else ((), None)
    description = _describe(folder, target, spoken, pair)
    chat = target.load_chat()
    source = None if texts is None else read_source(texts, TEXT_COLUMNS)
    trained = _trained_vocabulary(folder)
    found = find_settings(
        target,
        chat,
        folder,
        trained,
        rows.path if rows is not None else None,
        lambda split: [chat.encode_text(row["text"]) for row in source.read(split)] if source else [],
        other_rows=[each.path if isinstance(each, Rows) else Path(each) for each in other_rows],
        sources=sources,
        table_bytes=table_bytes,
        max_answers=max_answers,
        longest_draft=longest_draft,
        repeats=repeats,
        costs=Path(costs) / TUNING if costs else None,
        dtype=dtype,
    )
    if found.counted_texts:
        found.facts["corpora"] = [source.facts]
    _write(folder, description, target, chat.tokenizer, trained, found)
    return TuningResult(folder, found.speedup, found.choice.settings, found.trials)


def find_settings(
    target: Target,
    chat: ChatTokenizer,
    drafter: Path,
    vocabulary: Path | None,
    rows: Path | None,
    read_texts: Callable[[str], list[list[int]]],
    *,
    other_rows: Sequence[Path],
    sources: Sequence[str],
    table_bytes: int,
    max_answers: int,
    longest_draft: int,
    repeats: int,
    costs: Path | None,
    dtype: str,
) -> Found:
    """Load target and drafter, time the target unless its costs are known, and search.

    Args:
        drafter (`Path`): Folder of the network; not read where `sources` leave it out.
        vocabulary (`Path`, *optional*): File of the draft vocabulary that the network was trained with.
        rows (`Path`, *optional*): Folder of rows; continuations of held-out texts if left out.
        read_texts (callable): From a split to the token ids of its texts, which tables may be counted on.
        costs (`Path`, *optional*): Folder of costs that were measured before.
        other_rows, sources, table_bytes, max_answers, longest_draft, repeats, dtype: As for `tune`.
    """
    model, network = target.load_model(dtype, PartialState().device), NETWORK in sources
    if network:
        # Rounded as it will be published.
        draft_model = AutoModelForCausalLM.from_pretrained(drafter, dtype=target.checkpoint_dtype())
    else:
        draft_model = NetworklessDrafter.for_vocabulary(model.config.get_text_config().vocab_size)
    draft_model.to(model.device, model.dtype).eval()
    texts = read_texts("train")
    if rows is not None:
        train, greedy, sampled = load_answers(rows, target, max_answers)
    else:
        train, (greedy, sampled) = [], continue_texts(model, chat.tokenizer, read_texts("validation"), max_answers)
    others = [load_answers(other, target, max_answers)[1] for other in other_rows]
    held_out, counted = [*greedy, *sampled, *itertools.chain(*others)], len(train) + len(texts)
    train, texts = apart_from(train, held_out), apart_from(texts, held_out)
    if costs is not None:
        timed = read_costs(costs, longest_draft)
    else:
        timed = measure_costs(model, draft_model, None, typical_prompt(greedy), longest_draft, repeats)
    search = Tuning(
        draft_model,
        train,
        texts,
        greedy,
        sampled,
        timed,
        end_ids(model),
        read_vocabulary(vocabulary, draft_model.config.vocab_size) if network and vocabulary else None,
        sources=sources,
        table_bytes=table_bytes,
        other_tasks=others,
        target=TargetTexts(model),
    )
    choice = search.run()
    facts: dict[str, Any] = {}
    if network:
        facts["draft_vocabulary"] = "all" if choice.draft_ids is None else len(choice.draft_ids)
    if choice.slots is not None:
        facts["table"] = search.counted(choice)
    facts |= {
        "pass_milliseconds": [round(taken, 1) for taken in timed.passes],
        "speedup_on_validation": round(search.speedup, 2),
        "tried_on": f"{len(greedy)} {'held-out answers' if train else 'continuations of held-out text'}",
    }
    if left_out := counted - len(train) - len(texts):
        facts["left_out_of_tables"] = left_out
    if timed.spread is not None:
        facts["spread_of_passes"] = f"{timed.spread:.0%}" + ("" if timed.steady else ", unstable")
    return Found(choice, search.trials, timed, facts, search.speedup, None if network else draft_model)


def _describe(folder: Path, target: Target, spoken: Sequence[Language], pair: Pair | None) -> DrafterDescription:
    if (folder / FILE_NAME).is_file():
        return DrafterDescription.read(folder)
    return DrafterDescription(
        name=folder.resolve().name,
        target=target.name,
        target_revision=target.revision,
        tokenizer_sha256="",
        pair=str(pair or ""),
        draft_length=DRAFT_LENGTH,
        loop=LoopSettings().to_dict(),
        languages=[] if pair else [language.code for language in spoken],
    )


def _trained_vocabulary(folder: Path) -> Path | None:
    """Return the draft vocabulary that a drafter was trained with, kept by its first tuning."""
    places = (folder / TUNING / VOCABULARY, folder / VOCABULARY)
    kept = next((path for path in places if path.is_file()), None)
    return None if (folder / TUNING / TRIALS).is_file() and kept == places[1] else kept


def _write(
    folder: Path,
    description: DrafterDescription,
    target: Target,
    tokenizer: Any,
    trained: Path | None,
    found: Found,
) -> None:
    """Write what was found into the drafter's folder."""
    choice, aside = found.choice, folder / TUNING
    aside.mkdir(parents=True, exist_ok=True)
    if trained is not None and trained.parent != aside:
        write_whole(aside / VOCABULARY, lambda path: path.write_bytes(trained.read_bytes()))
    trials = json.dumps(found.trials, indent=2) + "\n"
    write_whole(aside / TRIALS, lambda path: path.write_text(trials, encoding="utf-8"))
    write_costs(aside, found.costs)
    if found.networkless is not None:
        take_special_ids(found.networkless, target, tokenizer, description.draft_length)
        found.networkless.save_pretrained(folder)
    files: dict[str, Path | bytes] = {}
    if choice.draft_ids is not None and NETWORK in choice.settings.sources:
        files[VOCABULARY] = vocabulary_bytes(choice.draft_ids)
    if choice.slots is not None and NGRAM in choice.settings.sources:
        files[TABLE] = bytes_of_table(choice.slots, hash_tokenizer(tokenizer, probes_of(description.spoken)))
    for name in {VOCABULARY, TABLE} - files.keys():
        (folder / name).unlink(missing_ok=True)
    training = description.training | {"tune": found.facts}
    tuned = dataclasses.replace(description, loop=choice.settings.to_dict(), training=training)
    complete_folder(folder, tuned, tokenizer, files)

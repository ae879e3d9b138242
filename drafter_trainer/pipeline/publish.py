"""Publish a drafter, or rows, to the Hub or to a folder."""

import dataclasses
import logging
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import torch
from transformers import PreTrainedModel
from transformers.utils import CONFIG_NAME

from drafter_trainer.atomic import replace_folder, temporary_folder
from drafter_trainer.distillation.store import NAMES, SPLITS, RowStore, without_paths
from drafter_trainer.drafters.compact import FORMATS
from drafter_trainer.drafters.description import FILE_NAME, DrafterDescription
from drafter_trainer.drafters.load import load_drafter
from drafter_trainer.drafters.loop.sources import NETWORK, NGRAM, SOURCES
from drafter_trainer.drafters.repository import target_of
from drafter_trainer.drafters.saving import WEIGHTS, describe_drafter
from drafter_trainer.errors import InputError, one_line
from drafter_trainer.hub.assemble import assemble
from drafter_trainer.hub.card_folder import (
    CARD,
    CardDetails,
    copy_measurements,
    keep_card,
    read_measurements,
    read_notes,
    target_license,
    write_card,
)
from drafter_trainer.hub.dataset_card import render_dataset_card
from drafter_trainer.hub.destination import DATASET, HUB, Destination
from drafter_trainer.hub.push import ALLOWED, add_to_collection, allowed_files, check_private, push, set_tag
from drafter_trainer.languages import read_languages
from drafter_trainer.results import RESULTS
from drafter_trainer.runs import finished_step
from drafter_trainer.targets import Target

_NETWORK = [pattern for pattern in WEIGHTS if pattern.endswith(".safetensors")]
_SHARDS = [f"{split}/rows-*.parquet" for split in SPLITS]
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Publication:
    """A published drafter or data set, or the result of a dry run.

    Args:
        location (`str`): The folder, or the address of the commit.
        files (`dict[str, int]`): Size of each file in bytes.
        sent (`bool`): `False` after a dry run.
    """

    location: str
    files: dict[str, int]
    sent: bool

    def __str__(self) -> str:
        if self.sent:
            return f"published: {self.location}"
        return f"dry run, nothing went to {self.location}:\n{_listing(self.files)}"


def check_form(format: str, sources: Sequence[str], adapter_of: str | None) -> None:
    """Raise an error if a drafter cannot be published in a form; the arguments are those of `publish`."""
    if unknown := [source for source in sources if source not in SOURCES]:
        raise InputError(f"sources may name {', '.join(SOURCES)}, got {', '.join(unknown)}")
    if format not in FORMATS:
        raise InputError(f"format must be one of {', '.join(FORMATS)}, got {format}")
    network = not sources or NETWORK in sources
    if FORMATS[format] and (adapter_of or not network):
        raise InputError("only a whole network has a compact format: leave adapter_of and sources out")
    if adapter_of and not network:
        raise InputError("an adapter needs the network: leave adapter_of out, or add network to sources")
    if not network and NGRAM not in sources:
        raise InputError(
            "lookup alone needs no drafter: choose the sources lookup and ngram, or "
            "generate(prompt_lookup_num_tokens=...)"
        )


def publish(
    drafter: str | Path,
    target: str | Target | PreTrainedModel | None = None,
    to: str | Path = HUB,
    *,
    repo_id: str | None = None,
    name: str | None = None,
    languages: str | Iterable[str] | None = None,
    results: str | Path | None = None,
    license: str | None = None,
    revision: str | None = None,
    tag: str | None = None,
    private: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    draft_length: int | None = None,
    sources: Sequence[str] = (),
    adapter_of: str | None = None,
    format: str = "stock",
    check_generation: bool = True,
    collection: bool = True,
    card_folder: str | Path | None = None,
    dtype: str = "auto",
) -> Publication:
    """Publish a drafter to the Hub or to a folder, with a card of its measurements.

    The upload is one commit. It is compared with the local files by the Hub's hashes, downloaded, tried on one prompt,
    and then tagged. A second call sends only missing files. The token is read from the environment (HF_TOKEN, or
    `hf auth login`).

    Args:
        drafter (`str` or `Path`): Folder of the drafter, written by `DrafterTrainer.save_model` or `tune`, or of any
            stock model with the target's tokenizer.
        target (`str`, `Target` or `PreTrainedModel`, *optional*): The target; by default the Hub model that the
            drafter's folder names.
        to (`str` or `Path`, *optional*, defaults to `"hub"`): "hub" (the Hub of HF_ENDPOINT and HF_TOKEN), or a
            folder.
        repo_id (`str`, *optional*): Repository on the Hub; your own account and the drafter's name by default.
        name (`str`, *optional*): Name of the drafter; by default the name in the folder.
        languages (`str` or `Iterable[str]`, *optional*): Language, languages or pair of the drafter; by default those
            in the folder.
        results (`str` or `Path`, *optional*): Folder of `results.json`, written by `benchmark`; the drafter's own
            folder by default.
        license (`str`, *optional*): Identifier of the license, for the card; the target's license by default.
        revision (`str`, *optional*): Branch on the Hub, created if it does not exist; main by default.
        tag (`str`, *optional*): Tag of the commit, such as "v1", set after the checks.
        private (`bool`, *optional*, defaults to `False`): Whether a new repository is private.
        overwrite (`bool`, *optional*, defaults to `False`): Whether another drafter in the repository may be replaced,
            and an existing tag moved.
        dry_run (`bool`, *optional*, defaults to `False`): List the files and their sizes, and send nothing.
        draft_length (`int`, *optional*): Number of tokens that transformers' own loop drafts in one round.
        sources (`Sequence[str]`, *optional*): Draft sources to keep, of "lookup", "ngram" and "network"; by default
            all sources of the drafter. Without "network" no weights are published.
        adapter_of (`str`, *optional*): Published base drafter; only the LoRA adapter over it is published.
        format (`str`, *optional*, defaults to `"stock"`): "stock", a model that every engine loads; "compact", with
            weights in int8 and without embeddings, head and tokenizer, which `load_drafter` takes from the target; or
            "compact-int4", half as large, with about 1 % fewer tokens per target pass.
        check_generation (`bool`, *optional*, defaults to `True`): Whether to load the target after an upload and
            generate with the downloaded drafter.
        collection (`bool`, *optional*, defaults to `True`): Whether to add the drafter to a collection of the target's
            drafters.
        card_folder (`str` or `Path`, *optional*): Folder of cards; the card and its inputs are also written to
            `<card_folder>/<name>`, where `drafter-trainer cards` renders the card again.
        dtype (`str`, *optional*, defaults to `"auto"`): The target's dtype in the check of generation.
    Returns:
        `Publication`: Folder or commit address of the drafter, and the size of each file.
    Raises:
        InputError: If the folder has no drafter, the drafter does not fit the target, a file contains a credential,
            the destination cannot be used or has another drafter, or the published drafter drafts nothing.
        HfHubHTTPError: If the Hub rejects the upload.
    """
    check_form(format, sources, adapter_of)
    folder = Path(drafter)
    if not (folder / CONFIG_NAME).is_file() and not (folder / FILE_NAME).is_file():
        raise InputError(f"{folder} has no drafter: give the output folder of a trainer or of tune")
    if target is None and not (folder / FILE_NAME).is_file():
        raise InputError(f"{folder} does not state the drafter's target: name the target")
    target = target_of(folder, target)
    destination = Destination(str(to), repo_id, revision, tag, private, overwrite, dry_run)
    if destination.folder and destination.folder.resolve() == folder.resolve():
        raise InputError(f"{folder} cannot be published onto itself: name another folder")
    description = describe(folder, target, name, languages)
    if draft_length:
        description = dataclasses.replace(description, draft_length=draft_length)
    destination.check()
    destination, results = destination.named(description.name), Path(results or folder)
    with _temporary_folder(destination, results) as temporary:
        description = assemble(
            folder,
            description,
            target,
            temporary,
            sources=sources,
            adapter_of=adapter_of,
            compact=FORMATS[format],
            destination=destination.folder,
        )
        measurements = read_measurements(results, description)
        details = CardDetails(destination.repo_id, license or target_license(target))
        cards = Path(card_folder) / description.name if card_folder else None
        write_card(temporary, description, measurements, details, read_notes(cards) if cards else "")
        copy_measurements(results, temporary, list(measurements))
        files = allowed_files(temporary)
        if cards and not dry_run:
            keep_card(temporary, cards, details)
        message = "Add the benchmark's results" if RESULTS in measurements else "Add the drafter"

        def check(commit: str) -> None:
            if check_generation:
                _check_generation(destination.repo_id, commit, description.example, target, dtype)

        publication = _send(destination, temporary, files, ALLOWED, _NETWORK, message, description, check)
        if collection and publication.sent and destination.folder is None:
            add_to_collection(destination, target.name)
        return publication


def publish_rows(rows: Path, target: Target, destination: Destination, name: str, license: str | None) -> Publication:
    """Publish self-distilled rows as a data set, one folder of Parquet shards for each split.

    Args:
        rows (`Path`): Folder of the rows, written by `distill`.
        name (`str`): Name of the repository if the destination has no name.
        license (`str`, *optional*): Identifier of the license; the target's license by default.
    """
    destination = dataclasses.replace(destination, repo_type=DATASET)
    destination.check()
    step = finished_step(rows, "distill first")
    destination = destination.named(name)
    shards = {}
    for split in SPLITS:
        store = RowStore(rows / split)
        store.count()  # reads every shard
        shards |= {f"{split}/{shard.name}": shard for shard in store.shards()}
    with _temporary_folder(destination, rows.parent) as temporary:
        temporary.mkdir()
        files = {path: _shareable(shard, temporary / path, target.name) for path, shard in shards.items()}
        if target.is_known_as(step["inputs"]["target"]):  # perhaps under an earlier name
            step["inputs"]["target"] = target.identity
        card = render_dataset_card(step, destination.repo_id, license or target_license(target))
        (temporary / CARD).write_text(card, encoding="utf-8")
        files |= {CARD: temporary / CARD}
        check_private(files)
        return _send(destination, temporary, files, _SHARDS, _SHARDS, "Add the self-distilled rows")


def describe(
    folder: Path, target: Target, name: str | None = None, languages: str | Iterable[str] | None = None
) -> DrafterDescription:
    """Return the description in a drafter's folder, or a new one for a stock model without `drafter.json`."""
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} has no drafter: name the output folder of a trainer or of tune")
    spoken, pair = read_languages(languages)
    described = describe_drafter(name or folder.resolve().name, target, spoken, pair)
    if not (folder / FILE_NAME).is_file():
        return described
    description = DrafterDescription.read(folder)
    if description.target_revision != target.revision:
        raise InputError(
            f"{folder} was trained for {description.target}@{description.target_revision}, the target is "
            f"{target.identity}: name its own target"
        )
    if languages is not None:
        description = dataclasses.replace(description, pair=described.pair, languages=described.languages)
    return dataclasses.replace(description, name=name or description.name)


def _send(
    destination: Destination,
    folder: Path,
    files: Mapping[str, Path],
    owned: Sequence[str],
    precious: Sequence[str],
    message: str,
    description: DrafterDescription | None = None,
    check: Callable[[str], None] = lambda commit: None,
) -> Publication:
    """Put files at the destination, on the Hub in one commit, which is checked before it is tagged."""
    sizes = {name: path.stat().st_size for name, path in files.items()}
    if destination.folder is not None:
        if not destination.dry_run:
            for name, path in files.items():
                if path != folder / name:
                    (folder / name).parent.mkdir(exist_ok=True)
                    shutil.copyfile(path, folder / name)
            replace_folder(destination.folder, folder)
        return Publication(destination.to, sizes, sent=not destination.dry_run)
    if not destination.dry_run:
        _logger.info("to %s:\n%s", destination, _listing(sizes))
    commit = push(destination, files, owned, precious, message, description)
    if commit is None:
        return Publication(str(destination), sizes, sent=False)
    check(commit.oid)
    set_tag(destination, commit.oid)
    return Publication(commit.commit_url, sizes, sent=True)


def _check_generation(drafter: str, commit: str, prompt: str, target: Target, dtype: str) -> None:
    """Load a drafter from the Hub, as its users will, and let it draft for one prompt.

    A target whose weights cannot be loaded here gives a warning, and nothing is generated.
    """
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    try:
        target_model = target.load_model(dtype, device)
    except (OSError, MemoryError, ImportError, RuntimeError, ValueError) as error:  # the last three: by quantizers
        reason = one_line(error)
        warnings.warn(f"the target cannot be loaded here ({reason}): the drafter is published untried", stacklevel=3)
        return
    chat = target.load_chat()
    assistant = load_drafter(drafter, target_model, chat.tokenizer, commit)
    ids = torch.tensor([chat.encode_prompt(prompt)], device=device)
    output = target_model.generate(
        ids, attention_mask=torch.ones_like(ids), assistant_model=assistant, max_new_tokens=16, do_sample=False
    )
    if output.shape[1] == ids.shape[1]:
        raise InputError(f"the target generates nothing with the drafter downloaded from {drafter}: do not use it")


def _temporary_folder(destination: Destination, source: Path) -> AbstractContextManager[Path]:
    """Make a temporary folder, on the disk of the destination, where a rename suffices."""
    return temporary_folder(source if destination.folder is None else destination.folder.absolute().parent)


def _shareable(shard: Path, copy: Path, target: str) -> Path:
    """Return a shard that names no path of this machine, otherwise a copy without the paths."""
    named = pq.read_table(shard, columns=[*NAMES])
    if without_paths(named, target).equals(named):
        return shard
    copy.parent.mkdir(exist_ok=True)
    pq.write_table(without_paths(pq.read_table(shard), target), copy)
    return copy


def _listing(sizes: Mapping[str, int]) -> str:
    width = max(len(f"{size:,}") for size in sizes.values())
    return "\n".join(f"  {size:>{width},} bytes  {name}" for name, size in sizes.items())

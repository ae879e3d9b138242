"""Publish what a run has made, to the Hub or to a folder."""

import dataclasses
import logging
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import pyarrow.parquet as pq
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from drafter_trainer.distillation.store import NAMES, SPLITS, RowStore, without_paths
from drafter_trainer.drafters.compact import FORMATS
from drafter_trainer.drafters.description import FILE_NAME
from drafter_trainer.drafters.load import load_drafter
from drafter_trainer.drafters.saving import WEIGHTS
from drafter_trainer.errors import InputError, one_line
from drafter_trainer.hub.assemble import DrafterParts, assemble, parts_of_run
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
from drafter_trainer.hub.publishing import HUB, Publishing
from drafter_trainer.hub.push import ALLOWED, add_to_collection, allowed_files, check_private, push, set_tag
from drafter_trainer.results import RESULTS
from drafter_trainer.runs import Run, finished_step
from drafter_trainer.targets import Target

_NETWORK = [pattern for pattern in WEIGHTS if pattern.endswith(".safetensors")]
_SHARDS = "rows-*.parquet"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Publication:
    """A published drafter, or one that a dry run would publish.

    Args:
        place (`str`): The folder, or the address of the commit.
        files (`dict[str, int]`): Bytes of each file.
        sent (`bool`): Not in a dry run.
    """

    place: str
    files: dict[str, int]
    sent: bool

    def __str__(self) -> str:
        if self.sent:
            return f"published: {self.place}"
        return "\n".join([f"dry run, nothing went to {self.place}:", *_listing(self.files)])


def check_destination(to: str, marker: str = FILE_NAME) -> None:
    """Find out early whether publishing can work, before hours of training.

    Args:
        marker (`str`, *optional*): What a folder that may be replaced holds.
    """
    if to == HUB:
        if huggingface_hub.get_token() is None:
            raise InputError("no token for the Hub: set HF_TOKEN (or run hf auth login), or publish to a folder")
    elif Path(to).exists() and not (Path(to) / marker).exists() and (Path(to).is_file() or any(Path(to).iterdir())):
        what = "drafter" if marker == FILE_NAME else "data set"
        raise InputError(f"{to} exists and holds no {what}: name an empty or a new folder")


def publish_run(run: Run, target: Target, target_dtype: str, publishing: Publishing) -> Publication:
    """Publish the drafter of a run, with its benchmark's results if there are any."""
    parts = parts_of_run(run, target, publishing.sources)
    return publish_drafter(parts, run.folder, target, target_dtype, publishing)


def into_run(run: Run, sources: Sequence[str] = ()) -> Publishing:
    """Return where a step leaves the drafter of a run, as far as it is made; checked as `check_destination` does."""
    check_destination(str(run.published))
    return Publishing(to=str(run.published), sources=sources)


def publish_drafter(
    parts: DrafterParts, results: Path, target: Target, target_dtype: str, publishing: Publishing
) -> Publication:
    """Put a drafter together and publish it; see `drafter_trainer.publish`.

    Whatever fails on the way fails the whole. Once more it sends only what is missing.
    """
    check_destination(publishing.to)
    name = parts.description.name
    publishing, place = _locate(publishing, name), None if publishing.to == HUB else Path(publishing.to)
    with _temporary_folder(results, publishing) as temporary:
        folder = Path(temporary) / "drafter"
        description = assemble(parts, target, folder, publishing.adapter_of, FORMATS[publishing.format], place)
        measurements = read_measurements(results, description)
        details = CardDetails(publishing.repo_id, publishing.license or target_license(target))
        cards = Path(publishing.card_folder) / name if publishing.card_folder else None
        write_card(folder, description, measurements, details, read_notes(cards) if cards else "")
        copy_measurements(results, folder, list(measurements))
        files = allowed_files(folder)
        if cards and not publishing.dry_run:
            keep_card(folder, cards, details)
        if publishing.to != HUB:
            return _to_folder(publishing, folder, files)
        if not publishing.dry_run:
            _logger.info("\n".join([f"to {publishing}:", *_listing(_sizes(files))]))
        message = "Add the benchmark's results" if RESULTS in measurements else "Add the drafter"
        commit = push(publishing, files, ALLOWED, _NETWORK, message, description)
        if commit is None:
            return Publication(str(publishing), _sizes(files), sent=False)
        if publishing.check_generation:
            _check_generation(publishing.repo_id, commit.oid, description.example, target, target_dtype)
        set_tag(publishing, commit.oid)
        if publishing.collection:
            add_to_collection(publishing, target.name)
        return Publication(commit.commit_url, _sizes(files), sent=True)


def _check_generation(drafter: str, commit: str, prompt: str, target: Target, target_dtype: str) -> None:
    """Load a drafter from the Hub, as its users will, and let it draft for one prompt.

    Args:
        target (`Target`): Where its weights cannot be loaded here, a warning says so, and nothing is generated.
    """
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    try:
        target_model = target.load_model(target_dtype, device)
    except (OSError, MemoryError, ImportError, RuntimeError, ValueError) as error:  # the last three: of quantizers
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
        raise InputError(f"the target says nothing with the drafter that came back from {drafter}: do not use it")


def publish_rows(run: Run, target: Target, publishing: Publishing) -> Publication:
    """Publish the self-distilled rows of a run as a data set, one folder of Parquet shards for each split.

    The license is the target's, where none is given.
    """
    check_destination(publishing.to, marker=SPLITS[0])
    rows = run.rows
    step = finished_step(rows, "distill first")
    publishing = _locate(publishing, f"{run.name}-rows", "dataset")
    shards = {}
    for split in SPLITS:
        store = RowStore(rows / split)
        store.count()  # reads every shard
        shards |= {f"{split}/{shard.name}": shard for shard in store.shards()}
    with _temporary_folder(run.folder, publishing) as temporary:
        folder = Path(temporary) / "rows"
        folder.mkdir()
        shards = {path: _shareable(shard, folder / path, target.name) for path, shard in shards.items()}
        if target.is_known_as(step["inputs"]["target"]):  # it may have had another name then
            step["inputs"]["target"] = target.identity
        license = publishing.license or target_license(target)
        (folder / CARD).write_text(render_dataset_card(step, publishing.repo_id, license), encoding="utf-8")
        files = {CARD: folder / CARD, **shards}
        check_private(files)
        if publishing.to != HUB:
            if not publishing.dry_run:
                for path, shard in shards.items():
                    (folder / path).parent.mkdir(exist_ok=True)
                    if shard != folder / path:
                        shutil.copyfile(shard, folder / path)
            return _to_folder(publishing, folder, files)
        owned = [f"{split}/{_SHARDS}" for split in SPLITS]
        commit = push(publishing, files, owned, owned, "Add the self-distilled rows")
        if commit is None:
            return Publication(str(publishing), _sizes(files), sent=False)
        set_tag(publishing, commit.oid)
        return Publication(commit.commit_url, _sizes(files), sent=True)


def _locate(publishing: Publishing, name: str, repo_type: str = "model") -> Publishing:
    """Name the repository whole: under the account of the token where no other is given, by a name where none is."""
    if publishing.to != HUB:
        return dataclasses.replace(publishing, repo_id=name)
    name = publishing.repo_id or name
    location = name if "/" in name else f"{HfApi().whoami()['name']}/{name}"
    try:
        validate_repo_id(location)
    except HFValidationError as error:
        raise InputError(f"{location} cannot name a repository ({one_line(error)}): give OWNER/NAME") from error
    return dataclasses.replace(publishing, repo_id=location, repo_type=repo_type)


def _temporary_folder(folder: Path, publishing: Publishing) -> tempfile.TemporaryDirectory:
    # On the disk of the destination, where a rename suffices.
    parent = folder if publishing.to == HUB else Path(publishing.to).absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix=".partial-", dir=parent)


def _shareable(shard: Path, copy: Path, target: str) -> Path:
    """Return a shard if it names no path of this machine, otherwise a copy that names none."""
    named = pq.read_table(shard, columns=[*NAMES])
    if without_paths(named, target).equals(named):
        return shard
    copy.parent.mkdir(exist_ok=True)
    pq.write_table(without_paths(pq.read_table(shard), target), copy)
    return copy


def _to_folder(publishing: Publishing, folder: Path, files: Mapping[str, Path]) -> Publication:
    sizes = _sizes(files)
    if not publishing.dry_run:
        _replace(Path(publishing.to), folder)
    return Publication(publishing.to, sizes, sent=not publishing.dry_run)


def _sizes(files: Mapping[str, Path]) -> dict[str, int]:
    return {name: path.stat().st_size for name, path in files.items()}


def _listing(sizes: Mapping[str, int]) -> list[str]:
    width = max(len(f"{size:,}") for size in sizes.values())
    return [f"  {size:>{width},} bytes  {name}" for name, size in sizes.items()]


def _replace(place: Path, folder: Path) -> None:
    """Put a whole folder where another one may stand, by renaming."""
    if place.exists():
        old = folder.parent / "old"
        place.rename(old)
    folder.rename(place)

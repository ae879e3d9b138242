"""Publish a drafter: the one place that writes to the Hub."""

import shutil
import tempfile
import warnings
from pathlib import Path

import huggingface_hub

from drafter_trainer.arguments import PublishingArguments, RunArguments
from drafter_trainer.benchmark.results import read_results
from drafter_trainer.drafters.description import FILE_NAME
from drafter_trainer.drafters.loop.repository import TABLE, VOCABULARY
from drafter_trainer.errors import InputError
from drafter_trainer.hub.assemble import WEIGHTS, assemble
from drafter_trainer.hub.card import render_card
from drafter_trainer.targets import Target

HUB = "hub"
RESULTS = "results.json"
# Everything that may leave: no optimizer state, no pickled arguments, no token.
ALLOWED = (
    "README.md",
    FILE_NAME,
    RESULTS,
    *WEIGHTS,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "chat_template.jinja",
    VOCABULARY,
    TABLE,
    "custom_generate/*.py",
)


def check_destination(to: str) -> None:
    """Find out early whether publishing can work, before hours of training.

    Args:
        to (`str`): "hub" or a folder.
    Raises:
        InputError: If there is no token for the Hub, or the folder holds something else than a drafter.
    """
    if to == HUB:
        if huggingface_hub.get_token() is None:
            raise InputError(
                "no token for the Hub: set HF_TOKEN (or run hf auth login), or publish to a folder with --to FOLDER"
            )
    elif (
        Path(to).exists() and not (Path(to) / FILE_NAME).is_file() and (Path(to).is_file() or any(Path(to).iterdir()))
    ):
        raise InputError(f"{to} exists and holds no drafter: name an empty or a new folder with --to")


def publish_run(run: RunArguments, target: Target, target_dtype: str, publishing: PublishingArguments) -> str:
    """Publish the finetuned drafter of a run, with its benchmark's results if there are any.

    Args:
        run (`RunArguments`): Names the run and its drafter.
        target (`Target`): The target.
        target_dtype (`str`): Weights are stored in it; "auto" for the one of the target's checkpoint.
        publishing (`PublishingArguments`): Where to, and what is written into the repository.
    Returns:
        `str`, the folder or the address of the commit.
    Raises:
        InputError: If there is nothing to publish, it does not fit the target, or the destination cannot be used.
        HfHubHTTPError: If the Hub refuses.
    """
    check_destination(publishing.to)
    results_path = run.folder / RESULTS
    results = read_results(results_path) if results_path.is_file() else None
    if results and results["provenance"]["drafter"] != run.drafter_name:
        raise InputError(f"{results_path} measures {results['provenance']['drafter']}, not {run.drafter_name}")
    api = huggingface_hub.HfApi()
    if publishing.to == HUB:
        location = publishing.repo_id or f"{api.whoami()['name']}/{run.drafter_name}"
    else:
        location = run.drafter_name
    parent = run.folder if publishing.to == HUB else Path(publishing.to).absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=parent) as temporary:
        folder = Path(temporary) / "drafter"
        description = assemble(run, target, target_dtype, publishing.draft_length, folder, publishing.adapter_of)
        if results and results["provenance"].get("drafter_fingerprint") != description.fingerprint():
            message = (
                f"{results_path} measures this drafter as it was before: the card goes without numbers until bench.py"
            )
            warnings.warn(f"{message} has run again", stacklevel=2)
            results = None
        card = render_card(description, results, location, publishing.licence, _notes(run, publishing))
        (folder / "README.md").write_text(card, encoding="utf-8")
        if results:
            shutil.copyfile(results_path, folder / RESULTS)
        if publishing.card_folder:
            _keep_card(folder, Path(publishing.card_folder) / run.drafter_name)
        if publishing.to != HUB:
            return _replace(Path(publishing.to), folder)
        api.create_repo(location, private=publishing.private, exist_ok=True)
        message = "Add the benchmark's results" if results else "Add the drafter"
        commit = api.upload_folder(
            repo_id=location,
            folder_path=folder,
            allow_patterns=list(ALLOWED),
            # What this drafter no longer has must not be taken for its own.
            delete_patterns=[VOCABULARY, TABLE, RESULTS, *WEIGHTS],
            commit_message=message,
        )
        return commit.commit_url


def _replace(place: Path, folder: Path) -> str:
    """Put a whole folder where another one may stand, by renaming."""
    if place.exists():
        old = folder.parent / "old"
        place.rename(old)
    folder.rename(place)
    return str(place)


def _notes(run: RunArguments, publishing: PublishingArguments) -> str:
    """Read what was written by hand for the card, `notes.md` beside it."""
    if publishing.card_folder is None:
        return ""
    notes = Path(publishing.card_folder) / run.drafter_name / "notes.md"
    return notes.read_text(encoding="utf-8") if notes.is_file() else ""


def _keep_card(folder: Path, place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for name in ("README.md", RESULTS):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, place / name)

"""Which files may be published, and what none of them may hold."""

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub.utils import filter_repo_objects

from drafter_trainer.credentials import find_credential, find_path
from drafter_trainer.drafters.adapters import ADAPTER_CONFIG
from drafter_trainer.drafters.description import FILE_NAME
from drafter_trainer.drafters.loop.repository import TABLE, VOCABULARY
from drafter_trainer.drafters.saving import WEIGHTS
from drafter_trainer.errors import InputError
from drafter_trainer.hub.card import PLOT
from drafter_trainer.hub.card_folder import CARD, MEASUREMENTS
from drafter_trainer.results import RESULTS

# Everything that may leave: no optimizer state, no pickled arguments, no token.
ALLOWED = (
    CARD,
    PLOT,
    FILE_NAME,
    *MEASUREMENTS,
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
# What is written here; a tokenizer has tokens such as "/usr/bin", and the loop's code names no path of this machine.
_TEXTS = (CARD, FILE_NAME, RESULTS, "config.json", "generation_config.json", "tokenizer_config.json", ADAPTER_CONFIG)


def allowed_files(folder: Path) -> dict[str, Path]:
    """Return the files that may leave, by path; delete what else the libraries have written beside them."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    allowed = {name: files[name] for name in filter_repo_objects(files, allow_patterns=[*ALLOWED])}
    for name in files.keys() - allowed.keys():
        files[name].unlink()
    check_private(allowed)
    return allowed


def check_private(files: Mapping[str, Path]) -> None:
    """Refuse what nobody else may know, or has."""
    for name, path in files.items():
        if path.name in _TEXTS and (found := find_path(path)):
            raise InputError(
                f"{name} names {found}, a path of this machine: give a name in its place where the file is made"
            )
        if found := find_credential(path):
            raise InputError(f"{name} holds {found}, and would publish it: remove it from what the file is made of")

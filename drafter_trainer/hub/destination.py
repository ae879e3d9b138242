"""The destination of a drafter or a data set: a folder, or a branch of a repository on the Hub."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from drafter_trainer.drafters.description import FILE_NAME
from drafter_trainer.errors import InputError, one_line

HUB = "hub"
MAIN = "main"
DATASET = "dataset"


@dataclass(frozen=True)
class Destination:
    """The destination of a drafter or a data set.

    Args:
        to, repo_id, revision, tag, private, overwrite, dry_run: See `drafter_trainer.publish`.
        repo_type (`str`, *optional*, defaults to `"model"`): "model" or "dataset".
    """

    to: str = HUB
    repo_id: str | None = None
    revision: str | None = None
    tag: str | None = None
    private: bool = False
    overwrite: bool = False
    dry_run: bool = False
    repo_type: str = "model"

    def __post_init__(self) -> None:
        if self.to.startswith(f"{HUB}:"):
            raise InputError(
                f"to is {HUB!r} or a folder, got {self.to}: give repository and branch as repo_id and revision"
            )
        if self.to != HUB and (self.revision or self.tag):
            raise InputError(f"only the Hub has revision and tag: leave them out to publish to {self.to}")

    def __str__(self) -> str:
        kind = f"{DATASET}s/" if self.repo_type == DATASET else ""
        return f"{kind}{self.repo_id}" + ("" if self.branch == MAIN else f" at {self.branch}")

    @property
    def branch(self) -> str:
        """The branch on the Hub; a new one starts empty."""
        return self.revision or MAIN

    @property
    def address(self) -> dict[str, str | None]:
        """The repository as arguments of `huggingface_hub`'s functions."""
        return {"repo_id": self.repo_id, "repo_type": self.repo_type}

    @property
    def folder(self) -> Path | None:
        """The folder; `None` on the Hub."""
        return None if self.to == HUB else Path(self.to)

    def check(self) -> None:
        """Raise an error if publishing cannot succeed; called before hours of training."""
        marker, kind = ("train", "data set") if self.repo_type == DATASET else (FILE_NAME, "drafter")
        if self.folder is None:
            if huggingface_hub.get_token() is None:
                raise InputError("no token for the Hub: set HF_TOKEN (or run hf auth login), or publish to a folder")
        elif self.folder.is_file() or (
            self.folder.is_dir() and not (self.folder / marker).exists() and any(self.folder.iterdir())
        ):
            raise InputError(f"{self.to} exists and holds no {kind}: name an empty or a new folder")

    def named(self, name: str) -> "Destination":
        """Return the destination with its full repository name, by default the token's account and the given name."""
        if self.folder is not None:
            return dataclasses.replace(self, repo_id=name)
        name = self.repo_id or name
        repo_id = name if "/" in name else f"{HfApi().whoami()['name']}/{name}"
        try:
            validate_repo_id(repo_id)
        except HFValidationError as error:
            raise InputError(f"{repo_id} cannot name a repository ({one_line(error)}): give OWNER/NAME") from error
        return dataclasses.replace(self, repo_id=repo_id)

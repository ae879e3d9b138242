"""The repository of a drafter: a folder, or one commit on the Hub."""

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import EntryNotFoundError, HTTPError

from drafter_trainer.atomic import hash_file
from drafter_trainer.drafters.description import FILE_NAME, DrafterDescription
from drafter_trainer.drafters.loop.build import TABLE
from drafter_trainer.errors import InputError, one_line
from drafter_trainer.results import RESULTS, Headline, read_headline
from drafter_trainer.targets import Target, as_target, hash_folder, resolve_commit, resolve_target


@dataclass(frozen=True)
class Repository:
    """A published drafter on the Hub, or the folder of a drafter; `commit` is `None` for a folder."""

    name: str
    commit: str | None

    @classmethod
    def open(cls, name: str | Path, revision: str | None = None) -> "Repository":
        """Find a repository."""
        commit = None if Path(name).is_dir() else resolve_commit(str(name), revision, "a published drafter")
        return cls(str(name), commit)

    @functools.cached_property
    def description(self) -> DrafterDescription:
        """The contents of its drafter.json."""
        if self.commit is None:
            return DrafterDescription.read(Path(self.name))
        path = self.find(FILE_NAME)
        if path is None:
            raise InputError(f"{self.name} has no {FILE_NAME}: it was not published with this library")
        return DrafterDescription.from_json(path.read_bytes(), f"{self.name}/{FILE_NAME}")

    @property
    def identity(self) -> str:
        """Its commit, or a hash of its folder's weights and settings."""
        if self.commit is not None:
            return self.commit
        weights, description = hash_folder(Path(self.name)), self.find(FILE_NAME)
        if description is None:
            return weights
        return f"{weights}+{hashlib.sha256(description.read_bytes()).hexdigest()[:16]}"

    def find(self, name: str) -> Path | None:
        """Return the path of a file, after its download from the Hub; `None` if there is no such file."""
        if self.commit is None:
            path = Path(self.name) / name
            return path if path.is_file() else None
        try:
            return Path(huggingface_hub.hf_hub_download(self.name, name, revision=self.commit))
        except EntryNotFoundError:
            return None
        except (OSError, HTTPError) as error:
            raise InputError(f"{name} of {self.name} cannot be downloaded: {one_line(error)}") from error

    def check_files(self) -> None:
        """Compare the files with the hashes in the description.

        The drafting loop checks the n-gram table itself, and drafts without the table if it is damaged.
        """
        expected = self.description.weights | self.description.files
        for name in expected.keys() - {TABLE}:
            path = self.find(name)
            if path is None:
                raise InputError(f"{self.name} lacks {name}, which its {FILE_NAME} names: download it again")
            if (found := hash_file(path)) != expected[name]:
                raise InputError(
                    f"{name} of {self.name} is not the file that was published (SHA-256 {found[:16]}, in {FILE_NAME} "
                    f"{expected[name][:16]}): download it again; if that does not help, do not trust the repository"
                )

    def headline(self) -> Headline | str:
        """Return the headline of its results, or the reason why there is none."""
        return read_headline(self.find(RESULTS), self.description.fingerprint())


def target_of(drafter: str | Path, target: Any = None) -> Target:
    """Return the given target, or the target in a drafter's description."""
    if target is not None:
        return as_target(target)
    description = Repository.open(drafter).description
    try:
        return resolve_target(description.target, description.target_revision)
    except InputError as error:
        raise InputError(f"the target of {drafter} was not found, give it as target: {error}") from error

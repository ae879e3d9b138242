"""`drafter.json`: what a published drafter says of itself."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drafter_trainer.drafters.loop.repository import DESCRIPTION as FILE_NAME
from drafter_trainer.drafters.loop.repository import TABLE
from drafter_trainer.errors import InputError
from drafter_trainer.languages import (
    Language,
    Pair,
    get_language,
    get_pair,
    probes_of,
    story_prompt,
    translation_prompt,
)

SCHEMA_VERSION = 1
_SINCE_SCHEMA = {
    "adapter_of",
    "languages",
    "prompting",
    "size",
    "weights",
}  # fields that came later, and may be missing
_SHA256 = re.compile("[0-9a-f]{64}")
# No folder, no way out of the repository, nothing hidden.
_FILE = re.compile("[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class DrafterDescription:
    """What is known of a drafter.

    Args:
        name (`str`): Its name, such as `<target>-drafter-<pair>`.
        target (`str`): Hub id of the target.
        target_revision (`str`): The target's revision that answered during distillation.
        pair (`str`): The pair whose translation it was trained for; empty where it was trained for anything else.
        draft_length (`int`): Tokens that transformers' own loop drafts in one round.
        loop (`dict`): Settings of the drafting loop, see `loop.settings.LoopSettings`.
        files (`dict[str, str]`): SHA-256 of the files that the loop reads.
        training (`dict`): What it was trained on and how, for the card.
        adapter_of (`dict[str, str]`): Of a LoRA adapter, the base drafter that it goes over: `drafter`, its Hub id or
            folder, and `revision`, its commit or hash.
        weights (`dict[str, str]`): SHA-256 of the files that the network is loaded from: configuration and weights.
        size (`dict[str, str]`): Number of parameters, their dtype, and the megabytes of each file of weights, for the
            card.
        languages (`list[str]`): Tags of its languages; those of the pair where none are named.
        prompting (`dict`): How a base model is asked, where it was: `chat_template`, the repository's file with the
            template, `stop`, the characters that end a completion, and `auto_class`, the class of transformers that
            loads the target, where it is not `AutoModelForCausalLM`.
    """

    name: str
    target: str
    target_revision: str
    tokenizer_sha256: str
    pair: str
    draft_length: int
    loop: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    adapter_of: dict[str, str] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    size: dict[str, str] = field(default_factory=dict)
    languages: list[str] = field(default_factory=list)
    prompting: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @property
    def translation(self) -> Pair | None:
        """The pair whose translation it was trained for."""
        return get_pair(self.pair) if self.pair else None

    @property
    def spoken(self) -> tuple[Language, ...]:
        """Its languages, of a pair the source first."""
        if self.languages:
            return tuple(map(get_language, self.languages))
        return self.translation.languages if self.translation else ()

    @property
    def asked(self) -> Pair:
        """The pair of what it is asked; of one language, English where none is known, that language on both sides."""
        first = self.spoken[0] if self.spoken else get_language("en")
        return self.translation or Pair(first, first)

    @property
    def probes(self) -> tuple[str, ...]:
        """The texts by which its tokenizer is hashed."""
        return probes_of(self.spoken)

    @property
    def example(self) -> str:
        """A prompt of the kind that it was trained for."""
        if self.translation:
            return translation_prompt(self.translation, self.probes[0])
        return story_prompt(self.spoken[0] if self.spoken else get_language("en"), {"en": "a fox and a train"})

    def fingerprint(self) -> str:
        """Hash all that it says of the drafter itself, for results to name what they measured.

        Hashes and sizes of weights stay out: results of drafters that were described before there were any would be
        lost, and other weights come with another record of training.
        """
        said = dataclasses.asdict(self)
        del said["versions"], said["weights"], said["size"], said["prompting"]
        if not self.languages:  # as it was said before there were any but those of a pair
            del said["languages"]
        if not self.adapter_of:  # as it was said before there were adapters
            del said["adapter_of"]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """Write it as text."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"

    def check_files(self, find: Callable[[str], Path | None], place: str) -> None:
        """Compare the files of a repository with their hashes.

        The n-gram table is not among them: the loop compares it itself, and goes on without one that is damaged.

        Args:
            find (callable): From a file's name to its path in the repository, `None` where it has no such file.
        """
        for name, expected in (self.weights | self.files).items():
            if name == TABLE:
                continue
            path = find(name)
            if path is None:
                raise InputError(f"{place} lacks {name}, which its {FILE_NAME} names: download it again")
            if (found := hash_file(path)) != expected:
                raise InputError(
                    f"{name} of {place} is not the file that was published (SHA-256 {found[:16]}, in {FILE_NAME} "
                    f"{expected[:16]}): download it again; if it stays so, do not trust the repository"
                )

    @classmethod
    def from_json(cls, text: str | bytes, place: str) -> "DrafterDescription":
        """Read it.

        Args:
            place (`str`): Where the text came from, for messages.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:  # ValueError: bytes that are no text, and endless numbers too
            raise InputError(f"{place} is not JSON ({error}): publish the drafter again") from error
        version = values.get("schema_version") if isinstance(values, dict) else None
        if version != SCHEMA_VERSION:
            raise InputError(
                f"{place} is of schema version {_shown(version)}, expected {SCHEMA_VERSION}: use the release that "
                f"wrote it"
            )
        known = {entry.name for entry in dataclasses.fields(cls)}
        if missing := sorted(known - _SINCE_SCHEMA - values.keys()):
            raise InputError(f"{place} lacks {', '.join(missing)}: publish the drafter again")
        if unknown := sorted(values.keys() - known):
            raise InputError(f"{place} has unknown fields {_shown(', '.join(unknown))}: use the release that wrote it")
        description = cls(**values)
        if wrong := description._wrong_field():
            raise InputError(f"{place}: {wrong}: publish the drafter again")
        return description

    def _wrong_field(self) -> str | None:
        values = vars(self)
        for name in ("name", "target", "target_revision", "tokenizer_sha256"):
            if not _is_line(values[name]):
                return f"{name} must be a line of text, got {_shown(values[name])}"
        if self.pair != "" and not _is_line(self.pair):
            return f"pair must be a line of text, got {_shown(self.pair)}"
        if not isinstance(self.languages, list) or not all(map(_is_line, self.languages)):
            return f"languages must be a list of tags, got {_shown(self.languages)}"
        if not _SHA256.fullmatch(self.tokenizer_sha256):
            return f"tokenizer_sha256 must be 64 hexadecimal digits, got {_shown(self.tokenizer_sha256)}"
        if type(self.draft_length) is not int or self.draft_length < 1:  # True is an int too
            return f"draft_length must be a whole number of 1 or more, got {_shown(self.draft_length)}"
        for name in ("loop", "training"):
            if not isinstance(values[name], dict):
                return f"{name} must be an object, got {_shown(values[name])}"
        for name in ("files", "versions", "adapter_of", "weights", "size"):
            entries = values[name]
            if not isinstance(entries, dict) or not all(map(_is_line, entries.values())):
                return f"{name} must be an object of lines of text, got {_shown(entries)}"
        for name, sha256 in (*self.files.items(), *self.weights.items()):
            if not _FILE.fullmatch(name):
                return f"files are named without folders, got {_shown(name)}"
            if not _SHA256.fullmatch(sha256):
                return f"the SHA-256 of {name} must be 64 hexadecimal digits, got {_shown(sha256)}"
        if self.adapter_of and self.adapter_of.keys() != {"drafter", "revision"}:
            return f"adapter_of must name drafter and revision, got {_shown(self.adapter_of)}"
        return None

    @classmethod
    def read(cls, folder: Path) -> "DrafterDescription":
        """Read it from a drafter's folder."""
        path = folder / FILE_NAME
        if not path.is_file():
            raise InputError(f"{folder} has no {FILE_NAME}: it is no drafter published with this library")
        return cls.from_json(path.read_bytes(), str(path))


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and value != ""


def _shown(value: Any) -> str:
    """Write a value for a message: on one line, and not the whole of a long one."""
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."

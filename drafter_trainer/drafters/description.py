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

    @classmethod
    def from_json(cls, text: str | bytes, place: str) -> "DrafterDescription":
        """Read it."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:  # ValueError: bytes that are no text, and endless numbers too
            raise InputError(f"{place} is not JSON ({error}): publish the drafter again") from error
        version = values.get("schema_version") if isinstance(values, dict) else None
        if version != SCHEMA_VERSION:
            raise InputError(
                f"{place} is of schema version {version!r:.80}, expected {SCHEMA_VERSION}: use the release that "
                "wrote it"
            )
        known = {entry.name for entry in dataclasses.fields(cls)}
        if missing := sorted(known - _SINCE_SCHEMA - values.keys()):
            raise InputError(f"{place} lacks {', '.join(missing)}: publish the drafter again")
        if unknown := sorted(values.keys() - known):
            raise InputError(f"{place} has unknown fields {unknown!r:.80}: use the release that wrote it")
        description = cls(**values)
        for names, fits, expected in _EXPECTED:
            for name in names:
                if not fits(value := getattr(description, name)):
                    raise InputError(
                        f"{place}: {name} must be {expected}, got {value!r:.80}: publish the drafter again"
                    )
        return description

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


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _has_lines(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_line, value.values()))


_EXPECTED: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (("name", "target", "target_revision"), _is_line, "a line of text"),
    (("tokenizer_sha256",), _is_hash, "64 hexadecimal digits"),
    (("pair",), lambda value: value == "" or _is_line(value), "a line of text"),
    (("languages",), lambda value: isinstance(value, list) and all(map(_is_line, value)), "a list of tags"),
    (("draft_length",), lambda value: type(value) is int and value > 0, "a whole number of 1 or more"),  # no True
    (("loop", "training"), lambda value: isinstance(value, dict), "an object"),
    (("versions", "size"), _has_lines, "an object of lines of text"),
    (
        ("files", "weights"),
        lambda value: _has_lines(value) and all(map(_FILE.fullmatch, value)) and all(map(_is_hash, value.values())),
        "an object of names without folders and their SHA-256",
    ),
    (
        ("adapter_of",),
        lambda value: _has_lines(value) and (not value or value.keys() == {"drafter", "revision"}),
        "an object of drafter and revision",
    ),
)

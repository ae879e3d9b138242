"""`drafter.json`: the description of a published drafter."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drafter_trainer.drafters.loop.build import DESCRIPTION as FILE_NAME
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
_OPTIONAL = {"adapter_of", "languages", "prompting", "size", "weights"}  # fields that earlier releases did not write
_SHA256 = re.compile("[0-9a-f]{64}")
_FILE = re.compile("[A-Za-z0-9][A-Za-z0-9._-]*")  # no folder, no path out of the repository, no hidden file


@dataclass(frozen=True)
class DrafterDescription:
    """The description of a drafter.

    Args:
        name (`str`): Name of the drafter, such as `<target>-drafter-<pair>`.
        target (`str`): Hub id of the target.
        target_revision (`str`): Revision of the target whose completions the drafter was trained on.
        pair (`str`): The pair of a translation drafter, otherwise empty.
        draft_length (`int`): Tokens that transformers' own loop drafts in one round.
        loop (`dict`): Settings of the drafting loop, see `loop.settings.LoopSettings`.
        files (`dict[str, str]`): SHA-256 of the files that the loop reads.
        training (`dict`): Data and settings of the training, for the card.
        adapter_of (`dict[str, str]`): The base drafter of a LoRA adapter: `drafter`, its Hub id or folder, and
            `revision`, its commit or hash.
        weights (`dict[str, str]`): SHA-256 of the network's configuration and weights.
        size (`dict[str, str]`): Number of parameters, their dtype, and megabytes of each weights file, for the card.
        languages (`list[str]`): Tags of the drafter's languages; if empty, those of the pair.
        prompting (`dict`): The prompt format of a base model: `chat_template`, the name of the file with the template,
            `stop`, the characters that end a completion, and `auto_class`, the transformers class that loads the
            target if it is not `AutoModelForCausalLM`.
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
        """The pair of a translation drafter."""
        return get_pair(self.pair) if self.pair else None

    @property
    def spoken(self) -> tuple[Language, ...]:
        """The drafter's languages; the source of a pair first."""
        if self.languages:
            return tuple(map(get_language, self.languages))
        return self.translation.languages if self.translation else ()

    @property
    def language_pair(self) -> Pair:
        """The languages of prompts and completions: the pair, or the first language (default: English) twice."""
        first = self.spoken[0] if self.spoken else get_language("en")
        return self.translation or Pair(first, first)

    @property
    def probes(self) -> tuple[str, ...]:
        """The texts with which the tokenizer is hashed."""
        return probes_of(self.spoken)

    @property
    def example(self) -> str:
        """An example of the prompts that the drafter was trained for."""
        if self.translation:
            return translation_prompt(self.translation, self.probes[0])
        return story_prompt(self.language_pair.source, {"en": "a fox and a train"})

    def fingerprint(self) -> str:
        """Hash the description, by which results identify the measured drafter.

        Fields that earlier releases did not have are left out if they are empty, so that older results stay valid.
        Weights are not hashed, because other weights have another record of training.
        """
        values = dataclasses.asdict(self)
        for name in ("versions", "weights", "size", "prompting"):
            del values[name]
        for name in ("languages", "adapter_of"):
            if not values[name]:
                del values[name]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """Return the description as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, file: str) -> "DrafterDescription":
        """Read a description from JSON text.

        Raises:
            InputError: If it is not a description of this schema version; the message begins with `file`.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:  # ValueError also for undecodable bytes and endless numbers
            raise InputError(f"{file} is not JSON ({error}): publish the drafter again") from error
        version = values.get("schema_version") if isinstance(values, dict) else None
        if version != SCHEMA_VERSION:
            raise InputError(
                f"{file} has schema version {version!r:.80}, expected {SCHEMA_VERSION}: use the release that wrote it"
            )
        names = {entry.name for entry in dataclasses.fields(cls)}
        if missing := sorted(names - _OPTIONAL - values.keys()):
            raise InputError(f"{file} lacks {', '.join(missing)}: publish the drafter again")
        if unknown := sorted(values.keys() - names):
            raise InputError(f"{file} has unknown fields {unknown!r:.80}: use the release that wrote it")
        for name, (fits, expected) in _EXPECTED.items():
            if name in values and not fits(value := values[name]):
                raise InputError(f"{file}: {name} must be {expected}, got {value!r:.80}: publish the drafter again")
        return cls(**values)

    @classmethod
    def read(cls, folder: Path) -> "DrafterDescription":
        """Read the description from a drafter's folder."""
        path = folder / FILE_NAME
        if not path.is_file():
            raise InputError(f"{folder} has no {FILE_NAME}: it is not a drafter published with this library")
        return cls.from_json(path.read_bytes(), str(path))


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and value != ""


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _has_lines(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_line, value.values()))


def _has_hashes(value: Any) -> bool:
    return _has_lines(value) and all(map(_FILE.fullmatch, value)) and all(map(_is_hash, value.values()))


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_base(value: Any) -> bool:
    return _has_lines(value) and (not value or value.keys() == {"drafter", "revision"})


_EXPECTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("name", "target", "target_revision"), (_is_line, "a line of text")),
    "tokenizer_sha256": (_is_hash, "64 hexadecimal digits"),
    "pair": (lambda value: value == "" or _is_line(value), "a line of text"),
    "languages": (lambda value: isinstance(value, list) and all(map(_is_line, value)), "a list of tags"),
    "draft_length": (lambda value: type(value) is int and value > 0, "a whole number of 1 or more"),  # not True
    **dict.fromkeys(("loop", "training"), (_is_object, "an object")),
    **dict.fromkeys(("versions", "size"), (_has_lines, "an object of lines of text")),
    **dict.fromkeys(("files", "weights"), (_has_hashes, "an object of names without folders and their SHA-256")),
    "adapter_of": (_is_base, "an object of drafter and revision"),
}

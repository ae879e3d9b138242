"""`drafter.json`: what a published drafter says of itself."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drafter_trainer.drafters.loop.repository import DESCRIPTION as FILE_NAME
from drafter_trainer.errors import InputError

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class DrafterDescription:
    """Describe a drafter.

    Args:
        name (`str`): Its name, `<target>-drafter-<pair>`.
        target (`str`): Hub id of the target.
        target_revision (`str`): The target's revision that answered during distillation.
        tokenizer_sha256 (`str`): See `compatibility.hash_tokenizer`.
        pair (`str`): The pair that it was trained for; its two languages are the probes of the tokenizer's hash.
        draft_length (`int`): Tokens that transformers' own loop drafts in one round.
        loop (`dict`): Settings of the drafting loop, see `loop.settings.LoopSettings`.
        files (`dict[str, str]`): SHA-256 of the files that the loop reads.
        training (`dict`): What it was trained on and how, for the card.
        versions (`dict[str, str]`): Of the libraries.
        adapter_of (`dict[str, str]`): Of a LoRA adapter, the base drafter that it goes over: `drafter`, its Hub id or
            folder, and `revision`, its commit or hash.
        schema_version (`int`): Of this file.
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
    schema_version: int = SCHEMA_VERSION

    def fingerprint(self) -> str:
        """Hash all that it says of the drafter itself, for results to name what they measured."""
        said = dataclasses.asdict(self)
        del said["versions"]
        if not self.adapter_of:  # as it was said before there were adapters
            del said["adapter_of"]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """Write it as text."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, place: str) -> "DrafterDescription":
        """Read it.

        Args:
            place (`str`): Where the text came from, for messages.
        Raises:
            InputError: If a field is missing or unknown, or the schema is another version's.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"{place} is not JSON ({error}): publish the drafter again") from error
        version = values.get("schema_version") if isinstance(values, dict) else None
        if version != SCHEMA_VERSION:
            raise InputError(
                f"{place} is of schema version {version}, expected {SCHEMA_VERSION}: use the release that wrote it"
            )
        known = {entry.name for entry in dataclasses.fields(cls)}
        if missing := sorted(known - {"adapter_of"} - values.keys()):
            raise InputError(f"{place} lacks {', '.join(missing)}: publish the drafter again")
        if unknown := sorted(values.keys() - known):
            raise InputError(f"{place} has unknown fields {', '.join(unknown)}: use the release that wrote it")
        return cls(**values)

    @classmethod
    def read(cls, folder: Path) -> "DrafterDescription":
        """Read it from a drafter's folder.

        Raises:
            InputError: If there is none.
        """
        path = folder / FILE_NAME
        if not path.is_file():
            raise InputError(f"{folder} has no {FILE_NAME}: it is no drafter published with this library")
        return cls.from_json(path.read_text(encoding="utf-8"), str(path))

"""A run: where its steps lie, with which settings each was made, and whether it is finished."""

import hashlib
import json
import logging
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drafter_trainer.atomic import write_json
from drafter_trainer.errors import InputError
from drafter_trainer.provenance import collect_provenance

FILE_NAME = "step.json"
_logger = logging.getLogger(__name__)
# What changes neither the result nor what may be reused of it.
_INDIFFERENT = {
    "batch_size",
    "card_folder",
    "check_generation",
    "collection",
    "concurrency",
    "costs",  # an input, as other_data
    "dataloader_num_workers",
    "disable_tqdm",
    "dry_run",
    "licence",  # as the option was called before
    "license",
    "logging_steps",
    "other_data",
    "out",
    "output_dir",
    "overwrite",
    "private",
    "publish",
    "repo_id",
    "report_to",
    "request_timeout",
    "revision",
    "run_folder",
    "run_name",
    "save_outputs",
    "server_kind",
    "server_model",
    "servers",
    "tag",
    # Which target it is, its revision says: that is an input, and the same under another name or in another folder.
    "target_model",
    "target_name",
    "target_revision",
    "to",
}


@dataclass(frozen=True)
class Run:
    """A drafter in the making, and the folders of its steps.

    Args:
        languages (`str`): Tag of its language, or of its pair.
    """

    name: str
    folder: Path
    languages: str

    @property
    def pretrained(self) -> Path:
        """The drafter that pretraining left."""
        return self.folder / "pretrain"

    @property
    def rows(self) -> Path:
        """The rows that distillation left."""
        return self.folder / "distill"

    @property
    def finetuned(self) -> Path:
        """The drafter that finetuning left."""
        return self.folder / "finetune"

    @property
    def tuned(self) -> Path:
        """The settings that tuning left."""
        return self.folder / "tune"

    @property
    def published(self) -> Path:
        """The drafter as it is published to a folder."""
        return self.folder / "drafter"

    def measured(self, task: str, default: str) -> Path:
        """Return the folder of a task's results; those of the default task lie in the run's own folder."""
        return self.folder if task == default else self.folder / "tasks" / task


class Step:
    """Remember a step in `step.json` of its folder.

    Use it as a context manager around the work; leaving it without an exception finishes the step. A step that was
    interrupted goes on when it is entered again with the same settings.

    Args:
        settings (`dict`): What was given for it; settings that decide no result are left aside.
        inputs (`dict[str, str]`): Fingerprints of what it reads: the target's name and revision, earlier steps.
        main (`bool`, *optional*, defaults to `True`): Whether this process writes; with several, the first does.
        fixed (`Collection[str]`, *optional*): Settings that must be as they were, where the recipe itself compares
            what is left with what is asked for now; all if left out.
    Attributes:
        difference (`str`): Of settings and inputs, from those of the step that is left; empty where there is none.
        earlier (`dict`, *optional*): The record of the step that is left, once `is_finished` has read it.
    """

    def __init__(
        self,
        folder: Path,
        recipe: str,
        settings: dict[str, Any],
        inputs: dict[str, str],
        main: bool = True,
        fixed: Collection[str] | None = None,
    ) -> None:
        self.folder = folder
        self.recipe = recipe
        self.main = main
        self.facts: dict[str, Any] = {}
        self.seconds = 0.0
        self.difference = ""
        self.earlier: dict[str, Any] | None = None
        self._fixed = fixed
        self._record: dict[str, Any] = json.loads(
            json.dumps({"recipe": recipe, "settings": _deciding(settings), "inputs": inputs}, default=str)
        )
        self.fingerprint = hashlib.sha256(json.dumps(self._record, sort_keys=True).encode()).hexdigest()[:16]

    def is_finished(self) -> bool:
        """Tell whether the step has been done, with these settings and inputs."""
        earlier = read_step(self.folder)
        if earlier is None:
            return False
        changes = self._changes(earlier)
        if changes and not any(path.is_file() and not _is_no_result(path) for path in self.folder.rglob("*")):
            return False  # it failed before it left anything
        self.difference = "; ".join(changes.values())
        if self._fixed is None or earlier["recipe"] != self.recipe or changes.keys() & self._fixed:
            self.refuse_difference()
        self.earlier = earlier
        # Time of earlier sessions counts too; what they had recorded by then is recorded anew.
        self.seconds = earlier["seconds"]
        return earlier["finished"] and not changes and self.reuse()

    def refuse_difference(self, because: str = "") -> None:
        """Refuse to do the step over another one, if it is another."""
        if self.difference:
            raise InputError(
                f"{self.folder} was made with other settings ({self.difference}{because}): delete it to do the step "
                "anew, or name another run_folder"
            )

    def reuse(self) -> bool:
        """Take the results of the step that is left for those of this one; return `True`."""
        # Later steps know it by that fingerprint, and releases differ in the settings that they leave aside.
        self.facts, self.fingerprint = self.earlier["facts"], self.earlier["fingerprint"]
        self._log("finished before, in")
        return True

    def _changes(self, earlier: dict[str, Any]) -> dict[str, str]:
        """Say in which settings and inputs an earlier step differs, by their names."""
        if earlier["recipe"] != self.recipe:
            return {"recipe": f"then of {earlier['recipe']}, now of {self.recipe}"}
        changes = {}
        for part, of in (("settings", _deciding), ("inputs", dict)):
            before, now = of(earlier[part]), self._record[part]
            for key in sorted(before.keys() | now.keys()):
                if _content(key, before.get(key)) != _content(key, now.get(key)):
                    changes[key] = f"{key}: then {before.get(key)}, now {now.get(key)}"
        return changes

    def __enter__(self) -> "Step":
        self._start = time.monotonic() - self.seconds
        self._write(finished=False)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # The time of a step that was interrupted counts too, when it goes on.
        self._write(finished=kind is None)
        if kind is None:
            self._log("finished in")

    def _log(self, said: str) -> None:
        if self.main:
            facts = f"\n  {json.dumps(self.facts, ensure_ascii=False)}" if self.facts else ""
            _logger.info("%s: %s %.0f s: %s%s", self.recipe, said, self.seconds, self.folder, facts)

    def _write(self, finished: bool) -> None:
        self.seconds = round(time.monotonic() - self._start, 1)
        if not self.main:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        record = self._record | {
            "fingerprint": self.fingerprint,
            "finished": finished,
            "seconds": self.seconds,
            "facts": self.facts,
            "provenance": collect_provenance(),
        }
        write_json(self.folder / FILE_NAME, record)


def _is_no_result(path: Path) -> bool:
    # Prompts are made again for other settings, and so is the note whose rows they are.
    return path.name in (FILE_NAME, "rows.json") or path.suffix == ".arrow"


def _deciding(settings: dict[str, Any]) -> dict[str, Any]:
    # Layers of the target decide nothing about a network that starts from something else.
    layered = settings.get("initialization", "layers") == "layers"
    unused = _INDIFFERENT if layered else _INDIFFERENT | {"initial_layers"}
    return {key: value for key, value in settings.items() if key not in unused}


def _content(key: str, value: Any) -> Any:
    """Leave aside by which name a target is known: `Target.identity` is its name and its revision."""
    return value.rpartition("@")[2] if key == "target" and isinstance(value, str) else value


def read_step(folder: Path) -> dict[str, Any] | None:
    """Read what a step's folder remembers, or `None` where there is no step."""
    path = folder / FILE_NAME
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged ({error}): delete {folder} and do the step anew") from error


def finished_step(folder: Path, advice: str) -> dict[str, Any]:
    """Read a step that has to be finished before the next can begin."""
    step = read_step(folder)
    if step is None:
        raise InputError(f"there is no finished step in {folder}: {advice}")
    if not step["finished"]:
        raise InputError(f"the step in {folder} was interrupted: {advice}")
    return step

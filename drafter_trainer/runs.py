"""A run: the folders of its steps, and the record of each step."""

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
# Settings that do not decide whether a result can be reused. Target, costs and other_data are recorded as inputs;
# licence is an earlier spelling of license.
_INDIFFERENT = frozenset(
    """
    batch_size card_folder check_generation collection concurrency costs dataloader_num_workers disable_tqdm dry_run
    licence license logging_steps other_data out output_dir overwrite private publish repo_id report_to request_timeout
    revision run_folder run_name save_outputs server_kind server_model servers tag target_model target_name
    target_revision to
    """.split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Run:
    """The folders of the steps that make a drafter; `languages` is the tag of its language or pair."""

    name: str
    folder: Path
    languages: str

    @property
    def pretrained(self) -> Path:
        """The pretrained drafter."""
        return self.folder / "pretrain"

    @property
    def rows(self) -> Path:
        """The rows of the distillation."""
        return self.folder / "distill"

    @property
    def finetuned(self) -> Path:
        """The finetuned drafter, as the trainer left it."""
        return self.folder / "finetune"

    @property
    def tuned(self) -> Path:
        """The record of tuning."""
        return self.folder / "tune"

    @property
    def published(self) -> Path:
        """The drafter that is tuned, measured and published."""
        return self.folder / "drafter"

    def measured(self, task: str, default: str) -> Path:
        """Return the folder of a task's results: for the default task the folder of the run."""
        return self.folder if task == default else self.folder / "tasks" / task


class Step:
    """A step with a record of its settings in `step.json` of its folder.

    It is a context manager around the work; the step is finished when the block ends without an exception. An
    interrupted step continues when it is entered again with the same settings.

    Args:
        settings (`dict`): The settings; settings that do not change the result are left out of the record.
        inputs (`dict[str, str]`): Fingerprints of its inputs: the target's name and revision, earlier steps.
        main (`bool`, *optional*, defaults to `True`): Whether this process writes; of several processes, only the
            first one does.
        fixed (`Collection[str]`, *optional*): Settings that must equal those of the earlier record, if the caller
            compares the other settings itself; all settings if left out.
    Attributes:
        difference (`str`): The differences of settings and inputs from the earlier record, as text.
        earlier (`dict`, *optional*): The earlier record, once `is_finished` has read it.
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
        """Return whether the step is finished, with the same settings and inputs.

        Raises:
            InputError: If the folder has results made with other settings or inputs.
        """
        earlier = read_step(self.folder)
        if earlier is None:
            return False
        changes = self._changes(earlier)
        if changes and not any(path.is_file() and not _is_no_result(path) for path in self.folder.rglob("*")):
            return False  # it failed before it wrote any result
        self.difference = "; ".join(changes.values())
        if self._fixed is None or earlier["recipe"] != self.recipe or changes.keys() & self._fixed:
            self.refuse_difference()
        self.earlier, self.seconds = earlier, earlier["seconds"]  # the time of earlier sessions counts
        return earlier["finished"] and not changes and self.reuse()

    def refuse_difference(self, because: str = "") -> None:
        """Raise an error if the settings or inputs differ from the earlier record."""
        if self.difference:
            raise InputError(
                f"{self.folder} was made with other settings ({self.difference}{because}): delete it to repeat the "
                "step, or name another folder"
            )

    def reuse(self) -> bool:
        """Take over the facts of the earlier record; return `True`."""
        # Later steps have recorded the earlier fingerprint; releases differ in the settings that they leave out.
        self.facts, self.fingerprint = self.earlier["facts"], self.earlier["fingerprint"]
        self._log("finished before, in")
        return True

    def _changes(self, earlier: dict[str, Any]) -> dict[str, str]:
        """Describe the settings and inputs that differ from an earlier record, by name."""
        if earlier["recipe"] != self.recipe:
            return {"recipe": f"step: then {earlier['recipe']}, now {self.recipe}"}
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
        self._write(finished=kind is None)
        if kind is None:
            self._log("finished in")

    def _log(self, state: str) -> None:
        if self.main:
            facts = f"\n  {json.dumps(self.facts, ensure_ascii=False)}" if self.facts else ""
            _logger.info("%s: %s %.0f s: %s%s", self.recipe, state, self.seconds, self.folder, facts)

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
    # The prompts and the description of the rows are written again for other settings.
    return path.name in (FILE_NAME, "rows.json") or path.suffix == ".arrow"


def _deciding(settings: dict[str, Any]) -> dict[str, Any]:
    # The choice of target layers does not affect a network that starts from other weights.
    layered = settings.get("initialization", "layers") == "layers"
    unused = _INDIFFERENT if layered else _INDIFFERENT | {"initial_layers"}
    return {key: value for key, value in settings.items() if key not in unused}


def _content(key: str, value: Any) -> Any:
    """Return the value to compare: only the revision of a target, since a target may have several names."""
    return value.rpartition("@")[2] if key == "target" and isinstance(value, str) else value


def read_step(folder: Path) -> dict[str, Any] | None:
    """Read the record in a step's folder, `None` if there is none."""
    path = folder / FILE_NAME
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged ({error}): delete {folder} and repeat the step") from error


def finished_step(folder: Path, advice: str) -> dict[str, Any]:
    """Read the record of a step that the next step needs; raise an error with the advice if it is not finished."""
    step = read_step(folder)
    if step is None:
        raise InputError(f"there is no finished step in {folder}: {advice}")
    if not step["finished"]:
        raise InputError(f"the step in {folder} was interrupted: {advice}")
    return step

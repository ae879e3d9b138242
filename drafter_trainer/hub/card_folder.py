"""The files of a card: its inputs and its rendered files.

These files are in a run's folder, in the published repository, and in `hub_cards/<drafter>`:

    drafter.json                 the description of the drafter
    results.json                 its benchmark; also in sampling/, tasks/<task>/ and engines/<engine>/
    card.json                    its name on the Hub and its license; in hub_cards only
    notes.md                     hand-written text; in hub_cards only
    README.md, acceptance.png    the rendered card
"""

import json
import shutil
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import huggingface_hub
import yaml
from huggingface_hub.errors import EntryNotFoundError

from drafter_trainer.atomic import write_json
from drafter_trainer.drafters.description import FILE_NAME, DrafterDescription
from drafter_trainer.errors import InputError, one_line
from drafter_trainer.extras import is_installed
from drafter_trainer.hub.card import PLOT, render_card
from drafter_trainer.results import DRAFTER, RESULTS, Results, read_results
from drafter_trainer.targets import Target

CARD = "README.md"
MEASUREMENTS = (RESULTS, "sampling/results.json", "tasks/*/results.json", "engines/*/results.json")
DETAILS = "card.json"
NOTES = "notes.md"


@dataclass(frozen=True)
class CardDetails:
    """The facts of a card that neither the drafter nor its results contain.

    Args:
        location (`str`): Hub id of the drafter, or its name if it is in a folder.
    """

    location: str
    license: str | None

    @classmethod
    def read(cls, folder: Path) -> "CardDetails":
        """Read the details in a card's folder."""
        path = folder / DETAILS
        try:
            details = json.loads(path.read_text(encoding="utf-8"))
            return cls(details["location"], details.get("license", details.get("licence")))  # the earlier spelling
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise InputError(f"{path} cannot be read ({error!r}): publish the drafter with card_folder") from error


def read_measurements(folder: Path, description: DrafterDescription) -> dict[str, Results]:
    """Read all results of a drafter; results of an earlier version of the drafter are left out with a warning."""
    measurements = {}
    for path in (path for pattern in MEASUREMENTS for path in sorted(folder.glob(pattern))):
        results = read_results(path)
        provenance = results["provenance"]
        if provenance.get("drafter") != description.name:
            raise InputError(f"{path} measures {provenance.get('drafter')}, not {description.name}")
        if any(DRAFTER not in [method["name"] for method in run["methods"]] for run in results["runs"]):
            raise InputError(f"{path} has a run without the method {DRAFTER}: run the benchmark again")
        if provenance.get("drafter_fingerprint") == description.fingerprint():
            measurements[path.relative_to(folder).as_posix()] = results
        else:
            message = f"{path} measures an earlier version of this drafter: its numbers are left out of the card"
            warnings.warn(f"{message} until the drafter is measured again", stacklevel=2)
    return measurements


def read_notes(folder: Path) -> str:
    """Read the hand-written text of a card."""
    path = folder / NOTES
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else ""
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: save it as UTF-8") from error


def target_license(target: Target) -> str | None:
    """Read the license of a target from its card on the Hub or in its folder; its drafters have the same license."""
    card = Path(target.path) / CARD
    try:
        if target.hub_revision is not None:
            card = Path(huggingface_hub.hf_hub_download(target.path, CARD, revision=target.hub_revision))
        license = (huggingface_hub.metadata_load(card) or {}).get("license")
    except (EntryNotFoundError, FileNotFoundError):
        return None
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(
            f"the license of {target.name} cannot be read from {card} ({one_line(error)}): give license"
        ) from error
    return license if isinstance(license, str) else None  # several licenses are not one identifier


def write_card(
    folder: Path,
    description: DrafterDescription,
    measurements: dict[str, Results],
    details: CardDetails,
    notes: str = "",
) -> None:
    """Write the card and, if matplotlib is installed, its plot."""
    card = render_card(description, measurements, details.location, details.license, notes)
    (folder / CARD).write_text(card, encoding="utf-8")
    (folder / PLOT).unlink(missing_ok=True)
    if not measurements or not is_installed("matplotlib"):
        return
    from drafter_trainer.benchmark.plots import draw_run

    main = next(iter(measurements.values()))
    if figure := draw_run(main["runs"][0]).get("acceptance"):
        # Without the version of matplotlib: the same numbers give the same file.
        figure.savefig(folder / PLOT, dpi=120, metadata={"Software": None})


def copy_measurements(source: Path, folder: Path, names: Iterable[str]) -> None:
    """Copy files from one folder to another, under the same names."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, folder / name)


def keep_card(repository: Path, folder: Path, details: CardDetails) -> None:
    """Copy the card of a repository with all its inputs to `hub_cards/<drafter>`; its notes stay as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PLOT).unlink(missing_ok=True)
    files = [path for pattern in (CARD, PLOT, FILE_NAME, *MEASUREMENTS) for path in repository.glob(pattern)]
    copy_measurements(repository, folder, [path.relative_to(repository).as_posix() for path in files])
    write_json(folder / DETAILS, asdict(details))


def render_folder(folder: Path) -> None:
    """Render the card in `hub_cards/<drafter>` again."""
    description = DrafterDescription.read(folder)
    measurements = read_measurements(folder, description)
    write_card(folder, description, measurements, CardDetails.read(folder), read_notes(folder))

"""The files of a card: what it is rendered from, and what is rendered.

They lie in a run's folder, in the repository that is published, and under `hub_cards/<drafter>`:

    drafter.json                 what the drafter says of itself
    results.json                 its benchmark; also in sampling/, tasks/<task>/ and engines/<engine>/
    card.json                    its name on the Hub and its license; under hub_cards alone
    notes.md                     text by hand; under hub_cards alone
    README.md, acceptance.png    the card, rendered
"""

import json
import shutil
import warnings
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
        location (`str`): Hub id of the drafter, or its name where it lies in a folder.
    """

    location: str
    license: str | None

    @classmethod
    def read(cls, folder: Path) -> "CardDetails":
        """Read it from a card's folder."""
        path = folder / DETAILS
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            return cls(said["location"], said.get("license", said.get("licence")))  # as earlier releases spelled it
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is no card's object ({error!r}): publish with a card_folder") from error


def read_measurements(folder: Path, description: DrafterDescription) -> dict[str, Results]:
    """Read all results of a drafter, and leave out, with a warning, those of the drafter as it was before."""
    measurements = {}
    for path in (path for pattern in MEASUREMENTS for path in sorted(folder.glob(pattern))):
        results = read_results(path)
        provenance = results["provenance"]
        if provenance.get("drafter") != description.name:
            raise InputError(f"{path} measures {provenance.get('drafter')}, not {description.name}")
        if any(DRAFTER not in [method["name"] for method in run["methods"]] for run in results["runs"]):
            raise InputError(f"{path} has a run without the method {DRAFTER}: run make bench again")
        if provenance.get("drafter_fingerprint") == description.fingerprint():
            measurements[path.relative_to(folder).as_posix()] = results
        else:
            message = f"{path} measures this drafter as it was before: the card goes without its numbers"
            warnings.warn(f"{message} until it is measured again", stacklevel=2)
    return measurements


def read_notes(folder: Path) -> str:
    """Read what was written by hand for the card."""
    path = folder / NOTES
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else ""
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: save it as such") from error


def target_license(target: Target) -> str | None:
    """Read the license of a target, which holds for its drafters too, from its card on the Hub or in its folder."""
    card = Path(target.path) / "README.md"
    try:
        if target.hub_revision is not None:
            card = Path(huggingface_hub.hf_hub_download(target.path, card.name, revision=target.hub_revision))
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
    """Write the card and, where matplotlib is installed, the plot that it shows."""
    card = render_card(description, measurements, details.location, details.license, notes)
    (folder / CARD).write_text(card, encoding="utf-8")
    (folder / PLOT).unlink(missing_ok=True)
    if not is_installed("matplotlib"):
        return
    from drafter_trainer.benchmark.plots import draw_run

    for results in list(measurements.values())[:1]:
        if figure := draw_run(results["runs"][0]).get("acceptance"):
            # Without the version of the library that drew it: the same numbers give the same file.
            figure.savefig(folder / PLOT, dpi=120, metadata={"Software": None})


def copy_measurements(source: Path, folder: Path, names: list[str]) -> None:
    """Copy results files from one folder to another, under the same names."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, folder / name)


def keep_card(repository: Path, folder: Path, details: CardDetails) -> None:
    """Copy a repository's card to `hub_cards/<drafter>`, with all that it is rendered from; notes stay as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PLOT).unlink(missing_ok=True)
    for path in (repository / name for name in (CARD, PLOT, FILE_NAME)):
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
    measured = [path for pattern in MEASUREMENTS for path in repository.glob(pattern)]
    copy_measurements(repository, folder, [path.relative_to(repository).as_posix() for path in measured])
    write_json(folder / DETAILS, asdict(details))


def render_folder(folder: Path) -> None:
    """Render the card of `hub_cards/<drafter>` again, from what lies there."""
    description = DrafterDescription.read(folder)
    measurements = read_measurements(folder, description)
    write_card(folder, description, measurements, CardDetails.read(folder), read_notes(folder))

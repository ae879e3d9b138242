"""The files of a card, and the committed cards."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.errors import InputError
from drafter_trainer.hub.card_folder import CardDetails, read_measurements, render_folder, target_license
from drafter_trainer.targets import Target
from tests.hub.conftest import results_for
from tests.hub.test_card import DESCRIPTION
from tests.recipes.test_whole_way import ROOT, recipe_main

CARDS = sorted(path for path in (ROOT / "hub_cards").iterdir() if path.is_dir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "cards" / DESCRIPTION.name
    place.mkdir(parents=True)
    (place / "drafter.json").write_text(DESCRIPTION.to_json(), encoding="utf-8")
    (place / "card.json").write_text('{"location": "alice/x", "license": "mit"}', encoding="utf-8")
    write_results(place / "results.json", DESCRIPTION.fingerprint())
    return place


def write_results(path: Path, fingerprint: str, name: str = DESCRIPTION.name) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(json.dumps(results_for(name, fingerprint)), encoding="utf-8")


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_committed_cards_are_up_to_date(card: Path, tmp_path: Path) -> None:
    """A card that differs from its files, or from the template, has numbers that nobody measured: run make cards."""
    copied = tmp_path / card.name
    shutil.copytree(card, copied)
    for rendered in ("README.md", "acceptance.png"):
        (copied / rendered).unlink()
    render_folder(copied)
    assert (copied / "README.md").read_bytes() == (card / "README.md").read_bytes(), f"{card}: run make cards"
    # By pixels, since another compressor writes the same picture as other bytes.
    drawn, committed = (imread(place / "acceptance.png") for place in (copied, card))
    assert drawn.shape == committed.shape
    assert np.abs(drawn - committed).max() < 0.02, f"the plot in {card}: run make cards"
    # No results of an earlier version are left out.
    description = DrafterDescription.read(card)
    names = [path.relative_to(card).as_posix() for path in card.rglob("results.json")]
    assert sorted(read_measurements(card, description)) == sorted(names)
    assert CardDetails.read(card).location.rpartition("/")[2] == description.name == card.name


def test_make_cards_renders_all(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The documented command must render every card, with its notes at the end."""
    other = folder.parent / "other"
    shutil.copytree(folder, other)
    (other / "notes.md").write_text("Written by hand.\n", encoding="utf-8")
    recipe_main("cards")(["--cards", str(folder.parent)])
    assert capsys.readouterr().out.split() == [str(place / "README.md") for place in (other, folder)]
    assert (other / "README.md").read_text(encoding="utf-8").endswith("Written by hand.\n")
    assert "1.23x (1.11-1.34)" in (folder / "README.md").read_text(encoding="utf-8")
    assert (folder / "acceptance.png").is_file()
    # A mistyped folder must not look like one without changes.
    with pytest.raises(InputError, match="no cards: call publish"):
        recipe_main("cards")(["--cards", str(folder / "nowhere")])


def test_results_of_an_earlier_drafter_are_left_out(folder: Path) -> None:
    """After training again, a drafter has other numbers, and another plot."""
    render_folder(folder)
    assert (folder / "acceptance.png").is_file()
    write_results(folder / "results.json", "0" * 16)
    with pytest.warns(UserWarning, match=r"/results\.json measures an earlier version of this drafter"):
        render_folder(folder)
    assert not (folder / "acceptance.png").exists()
    assert "Not measured yet" in (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: write_results(folder / "results.json", "", "other"), "measures other, not tiny"),
        (lambda folder: (folder / "drafter.json").unlink(), r"has no drafter\.json"),
        (lambda folder: (folder / "card.json").unlink(), r"card\.json cannot be read"),
        (lambda folder: (folder / "card.json").write_text('{"licence": "mit"}'), r"card\.json cannot be read"),
    ],
)
def test_error_names_the_file(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    """A traceback about a key does not say which of the files has to be made again."""
    damage(folder)
    with pytest.raises(InputError, match=message):
        render_folder(folder)
    assert not (folder / "README.md").exists()


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        pytest.param("---\nlicense: llama2\n---\n# A model", "llama2", id="named"),
        pytest.param("---\nlicense: [mit, apache-2.0]\n---\n", None, id="several"),
        pytest.param("# A model", None, id="no metadata"),
        pytest.param(None, None, id="no card"),
        pytest.param("---\nlicense: [\n---\n", InputError, id="no YAML"),
        pytest.param("---\n- license\n---\n", InputError, id="a list"),
    ],
)
def test_license_is_the_targets(tmp_path: Path, card: str | None, expected: str | type[InputError] | None) -> None:
    """A license that is guessed where the target names none would permit what nobody permitted."""
    target = Target("tests/tiny-target", "1", str(tmp_path))
    if card is not None:
        (tmp_path / "README.md").write_text(card, encoding="utf-8")
    if expected is InputError:
        with pytest.raises(InputError, match=r"the license of tests/tiny-target cannot be read from .*: give license"):
            target_license(target)
    else:
        assert target_license(target) == expected

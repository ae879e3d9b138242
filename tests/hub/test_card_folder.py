"""What lies beside a card, and that the committed cards are rendered from it."""

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
def test_committed_cards_are_not_stale(card: Path, tmp_path: Path) -> None:
    """A card that drifts from its files, or from the template, states what nobody measured: run make cards."""
    copied = tmp_path / card.name
    shutil.copytree(card, copied)
    for rendered in ("README.md", "acceptance.png"):
        (copied / rendered).unlink()
    render_folder(copied)
    assert (copied / "README.md").read_bytes() == (card / "README.md").read_bytes(), f"{card} is stale: run make cards"
    # By pixels, since another build of the compressor writes the same picture as other bytes.
    drawn, committed = (imread(place / "acceptance.png") for place in (copied, card))
    assert drawn.shape == committed.shape
    assert np.abs(drawn - committed).max() < 0.02, f"the plot in {card} is stale: run make cards"


def test_make_cards_renders_all(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command that the README names must render every card, and end with what its notes say."""
    other = folder.parent / "other"
    shutil.copytree(folder, other)
    (other / "notes.md").write_text("Written by hand.\n", encoding="utf-8")
    recipe_main("cards")(["--cards", str(folder.parent)])
    assert capsys.readouterr().out.split() == [str(place / "README.md") for place in (other, folder)]
    assert (other / "README.md").read_text(encoding="utf-8").endswith("Written by hand.\n")
    assert "1.23x (1.11-1.34)" in (folder / "README.md").read_text(encoding="utf-8")
    assert (folder / "acceptance.png").is_file()


def test_nothing_to_render_is_said(tmp_path: Path) -> None:
    """A mistyped folder must not pass for a folder whose cards are all fresh."""
    with pytest.raises(InputError, match="holds no cards: call publish"):
        recipe_main("cards")(["--cards", str(tmp_path / "nowhere")])


def test_results_of_the_drafter_before_are_left_out(folder: Path) -> None:
    """Trained again, a drafter has other numbers: one old file must not lend the card its figures."""
    write_results(folder / "sampling" / "results.json", "0" * 16)
    with pytest.warns(UserWarning, match=r"sampling/results\.json measures an earlier version of this drafter"):
        assert list(read_measurements(folder, DESCRIPTION)) == ["results.json"]


def test_plot_of_the_drafter_before_goes(folder: Path) -> None:
    """A picture that is left over shows another drafter's acceptance."""
    render_folder(folder)
    assert (folder / "acceptance.png").is_file()
    (folder / "results.json").unlink()
    render_folder(folder)
    assert not (folder / "acceptance.png").exists()
    assert "Not measured yet" in (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: write_results(folder / "results.json", "", "other"), "measures other, not tiny"),
        (lambda folder: (folder / "drafter.json").unlink(), r"has no drafter\.json"),
        (lambda folder: (folder / "card.json").unlink(), r"card\.json cannot be read"),
        (lambda folder: (folder / "card.json").write_text('{"licence": "mit"}'), r"card\.json cannot be read"),
    ],
)
def test_a_folder_that_cannot_be_rendered_says_why(folder: Path, spoil: Callable[[Path], None], message: str) -> None:
    """A traceback about a key leaves open which of the files is to be made again."""
    spoil(folder)
    with pytest.raises(InputError, match=message):
        render_folder(folder)
    assert not (folder / "README.md").exists()


def test_committed_drafters_are_the_ones_that_were_measured() -> None:
    """A description of today's drafter beside yesterday's results would leave the card without its numbers."""
    for card in CARDS:
        description = DrafterDescription.read(card)
        names = [path.relative_to(card).as_posix() for path in card.rglob("results.json")]
        assert sorted(read_measurements(card, description)) == sorted(names)
        assert CardDetails.read(card).location.rpartition("/")[2] == description.name == card.name


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        pytest.param("---\nlicense: llama2\n---\n# A model", "llama2", id="named"),
        pytest.param("---\nlicense: [mit, apache-2.0]\n---\n", None, id="several"),
        pytest.param("# A model", None, id="no metadata"),
        pytest.param(None, None, id="no card"),
    ],
)
def test_license_is_the_targets(tmp_path: Path, card: str | None, expected: str | None) -> None:
    """A license that is guessed where the target names none would permit what nobody permitted."""
    if card is not None:
        (tmp_path / "README.md").write_text(card, encoding="utf-8")
    assert target_license(Target("tests/tiny-target", "1", str(tmp_path))) == expected


@pytest.mark.parametrize("card", ["---\nlicense: [\n---\n", "---\n- license\n---\n"])
def test_unreadable_license_is_an_error(tmp_path: Path, card: str) -> None:
    """A parser's traceback does not say what to do."""
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    with pytest.raises(InputError, match=r"the license of tests/tiny-target cannot be read from .*: give license"):
        target_license(Target("tests/tiny-target", "1", str(tmp_path)))

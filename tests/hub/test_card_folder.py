"""The files of a card, the committed cards, and the page of all drafters."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.errors import InputError
from drafter_trainer.hub.card_folder import CardDetails, read_measurements, render_folder, target_license
from drafter_trainer.hub.gallery import read_gallery, render_gallery
from drafter_trainer.results import write_results
from drafter_trainer.targets import Target
from tests.benchmark.made import make_results, make_run
from tests.benchmark.test_report import Page, check_self_contained
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
    write_results_of(place / "results.json", DESCRIPTION.fingerprint())
    return place


def write_results_of(path: Path, fingerprint: str, name: str = DESCRIPTION.name) -> None:
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
    write_results_of(folder / "results.json", "0" * 16)
    with pytest.warns(UserWarning, match=r"/results\.json measures an earlier version of this drafter"):
        render_folder(folder)
    assert not (folder / "acceptance.png").exists()
    assert "Not measured yet" in (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: write_results_of(folder / "results.json", "", "other"), "measures other, not tiny"),
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


PLAIN = [2.0] * 8


def write_cards(folder: Path, name: str, pair: str = "de-en", sampled: bool = True, **provenance: str) -> Path:
    """Write the results of a drafter that is twice as fast, greedily, and with two seeds 1.6 and 2.5 times."""
    seconds = {"plain": PLAIN, "prompt lookup, 5": [1.6] * 8, "prompt lookup, 10": [1.25] * 8, "drafter": [1.0] * 8}
    write_measured(folder, name, "results.json", make_run(seconds, pair=pair), **provenance)
    if sampled:
        runs = [
            make_run(
                {"plain": PLAIN, "prompt lookup": [2.5] * 8, "drafter": [took] * 8}, 10, 1.0, pair=pair, seed=seed
            )
            for seed, took in enumerate((1.25, 0.8))
        ]
        write_measured(folder, name, "sampling/results.json", *runs, **provenance)
    return folder


def write_measured(folder: Path, name: str, place: str, *runs: dict[str, Any], **provenance: str) -> None:
    described = DrafterDescription(name, "tests/tiny-target", "1", 64 * "0", runs[0]["pair"], 3)
    results = make_results(*runs, drafter=name, drafter_fingerprint=described.fingerprint(), **provenance)
    write_results(results, folder / name / place)
    (folder / name / "drafter.json").write_text(described.to_json(), encoding="utf-8")


def test_speedups_are_the_measured_ones(tmp_path: Path) -> None:
    """A mean that looks like one run, or prompt lookup at a slow draft length, flatters the drafter."""
    write_cards(tmp_path, "tiny")
    engine = {"name": "vllm", "version": "0.32.0", "requests_at_once": 16}
    served = make_run({"plain": PLAIN, "drafter": [4.0] * 8}) | {"engine": engine}
    write_measured(tmp_path, "tiny", "engines/vllm/results.json", served)
    page = render_gallery(read_gallery(tmp_path))
    check_self_contained(page)  # a style from a server is missing offline, and shows the server who reads the page
    text = " ".join(Page(page.replace("<", " <")).text.split())  # separate cells
    assert "translation, greedy, 16 requests at once in vllm 0.32.0" in text
    assert "prompt lookup, 10 1.60x (1.60-1.60)" in text
    assert "prompt lookup, 5" not in text
    assert "drafter 2.00x (2.00-2.00) tokens per pass" in text
    # Seeds 0 and 1: 1.6 and 2.5 times
    assert "translation, T = 1 (mean, lowest and highest of 2 seeds)" in text
    assert "drafter 2.05x (1.60-2.50)" in text
    assert "prompt lookup 0.80x (0.80-0.80)" in text
    assert "translation, greedy (95 % interval over questions)" in text
    assert "outputs equal to plain decoding's 8/8" in text
    assert text.count("outputs equal") == 2  # not for sampled outputs


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    """Results may come from somebody else: a name must not become a tag, a script or a style."""
    hostile = '"><script>alert(1)</script></style><b style="'
    write_cards(tmp_path, "tiny", target=f"{hostile}@1", command=hostile)
    path = tmp_path / "tiny" / "results.json"
    results = json.loads(path.read_text(encoding="utf-8"))
    results["runs"][0]["task"] = hostile
    path.write_text(json.dumps(results), encoding="utf-8")
    page = render_gallery(read_gallery(tmp_path))
    read = Page(page)
    assert not {"script", "b"} & set(read.tags)
    assert read.tags.count("style") == 1
    assert "alert" not in page.split("</style>")[0]
    assert read.text.count(hostile) >= 4


def test_other_tasks_are_shown_unless_outdated(tmp_path: Path) -> None:
    """The page must show tasks that a drafter was not trained for, but no numbers of an earlier drafter."""
    write_cards(tmp_path, "tiny", sampled=False)
    run = make_run({"plain": PLAIN, "drafter": [1.6] * 8}, task="story")
    write_measured(tmp_path, "tiny", "tasks/story/results.json", run)
    text = Page(render_gallery(read_gallery(tmp_path))).text
    assert "story, greedy" in text
    assert "1.25x (1.25-1.25)" in text
    path = tmp_path / "tiny" / "tasks" / "story" / "results.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"drafter_fingerprint": "', '"drafter_fingerprint": "0'))
    with pytest.warns(UserWarning, match="an earlier version of this drafter"):
        assert "story" not in Page(render_gallery(read_gallery(tmp_path))).text


def test_recipe_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`make gallery` must write the page, and not an empty one for a folder without drafters."""
    write_cards(tmp_path / "cards", "tiny", sampled=False)
    out = tmp_path / "site" / "gallery.html"
    recipe_main("gallery")(["--cards", str(tmp_path / "cards"), "--out", str(out)])
    assert "2.00x (2.00-2.00)" in Page(out.read_text(encoding="utf-8")).text
    assert str(out) in capsys.readouterr().out
    with pytest.raises(InputError, match="has no results of a drafter"):
        recipe_main("gallery")(["--cards", str(tmp_path / "site"), "--out", str(out)])

"""The page of all drafters: every number is measured, and no text from the results becomes HTML."""

import json
from pathlib import Path
from typing import Any

import pytest

from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.errors import InputError
from drafter_trainer.hub.gallery import read_gallery, render_gallery
from drafter_trainer.results import write_results
from tests.benchmark.made import make_results, make_run
from tests.benchmark.test_page import Page, check_self_contained
from tests.recipes.test_whole_way import recipe_main

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


def test_page_loads_nothing_and_needs_no_script(tmp_path: Path) -> None:
    """A page that loads its style from a server looks broken offline, and shows the server who reads it."""
    check_self_contained(render_gallery(read_gallery(write_cards(tmp_path, "tiny"))))


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

"""The recipes that measure nothing: they compare, and render, what is there."""

import shutil
from pathlib import Path

import pytest

from benchmarks import pages
from drafter_trainer.results import write_results
from tests.benchmark.made import make_results, make_run
from tests.recipes.test_whole_way import ROOT, recipe_main

RESULTS = make_results(make_run({"plain": [2.0] * 8, "drafter": [1.0] * 8}))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "one" / "results.json"
    write_results(RESULTS, path)
    return path


def test_compare_prints_what_differs(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A and B taken for each other would call progress a loss."""
    other = tmp_path / "other.json"
    write_results(make_results(make_run({"plain": [2.0] * 8, "drafter": [0.8] * 8})), other)
    recipe_main("compare")([str(file), str(other)])
    shown = capsys.readouterr().out
    assert "| 2.00x (2.00-2.00) | 2.50x (2.50-2.50) | 1.250x (1.250-1.250) | faster |" in shown


def test_report_is_written_beside_its_results(file: Path, tmp_path: Path) -> None:
    """A results file that somebody sent is a page with one command."""
    recipe_main("report")([str(file)])
    assert {path.name for path in file.parent.iterdir()} == {"results.json", "report.md", "report.html", "plots"}
    recipe_main("report")([str(file), "--output_dir", str(tmp_path / "elsewhere")])
    assert (tmp_path / "elsewhere" / "report.html").is_file()


def test_readme_and_docs_show_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that drifts from its results file, or from the schema, is made up: `make readme` must change nothing."""
    shutil.copytree(ROOT / "hub_cards", tmp_path / "hub_cards")
    (tmp_path / "docs").mkdir()
    written = ("README.md", "docs/serving.md", "docs/results_schema.md", "docs/api.md")
    for page in written:
        shutil.copy(ROOT / page, tmp_path / page)
    monkeypatch.chdir(tmp_path)
    pages.main()
    for page in written:
        stale = (ROOT / page).read_text(encoding="utf-8")
        assert (tmp_path / page).read_text(encoding="utf-8") == stale, f"{page} is stale: run make readme"

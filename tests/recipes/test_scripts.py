"""The recipes as scripts: those that compare and render results, headers, and configurations as one file."""

import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from benchmarks import pages
from drafter_trainer.cli.arguments import RunArguments, TargetArguments
from drafter_trainer.cli.configuration import OPTIONS, read_config
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


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# The reference of PEP 723
BLOCK = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")
OF_A_PAIR = sorted((ROOT / "recipes" / "configs").glob("*/??-??.yaml"))
OF_A_DRAFTER = [recipe for recipe, kinds in OPTIONS.items() if {RunArguments, TargetArguments} <= {*kinds}]


def header(path: Path) -> dict[str, Any] | None:
    blocks = [match for match in BLOCK.finditer(path.read_text(encoding="utf-8")) if match["type"] == "script"]
    if not blocks:
        return None
    (block,) = blocks
    return tomllib.loads("".join(line[2:] or "\n" for line in block["content"].splitlines(keepends=True)))


@pytest.mark.parametrize("recipe", OF_A_DRAFTER)
def test_header_asks_for_this_package(recipe: str) -> None:
    """With another version the script runs against code that it was not written for, on a machine that costs money."""
    read = header(ROOT / "recipes" / f"{recipe}.py")
    assert read is not None
    assert read["requires-python"] == PROJECT["requires-python"]
    (dependency,) = read["dependencies"]
    extra, version = re.fullmatch(r"drafter_trainer(?:\[(\w+)\])?==(.+)", dependency).groups()
    assert version == PROJECT["version"]
    assert extra is None or extra in PROJECT["optional-dependencies"]


@pytest.mark.parametrize("path", OF_A_PAIR, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_configuration_travels_as_one_file(path: Path, tmp_path: Path) -> None:
    """The README joins two files for a job: the pair's keys must win, as they do over a base."""
    texts = [file.read_text(encoding="utf-8") for file in (path.parent / "common.yaml", path)]
    joined = re.sub(r"(?m)^base:.*$", "", "".join(texts))
    (tmp_path / "job.yaml").write_text(joined, encoding="utf-8")
    for recipe in OF_A_DRAFTER:
        assert read_config(tmp_path / "job.yaml", recipe) == read_config(path, recipe)

"""The recipes as scripts of their own: what a rented machine is told that has none of this repository."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from drafter_trainer.cli.arguments import RunArguments, TargetArguments
from drafter_trainer.cli.configuration import OPTIONS, read_config

ROOT = Path(__file__).parents[2]
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

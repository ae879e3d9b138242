"""Commands on the pages of the repository: each names recipes, options, make targets and files that exist."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from benchmarks.baselines import trainers
from drafter_trainer.cli import configuration
from tests.test_links import PAGES, ROOT

OWN = {  # of recipes that parse their command line themselves, and of the launcher
    "compare": set(),
    "report": {"output_dir"},
    "cards": {"cards"},
    "gallery": {"cards", "out"},
}
OPTIONS = configuration.OPTIONS | dict.fromkeys(("medusa", "eagle"), trainers.OPTIONS)
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
PATHS = re.compile(r"(?<![\w/<-])((?:recipes|benchmarks|hub_cards)/[\w./-]+\.(?:py|sh|yaml|jinja))")
MODULES = re.compile(r"python -m (benchmarks[\w.]+)")


def commands(page: Path) -> list[str]:
    """Lines of a page's shell blocks, continued lines joined, and the code in its sentences."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [*lines, *re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))]


def unknown_options(command: str) -> list[str]:
    """List a command's options that its recipe does not have."""
    unknown = []
    options = re.search(r'BENCH_OPTIONS="([^"]*)"', command)
    step = r"(?:recipes/(?=\w+\.py)|drafter-trainer (?=[a-z]))(\w+)(?:\.py)?([^#]*)"
    parts = [("bench", options[1])] if options else re.findall(step, command)
    for recipe, words in parts:
        recipe = {"drafter": "language"}.get(recipe, recipe)
        known = OWN.get(recipe)
        if known is None:
            assert recipe in OPTIONS, f"no recipe {recipe}: {command}"
            known = {field.name for kind in OPTIONS[recipe] for field in fields(kind)}
            known |= {"config", "help", "help_all", *(["target"] if "target_model" in known else [])}
        unknown += [name for name in re.findall(r"--(\w+)", words) if name not in known]
    return unknown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_can_be_typed(page: Path) -> None:
    """A reader who types a command of a page must not meet an unknown option, recipe, target or file."""
    for command in commands(page):
        assert unknown_options(command) == [], command
        for target in re.findall(r"^(?:make|.* make) ([a-z-]+)", command):
            assert target in TARGETS, command
        for path in PATHS.findall(command):
            assert (ROOT / path).exists(), f"{path}: {command}"
        for module in MODULES.findall(command):
            assert (ROOT / f"{module.replace('.', '/')}.py").exists(), command


def test_a_wrong_command_is_noticed() -> None:
    """The check itself must see an option that went, in a recipe's own words and in those passed on by make."""
    assert unknown_options("accelerate launch recipes/tune.py --config c.yaml --sources lookup --gone 1") == ["gone"]
    assert unknown_options('make bench BENCH_OPTIONS="--rivals medusa"') == ["rivals"]
    assert any("--baselines" in command for command in commands(ROOT / "docs" / "measuring.md"))

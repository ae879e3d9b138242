"""The project: the direction of its imports, its make targets, and the links and commands of its pages."""

import ast
import importlib
import importlib.util
import os
import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from benchmarks.baselines import trainers
from drafter_trainer.cli import configuration

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "drafter_trainer"
# Folders and modules in layers; each may import from itself and from the layers before its own.
LAYERS = (
    "errors",
    "atomic chat credentials extras languages",
    "provenance results wheels",
    "runs targets",
    "corpora drafters",
    "decoding",
    "distillation serving",
    "benchmark training",
    "hub tuning",
    "pipeline",
    "cli",
    "__main__",
)


def test_imports_run_one_way() -> None:
    """A module that reaches back ties the steps into a knot that nobody can take apart."""
    level = {name: number for number, layer in enumerate(LAYERS) for name in layer.split()}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts == ("__init__",):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("drafter_trainer."):
                imported, own = node.module.split(".")[1], parts[0]
                below = imported == own or level[imported] < level[own]
                assert below, f"{path.relative_to(ROOT)} imports {node.module}"


def test_scripts_import_what_exists() -> None:
    """A script that nobody runs in the tests would break on a renamed function when somebody needs its figure."""
    missing = []
    for path in (*(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "recipes").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("drafter_trainer", "benchmarks")):
                module = importlib.import_module(node.module)
                names = [name.name for name in node.names if not hasattr(module, name.name)]
                names = [name for name in names if not importlib.util.find_spec(f"{node.module}.{name}")]
                missing += [f"{path.relative_to(ROOT)}: {node.module}.{name}" for name in names]
    assert missing == []


def test_modules_stay_small() -> None:
    """A module that has outgrown one idea is read by nobody."""
    long = {path.name: count for path in PACKAGE.rglob("*.py") if (count := len(path.read_text().splitlines())) > 400}
    assert long == {}


PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


def anchors(page: Path) -> set[str]:
    """Name a page's headings as GitHub does in a link."""
    lines = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    """Prevent a reader from landing on a page that moved, or at the top of one for a section that was renamed."""
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        place, _, anchor = link.partition("#")
        linked = (page.parent / place).resolve() if place else page
        assert linked.exists(), link
        if anchor:
            assert anchor in anchors(linked), link


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


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run make in the repository, its install steps taken for done."""
    command = ["make", "--assume-old=.venv/.installed", "--assume-old=.venv/.weights", *arguments]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "MFLAGS"}
    return subprocess.run(command, cwd=ROOT, env=inherited | environment, capture_output=True, text=True, check=False)


def test_pair_comes_from_the_command_line_alone() -> None:
    """`make bench LANG=fr-en` names a pair; every shell sets LANG to its locale, which is not a pair."""
    given = ("LANG=fr-en", "QUESTIONS=q.jsonl", "OUT=out", "DRAFTER=org/drafter", "TASK=story")
    command = " ".join(make("--dry-run", "bench", *given).stdout.replace("\\\n", " ").split())
    assert "recipes/configs/gemma-3-270m/fr-en.yaml --pair fr-en --drafter org/drafter" in command
    assert "--task story --questions q.jsonl --output_dir out" in command
    assert "--pair de-en" in make("--dry-run", "bench", LANG="ru_RU.UTF-8").stdout
    # A mistyped pair must not end in a traceback about a file.
    done = make("bench", "LANG=fr-xx")
    assert done.returncode == 2
    assert "error: there is no recipes/configs/gemma-3-270m/fr-xx.yaml" in done.stdout
    assert "de-en fr-en ja-en ru-en zh-en" in done.stdout


def test_language_comes_from_the_command_line_alone() -> None:
    """A drafter for the language of the shell's locale is not what anybody asked for."""
    shown = make("--dry-run", "drafter", "LANG=oci", "TEXT=file:text.txt", "MINUTES=5", "TO=folder").stdout
    command = " ".join(shown.replace("\\\n", " ").split())
    assert "language.yaml --pair oci --corpus file:text.txt --minutes 5 --to folder" in command
    refused = make("drafter", LANG="de_DE.UTF-8")
    assert refused.returncode != 0
    assert "name a language or a pair: make drafter LANG=oci" in refused.stdout


def test_pair_does_not_become_a_locale() -> None:
    """A pair exported as LANG is an unknown locale for every command that make starts."""
    shown = make("--eval", 'show:\n\t@echo "LANG=$$LANG, flags=$$MAKEFLAGS"', "show", "LANG=fr-en").stdout
    assert shown.startswith("LANG=,")
    assert "fr-en" not in shown

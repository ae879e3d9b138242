"""The package as a whole: what it offers, which way its imports run, what the repository states."""

import ast
import importlib
import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "drafter_trainer"
# Folders and modules in layers; each may import from its own and from those before it.
LAYERS = (
    "errors atomic chat credentials extras languages provenance results wheels",
    "runs targets",
    "drafters repository corpora decoding",
    "distillation serving",
    "training benchmark tuning",
    "hub",
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
                imported = node.module.split(".")[1]
                assert level[imported] <= level[parts[0]], f"{path.relative_to(ROOT)} imports {node.module}"


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

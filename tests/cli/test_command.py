"""The command: which steps it has, and what it says to a mistyped one."""

from pathlib import Path

import pytest

from drafter_trainer.cli import STEPS, find_step, main
from drafter_trainer.cli.configuration import OPTIONS

RECIPES = Path(__file__).parents[2] / "recipes"


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr("sys.argv", ["drafter-trainer", *words])
    main()


def test_help_lists_every_step(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A step that is not listed is found by nobody, and one that is listed must be there."""
    run(monkeypatch)
    shown = capsys.readouterr().out
    assert all(f"\n  {step} " in shown for step in STEPS)
    assert all(callable(find_step(step)) for step in STEPS)
    assert OPTIONS.keys() <= STEPS.keys()


def test_mistyped_step_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A traceback about a module tells nobody which steps there are."""
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, "finetun", "--config", "x.yaml")
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: unknown step finetun: did you mean finetune?\n"


@pytest.mark.parametrize("step", STEPS)
def test_recipe_is_the_step(step: str) -> None:
    """A recipe with code of its own would drift from the command that it stands for."""
    recipe = (RECIPES / f"{'drafter' if step == 'language' else step}.py").read_text(encoding="utf-8")
    assert sorted(recipe.rpartition('"""')[2].split("\n")) == sorted(
        [
            *["", "", "", ""],
            f"from drafter_trainer.cli.pages import {step} as main"
            if find_step(step).__module__.endswith("pages")
            else f"from drafter_trainer.cli.{step} import main",
            "from drafter_trainer.cli.launch import run_step",
            'if __name__ == "__main__":',
            "    run_step(main)",
        ]
    )

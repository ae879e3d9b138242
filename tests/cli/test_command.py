"""The command: its steps, the error for a mistyped one, and what ends it with one line."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import SafetensorError

from drafter_trainer.cli import STEPS, find_step, main
from drafter_trainer.cli.configuration import OPTIONS
from drafter_trainer.cli.launch import run_step
from drafter_trainer.errors import InputError

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
    pages = find_step(step).__module__.endswith("pages")
    own = f"pages import {step} as main" if pages else f"{step} import main"
    imports = [f"from drafter_trainer.cli.{words}" for words in (own, "launch import run_step")]
    expected = [*imports, 'if __name__ == "__main__":', "    run_step(main)"]
    assert sorted(filter(None, recipe.rpartition('"""')[2].split("\n"))) == sorted(expected)


def failing(error: BaseException) -> Callable[[list[str]], None]:
    def main(argv: list[str]) -> None:
        raise error

    return main


def caused_by_a_full_disk() -> RuntimeError:
    error = RuntimeError("unexpected pos 64 vs 0")
    error.__context__ = OSError(errno.ENOSPC, "No space left on device")
    return error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("unknown pair 'x'"), "error: unknown pair 'x'"),
        (OSError(errno.ENOSPC, "No space left on device", "a.parquet"), "error: the disk is full (a.parquet): free"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "error: the disk is full: free some"),
        (RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file data/0"), "error: the disk is full"),
        (caused_by_a_full_disk(), "error: the disk is full: free some space, and run the same"),
    ],
)
def test_what_a_user_can_mend_is_one_line(error: Exception, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A traceback of forty lines hides the one thing to do."""
    with pytest.raises(SystemExit) as stopped:
        run_step(failing(error))
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(line)
    assert said.count("\n") == 1


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), OSError(errno.EIO, "broken"), ValueError("a bug")])
def test_bugs_keep_their_traceback(error: Exception) -> None:
    """A fault of the program reported as the user's could never be found."""
    with pytest.raises(type(error)):
        run_step(failing(error))


def test_interrupt_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever stops a long run wants to know whether it was for nothing."""
    with pytest.raises(SystemExit) as stopped:
        run_step(failing(KeyboardInterrupt()))
    assert stopped.value.code == 130
    assert "the same command continues after the last" in capsys.readouterr().err

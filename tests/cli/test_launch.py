"""What ends a recipe with one line, and what must not be hidden."""

import errno
from collections.abc import Callable

import pytest
from safetensors import SafetensorError

from drafter_trainer.cli.launch import run_step
from drafter_trainer.errors import InputError


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
        (
            caused_by_a_full_disk(),
            "error: the disk is full: free some space, and run the same",
        ),
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
    assert "the same command resumes" in capsys.readouterr().err

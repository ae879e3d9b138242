"""Functions in processes of their own, forked from one that has imported already what takes seconds to import."""

import itertools
import multiprocessing
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from drafter_trainer.launch import leave_processes

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.imported"])


def start(function: Callable[..., None], *given: Any, environment: Mapping[str, str] | None = None) -> BaseProcess:
    """Start a function of a test module in a process of its own.

    Args:
        given: Its arguments.
        environment (`Mapping[str, str]`, *optional*): Variables to set before it runs.
    """
    process = _CONTEXT.Process(target=_call, args=(function, given, dict(environment or {})))
    process.start()
    return process


def finish(processes: Sequence[BaseProcess]) -> None:
    """Wait for processes, each of which must end well; what went wrong in one stands on standard error."""
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(processes)


def run_ranks(function: Callable[..., None], count: int, *given: Any, **environment: str) -> None:
    """Run a function as several processes of one training, as `torchrun` would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    finish(
        [
            start(
                _run_rank,
                function,
                *given,
                environment=environment
                | {name: str(value) for name, value in (shared | {"RANK": rank, "LOCAL_RANK": rank}).items()},
            )
            for rank in range(count)
        ]
    )


def count_moments(folder: Path, function: Callable[[Path], None]) -> int:
    """Run a function to its end in a process, and return how often it touches a file in a folder."""
    ours, theirs = _CONTEXT.Pipe()
    process = start(_count, theirs, folder, function)
    finish([process])
    return ours.recv()


def kill_at(moment: int, folder: Path, function: Callable[[Path], None]) -> bool:
    """Run a function in a process that kills itself as it touches a file for the `moment`th time.

    Where it is about to rename a file, half of that file is lost, as in a kill while it is written.

    Returns:
        `bool`, whether it came to that; it has run to its end otherwise.
    """
    process = start(_die, moment, folder, function)
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def _call(function: Callable[..., None], given: Sequence[Any], environment: dict[str, str]) -> None:
    os.environ.update(environment)
    try:
        function(*given)
    except BaseException:
        traceback.print_exc()
        raise


def _run_rank(function: Callable[..., None], *given: Any) -> None:
    function(*given)
    leave_processes()


def _watch(folder: Path, touched: Callable[[str, tuple], None]) -> None:
    place = str(folder)

    def hook(event: str, given: tuple) -> None:
        if event.startswith(("open", "os.", "shutil.")) and any(place in str(argument) for argument in given):
            touched(event, given)

    sys.addaudithook(hook)


def _count(pipe: Any, folder: Path, function: Callable[[Path], None]) -> None:
    moments = []
    _watch(folder, lambda event, given: moments.append(event))
    function(folder)
    pipe.send(len(moments))


def _die(moment: int, folder: Path, function: Callable[[Path], None]) -> None:
    moments = itertools.count(1)

    def touched(event: str, given: tuple) -> None:
        if next(moments) == moment:
            if event == "os.rename" and Path(given[0]).is_file():
                os.truncate(given[0], Path(given[0]).stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    _watch(folder, touched)
    function(folder)

"""Functions in processes of their own, forked from one that has imported already what takes seconds to import."""

import json
import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.imported"])


class Running:
    """A function that runs in a process of its own.

    Args:
        target (callable): The function, of a module that is imported there.
        given: Its arguments.
        environment (`Mapping[str, str]`, *optional*): Variables of the process, before anything else is imported; all
            others are taken away. Those of the tests if left out.
    """

    def __init__(self, target: Callable[..., Any], *given: Any, environment: Mapping[str, str] | None = None) -> None:
        self._receiver, sender = CONTEXT.Pipe(duplex=False)
        place = target.__module__, target.__qualname__
        variables = dict(os.environ if environment is None else environment)
        self._process = CONTEXT.Process(target=_run, args=(sender, place, given, variables), daemon=True)
        self._process.start()
        sender.close()

    def result(self) -> Any:
        """Return what the function returned; an exception there is a failure here."""
        try:
            failed, said = self._receiver.recv()
        except EOFError:
            failed, said = True, "it ended"
        self._process.join()
        assert not failed, f"{said} (status {self._process.exitcode})"
        return said


def run_source(source: str, name: str, given: str) -> str:
    """Run a function whose source is known, as a script of its own would; arguments and result are JSON."""
    space: dict[str, Any] = {"__name__": name}
    exec(source, space)
    return json.dumps(space[name](**json.loads(given)))


def run_ranks(function: Callable[..., None], count: int, *given: Any, **environment: str) -> None:
    """Run a function as several processes of one training, as `torchrun` would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared = {**os.environ, **environment, **world}
    ranks = [
        Running(_run_rank, function, *given, environment=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(count)
    ]
    for rank in ranks:
        rank.result()


def _run(sender: Any, place: tuple[str, str], given: tuple, variables: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)
    # The parent's `sys.path` comes along, and with it, once a test has loaded remote code, that code's folder.
    sys.path[:] = [folder for folder in sys.path if not Path(folder, "transformers_modules").is_dir()]
    try:
        # Imported here alone: some libraries read the variables when they are imported.
        target = getattr(__import__(place[0], fromlist=["_"]), place[1])
        sender.send((False, target(*given)))
    except BaseException:  # noqa: BLE001 - whatever it is, it is told where the result is asked for
        sender.send((True, traceback.format_exc()))
        sys.exit(1)


def _run_rank(function: Callable[..., None], *given: Any) -> None:
    from drafter_trainer.cli.launch import leave_processes

    function(*given)
    leave_processes()

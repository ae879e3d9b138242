"""Run a step, and report an error that the user can correct in one line."""

import errno
import gc
import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
from safetensors import SafetensorError

from drafter_trainer.cli import find_step
from drafter_trainer.credentials import redact
from drafter_trainer.errors import InputError, one_line

_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file grew past the allowed size",
}


def run_step(main: Callable[[list[str]], None], argv: Sequence[str] | None = None) -> None:
    """Run a step's `main`; an error that the user can correct ends it with one line and status 2."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    for client in ("httpx", "httpx2"):  # huggingface_hub uses the second from version 2.4 on
        logging.getLogger(client).setLevel(logging.WARNING)
    try:
        main(list(sys.argv[1:] if argv is None else argv))
        leave_processes()
    except InputError as error:
        sys.exit(_fail(str(error)))
    except (HfHubHTTPError, LocalTokenNotFoundError) as error:
        sys.exit(_fail(f"the Hub rejected the request: {one_line(error)}"))
    except (HTTPError, OfflineModeIsEnabled) as error:
        sys.exit(_fail(f"the Hub cannot be reached: {one_line(error)}"))
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = _disk_reason(error)
        if reason is None:
            raise
        sys.exit(_fail(f"{reason}: free some space, and run the same command again: it resumes"))
    except KeyboardInterrupt:
        _fail("interrupted: the same command continues after the last rows, checkpoint or result that was stored")
        sys.exit(130)


def call_step(name: str, argv: Sequence[str | int | Path], **given: Any) -> None:
    """Run another step in this process, after printing its command."""
    words, before = [str(word) for word in argv], sys.argv
    print(f"\n$ {shlex.join(['drafter-trainer', name, *words])}", flush=True)
    sys.argv = ["drafter-trainer", name, *words]  # results record it as their command
    try:
        find_step(name)(words, **given)
    finally:
        sys.argv = before
        gc.collect()  # trainers and their models reference each other
        if torch.accelerator.is_available():
            torch.accelerator.empty_cache()


def leave_processes() -> None:
    """Leave the process group, if there is one, after the last use of a trainer.

    A process that ends while the group's threads run may be aborted, so that its launch reports a failure. A
    distributed model that is garbage-collected after the group would deadlock with these threads.
    """
    if not torch.distributed.is_initialized():
        return
    gc.collect()  # trainers and their models reference each other
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def require_one_process(action: str) -> None:
    """Raise an error in several processes, which would disturb each other's timings."""
    if PartialState().num_processes > 1:
        raise InputError(f"{action} in one process: launch it with --num_processes 1")


def _disk_reason(error: BaseException | None) -> str | None:
    """Return the reason of a failed disk write that caused an error, `None` for an error with another cause.

    Libraries in C++ or Rust hide the system's error: safetensors has the error's number in its message, torch reports
    only an incomplete write.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK:
            return _DISK[error.errno] + (f" ({error.filename})" if error.filename else "")
        text = str(error)
        if "os error 28" in text or "PytorchStreamWriter failed writing" in text:
            return _DISK[errno.ENOSPC]
        error = error.__cause__ or error.__context__
    return None


def _fail(message: str) -> int:
    # If a token has a character that headers must not have, the HTTP library's message contains the whole header.
    sys.stderr.write(f"error: {redact(message)}\n")
    return 2

"""What every step does around its work: one clear line for each error that the user can mend."""

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
    """Run a step's `main`; errors that the user can mend end it with one line and status 2."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    for client in ("httpx", "httpx2"):  # the Hub's client uses the second from 2.4 on
        logging.getLogger(client).setLevel(logging.WARNING)
    try:
        main(list(sys.argv[1:] if argv is None else argv))
        leave_processes()
    except InputError as error:
        sys.exit(_fail(str(error)))
    except (HfHubHTTPError, LocalTokenNotFoundError) as error:
        sys.exit(_fail(f"the Hub refused: {one_line(error)}"))
    except (HTTPError, OfflineModeIsEnabled) as error:
        sys.exit(_fail(f"the Hub cannot be reached: {one_line(error)}"))
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = _disk_reason(error)
        if reason is None:
            raise
        sys.exit(_fail(f"{reason}: make room and run again; what was finished is kept"))
    except KeyboardInterrupt:
        _fail("interrupted: run the same command again to go on")
        sys.exit(130)


def call_step(name: str, argv: Sequence[str | int | Path], **given: Any) -> None:
    """Run another step in this process, printed as the command that does the same."""
    words, before = [str(word) for word in argv], sys.argv
    print(f"\n$ {shlex.join(['drafter-trainer', name, *words])}", flush=True)
    sys.argv = ["drafter-trainer", name, *words]  # which results record as the command that made them
    try:
        find_step(name)(words, **given)
    finally:
        sys.argv = before
        gc.collect()  # trainers and their models refer to each other
        if torch.accelerator.is_available():
            torch.accelerator.empty_cache()


def leave_processes() -> None:
    """Leave the process group, if there is one; no trainer may be in use any more.

    A process that ends while the group's threads run may be aborted, and its launch reports a failure. A distributed
    model that outlives the group would deadlock with those threads when it is collected, so it is collected first.
    """
    if not torch.distributed.is_initialized():
        return
    gc.collect()  # trainers and their models refer to each other
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def require_one_process(what: str) -> None:
    """Refuse to run in several processes, which would time each other."""
    if PartialState().num_processes > 1:
        raise InputError(f"{what} in one process: launch it with --num_processes 1")


def _disk_reason(error: BaseException | None) -> str | None:
    """Return the reason why the disk refused a write, if that caused an error.

    Libraries that write in C++ or Rust hide the system's error: safetensors names its number in the message alone,
    and torch only says that a write fell short.
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
    # Of a token with a character that no header may have, the HTTP library shows the whole header.
    sys.stderr.write(f"error: {redact(message)}\n")
    return 2

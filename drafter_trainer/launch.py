"""What every recipe does around its work: one clear line for whatever the user can mend."""

import errno
import json
import logging
import sys
from collections.abc import Callable

from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from drafter_trainer.errors import InputError
from drafter_trainer.steps import Step

_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file grew past the allowed size",
}


def run_recipe(main: Callable[[list[str]], None]) -> None:
    """Run a recipe on the command line; errors that the user can mend end it with one line and status 2."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    for client in ("httpx", "httpx2"):  # the Hub's client uses the second from 2.4 on
        logging.getLogger(client).setLevel(logging.WARNING)
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(_fail(str(error)))
    except (HfHubHTTPError, LocalTokenNotFoundError) as error:
        sys.exit(_fail(f"the Hub refused: {' '.join(str(error).split())}"))
    except (HTTPError, OfflineModeIsEnabled) as error:
        sys.exit(_fail(f"the Hub cannot be reached: {' '.join(str(error).split())}"))
    except OSError as error:
        if error.errno not in _DISK:
            raise
        where = f" ({error.filename})" if error.filename else ""
        sys.exit(_fail(f"{_DISK[error.errno]}{where}: make room and run again; what was finished is kept"))


def report_step(step: Step, reused: bool = False) -> None:
    """Say on one line what a step left, and how long it took; with several processes the first says it."""
    if step.main:
        facts = json.dumps(step.facts, ensure_ascii=False)
        took = f"finished before, in {step.seconds:.0f} s" if reused else f"finished in {step.seconds:.0f} s"
        sys.stdout.write(f"{step.recipe}: {took}: {step.folder}\n  {facts}\n")
        sys.stdout.flush()


def _fail(message: str) -> int:
    sys.stderr.write(f"error: {message}\n")
    return 2

"""End a server when the process that started it has ended, however that ended: even SIGKILL closes a pipe.

python guard.py PROCESS_GROUP < pipe that the starting process holds open
"""

import os
import signal
import sys
import time

_STOP_SECONDS = 60
_POLL_SECONDS = 0.2


def end_group(group: int) -> None:
    """End all processes of a group: by SIGTERM, and by SIGKILL where one has not ended after a minute."""
    try:
        os.killpg(group, signal.SIGTERM)
        end = time.monotonic() + _STOP_SECONDS
        while time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
            os.killpg(group, 0)  # fails as soon as there is none
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    sys.stdin.buffer.read()
    end_group(int(sys.argv[1]))

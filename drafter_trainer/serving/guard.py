"""End a process group when the process that started it ends, even by SIGKILL, which closes the pipe.

python guard.py PROCESS_GROUP SECONDS < pipe that the starting process holds open
"""

import os
import signal
import sys
import time
from contextlib import suppress

if __name__ == "__main__":
    group, seconds = map(int, sys.argv[1:])
    sys.stdin.buffer.read()
    with suppress(ProcessLookupError):  # if the group has no process any more
        os.killpg(group, signal.SIGTERM)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.2)
            os.killpg(group, 0)
        os.killpg(group, signal.SIGKILL)

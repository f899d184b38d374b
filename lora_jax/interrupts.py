"""Ctrl-C ends a script with one line, even while it still imports its libraries.

That takes seconds, in which a script has no say in it. So this is what scripts import
first; it needs the standard library alone.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

INTERRUPTED = "interrupted: finished runs are kept; the same command continues"
SHOW_CURSOR = b"\x1b[?25h"  # progress bars hide it
SCRIPTS = Path(__file__).resolve().parents[1] / "experiments"


def end_quietly() -> None:
    """End the process with one message at Ctrl-C, from here on."""
    signal.signal(signal.SIGINT, _end)


def _end(_number: int, _frame: Any) -> None:
    """End the process with one message.

    An exception would be swallowed where Python is called by jax, and would be a long
    trace elsewhere. Rows and saves are safe whenever a process dies.
    """
    # A second signal, as when a group of processes is sent one, has no second message.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Written past Python's buffers, which the interrupted code may be writing to.
    if sys.stdout.isatty():
        os.write(sys.stdout.fileno(), SHOW_CURSOR)
    os.write(sys.stderr.fileno(), f"\n{INTERRUPTED}\n".encode())
    # 128 + 2, as shells report a process that SIGINT ended.
    os._exit(130)


# A test or a notebook that imports a script keeps its own way to stop.
if Path(sys.argv[0]).resolve().parent == SCRIPTS:
    end_quietly()

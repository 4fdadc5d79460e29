"""Edge: the server's log - one line per event on standard error."""

from __future__ import annotations

import contextlib
import sys
import time


def say(line: str) -> None:
    """Write one line. Never raises: a log that nobody reads any more must not stop the server."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")
        sys.stderr.flush()

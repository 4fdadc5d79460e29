"""Edge: the server's log - one line per event on standard error, as text or as JSON.

Whatever the text holds, a line stays one line, steers no terminal, and is valid JSON where JSON was asked for.
"""

from __future__ import annotations

import json
import math
import os
import select
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from ringq.output import printable

Level = Literal["info", "warning", "error"]

WRITE_BYTES_MAX = 4096  # PIPE_BUF: a pipe that is ready for writing takes so much without blocking
PATIENCE_MS = 100  # for a reader that makes no progress; the loop, and with it every worker, waits meanwhile


class _Outlet:
    """Standard error, which may be slow, stuck or gone: whole lines reach it or none."""

    def __init__(self) -> None:
        self._rest = b""  # of a line of which a part was written
        self._is_stuck = False
        self._dropped = 0

    def write(self, line: str) -> None:
        """Write one line, and drop it if nobody takes it; before the next that is taken stands how many were dropped.

        A reader that has made us wait once is not waited for again until it reads.
        """
        if not self._push(self._rest):
            self._dropped += 1
            return
        if self._dropped:
            line = f"{_formatted(f'{self._dropped} lines were dropped: nobody read them', 'warning', {})}\n{line}"
            self._dropped = 0
        self._push(f"{line}\n".encode("utf-8", "backslashreplace"))

    def _push(self, content: bytes) -> bool:
        """Write as much as is taken and keep the rest. True if nothing is left."""
        self._rest = content
        try:
            descriptor = sys.stderr.fileno()
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            while self._rest:
                if not poll.poll(0 if self._is_stuck else PATIENCE_MS):
                    self._is_stuck = True
                    return False
                self._rest = self._rest[os.write(descriptor, self._rest[:WRITE_BYTES_MAX]) :]
                self._is_stuck = False
        except BlockingIOError:  # somebody else who has this terminal made it non-blocking
            return False
        except (OSError, ValueError, AttributeError):  # closed, hung up, or there never was one: nobody to tell
            self._rest = b""
        return True


_outlet = _Outlet()
_format = "text"
_quiet = False


def configure(*, format: str = "text", quiet: bool = False) -> None:  # noqa: A002 - as the setting is called
    """Say from now on `text` or `json`, one object a line; `quiet`: without what is only information."""
    global _format, _quiet
    _format, _quiet = format, quiet


def say(text: str, *, level: Level = "info", label: str = "", printed: bool = False, **fields: Any) -> None:
    """Write one line about something that happened. Never raises, and waits for a stuck reader 0.1 s at most.

    `level`: warning for what is out of the ordinary, error for what ends the server. `printed`: a handler wrote this;
    quiet or not, it is shown. `label`: stands before the text, but not in JSON. `fields`: what a program would look for
    (worker, task_id, kind); in JSON beside the message, in text left out: it names them where a reader needs them.
    """
    announce((text if _format == "json" else label + text,), level=level, printed=printed, **fields)


def warn(text: str, **fields: Any) -> None:
    """`say` with level warning."""
    say(text, level="warning", **fields)


def is_json() -> bool:
    """Whether whoever reads standard error expects objects, and no other line."""
    return _format == "json"


def announce(lines: Sequence[str], *, level: Level = "info", printed: bool = False, **fields: Any) -> None:
    """`say` for several lines that belong together; in JSON the first is the message of one object."""
    if _quiet and level == "info" and not printed:
        return
    for line in lines if _format == "text" else lines[:1]:
        _outlet.write(_formatted(line, level, {**fields, "printed": True} if printed else fields))


def _formatted(text: str, level: Level, fields: dict[str, Any]) -> str:
    if _format == "text":
        return f"{time.strftime('%H:%M:%S')} {printable(text)}"
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    told = {"time": now, "level": level, "message": printable(text)}
    return json.dumps({**told, **{name: _plain(value) for name, value in fields.items()}, **told})


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return printable(str(value))

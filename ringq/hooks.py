"""Face: the process beside the server that runs the hooks of the app - `python -m ringq.hooks`.

A process, because the server imports nobody's code, and a hook that hangs must stop nothing else.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from ringq import log
from ringq.bus import BUFFER_MAX
from ringq.client import connect
from ringq.errors import RingqError, ServerStopping, ServerUnavailable
from ringq.events import LOST, Event
from ringq.kinds.hooks import Hook
from ringq.loading import line_of, load_app, own_frames
from ringq.ring import set_death_signal

EXIT_FAILED = 1


def main(argument: str) -> int:
    """Run hooks until the server is gone; `argument` is the JSON that Companions give. Returns the exit code."""
    given = json.loads(argument)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):  # for the server, which ends this process too
        signal.signal(number, signal.SIG_IGN)
    set_death_signal()
    try:
        signal.pidfd_send_signal(given["server"], 0)  # it may have died before the death signal was set
    except ProcessLookupError:
        return 0
    database = Path(os.fsdecode(bytes.fromhex(given["database"])))
    os.umask(given["umask"])
    os.environ["RINGQ_INSIDE_WORKER"] = str(os.getpid())  # no server is to be started here either
    os.environ["RINGQ_DB"] = str(database)
    log.configure(format=given["log_format"], quiet=given["quiet"])
    with contextlib.redirect_stdout(Printed()), contextlib.redirect_stderr(Printed()):
        try:
            hooks = load_app(given["app"]).hooks()
        except BaseException as error:  # also a module that calls sys.exit
            log.say(f"hooks: {line_of(given['app'], error)}", level="warning")
            return EXIT_FAILED
        with contextlib.suppress(ServerUnavailable, ServerStopping):
            _follow(database, hooks)
    return 0


def call(hooks: Sequence[Hook], event: Event) -> None:
    """Call those that want this event; what one raises is told, and keeps no other from being called."""
    for hook in hooks:
        if hook.wants(event):
            try:
                hook.function(event)
            except Exception as error:
                name = getattr(hook.function, "__qualname__", repr(hook.function))
                where = own_frames(error) or traceback.format_exception_only(error)
                about = "" if event.task is None else f" of task {event.task}"
                log.say(f"hook {name} failed on {event.word}{about}: {type(error).__name__}: {error}", level="warning")
                for line in where:
                    log.say(f"  {line.rstrip()}", level="warning")


def _follow(database: Path, hooks: Sequence[Hook]) -> None:
    words = sorted(set().union(*(hook.words for hook in hooks)))
    with connect(database, reconnect=0) as client, client.events(words=words, buffer=BUFFER_MAX) as stream:
        for event in stream:
            if event.word == LOST:
                log.say(f"hooks are too slow: they were not called with {event.count:,} events", level="warning")
            call(hooks, event)


class Printed(io.TextIOBase):
    """What hooks print, said line by line as what handlers print is."""

    def __init__(self) -> None:
        self._begun = ""

    def writable(self) -> bool:
        """It is."""
        return True

    def fileno(self) -> int:
        """Where the log writes to."""
        return 2

    def write(self, text: str) -> int:
        """Say whole lines, keep the rest."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            log.say(line, printed=True, label="hooks: ")
        return len(text)


if __name__ == "__main__":
    try:
        _code = main(sys.argv[1])
    except RingqError as failure:
        log.say(f"hooks: {failure}", level="warning")
        _code = EXIT_FAILED
    sys.exit(_code)

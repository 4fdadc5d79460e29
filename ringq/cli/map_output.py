"""Cli: what `ringq map` writes - results on stdout, the bar while they come and the failures at the end on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import click

from ringq.cli.inputs import Inputs
from ringq.cli.printing import shorten, visible
from ringq.codec import decode_json, encode_json
from ringq.errors import TaskFailed
from ringq.kinds import MapCall
from ringq.model import Reason

if TYPE_CHECKING:
    from rich.progress import Progress

FAILURES_MAX: Final = 20
FLUSH_S: Final = 0.05
LINES_MAX: Final = 1000  # between two looks at the clock: one a call would cost a tenth of a map's time here
SHOW_S: Final = 0.1
LINE_ENDS: Final = str.maketrans({"\n": "\\n", "\r": "\\r"})


class Output:
    """Lines of results, in bundles. Attributes: `done` and `failed`, calls so far."""

    def __init__(self, inputs: Inputs, encode: Callable[[Any], bytes], *, as_json: bool, has_bar: bool) -> None:
        """`encode`: a result as JSON."""
        self.done = self.failed = 0
        self._inputs = inputs
        self._encode = encode
        self._as_json = as_json
        self._on_terminal = sys.stdout.isatty()
        self._lines: list[bytes] = []
        self._flushed_at = 0.0
        self._is_read = True
        self._failures: list[str] = []
        self._bar = Bar() if has_bar else None

    def add(self, call: MapCall[Any]) -> None:
        """One call that ended."""
        given = self._inputs.take(call.index)
        self.done += 1
        if call.error is not None:
            self._fail(given, call.error)
        if self._as_json:
            what = b'"result":' + self._json(call.result) if call.error is None else b'"error":' + _error(call.error)
            line = b'{"index":%d,"input":%b,%b}\n' % (call.index, self._inputs.as_json(given), what)
        elif call.error is None:
            line = self._plain(call.result)
        else:
            return
        self._lines.append(line)
        if len(self._lines) >= LINES_MAX or time.monotonic() - self._flushed_at >= FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Write what is there: nothing more is for the moment. Raises OSError if nobody can read it."""
        self._flushed_at = time.monotonic()
        if self._lines:
            bundle, self._lines = b"".join(self._lines), []
            if self._bar is not None and self._on_terminal:
                self._bar.hide()
            self._is_read = False
            click.echo(bundle, nl=False)
            self._is_read = True
        if self._bar is not None:
            self._bar.show(self.done, self.failed, self._inputs.total)

    def close(self) -> None:
        """Write the rest, take the bar away; list the failures, unless the reader of the results has left.

        Raises OSError as `flush`.
        """
        self.flush()
        if self._bar is not None:
            self._bar.hide()
        if self.failed and self._is_read:
            calls = f"{self.failed:,} of {self.done:,} calls" if self.done > 1 else "the call"
            click.echo(f"ringq: {calls} failed:", err=True)
            for failure in self._failures:
                click.echo(f"  {failure}", err=True)
            if self.failed > len(self._failures):
                click.echo(f"  and {self.failed - len(self._failures):,} more", err=True)

    def progress(self) -> str:
        """How far it came, in words."""
        total = self._inputs.total
        return f"{self.done:,} calls done" if total is None else f"{self.done:,} of {total:,} calls done"

    def _fail(self, given: bytes, error: Exception) -> None:
        self.failed += 1
        if len(self._failures) < FAILURES_MAX:
            name = shorten(self._inputs.text(given), 200)
            self._failures.append(f"{visible(name)}: {visible(shorten(str(error), 500))}")

    def _plain(self, value: Any) -> bytes:
        text = value
        if type(value) is not str:
            encoded = self._json(value)
            text = decode_json(encoded, str) if encoded[:1] == b'"' else encoded.decode()
        text = visible(text) if self._on_terminal else text.translate(LINE_ENDS)
        return text.encode() + b"\n"

    def _json(self, value: Any) -> bytes:
        return encode_json(value) if type(value) in (str, int, bool) else self._encode(value)


class Bar:
    """Calls done, their rate and the time left, in one line of stderr."""

    def __init__(self) -> None:
        """Shows nothing yet."""
        self._progress: Progress | None = None
        self._shown_at = 0.0

    def show(self, done: int, failed: int, total: int | None) -> None:
        """Draw it, unless that has just been done: many a terminal is slower than a map."""
        now = time.monotonic()
        if now - self._shown_at < SHOW_S:
            return
        self._shown_at = now
        progress = self._progress = self._progress or _make()
        (task,) = progress.tasks
        rate = f"{task.speed:,.1f}/s" if task.speed else ""
        calls = f"{done:,}" if total is None else f"{done:,} of {total:,}"
        failures = f"{failed:,} failed" if failed else ""
        progress.update(task.id, completed=done, total=total, calls=calls, rate=rate, failures=failures)
        progress.start()
        progress.refresh()

    def hide(self) -> None:
        """Take it away, so that something else can be written where it stood."""
        if self._progress is not None:
            self._progress.stop()
            self._shown_at = 0.0


def _make() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    progress = Progress(
        TextColumn("{task.fields[calls]}"), BarColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
        TextColumn("[red]{task.fields[failures]}"), console=Console(stderr=True), auto_refresh=False, transient=True,
        redirect_stdout=False, redirect_stderr=False,
    )  # fmt: skip
    progress.add_task("", total=None, calls="", rate="", failures="")
    return progress


def _error(error: Exception) -> bytes:
    if isinstance(error, TaskFailed):
        return encode_json({"reason": error.reason, "task_id": error.task_id, **error.error})
    return encode_json(
        {"reason": Reason.INVALID_PAYLOAD, "task_id": None, "type": type(error).__name__, "message": str(error)}
    )

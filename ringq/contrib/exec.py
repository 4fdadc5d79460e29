"""Run: a command with arguments as a task. No shell, bounded output, and nothing of it survives the attempt.

`ringq serve ringq.contrib.exec:app` serves `ringq::exec`; `app.task(name="convert")(command(root="/srv/photos"))` makes
a kind of one's own.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import IO, Any, Protocol

import ringq
from ringq.contrib.group import Group, undisturbed

TAIL_BYTES_MAX = 4 * 1024
LAST_WORDS_CHARS_MAX = 256
TIMEOUT_S_MAX = 366 * 24 * 3600
_READ_BYTES_MAX = 64 * 1024
_LAST_BYTES_MAX = 1024 * 1024  # read after its end: a pipe holds no more, and what has left the group may write on


@dataclass(frozen=True)
class Finished:
    """How a command that succeeded has ended.

    Attributes: `exit_code`, 0; `stdout` and `stderr`, the last 4 KiB of each; `duration`, seconds.
    """

    exit_code: int
    stdout: str
    stderr: str
    duration: float


class CommandFailed(ringq.RingqError):
    """The command could not be started, or has not succeeded.

    Attributes: `exit_code`, None if it has none; `signal`, the name of the one that killed it, None if none did;
    `stdout` and `stderr`, the last 4 KiB of each.
    """

    def __init__(
        self, message: str, *, exit_code: int | None = None, signal: str | None = None, stdout: str = "",
        stderr: str = "",
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.exit_code = exit_code
        self.signal = signal
        self.stdout = stdout
        self.stderr = stderr


class Command(Protocol):
    """What `command()` makes: a handler that runs what its arguments say."""

    def __call__(
        self,
        argv: list[str],
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        stdin: str = "",
        timeout: float | None = None,
    ) -> Finished:
        """Run a command to its end; what it leaves behind in its process group is killed then.

        `argv`: the program, by path or found on PATH, and its arguments. `cwd`: its working directory, the worker's or
        `root` if not given. `env`: variables added to the worker's. `stdin`: text it may read. `timeout`: seconds
        after which it is killed, up to a year. While it runs its output is read to the end and thrown away but for
        the tails; if it fails they are also printed, and so kept with the attempt.

        Raises CommandFailed if it cannot be started, ends with another code than 0, is killed, or runs for longer
        than `timeout`; InvalidPayload for arguments that make no sense, or a `cwd` outside of `root`.
        """
        ...


def command(*, root: str | os.PathLike[str] | None = None) -> Command:
    """A handler that runs commands, for `app.task(name=..., ...)`: every option of a kind goes for it.

    `root`: a folder in which, symbolic links resolved, every `cwd` must be; a relative one begins there. It says where
    commands start, not what they may do: whoever may submit such a task may run anything as your user.
    """
    top = None if root is None else os.path.realpath(root)

    def run(
        argv: list[str],
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        stdin: str = "",
        timeout: float | None = None,
    ) -> Finished:
        _check(argv, cwd, env or {}, timeout)
        folder = _folder(cwd, top)
        running = _Running()
        try:
            try:
                return running.run(argv, folder, env or {}, stdin.encode(), timeout)
            finally:
                running.end()
        finally:
            running.end()  # the soft exception comes once: if it has cut the one above short, it spares this one

    return run


class _Running:
    """One command in its group."""

    def __init__(self) -> None:
        self._group: Group | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._death: IO[bytes] | None = None
        self._tails: dict[IO[bytes], bytearray] = {}
        self._began = time.monotonic()

    def run(
        self, argv: list[str], folder: str | None, env: dict[str, str], stdin: bytes, timeout: float | None
    ) -> Finished:
        """Run it to its end. Raises CommandFailed."""
        with undisturbed():
            self._group = Group()
            self._process = process = self._start(self._group, argv, folder, env, has_input=bool(stdin))
            self._death = death = os.fdopen(os.pidfd_open(process.pid), "rb", buffering=0)
        assert process.stdout is not None
        assert process.stderr is not None
        self._tails = {process.stdout: bytearray(), process.stderr: bytearray()}
        try:
            is_over = self._attend(process, death, stdin, timeout)
            self._group.end()
            code = process.wait()
            self._drain()  # after the end of all who might write for ever
        except BaseException:
            self._show()
            raise
        duration = time.monotonic() - self._began
        stdout, stderr = (tail.decode(errors="replace") for tail in self._tails.values())
        if is_over and code == 0:
            return Finished(code, stdout, stderr, duration)
        self._show()
        died_of = None if code >= 0 else _signal_name(-code)
        end = f"killed after {timeout:g} s, its timeout" if not is_over else f"killed by {died_of}" if died_of else ""
        words = _last_words(stderr) or _last_words(stdout)
        raise CommandFailed(
            (end or f"exit {code}") + (f": {words}" if words else ""),
            exit_code=code if code >= 0 else None, signal=died_of, stdout=stdout, stderr=stderr,
        )  # fmt: skip

    def end(self) -> None:
        """Whatever of it still runs is killed. Twice is no error."""
        if self._group is not None:
            self._group.end()
        if self._process is not None:
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout, self._process.stderr, self._death):
                if stream is not None:
                    stream.close()

    @staticmethod
    def _start(
        group: Group, argv: list[str], folder: str | None, env: dict[str, str], *, has_input: bool
    ) -> subprocess.Popen[bytes]:
        if folder is not None and not os.path.isdir(folder):  # Popen would not say which of the two is missing
            raise CommandFailed(f"cwd: {folder} is not a folder here")
        pipe = subprocess.PIPE
        source = pipe if has_input else subprocess.DEVNULL
        try:
            return group.start(
                argv, cwd=folder, env={**os.environ, **env}, stdin=source, stdout=pipe, stderr=pipe, bufsize=0
            )
        except FileNotFoundError:
            advice = "" if "/" in argv[0] else ", and this is no shell"
            raise CommandFailed(f"{argv[0]}: command not found{advice}") from None
        except OSError as error:
            raise CommandFailed(f"{argv[0]} cannot be started: {error.strerror}") from None

    def _attend(self, process: subprocess.Popen[bytes], death: IO[bytes], stdin: bytes, timeout: float | None) -> bool:
        """Feed it and take what it prints until it ends; False if that takes too long. Others may hold its pipes."""
        unsent = memoryview(stdin)
        with selectors.DefaultSelector() as selector:
            selector.register(death, selectors.EVENT_READ)
            for pipe in self._tails:
                os.set_blocking(pipe.fileno(), False)
                selector.register(pipe, selectors.EVENT_READ)
            if process.stdin is not None:
                os.set_blocking(process.stdin.fileno(), False)
                selector.register(process.stdin, selectors.EVENT_WRITE)
            while True:
                left = None if timeout is None else self._began + timeout - time.monotonic()
                if left is not None and left <= 0:
                    return False
                for key, _ in selector.select(left):
                    if key.fileobj is death:
                        return True
                    if key.fileobj is process.stdin:
                        unsent = _feed(process.stdin, unsent)
                        is_done = not unsent
                    else:
                        is_done = self._take(key.fileobj) == 0
                    if is_done:
                        selector.unregister(key.fileobj)

    def _take(self, pipe: Any) -> int | None:
        """Read once: how many bytes, 0 at the end, None if there is nothing now."""
        taken = pipe.read(_READ_BYTES_MAX)
        if taken:
            self._tails[pipe] += taken
            del self._tails[pipe][:-TAIL_BYTES_MAX]
        return None if taken is None else len(taken)

    def _drain(self) -> None:
        for pipe in self._tails:
            left = _LAST_BYTES_MAX
            while left > 0 and (taken := self._take(pipe)):
                left -= taken

    def _show(self) -> None:
        for stream, tail in zip((sys.stdout, sys.stderr), self._tails.values(), strict=False):
            with contextlib.suppress(OSError, ValueError):  # a handler that called this one may have closed it
                stream.write(tail.decode(errors="replace"))
                stream.flush()


def _feed(pipe: IO[bytes], unsent: memoryview) -> memoryview:
    """Write what fits; what is left. Who does not read its input to the end has no need of it."""
    try:
        unsent = unsent[pipe.write(unsent) or 0 :]
    except BrokenPipeError:
        unsent = unsent[:0]
    if not unsent:
        pipe.close()
    return unsent


def _check(argv: list[str], cwd: str | None, env: dict[str, str], timeout: float | None) -> None:
    if not argv or not argv[0]:
        raise ringq.InvalidPayload('argv: expected a program and its arguments, as in ["ls", "-l"]')
    if any("\0" in text for text in (*argv, cwd or "", *env, *env.values())):
        raise ringq.InvalidPayload("argv, cwd and env cannot have a NUL character")
    if any(not name or "=" in name for name in env):
        raise ringq.InvalidPayload("env: the name of a variable is not empty and has no =")
    if timeout is not None and not 0 < timeout <= TIMEOUT_S_MAX:
        raise ringq.InvalidPayload(f"timeout: expected more than 0 and up to {TIMEOUT_S_MAX:,} s, got {timeout!r}")


def _folder(cwd: str | None, top: str | None) -> str | None:
    """Where to start; None for where the worker is. Raises InvalidPayload if that is outside of `top`."""
    if top is None:
        return cwd
    folder = os.path.realpath(os.path.join(top, cwd or ""))
    if os.path.commonpath([folder, top]) != top:
        raise ringq.InvalidPayload(f"cwd: {cwd} is outside of {top}")
    return folder


def _last_words(printed: str) -> str:
    lines = printed.split("\n")
    return next((line.strip()[-LAST_WORDS_CHARS_MAX:] for line in reversed(lines) if line.strip()), "")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


app = ringq.App("ringq")
run = app.task(name="exec")(command())

"""Run: a program in any language that takes tasks as lines - one JSON line in, one JSON line out.

    {"id": 7, "payload": {"path": "a.jpg"}}         to its standard input
    {"id": 7, "status": "ok", "result": "a.png"}    from its standard output
    {"id": 7, "status": "error", "message": "…"}    … or this

Each worker has one of its own, started with the first task and kept. What it writes to standard error is the output of
the attempt.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Protocol

import ringq
from ringq.contrib.group import Group, undisturbed

REPLY_BYTES_MAX = 17 * 1024 * 1024  # a result of 16 MiB, and what is around it
LEAVE_S = 1.0  # for a program to end by itself after the end of its input
_READ_BYTES_MAX = 64 * 1024
_SHOWN_CHARS_MAX = 100


class ProgramError(ringq.RingqError):
    """The program answered that the task failed. It goes on."""


class ProgramBroken(ringq.RingqError):
    """The program has ended, or does not keep to the protocol. It was killed; the next task starts a new one."""


class Program(Protocol):
    """What `program()` makes: a handler that passes its arguments on."""

    def __call__(self, ctx: ringq.Context, /, **payload: Any) -> Any:
        """Pass the arguments to the program and return its result. Raises ProgramError and ProgramBroken."""
        ...


def program(
    argv: Sequence[str], *, cwd: str | os.PathLike[str] | None = None, env: Mapping[str, str] | None = None
) -> Program:
    """A handler that lets a program do the work, for `app.task(name=..., ...)`: every option of a kind goes for it.

    `argv`: the program, by path or found on PATH, and its arguments. `cwd`: its working directory, the worker's if not
    given. `env`: variables added to the worker's. A task has the program for itself until it replies; one that is cut
    off, by its run time limit or with its worker, costs the program and what it has started their lives. When a worker
    leaves, the input of its program ends, and 1 s later the program is killed.

    Raises InvalidKind if `argv` is not a list of texts with a program in front.
    """
    if isinstance(argv, str) or not all(isinstance(word, str) for word in argv) or not argv or not argv[0]:
        raise ringq.InvalidKind(f'lines: argv: expected a program and its arguments, as in ["./resize"], got {argv!r}')
    conversation = _Conversation(list(argv), cwd, dict(env or {}))

    def call(ctx: ringq.Context, /, **payload: Any) -> Any:
        return conversation.ask(ctx.task_id, payload)

    return call


class _Running:
    """One program that runs."""

    def __init__(self, argv: list[str], cwd: str | os.PathLike[str] | None, env: dict[str, str]) -> None:
        """Raises ProgramBroken if it cannot be started."""
        self._name = argv[0]
        self._group = Group()
        self._received = bytearray()
        self.pid = os.getpid()
        pipe = subprocess.PIPE
        try:
            self._process = self._group.start(
                argv, cwd=cwd, env={**os.environ, **env}, stdin=pipe, stdout=pipe, bufsize=0
            )
        except OSError as error:
            self._group.end()
            missing = error.filename if isinstance(error, FileNotFoundError | NotADirectoryError) else None
            where = f" ({missing})" if missing not in (None, self._name) else ""
            raise ProgramBroken(f"{self._name} cannot be started: {error.strerror}{where}") from None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        for stream in (self._input, self._output):
            os.set_blocking(stream.fileno(), False)

    def idle_trouble(self) -> str | None:
        """What has happened since its last reply and must not have: it has ended, or said something unasked."""
        taken = self._read()
        if self._received:
            return "said something that nobody had asked for"
        return self._end_in_words() if taken == b"" else None

    def ask(self, request: bytes) -> bytes:
        """Send a line, return the line that comes back. Raises ProgramBroken."""
        unsent = memoryview(request)
        with selectors.DefaultSelector() as selector:
            selector.register(self._output, selectors.EVENT_READ)
            selector.register(self._input, selectors.EVENT_WRITE)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._input:
                        unsent = self._write(unsent)
                        if not unsent:
                            selector.unregister(self._input)
                    elif self._read() == b"" and b"\n" not in self._received:
                        self._refuse(self._end_in_words())
                line, found, rest = self._received.partition(b"\n")
                if found:
                    if unsent:
                        self._refuse("replied before it had read the whole task")
                    self._received = rest
                    return bytes(line)
                if len(self._received) > REPLY_BYTES_MAX:
                    self._refuse(f"replied with a line of more than {REPLY_BYTES_MAX:,} bytes")

    def _read(self) -> bytes | None:
        """Take what there is; b"" at the end, None if there is nothing."""
        taken: bytes | None = self._output.read(_READ_BYTES_MAX)
        self._received += taken or b""
        return taken

    def _write(self, unsent: memoryview) -> memoryview:
        try:
            return unsent[self._input.write(unsent) or 0 :]
        except BrokenPipeError:  # the end of its output will say how it ended
            return unsent[:0]

    def _end_in_words(self) -> str:
        try:
            code = self._process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            return "closed its output"
        return f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"

    def _refuse(self, problem: str) -> NoReturn:
        raise ProgramBroken(f"{self._name} {problem}")

    def leave(self) -> None:
        """End its input, let it go by itself for a moment."""
        self._input.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(LEAVE_S)

    def end(self) -> None:
        """Kill it and what it has started. Twice is no error."""
        self._group.end()
        self._process.wait()
        self._input.close()
        self._output.close()

    def abandon(self) -> None:
        """This process is a fork of the one whose program it is."""
        self._group.abandon()
        self._input.close()
        self._output.close()
        self._process.returncode = 0


class _Conversation:
    """The tasks of one kind in this process, and the program that serves them."""

    def __init__(self, argv: list[str], cwd: str | os.PathLike[str] | None, env: dict[str, str]) -> None:
        self._argv, self._cwd, self._env = argv, cwd, env
        self._running: _Running | None = None
        self._pid = 0
        self._lock = threading.Lock()

    def ask(self, task_id: int, payload: dict[str, Any]) -> Any:
        """The result that the program gives. Raises ProgramError and ProgramBroken."""
        if self._pid != os.getpid():
            self._begin()
        request = json.dumps({"id": task_id, "payload": payload}, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            reply: dict[str, Any] | None = None
            try:
                try:
                    line = self._ready().ask(request)
                    reply = self._understood(task_id, line)
                finally:
                    if reply is None:
                        self._end()
            finally:
                if reply is None:
                    self._end()  # the soft exception comes once: if it has cut the one above short, it spares this one
        if reply["status"] == "ok":
            return reply.get("result")
        raise ProgramError(str(reply.get("message") or "") or None)

    def _begin(self) -> None:
        """The first task in this process, which may be a fork of one that has a program."""
        if self._running is not None:
            self._running.abandon()
        self._running, self._lock, self._pid = None, threading.Lock(), os.getpid()
        atexit.register(self._leave, self._pid)

    def _ready(self) -> _Running:
        trouble = self._running and self._running.idle_trouble()
        if trouble:
            sys.stderr.write(f"{self._argv[0]} {trouble} before this task; another one is started\n")
            self._end()
        if self._running is None:
            with undisturbed():
                self._running = _Running(self._argv, self._cwd, self._env)
        return self._running

    def _understood(self, task_id: int, line: bytes) -> dict[str, Any]:
        try:
            reply = json.loads(line, parse_constant=_no_number)
        except (ValueError, RecursionError):
            reply = None
        if not isinstance(reply, dict) or reply.get("status") not in ("ok", "error"):
            text = line.decode(errors="replace")
            shown = text if len(text) <= _SHOWN_CHARS_MAX else f"{text[:_SHOWN_CHARS_MAX]}…"
            raise ProgramBroken(f"{self._argv[0]} replied with what is no reply: {shown!r}")
        if reply.get("id") != task_id:
            raise ProgramBroken(f"{self._argv[0]} replied to id {reply.get('id')!r}, asked was {task_id}")
        return reply

    def _end(self) -> None:
        if self._running is not None:
            self._running.end()
            self._running = None

    def _leave(self, pid: int) -> None:
        if self._running is not None and os.getpid() == pid:
            self._running.leave()
            self._end()


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")

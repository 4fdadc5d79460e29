"""Face: `ringq.Server` - `serve` as a child process of the host program, which starts it, is told and ends it.

host:   Server(...) ──► name the App ──► spawn ──► Health answers ──► bind a client ··· TERM ──► wait for the drain
child:                                   serve ──► its workers import the App            drain ──► leave
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

from ringq import errors, loading
from ringq.client import Client, connect
from ringq.errors import AlreadyServed, AppImportError, CannotStart, InvalidOption, RingqError
from ringq.kinds import App, Task, binding
from ringq.settings import SETTINGS

LOOK_EVERY_S: Final = 0.02  # at a child that starts
CLOSE_S: Final = 8.0  # for a server to end after its drain, or when told to stop at once: it gives its workers 5 s
REPORT_BYTES_MAX: Final = 64 * 1024


class Server:
    """A server of your program: a child process that runs the tasks of a database, and ends with the program.

        with ringq.Server(app, "photos.db", workers=2) as server:
            thumbnail.submit(path="a.jpg")

    The block starts when the server takes tasks; inside it `task.submit(...)` goes to this server. When it ends,
    running tasks may end too, for as long as `drain_timeout`; what was not begun stays in the database, for the
    next server. A host that is killed takes the server with it, in the same way.

    Attributes: `client`, a client of the database; `database`, its absolute path; `app`, by what name workers
    import the App.
    """

    def __init__(
        self,
        app: App | Task[..., Any] | str,
        database: str | os.PathLike[str],
        *,
        workers: int | Literal["auto"] | None = None,
        queues: str | Iterable[str] | Mapping[str, int | None] | None = None,
        durability: str | None = None,
        drain_timeout: float | str | timedelta | None = None,
        quiet: bool | None = True,
        start_timeout: float | str | timedelta = 60.0,
    ) -> None:
        """Starts nothing yet. What is None is decided as `ringq serve` decides it: RINGQ_*, the project's file.

        `app`: an App that stands at the top level of a module or of this script, one of its tasks, or a text as
        "photos:app". `workers`: processes, 1 to 255, or "auto" for one a core. `queues`: serve only these; names,
        or a mapping to how many of their tasks may run at a time. `durability`: full or normal. `drain_timeout`:
        seconds, timedelta or text as "1m", 0 to a day, that running tasks are given when it stops. `quiet`: say only
        what is out of the ordinary, and what handlers print. `start_timeout`, written alike: within it the server
        must take tasks.

        Raises AppImportError for an App that workers cannot import, InvalidOption for an option out of range.
        """
        self.app = _name(app)
        self.client: Client = connect(database)
        self.database: Path = self.client.database
        self._flags = _flags(
            workers=workers,
            queues=_queues(queues),
            durability=durability,
            drain_timeout=drain_timeout,
            quiet=quiet,
        )
        self._start_timeout_s = float(_read("drain_timeout", start_timeout, "start_timeout"))
        self._drain_timeout_s = 0.0  # the server says what it is
        self._process: subprocess.Popen[bytes] | None = None
        self._host = 0

    def __enter__(self) -> Self:
        self.start()
        binding.bind(self.client)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        binding.unbind(self.client)
        self.stop()

    def __repr__(self) -> str:
        if self._process is None:
            state = "not started"
        elif self.pid is not None:
            state = f"pid {self.pid}"
        else:
            state = f"ended with exit code {self._process.returncode}"
        return f"<server of {self.database} for {self.app}: {state}>"

    @property
    def pid(self) -> int | None:
        """The server's process id; None before it was started, and when it has ended."""
        if self._process is None:
            return None
        has_ended = self._host == os.getpid() and self._process.poll() is not None  # who was forked from it cannot say
        return None if has_ended else self._process.pid

    def start(self) -> None:
        """Start the server and wait until it takes tasks; the `with` block does it. A Server is started once.

        Raises AlreadyServed if the database has a server, AppImportError if a worker cannot import the App,
        CannotStart if it did not start in time, cannot be started here or a second time, and what else keeps
        `ringq serve` from starting: CannotCreate, NotADatabase, NewerSchema, InvalidConfig.
        """
        _refuse_here()
        if self._process is not None:
            raise CannotStart(f"{self!r} was started before: make a new ringq.Server for a new start")
        with contextlib.ExitStack() as descriptors:
            try:
                report, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
                descriptors.callback(os.close, report)
                with contextlib.ExitStack() as passed:
                    passed.callback(os.close, theirs)
                    host = os.pidfd_open(os.getpid())
                    passed.callback(os.close, host)
                    self._process = self._spawn(host, theirs)
            except OSError as error:
                raise CannotStart(f"no process can be started for the server: {error.strerror}") from None
            self._host = os.getpid()
            atexit.register(self.stop)
            try:
                self._wait_ready(self._process, report)
            except BaseException:
                self._end(self._process, patience_s=0)
                raise

    def stop(self) -> int | None:
        """Let running tasks end for as long as `drain_timeout`, then end the server; the `with` block does it.

        Returns the server's exit code, 0 if nothing was cut off; None if there is none to stop, as in a process
        forked from the host, whose copy of this object is not the server's owner. May be called again.
        """
        self.client.close()
        if self._process is None or self._host != os.getpid():
            return None
        return self._end(self._process, self._drain_timeout_s + CLOSE_S)

    # -- inside -----------------------------------------------------------------------------------

    def _spawn(self, host: int, report: int) -> subprocess.Popen[bytes]:
        """The child has a session of its own: Ctrl-C reaches the host alone, which then decides how its tasks end.

        It would otherwise reach the server as well, at the same moment, and the second one, by an impatient user,
        would cut off tasks that the host still waits for. It sees the host's death by the descriptor `host`; the
        kernel's death signal would follow the thread that started it. Standard error is the host's own: through a
        pipe, a host that is busy, or its forked copies, could make the server wait. Nothing is written to standard
        output, and an open one would keep the reader of `python script.py | less` waiting.
        """
        environment = {**os.environ, **loading.import_path()}
        environment.pop("NOTIFY_SOCKET", None)  # whether the host is ready, the host alone tells systemd
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "ringq.cli.hosted", str(report)),
                *("serve", self.app, f"--db={self.database}", f"--host-pidfd={host}", *self._flags),
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment, pass_fds=(host, report),
            start_new_session=True,
        )  # fmt: skip

    def _wait_ready(self, process: subprocess.Popen[bytes], report: int) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        while not self._takes_tasks(process.pid):
            if time.monotonic() >= deadline:
                raise CannotStart(
                    f"the server of {self.database} took no tasks within {self._start_timeout_s:g} s: its workers "
                    f"still import {self.app}; allow it more by start_timeout"
                )
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(LOOK_EVERY_S)
                raise self._failure(code, report)

    def _takes_tasks(self, pid: int) -> bool:
        with contextlib.suppress(RingqError, OSError), closing(connect(self.database, reconnect=0)) as probe:
            health = probe.health()
            if health["pid"] == pid:  # else it is another server, because of which this one will end
                self._drain_timeout_s = health["drain_timeout_s"]
                return True
        return False

    def _failure(self, code: int, report: int) -> RingqError:
        told: dict[str, str] = {}
        with contextlib.suppress(BlockingIOError, ValueError):  # killed; and a forked host may hold the pipe
            told = json.loads(os.read(report, REPORT_BYTES_MAX))
        if not told:
            return CannotStart(
                f"the server of {self.database} ended with exit code {code} before it took tasks: what it said "
                "stands on standard error"
            )
        cls = getattr(errors, told["error"], CannotStart)
        if cls is AlreadyServed:
            told["line"] += f": use `ringq.connect({str(self.database)!r})` to submit to its server"
        failure: RingqError = cls(told["line"])
        return failure

    def _end(self, process: subprocess.Popen[bytes], patience_s: float) -> int:
        """TERM, so that it drains; TERM again, so that it stops at once; KILL. Ctrl-C takes the next step at once."""
        interrupt: KeyboardInterrupt | None = None
        for number, wait_s in ((signal.SIGTERM, patience_s), (signal.SIGTERM, CLOSE_S), (signal.SIGKILL, CLOSE_S)):
            process.send_signal(number)
            try:
                process.wait(wait_s)
                break
            except subprocess.TimeoutExpired:
                continue
            except KeyboardInterrupt as pressed:
                interrupt = pressed
        atexit.unregister(self.stop)
        if interrupt is not None:
            raise interrupt
        return process.wait(CLOSE_S)


def _refuse_here() -> None:
    """Raise if this process can have no server."""
    imported = loading.importing()
    if imported is not None:
        raise AppImportError(
            f"{imported} starts a server when it is imported, and workers import it: put "
            '`if __name__ == "__main__":` around that'
        )
    if os.environ.get("RINGQ_INSIDE_WORKER") == str(os.getpid()):
        raise CannotStart(
            "a handler cannot start a server inside its worker: submit to the one it serves (`task.submit(...)`), "
            "or start it in the program that submits"
        )
    processes = sys.modules.get("multiprocessing.process")  # who has not imported it is no child of it
    if processes is not None and processes.current_process().daemon:
        raise CannotStart(
            "a daemonic process may have no children: start the server in the main program and use ringq.connect "
            "here, or make this process with daemon=False"
        )


def _name(app: object) -> str:
    if isinstance(app, str):
        try:
            return str(SETTINGS["app"].read(app))
        except ValueError as error:
            raise AppImportError(f"app: {error}") from None
    if isinstance(app, Task):
        app = app.app
    if not isinstance(app, App):
        raise AppImportError(f'app: expected a ringq.App, one of its tasks, or text as "photos:app", got {app!r}')
    return loading.name_of(app)


def _queues(queues: str | Iterable[str] | Mapping[str, int | None] | None) -> object:
    if isinstance(queues, Mapping):
        return [name if cap is None else f"{name}:{cap}" for name, cap in queues.items()]
    return list(queues) if isinstance(queues, Iterable) and not isinstance(queues, str) else queues


def _flags(**given: object) -> list[str]:
    """Settings as `ringq serve` takes them."""
    read = {name: _read(name, value) for name, value in given.items() if value is not None}
    quiet = {None: [], "True": ["--quiet"], "False": ["--no-quiet"]}[read.pop("quiet", None)]
    return [*quiet, *(f"--{name.replace('_', '-')}={text}" for name, text in read.items())]


def _read(name: str, value: object, called: str | None = None) -> str:
    """One setting as text, checked here, where the mistake is in the caller's line. Raises InvalidOption."""
    try:
        return str(SETTINGS[name].plain(SETTINGS[name].read(value)))
    except ValueError as error:
        raise InvalidOption(f"{called or name}: {error}") from None

"""What a side consists of: processes with a session of their own, which end with it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
READY_S = 60.0
ANSWER_S = 180.0
LEAVE_S = 2.0
LOOK_S = 0.02


class Broken(Exception):
    """A side does not work; the message says which part, and its last words."""


@contextlib.contextmanager
def started(
    arguments: Sequence[str], folder: Path, surroundings: Mapping[str, str], answers: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """A process, until the end of the block; its words go to a log in `folder`, or come back if it `answers`."""
    with log_of(folder).open("a") as log:
        process = subprocess.Popen(
            arguments, cwd=ROOT, env={**os.environ, **surroundings, "TMPDIR": str(folder)}, text=True,
            stdin=subprocess.PIPE if answers else subprocess.DEVNULL,
            stdout=subprocess.PIPE if answers else log, stderr=log,
            start_new_session=True,  # Ctrl-C is for the benchmark, which then ends them in order
        )  # fmt: skip
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[str]) -> None:
    """Ask it to leave, so that it sees to its children; then, or at another Ctrl-C, kill what is left of its session.

    The session, as RQ's forks leave the group. A second look is for what was forked during the first. The leader is
    reaped last: until then no other session can have its number.
    """
    pidfd = os.pidfd_open(process.pid)
    try:
        process.terminate()
        select.select([pidfd], [], [], LEAVE_S)
    finally:
        os.close(pidfd)
        process.kill()
        for _ in range(2):
            kill_session(process.pid)
        process.communicate()


def kill_session(number: int) -> None:
    """Kill all processes of a session that can be seen."""
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            with contextlib.suppress(ProcessLookupError):
                if os.getsid(int(entry.name)) == number:
                    os.kill(int(entry.name), signal.SIGKILL)


def redis_server(folder: Path, durable: bool) -> tuple[list[str], Path]:
    """(command line, socket) of a Redis server that only who finds its socket can reach.

    Durable: every write is in the append-only file, with fsync, before its answer; no snapshots then. Else what Redis
    does when it is told nothing: snapshots, at the earliest a minute after the writes.
    """
    place = folder / "redis.sock"
    arguments = ["redis-server", "--port", "0", "--unixsocket", str(place), "--dir", str(folder), "--daemonize", "no"]
    if durable:
        arguments += ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    return arguments, place


def listens(place: Path) -> bool:
    """Whether a Redis server answers there."""
    with socket.socket(socket.AF_UNIX) as line:
        try:
            line.connect(str(place))
            line.sendall(b"PING\r\n")
            return line.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def wait_for(
    happened: Callable[[], bool], parts: Sequence[subprocess.Popen[str]], folder: Path, within_s: float
) -> None:
    """Wait for that. Raises Broken when a part has ended, or not in time."""
    deadline = time.monotonic() + within_s
    while not happened():
        for part in parts:
            if os.waitid(os.P_PID, part.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                raise Broken(f"{spoken(part)} has ended: {last_words(folder)}")
        if time.monotonic() > deadline:
            raise Broken(f"no answer in {within_s:.0f} s: {last_words(folder)}")
        time.sleep(LOOK_S)


def log_of(folder: Path) -> Path:
    """Where the parts of a side write what they have to say."""
    return folder / "log"


def last_words(folder: Path) -> str:
    """The last line of the log."""
    return (log_of(folder).read_text(errors="replace").strip().splitlines() or ["nothing was said"])[-1]


def spoken(process: subprocess.Popen[str]) -> str:
    """What a process is called."""
    arguments = list(process.args)
    return arguments[arguments.index("-m") + 1] if "-m" in arguments else arguments[0]

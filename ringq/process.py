"""Edge: one worker process as the parent holds it - descriptors, signals, output, death. Wraps subprocess.

Workers are direct children and exec'd: no inherited locks, threads or database handles, and the parent has pidfd,
exit status and `wait4` resources. Each leads its own session, so that what a handler started dies with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ringq.config import DAMAGE_MARK, EXIT_RING_DAMAGED
from ringq.entries import Interruption
from ringq.model import Reason
from ringq.output import WORD_BYTES, Passage, Taken, Transcript, new_token, text_of

OUTPUT_TAIL_BYTES_MAX = 8 * 1024
STACK_BYTES_MAX = 16 * 1024
READ_BYTES_MAX = 64 * 1024
LAST_BYTES_MAX = 1024 * 1024  # read from a dead worker: a pipe holds no more
CONTROL_BYTES_MAX = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Exit:
    """How a worker ended."""

    pid: int
    returncode: int
    rss_kib: int
    stack: str
    output: str  # the end of what it printed in its last attempt
    passages: tuple[Passage, ...] = ()  # printed since the last look; the last one is the unfinished attempt's

    @property
    def found_damage(self) -> bool:
        """Whether the worker left because the segment was overwritten; the exit code alone could be a handler's."""
        return self.returncode == EXIT_RING_DAMAGED and DAMAGE_MARK in self.stack

    @property
    def signal_name(self) -> str | None:
        """Name of the signal that killed it, None if it exited."""
        if self.returncode >= 0:
            return None
        try:
            return signal.Signals(-self.returncode).name
        except ValueError:
            return f"signal {-self.returncode}"

    def describe(self) -> str:
        """The end in words."""
        name = self.signal_name
        return f"was killed by {name}" if name else f"exited with code {self.returncode}"

    def details(self, reason: str) -> dict[str, Any]:
        """What is recorded with the attempt that this death interrupted."""
        return {
            "type": "WorkerDied",
            "message": f"the worker {self.describe()}" + (f" ({reason})" if reason else ""),
            "signal": self.signal_name,
            "exit_code": self.returncode if self.returncode >= 0 else None,
            "rss_kib": self.rss_kib,
            "stack": self.stack,
            "output": self.output,
        }

    def interruption(
        self, attempt: tuple[int, int, int, int, int], call: int, reason: Reason, ended_us: int, age_us: int, kib: int
    ) -> Interruption:
        """What is recorded of an attempt that was cut off in this call.

        `attempt`: its task, lease, kind, number and worker. `kib`: the most memory that it has held.
        """
        return Interruption(
            *attempt, reason=reason, started_us=ended_us - age_us, ended_us=ended_us, rss_kib=kib, call=call,
            error=msgspec.json.encode(self.details(reason)).decode(),
        )  # fmt: skip


class WorkerProcess:
    """A started worker. The caller polls `pidfd` (death), `control` (messages) and `output` (what it prints)."""

    def __init__(self, arguments: Mapping[str, Any], pass_fds: tuple[int, ...], environment: Mapping[str, str]) -> None:
        with contextlib.ExitStack() as on_failure, contextlib.ExitStack() as always:
            self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            on_failure.callback(self.control.close)
            always.callback(theirs.close)
            self._stack = os.memfd_create("ringq-stack", os.MFD_CLOEXEC)
            on_failure.callback(os.close, self._stack)
            self.output, write_end = os.pipe2(os.O_CLOEXEC)
            on_failure.callback(os.close, self.output)
            always.callback(os.close, write_end)
            shared = _create_word()
            always.callback(os.close, shared)
            self._taken = Taken(shared, mine=True)
            on_failure.callback(self._taken.close)
            token = new_token()
            own = {"control": theirs.fileno(), "stack": self._stack, "taken": shared, "token": token.hex()}
            text = json.dumps({**arguments, **own})
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "ringq.worker", text],
                stdin=subprocess.DEVNULL, stdout=write_end, stderr=write_end, env=dict(environment),
                pass_fds=(*pass_fds, theirs.fileno(), self._stack, shared), start_new_session=True,
            )  # fmt: skip
            on_failure.callback(self._popen.wait)
            on_failure.callback(self._popen.kill)
            self.pidfd = os.pidfd_open(self._popen.pid)
            on_failure.pop_all()
        self.pid = self._popen.pid
        self.epoch: int = arguments["epoch"]
        self.label: str = arguments.get("label", "")
        self.control.setblocking(False)
        os.set_blocking(self.output, False)
        self._inbox = b""
        self._taken_bytes = 0
        self.transcript = Transcript(token)

    def receive(self) -> dict[str, Any] | None:
        """The next message of the worker; {} when none is complete yet, None when the channel is closed."""
        try:
            received = self.control.recv(READ_BYTES_MAX)
        except BlockingIOError:
            received = None
        except OSError:  # reset by a worker that died with something unread
            return None
        if received is not None:
            if not received or len(self._inbox) > CONTROL_BYTES_MAX:
                return None
            self._inbox += received
        line, found, rest = self._inbox.partition(b"\n")
        if not found:
            return {}
        self._inbox = rest
        try:
            message = json.loads(line)
        except ValueError:
            return {}
        return message if isinstance(message, dict) else {}

    def last_words(self) -> Iterator[dict[str, Any]]:
        """Of a dead worker: what it has told and nobody has heard yet, some of it perhaps empty."""
        for _ in range(LAST_BYTES_MAX // READ_BYTES_MAX):  # more than a socket holds
            message = self.receive()
            if message is None:
                return
            yield message

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one message; a worker that is already dead is found out by its pidfd."""
        with contextlib.suppress(OSError):
            self.control.setblocking(True)
            self.control.settimeout(5)
            self.control.sendall(json.dumps(message).encode() + b"\n")
        with contextlib.suppress(OSError):
            self.control.setblocking(False)

    def answer(self, message: Mapping[str, Any]) -> None:
        """Send one message to a worker that waits for it; one that does not read has been told to end meanwhile."""
        with contextlib.suppress(OSError):
            self.control.send(json.dumps(message).encode() + b"\n")

    def take_output(self) -> bytes | None:
        """What it printed and nobody has read yet, at most READ_BYTES_MAX; None once nothing can come any more."""
        word = self._taken.word
        word[0] = self._taken_bytes << 1 | 1
        try:
            taken = os.read(self.output, READ_BYTES_MAX)
        except BlockingIOError:
            return b""
        else:
            self._taken_bytes += len(taken)
            return taken or None
        finally:
            word[0] = self._taken_bytes << 1

    def signal(self, number: int) -> None:
        """Send a signal to the process, if it still lives."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def kill(self) -> None:
        """SIGKILL to the worker and everything in its session's process group."""
        self.signal(signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def reap(self) -> Exit:
        """Collect the dead process, after its group was killed: until then its pid, and so the group's, is its own."""
        self.kill()
        _, status, usage = os.wait4(self.pid, 0)
        self._popen.returncode = os.waitstatus_to_exitcode(status)
        passages = self._last_passages()
        stack = os.pread(self._stack, STACK_BYTES_MAX, 0).decode("utf-8", "replace")
        unfinished = passages[-1].account
        output = text_of(unfinished.last(OUTPUT_TAIL_BYTES_MAX)) if unfinished else ""
        return Exit(self.pid, self._popen.returncode, usage.ru_maxrss, stack, output, tuple(passages))

    def _last_passages(self) -> list[Passage]:
        passages: list[Passage] = []
        for _ in range(LAST_BYTES_MAX // READ_BYTES_MAX):
            taken = self.take_output()
            if not taken:
                break
            passages += self.transcript.feed(taken)
        return [*passages, self.transcript.finish()]

    def close(self) -> None:
        """Release the descriptors."""
        self.control.close()
        self._taken.close()
        for descriptor in (self.pidfd, self.output, self._stack):
            os.close(descriptor)


def _create_word() -> int:
    """Memory for a Taken that nobody can shrink: touching it would be SIGBUS."""
    fd = os.memfd_create("ringq-taken", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, WORD_BYTES)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd


def lives(pid: int, start_ticks: int) -> bool:
    """Whether the process that had this pid and start time still exists (a zombie does not)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return int(fields[19]) == start_ticks and fields[0] != "Z"

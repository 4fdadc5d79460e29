"""Flow: what a worker asks its parent about a task while its handler runs, and tells it after that, on one channel."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from typing import Any

RECEIVE_BYTES = 65_536


class Inquiry:
    """Asks, and waits for the answer: a turn of the parent's loop. May be called by several threads of the handler."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._number = 0
        self._received = b""

    def facts(self, task_id: int) -> tuple[dict[str, str], int | None, int | None]:
        """The tags of a task; when the time for all of it is over by the monotonic clock, None without that limit;
        whose child it is, None for nobody's.

        In a process that was forked from the worker, which has no channel of its own: no tags, no limit, no parent.
        """
        if os.getpid() != self._pid:
            return {}, None, None
        with self._lock:
            self._number += 1
            self._control.sendall(json.dumps({"task": task_id, "number": self._number}).encode() + b"\n")
            answer = self._answer(self._number)
        return answer["tags"], answer["ends_ns"], answer["parent"]

    def tell(self, message: dict[str, Any]) -> None:
        """Tell the parent something that it does not answer. In a process that was forked from the worker: nothing."""
        if os.getpid() == self._pid:
            with self._lock:
                self._control.sendall(json.dumps(message).encode() + b"\n")

    def keep(self, task_id: int, lease: int, text: str, *, wait: bool) -> None:
        """Hand over a checkpoint of an attempt; `wait`: until the parent has it. In a forked process: nothing.

        Half of it told would swallow what is told next: the signal that ends the attempt waits until all of it is.
        """
        if os.getpid() != self._pid:
            return
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        try:
            with self._lock:
                self._number += wait
                number = self._number if wait else 0
                self._send({"checkpoint": text, "task_id": task_id, "lease": lease, "number": number})
                if wait:
                    self._answer(number)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def kept(self, task_id: int, lease: int) -> str | None:
        """The checkpoint that the parent has of a task; None for none, and in a forked process."""
        if os.getpid() != self._pid:
            return None
        with self._lock:
            self._number += 1
            self._send({"checkpoint": None, "task_id": task_id, "lease": lease, "number": self._number})
            answer = self._answer(self._number)
        text: str | None = answer["checkpoint"]
        return text

    def _send(self, message: dict[str, Any]) -> None:
        self._control.sendall(json.dumps(message).encode() + b"\n")

    def _answer(self, number: int) -> dict[str, Any]:
        """The answer with this number. Those before it were asked for by attempts that were told to end meanwhile."""
        while True:
            line, found, rest = self._received.partition(b"\n")
            if found:
                self._received = rest
                try:
                    answer: dict[str, Any] = json.loads(line)
                except ValueError:  # half of it was lost as a signal came
                    continue
                if answer.get("number") == number:
                    return answer
                continue
            received = self._control.recv(RECEIVE_BYTES)
            if not received:
                os._exit(0)  # the parent is dead
            self._received += received

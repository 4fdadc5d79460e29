"""A server in threads of the test: the real protocol, no store, no workers, and faults on demand."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ringq import config, protocol
from ringq.errors import RingqError, UnknownTask
from ringq.events import Event, encode
from ringq.model import Reason, Status

Row = tuple[int, int, int, str | None, str | None]


class FakeServer:
    """Stores tasks in a list. `run` ends each task as it is stored; without it, `end` does."""

    def __init__(self, database: Path, run: Callable[[str, dict[str, Any]], Any] | None = None) -> None:
        self.path = config.socket_path(database)
        self.path.parent.mkdir(mode=0o700, exist_ok=True)
        self.run = run
        self.tasks: list[tuple[protocol.SpecFields, str, int | None]] = []
        self.submissions: dict[bytes, tuple[int, int]] = {}
        self.seen_ids: list[bytes] = []
        self.seen_waits: list[list[tuple[int, int]]] = []
        self.seen_subscriptions: list[protocol.Subscribe] = []
        self.readers: list[tuple[socket.socket, int]] = []
        self.ends: dict[int, Row] = {}
        self.refusal: RingqError | None = None
        self.cuts: list[int] = []  # bytes of the next replies to send before the connection is cut
        self.accepted = 0
        self.waiting = threading.Semaphore(0)  # released once per Wait that is not answered at once
        self._waiters: list[tuple[socket.socket, int, set[int]]] = []
        self._lock = threading.RLock()
        self._sockets: set[socket.socket] = set()
        self.start()

    def start(self) -> None:
        self.path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def stop(self) -> None:
        """Gone, as if killed: tasks stay, connections do not."""
        self.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.disconnect_all()

    def disconnect_all(self) -> None:
        with self._lock:
            for connection in list(self._sockets):
                self._drop(connection)
            self._waiters.clear()

    @property
    def connected(self) -> int:
        with self._lock:
            return len(self._sockets)

    def tell(self, *told: Event, lost: int = 0) -> None:
        """Send events to all who have subscribed."""
        with self._lock:
            for connection, request in self.readers:
                self._send(connection, protocol.Events(lost, b"\n".join(map(encode, told))), request)

    def end(self, task_id: int, result: Any = None, status: Status = Status.COMPLETED,
            reason: Reason = Reason.NONE, error: dict[str, Any] | None = None) -> None:  # fmt: skip
        completed = status is Status.COMPLETED
        row = (
            task_id,
            status.code,
            reason.code,
            json.dumps(result) if completed else None,
            None if completed else json.dumps(error or {}),
        )
        with self._lock:
            self.ends[task_id] = row
            for connection, request, ids in self._waiters:
                if task_id in ids:
                    ids.discard(task_id)
                    self._send(connection, _ended([row]), request)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self.accepted += 1
                self._sockets.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        reader = protocol.FrameReader(protocol.REQUESTS)
        with contextlib.suppress(OSError):
            while chunk := connection.recv(65536):
                for frame in reader.feed(chunk):
                    try:
                        with self._lock:
                            self._answer(connection, frame)
                    except RingqError as error:
                        self._send(connection, protocol.failure_of(error), frame.request_id)
        self._drop(connection)

    def _answer(self, connection: socket.socket, frame: protocol.Frame) -> None:
        message = frame.message
        if isinstance(message, protocol.Submit):
            self.seen_ids.append(message.submission)
            if self.refusal is not None:
                raise self.refusal
            self._send(connection, self._store(message), frame.request_id)
        elif isinstance(message, protocol.Subscribe):
            self.readers = [reader for reader in self.readers if reader[0] in self._sockets]
            self.readers.append((connection, frame.request_id))
            self.seen_subscriptions.append(message)
            self._send(connection, protocol.Events(0, b""), frame.request_id)
        elif isinstance(message, protocol.Wait):
            self._wait(connection, frame.request_id, message)
        else:
            body = json.dumps(
                {"status": "ok", "pending": len(self.tasks) - len(self.ends), "workers": [{"ready": True}]}
            )
            self._send(connection, protocol.HealthReply(body), frame.request_id)

    def _store(self, submit: protocol.Submit) -> protocol.Submitted:
        if submit.submission in self.submissions:
            return protocol.Submitted(*self.submissions[submit.submission], True)
        first = len(self.tasks) + 1
        for index, payload in enumerate(submit.payloads):
            spec = submit.specs[submit.spec_of[index] if submit.spec_of else 0]
            self.tasks.append((spec, payload, submit.run_at_us[index] if submit.run_at_us else None))
            if self.run is not None:
                self.end(first + index, self.run(spec.kind, json.loads(payload)))
        self.submissions[submit.submission] = (first, len(submit.payloads))
        return protocol.Submitted(first, len(submit.payloads), False)

    def _wait(self, connection: socket.socket, request: int, wait: protocol.Wait) -> None:
        protocol.check_wait(wait)
        self.seen_waits.append(wait.ranges)
        ids = {task_id for first, last in wait.ranges for task_id in range(first, last + 1)}
        if max(ids) > len(self.tasks):
            raise UnknownTask(f"there is no task {max(ids)}")
        known = [self.ends[task_id] for task_id in sorted(ids) if task_id in self.ends]
        for start in range(0, len(known), 1000):
            self._send(connection, _ended(known[start : start + 1000]), request)
        left = ids - self.ends.keys()
        if left:
            self._waiters.append((connection, request, left))
            self.waiting.release()

    def _send(self, connection: socket.socket, message: protocol.Message, request: int) -> None:
        frame = protocol.pack(message, request)
        with contextlib.suppress(OSError):
            if self.cuts:
                connection.sendall(frame[: self.cuts.pop(0)])
                self._drop(connection)
            else:
                connection.sendall(frame)

    def _drop(self, connection: socket.socket) -> None:
        with self._lock:
            self._sockets.discard(connection)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()


def _ended(rows: list[Row]) -> protocol.Ended:
    return protocol.Ended(*map(list, zip(*rows, strict=True)))


@contextlib.contextmanager
def serving(database: Path, run: Callable[[str, dict[str, Any]], Any] | None = None) -> Iterator[FakeServer]:
    server = FakeServer(database, run)
    try:
        yield server
    finally:
        server.stop()

"""Face: the socket on which clients submit and wait. Checks everything it is sent; answers after COMMIT."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from ringq import protocol
from ringq.admission import Admission
from ringq.clock import Clock
from ringq.config import SOCKET_PATH_BYTES_MAX, Config
from ringq.errors import CannotCreate, ProtocolError, RingqError, ServerStopping, UnknownTask
from ringq.writer import Batch, ReceiptRow

READ_BYTES_MAX = 1 << 20
BACKLOG = 512
SEND_ROWS_MAX = 1000
SWEEP_NS = 5_000_000_000


class Receipts(Protocol):
    """What the server needs of the store, to answer those who wait for tasks that have ended already."""

    next_task_id: int

    def find_receipts(self, ranges: Sequence[tuple[int, int]], limit: int) -> list[tuple[Any, ...]]: ...
    def missing_tasks(self, ranges: Sequence[tuple[int, int]]) -> int | None: ...


class Connection:
    """One client."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.reader = protocol.FrameReader(protocol.REQUESTS)
        self.out = bytearray()


class Server:
    """Accepts connections of the owning user and speaks the protocol. Runs inside the parent's loop."""

    def __init__(
        self, config: Config, selector: selectors.BaseSelector, clock: Clock, store: Receipts, admission: Admission, *,
        submit: Callable[[Batch], None], health: Callable[[], str], say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._config = config
        self._selector = selector
        self._clock = clock
        self._store = store
        self._admission = admission
        self._submit = submit
        self._health = health
        self._say = say
        self._connections: set[Connection] = set()
        self._partial: dict[Connection, int] = {}  # connections in the middle of a frame, since when
        self._waiters: dict[int, list[tuple[Connection, int]]] = {}  # task id -> who waits
        self._uid = os.getuid()
        self._listener: socket.socket | None = None
        self._spare = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self.stopping = False

    # -- start and stop -----------------------------------------------------------------------

    def listen(self, path: Path) -> None:
        """Bind and listen. The runtime directory is ours alone (0700), so a socket found there is stale.

        Raises CannotCreate for a path that is too long or cannot be bound.
        """
        check_socket_path(path)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            listener.bind(str(path))
            path.chmod(0o600)
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            raise CannotCreate(f"cannot listen on {path}: {error.strerror}") from None
        self._listener = listener
        self._selector.register(listener, selectors.EVENT_READ, lambda _: self._accept(listener))

    def stop(self) -> None:
        """Refuse submissions from now on; waiting clients still get their answers."""
        self.stopping = True

    def close(self) -> None:
        """Send what can be sent without waiting and close every connection."""
        for connection in list(self._connections):
            self._flush(connection)
            self._close(connection)
        if self._listener is not None:
            path = Path(self._listener.getsockname())
            self._selector.unregister(self._listener)
            self._listener.close()
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        os.close(self._spare)

    # -- results ------------------------------------------------------------------------------

    def tell(self, receipts: Iterable[ReceiptRow]) -> None:
        """Answer those who wait for tasks that have just been recorded."""
        if not self._waiters:
            return
        told: dict[tuple[Connection, int], list[tuple[Any, ...]]] = {}
        for row in receipts:
            for waiter in self._waiters.pop(row[0], ()):
                told.setdefault(waiter, []).append((row[0], row[4], row[5], row[11], row[12]))
        for (connection, request), rows in told.items():
            self._send_ended(connection, request, rows)

    def expire(self) -> None:
        """Close connections that sent part of a frame and not the rest in time."""
        if self._partial:
            oldest = self._clock.monotonic_ns() - round(self._config.client_body_timeout_s * 1e9)
            for connection in [c for c, since in self._partial.items() if since < oldest]:
                self._close(connection)

    @property
    def next_expiry_ns(self) -> int | None:
        """Nanoseconds until `expire` should look again; None when no frame is incomplete."""
        return SWEEP_NS if self._partial else None

    @property
    def clients(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    # -- reading ------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return
        except OSError:
            self._refuse_one(listener)
            return
        _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid != self._uid or len(self._connections) >= self._config.clients_max:
            sock.close()
            return
        sock.setblocking(False)
        connection = Connection(sock)
        self._connections.add(connection)
        self._selector.register(sock, selectors.EVENT_READ, lambda events: self._on_event(connection, events))

    def _refuse_one(self, listener: socket.socket) -> None:
        """Out of descriptors: use the reserved one to accept and close, else the listener stays readable for ever."""
        os.close(self._spare)
        with contextlib.suppress(OSError):
            listener.accept()[0].close()
        self._spare = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    def _on_event(self, connection: Connection, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._flush(connection)
        if not events & selectors.EVENT_READ or connection not in self._connections:
            return
        try:
            chunk = connection.socket.recv(READ_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            self._close(connection)
            return
        try:
            for frame in connection.reader.feed(chunk):
                self._on_message(connection, frame.request_id, frame.message)
        except ProtocolError as error:
            self._send(connection, 0, protocol.failure_of(error))
            self._close(connection)
            return
        if connection.reader.pending_bytes == 0:
            self._partial.pop(connection, None)
        elif connection in self._connections:
            self._partial.setdefault(connection, self._clock.monotonic_ns())

    def _on_message(self, connection: Connection, request: int, message: object) -> None:
        try:
            if isinstance(message, protocol.Submit):
                self._on_submit(connection, request, message)
            elif isinstance(message, protocol.Wait):
                self._on_wait(connection, request, message)
            else:
                self._send(connection, request, protocol.HealthReply(self._health()))
        except RingqError as error:
            self._send(connection, request, protocol.failure_of(error))

    def _on_submit(self, connection: Connection, request: int, message: protocol.Submit) -> None:
        if self.stopping:
            raise ServerStopping()
        count = len(message.payloads)

        def reply(first_id: int, replayed: bool) -> None:
            self._send(connection, request, protocol.Submitted(first_id, count, replayed))

        def refuse(error: RingqError) -> None:
            self._send(connection, request, protocol.failure_of(error))

        self._submit(self._admission.check(message, reply, refuse))

    def _on_wait(self, connection: Connection, request: int, message: protocol.Wait) -> None:
        """Answer what has ended, in one or more frames, and remember the rest."""
        protocol.check_wait(message)
        missing = self._store.missing_tasks(message.ranges)
        if missing is not None:
            raise UnknownTask(f"there is no task {missing}")
        ended = self._store.find_receipts(message.ranges, protocol.WAIT_IDS_MAX)
        seen = {row[0] for row in ended}
        for first, last in message.ranges:
            for task_id in range(first, last + 1):
                if task_id not in seen:
                    self._waiters.setdefault(task_id, []).append((connection, request))
        self._send_ended(connection, request, ended)

    # -- writing ------------------------------------------------------------------------------

    def _send_ended(self, connection: Connection, request: int, rows: Sequence[tuple[Any, ...]]) -> None:
        for start in range(0, len(rows), SEND_ROWS_MAX):
            ids, statuses, reasons, results, errors = map(list, zip(*rows[start : start + SEND_ROWS_MAX], strict=True))
            self._send(connection, request, protocol.Ended(ids, statuses, reasons, results, errors))

    def _send(self, connection: Connection, request: int, message: Any) -> None:
        if connection not in self._connections:
            return
        connection.out += protocol.pack(message, request)
        if len(connection.out) > self._config.client_buffer_bytes_max:
            self._say("a client does not read its answers; disconnected")
            self._close(connection)
        else:
            self._flush(connection)

    def _flush(self, connection: Connection) -> None:
        if connection not in self._connections:
            return
        try:
            while connection.out:
                sent = connection.socket.send(memoryview(connection.out)[:READ_BYTES_MAX])
                del connection.out[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._close(connection)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.out else 0)
        if self._selector.get_key(connection.socket).events != events:
            self._selector.modify(connection.socket, events, lambda ready: self._on_event(connection, ready))

    def _close(self, connection: Connection) -> None:
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        self._partial.pop(connection, None)
        self._selector.unregister(connection.socket)
        connection.socket.close()
        for task_id in [t for t, waiters in self._waiters.items() if any(w[0] is connection for w in waiters)]:
            rest = [waiter for waiter in self._waiters[task_id] if waiter[0] is not connection]
            if rest:
                self._waiters[task_id] = rest
            else:
                del self._waiters[task_id]


def check_socket_path(path: Path) -> None:
    """Raise CannotCreate when `path` is longer than the kernel allows."""
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise CannotCreate(
            f"the socket path {path} has {len(os.fsencode(path))} bytes, the kernel allows {SOCKET_PATH_BYTES_MAX}: "
            "use a database with a shorter path"
        )

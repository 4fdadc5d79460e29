"""Face: the socket on which clients submit and wait. Checks everything it is sent; answers after COMMIT."""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import socket
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ringq import changes, protocol
from ringq.admission import Admission, submitted
from ringq.bus import Bus
from ringq.clock import Clock
from ringq.config import Config, check_socket_path
from ringq.connection import Connection
from ringq.entries import Batch
from ringq.errors import (
    CannotCreate,
    InvalidSubmission,
    ProtocolError,
    RingqError,
    ServerStopping,
    StorageFailed,
    UnknownTask,
)
from ringq.maps import Maps
from ringq.receipts import ReceiptRow
from ringq.waiters import Receipts, Waiters
from ringq.writer import Change

READ_BYTES_MAX = 1 << 20
BACKLOG = 512
TURN_NS = 4_000_000  # how long clients are served in one turn of the loop
WAITING_IDS_MAX = 200_000  # tasks that one connection may wait for at a time
# Descriptors that are kept for the parent itself, so that clients cannot keep it from replacing a worker.
RESERVED_FDS = 32
RESERVED_FDS_OF_WORKER = 6


class Listener:
    """Accepts connections of the owning user and speaks the protocol. Runs inside the parent's loop."""

    def __init__(
        self, config: Config, selector: selectors.BaseSelector, clock: Clock, store: Receipts, admission: Admission, *,
        submit: Callable[[Batch], None], change: Callable[[Change], None],
        answers: Mapping[type, Callable[[Any], protocol.Message]], say: Callable[[str], None], bus: Bus,
    ) -> None:  # fmt: skip
        self._config = config
        self._selector = selector
        self._clock = clock
        self._store = store
        self._admission = admission
        self._submit = submit
        self._change = change
        self._maps = Maps(store)
        self._answers = answers
        self._bus = bus
        self._say = say
        self._connections: set[Connection] = set()
        self._partial: dict[Connection, int] = {}  # connections in the middle of a frame, since when
        self._received = memoryview(bytearray(READ_BYTES_MAX))  # a new one for each frame would cost 4 us
        self._waiters = Waiters()
        self._uid = os.getuid()
        self._body_timeout_ns = round(config.client_body_timeout_s * 1e9)
        self._listener: socket.socket | None = None
        self._inode = 0  # of the socket's file
        self._until_ns = 0  # when the time of this turn is over
        self._refusing = False
        self.only_answered = self._others = 0  # of this turn, events that asked only; in all, other messages
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
        self._inode = path.stat().st_ino
        self._selector.register(listener, selectors.EVENT_READ, lambda _: self._accept(listener))

    def begin_turn(self) -> None:
        """A turn of the loop begins: clients with many questions must not keep others waiting for more than TURN_NS."""
        self._until_ns = self._clock.monotonic_ns() + TURN_NS
        self.only_answered = 0

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
                if path.stat().st_ino == self._inode:  # else another server listens there now
                    path.unlink()
        if self._spare >= 0:
            os.close(self._spare)

    # -- results ------------------------------------------------------------------------------

    def tell(self, receipts: Iterable[ReceiptRow]) -> None:
        """Answer those who wait for tasks that have just been recorded."""
        for asked, rows in self._waiters.take(receipts).items():
            connection, request = asked.connection, asked.number
            for piece in protocol.pieces(rows):
                if connection.is_full:
                    connection.owed.extend((request, row[0], row[0]) for row in piece)
                else:
                    self._send(connection, request, protocol.ended(piece))

    def expire(self) -> None:
        """Close connections that sent part of a frame and not the rest in time."""
        if self._partial:
            oldest = self._clock.monotonic_ns() - self._body_timeout_ns
            for connection in [c for c, since in self._partial.items() if since <= oldest]:
                self._close(connection)

    @property
    def next_expiry_ns(self) -> int | None:
        """Nanoseconds until `expire` should look again; None when no frame is incomplete."""
        if not self._partial:
            return None
        return max(0, min(self._partial.values()) + self._body_timeout_ns - self._clock.monotonic_ns())

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
        if uid != self._uid or not self._has_room():
            sock.close()
            return
        sock.setblocking(False)
        connection = Connection(sock, self._config.client_buffer_bytes_max)
        self._connections.add(connection)
        self._selector.register(sock, selectors.EVENT_READ, lambda events: self._on_event(connection, events))

    def _has_room(self) -> bool:
        """Whether one more client may connect; the first one that may not is worth a line."""
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        room = descriptors - RESERVED_FDS - RESERVED_FDS_OF_WORKER * (self._config.worker_count + 1)
        full = len(self._connections) >= min(self._config.clients_max, max(1, room))
        if full and not self._refusing:
            self._say(f"{len(self._connections)} clients are connected; others are refused until one leaves")
        self._refusing = full
        return not full

    def _refuse_one(self, listener: socket.socket) -> None:
        """Out of descriptors: use the reserved one to accept and close, else the listener stays readable for ever."""
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
        with contextlib.suppress(OSError):
            listener.accept()[0].close()
        with contextlib.suppress(OSError):
            self._spare = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    def _on_event(self, connection: Connection, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._flush(connection)
        if connection not in self._connections or connection.is_full:
            return
        if events & selectors.EVENT_READ:
            try:
                chunk = self._received[: connection.socket.recv_into(self._received)]
            except BlockingIOError:
                chunk = None
            except OSError:
                chunk = self._received[:0]
            if chunk is not None and not chunk:
                self._close(connection)
                return
            if chunk:
                single = connection.reader.single(chunk)
                # the other goes on where the one before left off
                connection.frames = connection.reader.feed(chunk) if single is None else iter((single,))
        before = self._others
        self._serve(connection)
        self.only_answered += before == self._others and not connection.reader.pending_bytes

    def _serve(self, connection: Connection) -> None:
        """Look up what is owed, then take the next requests, for as long as the client reads its answers.

        When the turn's time is over the rest waits for the next one; each client is given at least one answer.
        """
        was_behind, connection.is_behind, served, is_done = connection.is_behind, False, False, False
        try:
            while not is_done and connection in self._connections and not connection.is_full:
                if connection.owed:
                    self._look_up(connection, *connection.owed.popleft())
                elif (frame := next(connection.frames, None)) is None:
                    is_done = True
                else:
                    served = True
                    self._others += type(frame.message) not in self._answers
                    self._on_message(connection, frame.request_id, frame.message)
                if self._clock.monotonic_ns() >= self._until_ns:
                    break
        except ProtocolError as error:
            self._send(connection, 0, error)
            self._close(connection)
        connection.is_behind = not is_done
        if was_behind or connection.is_behind:
            self._flush(connection)  # asks to be called again, or not
        if not (connection.reader.pending_bytes and connection.is_read and connection in self._connections):
            self._partial.pop(connection, None)
        elif served or connection not in self._partial:
            self._partial[connection] = self._clock.monotonic_ns()

    def _on_message(self, connection: Connection, request: int, message: protocol.Message) -> None:
        try:
            if isinstance(message, protocol.Submit):
                self._on_submit(connection, request, message)
            elif isinstance(message, protocol.Wait):
                self._on_wait(connection, request, message)
            elif isinstance(message, protocol.OpenMap):
                if not self._maps.hold(connection, message, lambda: self._on_message(connection, request, message)):
                    self._send(connection, request, self._maps.open(connection, message))
            elif isinstance(message, protocol.Subscribe):
                self._bus.join(connection, message, self._answer(connection, request), lambda: not connection.out)
            elif (answer := self._answers.get(type(message))) is not None:
                self._send(connection, request, answer(message))
            else:
                self._on_change(connection, request, message)
        except RingqError as error:
            self._send(connection, request, error)
            if isinstance(error, StorageFailed):  # not the client's fault: the server stops
                raise

    def _on_submit(self, connection: Connection, request: int, message: protocol.Submit) -> None:
        if self.stopping:
            raise ServerStopping()
        count, answer = len(message.payloads), self._answer(connection, request)
        batch = self._admission.check(message, lambda *came: answer(submitted(count, *came)), answer)
        self._submit(batch if batch.chunks is None else self._maps.expect(batch))

    def _on_change(self, connection: Connection, request: int, message: protocol.Message) -> None:
        if isinstance(message, protocol.ForgetMap):
            self._maps.check(connection, message.kind, message.key)
        answer = self._answer(connection, request)
        self._change(changes.of(message, self._admission, self._clock.now_us(), answer, answer))

    def _answer(self, connection: Connection, request: int) -> Callable[[protocol.Message | RingqError], None]:
        """How to answer a request after its COMMIT, or refuse it."""
        return partial(self._send, connection, request)

    def _on_wait(self, connection: Connection, request: int, message: protocol.Wait) -> None:
        """Tell what has ended, in one or more frames, and remember the rest."""
        count = protocol.check_wait(message)
        if connection.waiting + count > WAITING_IDS_MAX:
            raise InvalidSubmission(f"a connection may wait for {WAITING_IDS_MAX:,} tasks at a time")
        newest = max((last for _, last in message.ranges), default=0)
        missing = newest if newest >= self._store.stored_below else self._store.missing_tasks(message.ranges)
        if missing is not None:
            raise UnknownTask(f"there is no task {missing}")
        connection.owed.extend((request, first, last) for first, last in message.ranges)

    def _look_up(self, connection: Connection, request: int, first: int, last: int) -> None:
        """Send the first ends of this range that fit a frame and owe the rest; remember what has not ended."""
        ended = self._store.find_receipts([(first, last)], protocol.ENDS_MAX, protocol.ENDS_BYTES_MAX)
        upto = ended[-1][0] if ended else last
        active: Sequence[int] = range(first, upto + 1)
        if ended:
            active = sorted(set(active).difference(row[0] for row in ended))
        if active:
            self._waiters.add(connection, request, active)
        if upto < last:
            connection.owed.appendleft((request, upto + 1, last))
        if ended:
            self._send(connection, request, protocol.ended(ended))

    # -- writing ------------------------------------------------------------------------------

    def _send(self, connection: Connection, request: int, message: protocol.Message | RingqError) -> None:
        if connection in self._connections:
            reply = protocol.failure_of(message) if isinstance(message, RingqError) else message
            connection.out += protocol.pack(reply, request)
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
        # What is owed or behind too: a client may have read everything before anybody looks whether it is still full.
        events = selectors.EVENT_WRITE if connection.out or connection.owed or connection.is_behind else 0
        if connection.is_read:
            events |= selectors.EVENT_READ
        if connection.events != events:
            connection.events = events
            self._selector.modify(connection.socket, events, lambda ready: self._on_event(connection, ready))

    def _close(self, connection: Connection) -> None:
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        self._maps.release(connection)
        self._partial.pop(connection, None)
        self._selector.unregister(connection.socket)
        connection.socket.close()
        self._waiters.forget(connection)
        self._bus.leave(connection)

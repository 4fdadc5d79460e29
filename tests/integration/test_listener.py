"""The listener on a real selector and real sockets: whoever reads its answers is served on, whatever came between."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ringq import protocol
from ringq.admission import Admission
from ringq.clock import ManualClock
from ringq.config import Config
from ringq.entries import Batch
from ringq.listener import TURN_NS, Listener
from ringq.model import Status
from ringq.protocol import Ended, Health, Message, SpecFields, Submit, Submitted, Wait

BUFFER_BYTES = 1000
RESULT = "1" * 2 * BUFFER_BYTES
"""One of these makes a client full that takes a part of it only."""


class Receipts:
    """A store in which tasks 1 to 1000 were submitted, and those in `ended` have ended."""

    stored_below = 1001

    def __init__(self) -> None:
        self.ended: set[int] = set()
        self.clock = ManualClock()
        self.lookup_s = 0.0
        self.result = RESULT

    def find_receipts(self, ranges: Sequence[tuple[int, int]], limit: int, bytes_max: int) -> list[tuple[Any, ...]]:
        self.clock.advance(self.lookup_s)
        ((first, last),) = ranges
        found = [task_id for task_id in range(first, last + 1) if task_id in self.ended]
        return [(task_id, Status.COMPLETED.code, 0, self.result, None) for task_id in found[:limit]]

    def missing_tasks(self, ranges: Sequence[tuple[int, int]]) -> int | None:
        return None

    def find_map(self, kind: str, key: str) -> int | None:
        return None

    def map_chunks(self, number: int, first: int, limit: int) -> list[tuple[int, int, int, bytes]]:
        return []


class Throttle:
    """The server's end of a connection: each `send` takes as many bytes as the test says next, then all of them."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self.takes: list[int] = []

    def send(self, data: memoryview) -> int:
        size = self.takes.pop(0) if self.takes else len(data)
        if size == 0:
            raise BlockingIOError
        return self._socket.send(data[:size])

    def take_a_part(self) -> None:
        """Of the next answer; the rest goes with whatever is tried after it."""
        self.takes = [100, 0]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


class Client:
    """The other end."""

    def __init__(self, listener: Listener) -> None:
        server_end, self._socket = socket.socketpair()
        self._socket.setblocking(False)
        self._reader = protocol.FrameReader(protocol.REPLIES)
        self.throttle = Throttle(server_end)
        listener._accept(self)  # type: ignore[arg-type]

    def accept(self) -> tuple[Throttle, None]:
        """As a socket that listens."""
        return self.throttle, None

    def ask(self, *messages: Message) -> None:
        """All in one write, numbered from 1."""
        self._socket.sendall(b"".join(protocol.pack(message, n) for n, message in enumerate(messages, 1)))

    def answers(self) -> list[tuple[int, Message]]:
        """What has come since the last call."""
        chunks = []
        try:
            while chunk := self._socket.recv(1 << 20):
                chunks.append(chunk)
        except BlockingIOError:
            pass
        return [(frame.request_id, frame.message) for frame in self._reader.feed(b"".join(chunks))]

    def close(self) -> None:
        self._socket.close()


class Desk:
    """A listener, its store, and turns of a loop around it."""

    def __init__(self) -> None:
        self.receipts = Receipts()
        self.batches: list[Batch] = []
        self.clients: list[Client] = []
        self.selector = selectors.DefaultSelector()
        admission = Admission(takes_any=True)
        config = Config(Path("unused"), client_buffer_bytes_max=BUFFER_BYTES)
        unread: Any = SimpleNamespace(leave=lambda _: None)  # nobody reads events
        self.listener = Listener(
            config, self.selector, self.receipts.clock, self.receipts, admission,
            submit=self.batches.append, change=lambda _: None, say=lambda _: None, bus=unread,
            answers={protocol.Health: lambda _: protocol.HealthReply(RESULT)},
        )  # fmt: skip

    def connect(self) -> Client:
        self.clients.append(Client(self.listener))
        return self.clients[-1]

    def turn(self, late_s: float = 0.0) -> int:
        """What the loop does with what is ready now, `late_s` after it began; for how many clients that is."""
        events = self.selector.select(0)
        self.listener.begin_turn()
        self.receipts.clock.advance(late_s)
        for key, mask in events:
            key.data(mask)
        return len(events)

    def run(self) -> None:
        """Until nothing is ready any more."""
        for _ in range(100):
            if not self.turn():
                return
        raise AssertionError("the listener asks for more and more turns")


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.listener.close()
    desk.selector.close()
    for client in desk.clients:
        client.close()


def told(answers: list[tuple[int, Message]]) -> list[int]:
    return [task_id for _, message in answers if isinstance(message, Ended) for task_id in message.task_ids]


def receipt(task_id: int, result: str = RESULT) -> tuple[Any, ...]:
    return (task_id, 9, 1, 1, Status.COMPLETED.code, 0, 5, 7, 0, None, None, result, None)


def test_a_full_client_that_is_owed_more_and_has_read_all_is_looked_up_on(desk: Desk) -> None:
    client = desk.connect()
    desk.receipts.ended = {1, 3, 5}
    client.ask(Wait([(1, 1), (3, 3), (5, 5)]))
    client.throttle.take_a_part()
    desk.turn()  # full after the first; then all of it goes out before anybody looks
    assert told(client.answers()) == [1]
    desk.run()
    assert told(client.answers()) == [3, 5]


def test_a_full_client_whose_next_request_is_here_already_and_has_read_all_is_answered(desk: Desk) -> None:
    client = desk.connect()
    client.ask(Health(), Health(), Health())
    client.throttle.take_a_part()
    desk.turn()
    assert [number for number, _ in client.answers()] == [1]
    desk.run()
    assert [number for number, _ in client.answers()] == [2, 3]


def test_a_full_client_that_is_owed_ends_and_has_read_all_with_another_answer_is_told_them(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "ENDS_BYTES_MAX", len(RESULT))  # a frame for each end
    monkeypatch.setattr(protocol.words, "ENDS_BYTES_MAX", len(RESULT))
    client = desk.connect()
    client.ask(Wait([(1, 2)]), Submit(bytes(16), [SpecFields("a::b")], None, ["{}"], None))
    desk.run()
    client.throttle.take_a_part()
    desk.receipts.ended = {1, 2}
    desk.listener.tell([receipt(1), receipt(2)])
    assert told(client.answers()) == []
    desk.batches[0].reply(77, False)  # all that was held up goes out with this answer
    first = protocol.ended([(1, Status.COMPLETED.code, 0, RESULT, None)])
    assert client.answers() == [(1, first), (2, Submitted(77, 1, False))]
    desk.run()
    assert told(client.answers()) == [2]


def test_a_client_that_was_served_to_the_end_asks_for_nothing(desk: Desk) -> None:
    client = desk.connect()
    desk.receipts.ended = {1, 2, 3}
    client.ask(Wait([(1, 1), (2, 2)]), Health(), Wait([(3, 4)]))
    client.throttle.take_a_part()
    desk.run()
    assert told(client.answers()) == [1, 2, 3]
    assert desk.turn() == 0
    desk.listener.tell([receipt(4)])
    assert told(client.answers()) == [4]
    assert desk.turn() == 0


def test_the_time_of_a_turn_is_shared_by_all_clients_and_each_gets_an_answer(desk: Desk) -> None:
    clients = [desk.connect(), desk.connect()]
    desk.receipts.ended = set(range(1, 1000))
    desk.receipts.result = "1"
    for client in clients:
        client.ask(Wait([(first, first) for first in range(1, 41, 2)]))
    desk.turn(late_s=TURN_NS / 1e9)  # the requests are taken in, no more
    desk.receipts.lookup_s = TURN_NS / 4e9
    counts = [0, 0]
    while max(counts) < 16:
        desk.turn()
        answered = [len(told(client.answers())) for client in clients]
        assert sorted(answered) == [1, 4]  # who is first takes the turn's time, the other one has one answer
        counts = [sum(pair) for pair in zip(counts, answered, strict=True)]
    desk.run()
    assert [counts[n] + len(told(clients[n].answers())) for n in (0, 1)] == [20, 20]


def test_a_turn_that_took_long_before_clients_are_served_still_gives_each_an_answer(desk: Desk) -> None:
    clients = [desk.connect() for _ in range(3)]
    for client in clients:
        client.ask(Health(), Health())
    for _ in range(2):
        assert desk.turn(late_s=10) == 3
        assert [len(client.answers()) for client in clients] == [1, 1, 1]
    desk.run()
    assert [client.answers() for client in clients] == [[], [], []]

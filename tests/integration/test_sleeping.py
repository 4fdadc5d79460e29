"""What the loop wakes for: questions that are answered at once are none of it, everything else is."""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ringq import protocol
from ringq.admission import Admission
from ringq.clock import SystemClock
from ringq.config import Config
from ringq.listener import Listener
from ringq.sleeping import until_needed


class Ring:
    """Has receipts when told so; counts how often somebody went to sleep."""

    def __init__(self) -> None:
        self.has_receipts = False
        self.slept = 0

    def prepare_sleep(self) -> bool:
        self.slept += 1
        return not self.has_receipts

    def awake(self) -> None:
        pass


class Desk:
    """A loop with a listener, an event beside it, and clients."""

    def __init__(self, folder: Path) -> None:
        self.selector = selectors.DefaultSelector()
        self.ring: Any = Ring()
        self.asked = 0
        self.given: list[Any] = []
        nothing: Any = None
        unread: Any = SimpleNamespace(leave=lambda _: None)  # nobody reads events
        self.listener = Listener(
            Config(folder / "t.db"), self.selector, SystemClock(), nothing, Admission(takes_any=True),
            submit=self.given.append, change=self.given.append, say=print, bus=unread,
            answers={protocol.Health: self.answer},
        )  # fmt: skip
        self.listener.listen(folder / "s")
        self.clients = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for client in self.clients:
            client.connect(str(folder / "s"))
        for _ in self.clients:
            for key, mask in self.selector.select(0):
                key.data(mask)
        self.event = os.eventfd(0, os.EFD_NONBLOCK)
        self.selector.register(self.event, selectors.EVENT_READ, lambda _: os.eventfd_read(self.event))

    def answer(self, _: protocol.Health) -> protocol.HealthReply:
        """The first few questions lead to others, so that there is something to do at once again."""
        self.asked += 1
        if self.asked < 5:
            self.ask(self.asked % 2, protocol.Health())
        return protocol.HealthReply("{}")

    def ask(self, client: int, *messages: protocol.Message) -> None:
        self.clients[client].sendall(b"".join(protocol.pack(message, 1) for message in messages))

    def doze(self, timeout_ns: int | None, *, gathering: bool = False) -> int:
        return until_needed(self.selector, self.ring, self.listener, SystemClock(), timeout_ns, gathering=gathering)


@pytest.fixture
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    desk = Desk(tmp_path_factory.mktemp("s"))
    yield desk
    desk.listener.close()
    desk.selector.close()
    os.close(desk.event)
    for client in desk.clients:
        client.close()


SUBMIT = protocol.Submit(bytes(16), [protocol.SpecFields("a::b")], None, ["{}"], None)


def test_questions_are_answered_in_one_sleep_which_ends_in_time(desk: Desk) -> None:
    desk.ask(0, protocol.Health())
    clock = SystemClock()
    before_ns = clock.monotonic_ns()
    desk.doze(30_000_000)
    assert desk.asked == 5
    assert clock.monotonic_ns() - before_ns >= 30_000_000
    assert desk.ring.slept > 1  # each time it looked for receipts


@pytest.mark.parametrize(
    "happen",
    [
        lambda desk: os.eventfd_write(desk.event, 1),
        lambda desk: desk.ask(2, SUBMIT),
        lambda desk: desk.ask(2, protocol.Health(), SUBMIT),
        lambda desk: desk.clients[2].sendall(protocol.pack(SUBMIT, 1)[:-1]),
        lambda desk: desk.clients[2].close(),
    ],
    ids=["something else", "a submission", "a question and a submission", "a part of one", "a client leaves"],
)
def test_anything_else_ends_it(desk: Desk, happen: Callable[[Desk], object]) -> None:
    happen(desk)
    desk.ask(0, protocol.Health())
    before_ns = SystemClock().monotonic_ns()
    desk.doze(5_000_000_000)
    assert SystemClock().monotonic_ns() - before_ns < 4_000_000_000


def test_receipts_end_it_and_whoever_gathers_them_does_not_look(desk: Desk) -> None:
    desk.ring.has_receipts = True
    desk.doze(None)
    desk.ask(0, protocol.Health())
    desk.doze(20_000_000, gathering=True)
    assert (desk.asked, desk.ring.slept) == (5, 1)


def test_no_time_left_is_one_look(desk: Desk) -> None:
    desk.ask(0, protocol.Health())
    desk.doze(0)
    assert desk.asked == 1

"""What a client makes of the ends that a server tells, frame by frame."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from ringq import protocol
from ringq.client.steps import finish
from ringq.client.watch import Watch
from ringq.errors import ProtocolError, UnknownTask
from ringq.kinds import Ended
from ringq.model import Reason, Status

COMPLETED, FAILED = Status.COMPLETED.code, Status.FAILED.code
CRASH = Reason.CRASH.code


class Server:
    """Both a Line and its Link: answers the first Wait with these messages."""

    def __init__(self, *answers: protocol.Message) -> None:
        self.answers = deque(answers)
        self.asked: list[bytes] = []

    async def run(self, talk: Callable[[Any], Any], *_: object, **__: object) -> Any:
        return await talk(self)

    async def send(self, frame: bytes, deadline: float | None) -> None:
        self.asked.append(frame)

    async def receive(self, deadline: float | None) -> protocol.Frame:
        return protocol.Frame(1, self.answers.popleft())


def told(server: Server, *task_ids: int) -> list[Ended]:
    watch = Watch(server, count(1).__next__, task_ids, lambda _: [])  # type: ignore[arg-type]
    ends: list[Ended] = []
    while not watch.is_over:
        ends += finish(watch.part, None)
    return ends


def test_ends_of_all_kinds_in_one_frame() -> None:
    ids, codes = [7, 9, 8], [COMPLETED, FAILED, COMPLETED]
    message = protocol.Ended(ids, codes, [0, CRASH, 0], ["1", None, None], [None, '{"type":"E"}', None])
    assert told(Server(message), 7, 8, 9) == [
        Ended(7, Status.COMPLETED, Reason.NONE, "1", None),
        Ended(9, Status.FAILED, Reason.CRASH, None, {"type": "E"}),
        Ended(8, Status.COMPLETED, Reason.NONE, None, None),
    ]


def test_ends_that_were_not_asked_for_are_left_out() -> None:
    first = protocol.Ended([5, 1], [COMPLETED] * 2, [0, 0], ["5", "1"], [None, None])
    again = protocol.Ended([1, 2], [COMPLETED] * 2, [0, 0], ["1", "2"], [None, None])
    assert [(end.task_id, end.result) for end in told(Server(first, again), 1, 2)] == [(1, "1"), (2, "2")]


@pytest.mark.parametrize(
    "message",
    [
        protocol.Ended([1, 2], [COMPLETED], [0, 0], [None, None], [None, None]),
        protocol.Ended([1], [COMPLETED], [0], [None, None], [None]),
        protocol.Ended([1], [99], [0], [None], [None]),
        protocol.Ended([1], [FAILED], [99], [None], [None]),
        protocol.Ended([1], [FAILED], [0], [None], [""]),
        protocol.Ended([1], [FAILED], [0], [None], ["[]"]),
    ],
)
def test_ends_that_make_no_sense_are_refused(message: protocol.Ended) -> None:
    with pytest.raises(ProtocolError, match="malformed ends of tasks"):
        told(Server(message), 1, 2)


@pytest.mark.parametrize("task_id", [0, -1, 1 << 63])
def test_an_id_that_no_task_can_have_is_named(task_id: int) -> None:
    with pytest.raises(UnknownTask, match=f"no task {task_id}$"):
        told(Server(), 1, task_id)


@pytest.mark.parametrize(
    ("task_ids", "ranges"), [((3, 4, 5), [(3, 5)]), ((5, 3, 4), [(3, 5)]), ((1, 2, 9, 5), [(1, 2), (5, 5), (9, 9)])]
)
def test_ids_that_follow_each_other_are_asked_for_as_one_range(
    task_ids: tuple[int, ...], ranges: list[tuple[int, int]]
) -> None:
    many = len(task_ids)
    server = Server(protocol.Ended(list(task_ids), [COMPLETED] * many, [0] * many, [None] * many, [None] * many))
    assert len(told(server, *task_ids)) == many
    (frame,) = protocol.FrameReader().feed(server.asked[0])
    assert frame.message == protocol.Wait(ranges)

"""Answer: waits for the ends of many tasks, a window of requests at a time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from typing import TypeVar

import msgspec

from ringq import protocol
from ringq.client.line import Line
from ringq.client.link import Link
from ringq.codec import decode_json
from ringq.errors import CannotCreate, ProtocolError, ServerUnavailable, StoreError, UnknownTask, WaitTimeout
from ringq.kinds import Ended
from ringq.model import Reason, Status

T = TypeVar("T")

REQUESTS_AT_ONCE = 8
"""So many Wait requests are open at a time: bounds what the server keeps and sends for one client."""
LEAST_PATIENCE_S = 0.1
"""A timeout below this would not even leave the time to ask."""


class Watch:
    """The tasks somebody waits for, and who has been asked about which."""

    def __init__(
        self,
        line: Line,
        next_request: Callable[[], int],
        task_ids: Iterable[int],
        look_up: Callable[[list[int]], list[Ended]],
    ) -> None:
        """`task_ids`: without repetition; they are watched in this order, some 80,000 at a time.

        `look_up` tells, while no server does, which of them have ended. Raises UnknownTask.
        """
        ids = list(task_ids)
        for task_id in ids:
            if not 0 < task_id < 1 << 63:
                raise UnknownTask(f"there is no task {task_id}")
        self._line = line
        self._next_request = next_request
        self._look_up = look_up
        self._has_looked = self._are_stored = False
        self._left = len(ids)
        self._first_id = ids[0] if ids else 0
        self._count = len(ids)
        self._unasked = deque(batches(ids))
        self._asked: dict[int, set[int]] = {}
        self._requests_max = REQUESTS_AT_ONCE
        self._asked_on: Link | None = None
        self._deadline: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether all have been told of."""
        return not self._left

    async def part(self, timeout: float | None) -> list[Ended]:
        """The next ends that arrive. `timeout`: seconds, for all parts, from the first call on.

        Raises WaitTimeout, ServerUnavailable.
        """
        if self._deadline is None and timeout is not None:
            self._deadline = time.monotonic() + max(timeout, LEAST_PATIENCE_S)
        deadline = self._deadline
        try:
            part = await self._line.run(
                lambda link: self._next_part(link, deadline), deadline, absent=self._ended_alone
            )
        except TimeoutError:
            raise WaitTimeout(self._complaint(timeout)) from None
        except ServerUnavailable as error:
            if not self._are_stored:
                raise
            raise ServerUnavailable(f"{error}; {self._whereabouts()}") from error
        self._left -= len(part)
        return part

    def _complaint(self, timeout: float | None) -> str:
        if self._count == 1:
            return f"task {self._first_id} did not end within {timeout:g} s; it is still on its way"
        return f"{self._left:,} of {self._count:,} tasks did not end within {timeout:g} s; they go on"

    def _whereabouts(self) -> str:
        if self._count == 1:
            return f"task {self._first_id} is stored and runs when one serves"
        return f"{self._left:,} of {self._count:,} tasks are stored and run when one serves"

    async def _ended_alone(self) -> list[Ended] | None:
        """What the database tells, once while nobody listens: nothing ends then. None if nothing has ended."""
        if self._has_looked:
            return None
        self._has_looked = True
        self._ask_again()
        ids = list(chain.from_iterable(self._unasked))
        try:
            part = await self._line.exchange.elsewhere(partial(self._look_up, ids))
        except (StoreError, CannotCreate):
            return None
        self._are_stored = True
        told = {end.task_id for end in part}
        left = [task_id for task_id in ids if task_id not in told]
        self._unasked = deque(batches(left))
        return part or None

    def _ask_again(self) -> None:
        """After a restart nobody remembers what was asked before."""
        self._unasked.extendleft(sorted(ids) for ids in self._asked.values())
        self._asked.clear()
        self._asked_on = None

    async def _next_part(self, link: Link, deadline: float | None) -> list[Ended]:
        await self._ask(link, deadline)
        return self._take(await link.receive(deadline))

    async def _ask(self, link: Link, deadline: float | None = None) -> None:
        if link is not self._asked_on:
            self._ask_again()
            self._asked_on = link
            self._has_looked = False
        while self._unasked and len(self._asked) < self._requests_max:
            ids = self._unasked[0]
            request = self._next_request()
            await link.send(protocol.pack(protocol.Wait(protocol.id_ranges(sorted(ids))), request), deadline)
            self._asked[request] = set(ids)
            self._unasked.popleft()

    def _take(self, frame: protocol.Frame) -> list[Ended]:
        message = frame.message
        if isinstance(message, protocol.Failure):
            raise protocol.error_of(message)
        asked = self._asked.get(frame.request_id)
        if not isinstance(message, protocol.Ended) or asked is None:
            raise ProtocolError(f"expected the ends of tasks, got {type(message).__name__}")
        try:
            part = _ends(message)
        except (ValueError, KeyError) as error:
            raise ProtocolError(f"malformed ends of tasks: {error}") from None
        if not asked.issuperset(message.task_ids):
            part = [end for end in part if end.task_id in asked]
        asked.difference_update(message.task_ids)
        if not asked:
            del self._asked[frame.request_id]
        return part


def batches(ids: list[int]) -> Iterator[list[int]]:
    """The ids as so many Wait requests take them."""
    size = protocol.WAIT_IDS_MAX
    return (ids[start : start + size] for start in range(0, len(ids), size))


def ended(task_id: int, status: int, reason: int, result: str | None, error: str | None) -> Ended:
    """The end of a task from its codes and JSON texts. Raises ValueError, KeyError."""
    return Ended(task_id, Status.of(status), Reason.of(reason), result, _details(error))


def _ends(message: protocol.Ended) -> list[Ended]:
    """As `ended`, column by column: for a thousand ends that takes a third of the time."""
    columns = msgspec.structs.astuple(message)
    if len(set(map(len, columns))) > 1:
        raise ValueError("the columns are not of one length")
    if len(message.task_ids) == 1:
        return [ended(*(column[0] for column in columns))]
    statuses, reasons = _words(Status.of, message.statuses), _words(Reason.of, message.reasons)
    return list(map(Ended, message.task_ids, statuses, reasons, message.results, map(_details, message.errors)))


def _words(of: Callable[[int], T], codes: list[int]) -> Iterator[T]:
    word_of = {code: of(code) for code in set(codes)}
    return map(word_of.__getitem__, codes)


def _details(error: str | None) -> dict[str, object] | None:
    return None if error is None else decode_json(error, dict[str, object])

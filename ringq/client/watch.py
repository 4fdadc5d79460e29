"""Answer: waits for the ends of many tasks, a window of requests at a time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from ringq import protocol
from ringq.client.line import Line
from ringq.client.link import Link
from ringq.codec import decode_json
from ringq.errors import ProtocolError, UnknownTask, WaitTimeout
from ringq.kinds import Ended
from ringq.model import Reason, Status

REQUESTS_AT_ONCE = 8
"""So many Wait requests are open at a time: bounds what the server keeps and sends for one client."""
LEAST_PATIENCE_S = 0.1
"""A timeout below this would not even leave the time to ask."""


class Watch:
    """The tasks somebody waits for, and who has been asked about which."""

    def __init__(self, line: Line, next_request: Callable[[], int], task_ids: Iterable[int]) -> None:
        """`task_ids`: without repetition; they are watched in this order, some 80,000 at a time. Raises UnknownTask."""
        ids = list(task_ids)
        size = protocol.WAIT_IDS_MAX
        for task_id in ids:
            if not 0 < task_id < 1 << 63:
                raise UnknownTask(f"there is no task {task_id}")
        self._line = line
        self._next_request = next_request
        self._left = len(ids)
        self._first_id = ids[0] if ids else 0
        self._count = len(ids)
        self._unasked = deque(ids[start : start + size] for start in range(0, len(ids), size))
        self._asked: dict[int, set[int]] = {}
        self._asked_on: Link | None = None

    def ends(self, timeout: float | None) -> Iterator[list[Ended]]:
        """The ends as they arrive, in parts. Raises WaitTimeout when `timeout` seconds are over."""
        deadline = None if timeout is None else time.monotonic() + max(timeout, LEAST_PATIENCE_S)
        while self._left:
            try:
                part = self._line.run(lambda link: self._next_part(link, deadline), deadline)
            except TimeoutError:
                raise WaitTimeout(self._complaint(timeout)) from None
            self._left -= len(part)
            yield part

    def _complaint(self, timeout: float | None) -> str:
        if self._count == 1:
            return f"task {self._first_id} did not end within {timeout:g} s; it is still on its way"
        return f"{self._left:,} of {self._count:,} tasks did not end within {timeout:g} s; they go on"

    def _next_part(self, link: Link, deadline: float | None) -> list[Ended]:
        if link is not self._asked_on:  # after a restart nobody remembers what was asked before
            self._unasked.extendleft(sorted(ids) for ids in self._asked.values())
            self._asked.clear()
            self._asked_on = link
        while self._unasked and len(self._asked) < REQUESTS_AT_ONCE:
            ids = self._unasked[0]
            request = self._next_request()
            link.send(protocol.pack(protocol.Wait(protocol.id_ranges(sorted(ids))), request), deadline)
            self._asked[request] = set(ids)
            self._unasked.popleft()
        return self._take(link.receive(deadline))

    def _take(self, frame: protocol.Frame) -> list[Ended]:
        message = frame.message
        if isinstance(message, protocol.Failure):
            raise protocol.error_of(message)
        asked = self._asked.get(frame.request_id)
        if not isinstance(message, protocol.Ended) or asked is None:
            raise ProtocolError(f"expected the ends of tasks, got {type(message).__name__}")
        columns = zip(message.task_ids, message.statuses, message.reasons, message.results, message.errors, strict=True)
        try:
            part = [_ended(*row) for row in columns if row[0] in asked]
        except (ValueError, KeyError) as error:
            raise ProtocolError(f"malformed ends of tasks: {error}") from None
        asked.difference_update(message.task_ids)
        if not asked:
            del self._asked[frame.request_id]
        return part


def _ended(task_id: int, status: int, reason: int, result: str | None, error: str | None) -> Ended:
    details = None if error is None else decode_json(error, dict[str, object])
    return Ended(task_id, Status.of(status), Reason.of(reason), result, details)

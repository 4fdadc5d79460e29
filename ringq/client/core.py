"""Submit and answer: what a client does, whoever waits for it: store, ask, tell of ends. All of it are coroutines."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from ringq import protocol
from ringq.client.callbacks import Callbacks
from ringq.client.cancel import Cancelling
from ringq.client.controls import Controls
from ringq.client.dead import DeadLetters
from ringq.client.line import RECONNECT_S, Exchange, Line
from ringq.client.link import Link
from ringq.client.queues import Queues
from ringq.client.rates import RateLimits
from ringq.client.schedules import Schedules
from ringq.client.steps import Verb
from ringq.client.watch import Watch
from ringq.client.why import Reasons
from ringq.codec import decode_json
from ringq.errors import InvalidOption, ProtocolError, ServerStopping
from ringq.kinds import Ended, Stored, Submission
from ringq.loading import refuse_while_importing

if TYPE_CHECKING:
    from ringq.query import Query

R = TypeVar("R")
H = TypeVar("H", bound=Stored[Any])
Reply = TypeVar("Reply", bound=protocol.Message)

REPLY_TIMEOUT_S: Final = 60.0
"""How long a server that is connected may take to answer a submission."""


class Core(DeadLetters, Queues, Controls, Cancelling, Schedules, RateLimits, Reasons, Callbacks):
    """What both clients are."""

    def __init__(self, exchange: Exchange) -> None:
        """Opens nothing yet."""
        self.database = exchange.database
        self._requests = itertools.count(1)
        self._exchange = exchange
        self._questions: Query | None = None

    def __repr__(self) -> str:
        return f"<client of {self.database}>"

    @Verb
    async def health(self) -> dict[str, Any]:
        """How the server is. Raises ServerUnavailable, ClientClosed."""
        return await self._health()

    # -- what the verbs need ----------------------------------------------------------------------

    def _line(self) -> Line:
        """The way to the server for one conversation; whoever has it releases it when all has been answered."""
        raise NotImplementedError

    def _own_line(self) -> Line:
        """A way of its own, for what would hold up others or be held up by them. Whoever has it closes it."""
        return Line(self._exchange)

    def _note_alone(self, alone: bool) -> None:
        """Whether the latest submission of who asks found no server."""

    def _query_of(self) -> Query:
        if self._questions is None:
            from ringq.query import Query  # noqa: PLC0415 - the store is not loaded by those who only submit

            self._questions = Query(self.database)
        return self._questions

    async def _look(self, question: Callable[[Query], R]) -> R:
        """The answer of the database itself."""
        return await self._exchange.elsewhere(lambda: question(self._query_of()))

    async def _health(self) -> dict[str, Any]:
        return decode_json((await self._reply(protocol.Health(), protocol.HealthReply)).body, dict[str, Any])

    async def _store(self, message: protocol.Submit, batch: Sequence[Submission[Any]]) -> protocol.Submitted:
        """Have a batch stored, by the server or, where none runs, from here; however often it takes, with one id."""
        refuse_while_importing()

        def commit() -> protocol.Submitted:
            from ringq.client import alone  # noqa: PLC0415 - the store is not loaded by those whom a server serves

            reports = {one.kind: one.report for one in batch if one.report is not None}
            reply = alone.commit(self.database, message, reports.values())
            self._note_alone(True)
            return reply

        self._note_alone(False)
        reply = await self._reply(message, protocol.Submitted, commit)
        if reply.count != len(batch):
            raise ProtocolError(f"sent {len(batch)} tasks, the server counted {reply.count}")
        return reply

    async def _reply(
        self, message: protocol.Message, expected: type[Reply], alone: Callable[[], Reply] | None = None
    ) -> Reply:
        """The server's reply; or that of `alone`, where nobody listens."""
        request = next(self._requests)
        frame = protocol.pack(message, request)
        line = self._line()

        async def talk(link: Link) -> protocol.Message:
            deadline = time.monotonic() + REPLY_TIMEOUT_S
            await link.send(frame, deadline)
            answer = await link.receive(deadline)
            if isinstance(answer.message, protocol.Failure):
                error = protocol.error_of(answer.message)
                if isinstance(error, ServerStopping):
                    raise error
            elif answer.request_id != request:
                raise ProtocolError(f"expected the answer to request {request}, got {answer.request_id}")
            return answer.message

        async def absent() -> Reply | None:
            return None if alone is None else await self._exchange.elsewhere(alone)

        try:
            reply = await line.run(talk, absent=absent, stranger=0.0 if alone is None else RECONNECT_S)
        except TimeoutError as error:
            raise self._exchange.unavailable(error, sent=True) from None
        if isinstance(reply, protocol.Failure):
            line.release()
            raise protocol.error_of(reply)
        if not isinstance(reply, expected):
            line.close()
            raise ProtocolError(f"expected {expected.__name__}, got {type(reply).__name__}")
        line.release()
        return reply


class Ends(Generic[H]):
    """The handles of tasks as they end, in parts. Each has been told of its end."""

    def __init__(
        self, line: Line, next_request: Callable[[], int], database: Path, handles: list[H], timeout: float | None
    ) -> None:
        """`timeout`: seconds in all, from the first part on. Raises UnknownTask."""
        unknown = [handle for handle in handles if handle._ended is None]
        self._known: list[H] = []
        if len(unknown) < len(handles):
            asked = set(map(id, unknown))  # a handle is looked at once: another thread may tell it
            self._known = [handle for handle in handles if id(handle) not in asked]
        self._waiting = {handle.id: handle for handle in unknown}
        self._twins: dict[int, list[H]] = {}
        if len(self._waiting) < len(unknown):  # some tasks were given more than once
            for handle in unknown:
                self._twins.setdefault(handle.id, []).append(handle)
        self._line = line
        self._timeout = timeout
        self._watch = Watch(line, next_request, self._waiting, lambda task_ids: _ended_alone(database, task_ids))

    async def part(self) -> list[H]:
        """The next; empty after the last. Raises WaitTimeout, UnknownTask, ServerUnavailable, ClientClosed."""
        told, self._known = self._known, []
        while not told and not self._watch.is_over:
            ends = await self._watch.part(self._timeout)
            if self._twins:
                part = [end for end in ends for _ in self._twins[end.task_id]]
                told = [twin for end in ends for twin in self._twins[end.task_id]]
            else:
                part, told = ends, [self._waiting[end.task_id] for end in ends]
            for handle, end in zip(told, part, strict=True):
                handle._ended = end
        if not told:
            self._line.release()
        return told


def _ended_alone(database: Path, task_ids: list[int]) -> list[Ended]:
    from ringq.client import alone  # noqa: PLC0415 - the store is not loaded by those whom a server serves

    return alone.ends(database, task_ids)


def task_id_of(task_id: int) -> int:
    """An id of which a handle is made. Raises InvalidOption for what can be none."""
    if not isinstance(task_id, int) or isinstance(task_id, bool):
        raise InvalidOption(f"task: expected a handle or the id of a task, got {task_id!r}")
    return task_id

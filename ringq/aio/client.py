"""Submit and answer: what an application holds in its hand inside an event loop - submit, wait, ask, all awaited."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from datetime import timedelta
from itertools import repeat
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, Self, TypeVar, Unpack, overload

from ringq.aio.events import Watching
from ringq.aio.exchange import Exchange, SharedLine
from ringq.aio.maps import Maps
from ringq.aio.submitted import BatchOutcome, Submitted
from ringq.client import running
from ringq.client.changing import Asking
from ringq.client.client import database_of, submission_of
from ringq.client.controls import DomainVerbs
from ringq.client.core import Core, Ends, task_id_of
from ringq.client.line import Line
from ringq.client.outcome import tell
from ringq.client.steps import Awaiting
from ringq.kinds import Ended, Stored, Submission, Task, options
from ringq.kinds.batch import columns, single
from ringq.kinds.options import SubmissionOptions
from ringq.progress import TaskProgress

if TYPE_CHECKING:
    from ringq.query import Query

P = ParamSpec("P")
R = TypeVar("R")

SHARED_IDS_MAX: Final = 100
"""Who waits for more tasks has a connection of its own: their results would be in the way of other answers."""

_results = attrgetter("_results")
_spec = attrgetter("_spec")
_kind = attrgetter("kind")
_known_end = attrgetter("_ended")


def connect(database: str | os.PathLike[str], *, reconnect: float | timedelta | None = None) -> Client:
    """A client for one event loop, of the server that owns `database`, or of the database itself while none runs.

    Use it as `async with ringq.aio.connect("my.db") as client:`, or call `await client.close()`. Nothing is opened
    before it is used, then by the running loop, which it belongs to until that is closed. Its tasks share one
    connection: many may submit, wait and ask at a time, and one that is cancelled disturbs no other. What was sent by
    then may be done all the same.

    Otherwise it does what a client of `ringq.connect` does, with the same options and errors. It is not bound:
    `task.submit(...)` blocks, so it does not mean this client; submit `task.submission(...)`.

    Raises InvalidOption for what is no path of a file, or one too long for a socket, or `reconnect` out of range.
    """
    seconds = None if reconnect is None else options.span_s("reconnect", reconnect, 0.0)
    return Client(database_of(database), seconds)


class Running:
    """What goes on now, for who awaits."""

    @overload
    async def progress(self: Asking) -> list[TaskProgress]: ...
    @overload
    async def progress(self: Asking, task: Stored[Any] | int) -> TaskProgress | None: ...
    async def progress(self: Asking, task: Stored[Any] | int | None = None) -> list[TaskProgress] | TaskProgress | None:
        """As `ringq.Client.progress`."""
        found = await running.told(self, 0 if task is None else options.task_id_of(task))
        return found if task is None else next(iter(found), None)


class Client(Awaiting, Core, Maps, Running, Watching):
    """A connection to the server of one database, for one event loop. Made by `ringq.aio.connect`.

    Attributes: `database`, its path.
    """

    _exchange: Exchange

    def __init__(self, database: Path, reconnect_s: float | None) -> None:
        """Opens nothing yet. Raises InvalidOption for a path too long for a socket."""
        super().__init__(Exchange(database, reconnect_s))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; who waits gets ClientClosed. May be called again."""
        self._exchange.close()
        await self._exchange.closed_wires()

    # -- submit -----------------------------------------------------------------------------------

    @overload
    async def submit(self, kind: Submission[R]) -> Submitted[R]: ...
    @overload
    async def submit(
        self, kind: Task[..., R], payload: Mapping[str, Any] | None = None, **given: Unpack[SubmissionOptions]
    ) -> Submitted[R]: ...
    @overload
    async def submit(
        self, kind: str, payload: Mapping[str, Any] | str | None = None, **given: Unpack[SubmissionOptions]
    ) -> Submitted[Any]: ...
    async def submit(
        self, kind: Submission[Any] | str | Task[..., Any], payload: Mapping[str, Any] | str | None = None,
        **given: Unpack[SubmissionOptions],
    ) -> Submitted[Any]:  # fmt: skip
        """Store one task; returns after it is on disk. As `ringq.Client.submit`.

        Or give a submission, as `submit(thumbnail.submission("a.jpg"))`, whose arguments a type checker checks. While
        no server runs, the commit is made in a thread. Who is cancelled does not know whether the task was stored.
        """
        submission = kind if isinstance(kind, Submission) else submission_of(kind, payload, given)
        reply = await self._store(single(submission), (submission,))
        handle: Submitted[Any] = Submitted(reply.first_id, submission.kind, self, submission.results)
        tell([handle], reply, None)
        return handle

    async def submit_many(self, submissions: Iterable[Submission[R]]) -> BatchOutcome[R]:
        """Store many tasks in one transaction, all or none. As `ringq.Client.submit_many`."""
        batch = submissions if isinstance(submissions, (list, tuple)) else list(submissions)
        if not batch:
            return BatchOutcome()
        message = columns(batch)
        reply = await self._store(message, batch)
        ids = range(reply.first_id, reply.first_id + len(batch))
        kinds = map(_kind, map(_spec, batch))
        handles: BatchOutcome[R] = BatchOutcome(map(Submitted, ids, kinds, repeat(self), map(_results, batch)))
        tell(handles, reply, message.spec_of)
        return handles

    # -- wait -------------------------------------------------------------------------------------

    def handle(self, task_id: int) -> Submitted[Any]:
        """A handle of a task of which only the id is known. As `ringq.Client.handle`: asks nobody."""
        return Submitted(task_id_of(task_id), "", self)

    async def wait_many(
        self, tasks: Iterable[Submitted[Any] | int], timeout: float | timedelta | None = None
    ) -> list[Ended]:
        """How these tasks ended, in their order, once all have. As `ringq.Client.wait_many`."""
        handles = self._handles(tasks)
        seconds = options.seconds_of("timeout", timeout)
        line = self._line() if len(handles) <= SHARED_IDS_MAX else self._own_line()
        try:
            ends = self._ends(line, handles, seconds)
            while await ends.part():
                pass
        finally:
            line.close()
        return list(map(_known_end, handles))

    @overload
    def as_completed(
        self, tasks: Iterable[Submitted[R]], timeout: float | timedelta | None = None
    ) -> AsyncGenerator[Submitted[R], None]: ...
    @overload
    def as_completed(
        self, tasks: Iterable[Submitted[Any] | int], timeout: float | timedelta | None = None
    ) -> AsyncGenerator[Submitted[Any], None]: ...
    def as_completed(
        self, tasks: Iterable[Submitted[Any] | int], timeout: float | timedelta | None = None
    ) -> AsyncGenerator[Submitted[Any], None]:
        """The handles of these tasks, for `async for`, each as soon as it has ended. As `ringq.Client.as_completed`.

        It has a connection of its own, which is closed with the generator: at its end, by `aclose`, or by the loop
        when nobody has it any more.
        """
        handles, seconds = self._handles(tasks), options.seconds_of("timeout", timeout)

        async def completed() -> AsyncGenerator[Submitted[Any], None]:
            line = self._own_line()
            try:
                ends = self._ends(line, handles, seconds)
                while part := await ends.part():
                    for handle in part:
                        yield handle
            finally:
                line.close()

        return completed()

    # -- ask --------------------------------------------------------------------------------------

    async def query(self, question: Callable[Concatenate[Query, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Ask the database itself, in a thread: `await client.query(ringq.Query.task, 17)`.

        Returns and raises what that method of a Query does; answered also while nothing runs.
        """
        return await asyncio.to_thread(question, self._query_of(), *args, **kwargs)

    def domain(self, name: str) -> DomainControl:
        """What can be said of one domain. Raises InvalidOption for what is no name."""
        return DomainControl(self, name)

    # -- inside -----------------------------------------------------------------------------------

    def _handles(self, tasks: Iterable[Submitted[Any] | int]) -> list[Submitted[Any]]:
        return [task if isinstance(task, Submitted) else self.handle(task) for task in tasks]

    def _line(self) -> Line:
        return SharedLine(self._exchange)

    def _ends(self, line: Line, handles: list[Submitted[R]], timeout: float | None) -> Ends[Submitted[R]]:
        return Ends(line, self._requests.__next__, self.database, handles, timeout)


class DomainControl(Awaiting, DomainVerbs):
    """One domain of a client in an event loop, as `ringq.client.controls.DomainControl`."""

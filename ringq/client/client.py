"""Submit and answer: what an application holds in its hand - submit, wait, ask."""

from __future__ import annotations

import itertools
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import repeat
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, overload

from ringq import protocol
from ringq.client.line import RECONNECT_S, Exchange, Line
from ringq.client.link import Link
from ringq.client.maps import Maps
from ringq.client.watch import Watch
from ringq.codec import decode_json
from ringq.config import BATCH_TASKS_MAX
from ringq.errors import BatchTooLarge, InvalidOption, InvalidPayload, InvalidSubmission, ProtocolError, ServerStopping
from ringq.kinds import Ended, Submission, Submitted, Task, binding
from ringq.loading import refuse_while_importing

if TYPE_CHECKING:
    from ringq.query import Query

R = TypeVar("R")
Reply = TypeVar("Reply", bound=protocol.Message)

REPLY_TIMEOUT_S: Final = 60.0
"""How long a server that is connected may take to answer a submission."""

_clients: Final[weakref.WeakSet[Client]] = weakref.WeakSet()  # in a forked child they let go of the parent's links
_spec = attrgetter("_spec")
_payload = attrgetter("_payload")
_run_at_us = attrgetter("_run_at_us")
_results = attrgetter("_results")
_kind = attrgetter("kind")


def connect(database: str | os.PathLike[str], *, reconnect: float | timedelta | None = None) -> Client:
    """A client of the server that owns `database`, and of the database itself while no server runs.

    Use it as a context manager, then `task.submit(...)` inside the block means this client; or keep it and call
    `close()`. Nothing is opened before it is used. It may be shared by threads, each of which has a connection
    of its own, and goes on working in a forked child.

    Submitting works whether or not a server runs. If none does, the client owns the database for a moment, commits
    the task itself and lets go; a server started later runs it. A missing database is created in its directory.

    `reconnect`: seconds (or a timedelta), 0 or more, for which the server may be away, as in a restart, or others may
    own the database, before ServerUnavailable is raised. None: 10 s; but who waits for a task or asks for `health`
    is told at once if no server was reached before. A request cut off by a restart is sent again with the same id, or
    committed with it, so nothing is submitted twice.

    Raises InvalidOption for a path too long for a socket, or `reconnect` out of range.
    """
    seconds = reconnect.total_seconds() if isinstance(reconnect, timedelta) else reconnect
    if seconds is not None and not (isinstance(seconds, (int, float)) and 0 <= seconds < math.inf):
        raise InvalidOption(f"reconnect: expected seconds from 0 on, got {reconnect!r}")
    return Client(Path(database), seconds)


class Client(Maps):
    """A connection to the server of one database. Made by `ringq.connect`.

    Attributes: `database`, its path; `stored_alone`, whether the latest submission found no server and waits in the
    database for one to start.
    """

    def __init__(self, database: Path, reconnect_s: float | None) -> None:
        """Opens nothing yet. Raises InvalidOption for a path too long for a socket."""
        self.database = Path(os.path.abspath(database))  # also after a chdir
        self._requests = itertools.count(1)
        self._query: Query | None = None
        self._exchange = Exchange(self.database, reconnect_s)
        self._lines = threading.local()
        self.stored_alone = False
        _clients.add(self)

    def __enter__(self) -> Self:
        binding.bind(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        binding.unbind(self)
        self.close()

    def __repr__(self) -> str:
        return f"<client of {self.database}>"

    def close(self) -> None:
        """Close the connections of all threads; one that waits gets ClientClosed. May be called again."""
        self._exchange.close()
        self._lines = threading.local()  # lets go of every thread's link

    # -- submit -----------------------------------------------------------------------------------

    @overload
    def submit(
        self,
        kind: Task[..., R],
        payload: Mapping[str, Any] | None = None,
        *,
        queue: str | None = None,
        priority: int | None = None,
        group: str | None = None,
        run_timeout: float | timedelta | None = None,
        run_at: datetime | None = None,
        run_after: float | timedelta | None = None,
    ) -> Submitted[R]: ...
    @overload
    def submit(
        self,
        kind: str,
        payload: Mapping[str, Any] | str | None = None,
        *,
        queue: str | None = None,
        priority: int | None = None,
        group: str | None = None,
        run_timeout: float | timedelta | None = None,
        run_at: datetime | None = None,
        run_after: float | timedelta | None = None,
    ) -> Submitted[Any]: ...
    def submit(
        self, kind: str | Task[..., Any], payload: Mapping[str, Any] | str | None = None, **options: Any
    ) -> Submitted[Any]:
        """Store one task; returns after it is on disk.

        `kind`: the task, whose hints check the arguments here; or `domain::name` as text, without importing the
        handler: then the worker checks them. `payload`: the arguments by name (for a kind as text, also as JSON
        text). The options are those of `Submission`.

        Raises InvalidOption, InvalidPayload, PayloadTooLarge, UnknownKind or InvalidSubmission if the task is
        refused, and what `submit_many` raises.
        """
        submission: Submission[Any]
        if isinstance(kind, Task):
            if isinstance(payload, str):
                raise InvalidPayload(f"{kind.kind}: JSON text goes with a kind as text, got the task itself")
            submission = kind.options(**options).submission_of(payload or {})
        else:
            submission = Submission(kind, payload, **options)
        return self.submit_many([submission])[0]

    def submit_many(self, submissions: Iterable[Submission[R]]) -> list[Submitted[R]]:
        """Store many tasks in one transaction, all or none; returns after they are on disk.

        At most 200,000 tasks and 256 MiB. Handles come in the order of the submissions. An empty batch asks
        nobody.

        Raises BatchTooLarge, and InvalidSubmission or its heirs if one of them is refused: then none is stored.
        Raises StorageFull, ClientClosed; ServerUnavailable and ServerStopping if it takes longer than `reconnect`
        until a server, or nobody, owns the database. If ServerUnavailable says that it is not known whether the batch
        was stored, the connection was lost after sending and not found again.

        While no server runs: a kind without a task object must be one that the last server had, if there was one.
        Raises CannotCreate, NotADatabase, NewerSchema, StoreBusy or StoreError if the database cannot be written. One
        of an older ringq is upgraded by servers only, since that copies the whole file.
        """
        batch = submissions if isinstance(submissions, (list, tuple)) else list(submissions)
        if not batch:
            return []
        reply = self._store(batch)
        if reply.count != len(batch):
            raise ProtocolError(f"sent {len(batch)} tasks, the server counted {reply.count}")
        specs = map(_spec, batch)
        ids = range(reply.first_id, reply.first_id + reply.count)
        return list(map(Submitted, ids, map(_kind, specs), repeat(self), map(_results, batch)))

    # -- wait -------------------------------------------------------------------------------------

    def handle(self, task_id: int) -> Submitted[Any]:
        """A handle of a task of which only the id is known. Asks nobody: waiting tells whether it exists.

        Raises InvalidOption for what can be no id.
        """
        if not isinstance(task_id, int) or isinstance(task_id, bool):
            raise InvalidOption(f"task: expected a handle or the id of a task, got {task_id!r}")
        return Submitted(task_id, "", self)

    def wait_many(self, tasks: Iterable[Submitted[Any] | int], timeout: float | None = None) -> list[Ended]:
        """How these tasks ended, in their order, once all have.

        `tasks`: handles or ids. `timeout`: seconds in all, None for as long as it takes; ends that arrive in time
        are remembered by the handles.

        While no server runs, the database tells of those that have ended. Raises WaitTimeout, UnknownTask if a
        task's record was deleted, ServerUnavailable if the server is away for longer than `reconnect`, ClientClosed.
        """
        handles = [task if isinstance(task, Submitted) else self.handle(task) for task in tasks]
        for _ in self._ends(self._line(), handles, timeout):
            pass
        known = {handle.id: handle.known_end for handle in handles if handle.known_end is not None}
        return [known[handle.id] for handle in handles]

    def as_completed(self, tasks: Iterable[Submitted[R]], timeout: float | None = None) -> Iterator[Submitted[R]]:
        """The handles of these tasks, each as soon as it has ended, in whatever way.

        `timeout`: seconds in all, None for as long as it takes. Of more than 80,000 tasks the first ones are
        watched first. It has a connection of its own, which is closed with the iterator: other calls may be made
        in between.

        Raises what `wait_many` raises, while iterating.
        """
        line = Line(self._exchange)
        try:
            yield from self._ends(line, list(tasks), timeout)
        finally:
            line.close()

    # -- ask --------------------------------------------------------------------------------------

    def health(self) -> dict[str, Any]:
        """How the server is. Raises ServerUnavailable, ClientClosed."""
        return decode_json(self._ask(protocol.Health(), protocol.HealthReply).body, dict[str, Any])

    @property
    def query(self) -> Query:
        """Questions to the database itself; answered also while nothing runs."""
        if self._query is None:
            from ringq.query import Query  # noqa: PLC0415 - the store is not loaded by those who only submit

            self._query = Query(self.database)
        return self._query

    # -- inside -----------------------------------------------------------------------------------

    def _line(self) -> Line:
        line: Line | None = getattr(self._lines, "line", None)
        if line is None:
            line = self._lines.line = Line(self._exchange)
        return line

    def _store(self, batch: Sequence[Submission[Any]]) -> protocol.Submitted:
        """Have a batch stored, by the server or, where none runs, from here; however often it takes, with one id."""
        refuse_while_importing()
        message = _columns(batch)

        def commit() -> protocol.Submitted:
            from ringq.client import alone  # noqa: PLC0415 - the store is not loaded by those whom a server serves

            reports = {one.kind: one.report for one in batch if one.report is not None}
            reply = alone.commit(self.database, message, reports.values())
            self.stored_alone = True
            return reply

        self.stored_alone = False
        return self._ask(message, protocol.Submitted, commit)

    def _ask(self, message: protocol.Message, expected: type[Reply], alone: Callable[[], Reply] | None = None) -> Reply:
        """The server's reply; or that of `alone`, where nobody listens."""
        request = next(self._requests)
        frame = protocol.pack(message, request)
        line = self._line()

        def talk(link: Link) -> protocol.Message:
            deadline = time.monotonic() + REPLY_TIMEOUT_S
            link.send(frame, deadline)
            answer = link.receive(deadline)
            if isinstance(answer.message, protocol.Failure):
                error = protocol.error_of(answer.message)
                if isinstance(error, ServerStopping):
                    raise error
            elif answer.request_id != request:
                raise ProtocolError(f"expected the answer to request {request}, got {answer.request_id}")
            return answer.message

        try:
            reply = line.run(talk, absent=alone, stranger=0.0 if alone is None else RECONNECT_S)
        except TimeoutError as error:
            raise self._exchange.unavailable(error, sent=True) from None
        if isinstance(reply, protocol.Failure):
            raise protocol.error_of(reply)
        if not isinstance(reply, expected):
            line.close()
            raise ProtocolError(f"expected {expected.__name__}, got {type(reply).__name__}")
        return reply

    def _ended_alone(self, task_ids: list[int]) -> list[Ended]:
        from ringq.client import alone  # noqa: PLC0415 - as above

        return alone.ends(self.database, task_ids)

    def _ends(self, line: Line, handles: list[Submitted[R]], timeout: float | None) -> Iterator[Submitted[R]]:
        waiting: dict[int, list[Submitted[R]]] = {}
        for handle in handles:
            if handle.known_end is None:
                waiting.setdefault(handle.id, []).append(handle)
            else:
                yield handle
        watch = Watch(line, self._requests.__next__, waiting, self._ended_alone)
        for part in watch.ends(timeout):
            for ended in part:
                told = waiting.pop(ended.task_id)
                for handle in told:
                    handle.remember(ended)
                yield from told


def _leave_to_parent() -> None:
    for client in list(_clients):
        client._exchange.leave_to_parent()


os.register_at_fork(after_in_child=_leave_to_parent)


def _columns(batch: Sequence[Submission[Any]]) -> protocol.Submit:
    """A batch column by column, equal specs once."""
    if len(batch) > BATCH_TASKS_MAX:
        raise BatchTooLarge(f"the batch has {len(batch):,} tasks, the limit is {BATCH_TASKS_MAX:,}: send several")
    try:
        specs = list(map(_spec, batch))
        payloads = list(map(_payload, batch))
        run_at = list(map(_run_at_us, batch))
    except AttributeError:
        strange = next(one for one in batch if not isinstance(one, Submission))
        raise InvalidSubmission(f"expected what task.submission(...) returns, got {strange!r}") from None
    number_of: dict[int, int] = {}  # by identity first: submissions of one `options(...)` share their spec
    numbers: dict[protocol.SpecFields, int] = {}
    keys = list(map(id, specs))
    for key, spec in dict(zip(keys, specs, strict=True)).items():
        number_of[key] = numbers.setdefault(spec, len(numbers))
    return protocol.Submit(
        submission=protocol.submission_id(),
        specs=list(numbers),
        spec_of=None if len(numbers) == 1 else [number_of[key] for key in keys],
        payloads=payloads,
        run_at_us=None if run_at.count(None) == len(run_at) else run_at,
    )

"""Submit and answer: what an application holds in its hand - submit, wait, ask."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import timedelta
from itertools import repeat
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, Unpack, overload

from ringq import protocol
from ringq.client.callbacks import Callbacks
from ringq.client.cancel import Cancelling
from ringq.client.controls import Controls
from ringq.client.dead import DeadLetters
from ringq.client.events import Watching
from ringq.client.line import RECONNECT_S, Exchange, Line
from ringq.client.link import Link
from ringq.client.maps import Maps
from ringq.client.outcome import BatchOutcome, tell
from ringq.client.queues import Queues
from ringq.client.rates import RateLimits
from ringq.client.schedules import Schedules
from ringq.client.watch import Watch
from ringq.codec import decode_json
from ringq.errors import InvalidOption, ProtocolError, ServerStopping
from ringq.kinds import Ended, Submission, Submitted, Task, binding, options
from ringq.kinds.batch import columns, keys
from ringq.kinds.members import dependencies
from ringq.kinds.options import SubmissionOptions
from ringq.loading import refuse_while_importing

if TYPE_CHECKING:
    from ringq.query import Query

R = TypeVar("R")
Reply = TypeVar("Reply", bound=protocol.Message)

REPLY_TIMEOUT_S: Final = 60.0  # in which a server that is connected answers a submission

_results = attrgetter("_results")
_spec = attrgetter("_spec")
_kind = attrgetter("kind")
_known_end = attrgetter("_ended")


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

    Raises InvalidOption for what is no path of a file, or one too long for a socket, or `reconnect` out of range.
    """
    seconds = None if reconnect is None else options.span_s("reconnect", reconnect, 0.0)
    return Client(_path(database), seconds)


class Client(Maps, DeadLetters, Queues, Controls, Cancelling, Schedules, RateLimits, Callbacks, Watching):
    """A connection to the server of one database, whose path is `database`. Made by `ringq.connect`."""

    def __init__(self, database: Path, reconnect_s: float | None) -> None:
        """Opens nothing yet. Raises InvalidOption for a path too long for a socket."""
        self.database = Path(os.path.abspath(database))  # also after a chdir
        self._requests = itertools.count(1)
        self._query: Query | None = None
        self._exchange = Exchange(self.database, reconnect_s)
        self._lines = threading.local()
        self._stored = threading.local()

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

    @property
    def stored_alone(self) -> bool:
        """Whether this thread's latest submission found no server and waits in the database for one to start."""
        return getattr(self._stored, "alone", False)

    # -- submit -----------------------------------------------------------------------------------

    @overload
    def submit(
        self, kind: Task[..., R], payload: Mapping[str, Any] | None = None, **given: Unpack[SubmissionOptions]
    ) -> Submitted[R]: ...
    @overload
    def submit(
        self, kind: str, payload: Mapping[str, Any] | str | None = None, **given: Unpack[SubmissionOptions]
    ) -> Submitted[Any]: ...
    def submit(
        self, kind: str | Task[..., Any], payload: Mapping[str, Any] | str | None = None,
        **given: Unpack[SubmissionOptions],
    ) -> Submitted[Any]:  # fmt: skip
        """Store one task; returns after it is on disk.

        `kind`: the task, whose hints check the arguments here; or `domain::name` as text, without importing the
        handler: then the worker checks them. `payload`: the arguments by name (for a kind as text, also as JSON
        text). The options are those of `Submission`.

        Raises InvalidOption, InvalidPayload, PayloadTooLarge, UnknownKind or InvalidSubmission if the task is
        refused, and what `submit_many` raises.
        """
        if given:
            options.check_names("submit", given, SubmissionOptions.__annotations__)
        submission: Submission[Any]
        if isinstance(kind, Task):
            source = kind.options(**given) if given else kind
            submission = source.submission_of({} if payload is None else payload)
        else:
            submission = Submission(kind, payload, **given)
        return self._submit_one(submission)

    def submit_many(self, submissions: Iterable[Submission[R]]) -> BatchOutcome[R]:
        """Store many tasks in one transaction, all or none; returns after they are on disk.

        At most 200,000 tasks and 256 MiB. Handles come in the order of the submissions. An empty batch asks
        nobody. Of several with one key the last one counts; the others are its duplicates.

        Raises BatchTooLarge, and InvalidSubmission or its heirs if one of them is refused: then none is stored.
        Raises StorageFull, ClientClosed; ServerUnavailable and ServerStopping if it takes longer than `reconnect`
        until a server, or nobody, owns the database. If ServerUnavailable says that it is not known whether the batch
        was stored, the connection was lost after sending and not found again.

        While no server runs: a kind without a task object must be one that the last server had, if there was one.
        Raises CannotCreate, NotADatabase, NewerSchema, StoreBusy or StoreError if the database cannot be written. One
        of an older ringq is upgraded by servers only, since that copies the whole file.
        """
        batch = submissions if isinstance(submissions, (list, tuple)) else list(submissions)
        return self._submit_batch(batch) if batch else BatchOutcome()

    # -- wait -------------------------------------------------------------------------------------

    def handle(self, task_id: int) -> Submitted[Any]:
        """A handle of a task of which only the id is known. Asks nobody: waiting tells whether it exists.

        Raises InvalidOption for what can be no id.
        """
        if not isinstance(task_id, int) or isinstance(task_id, bool):
            raise InvalidOption(f"task: expected a handle or the id of a task, got {task_id!r}")
        return Submitted(task_id, "", self)

    def wait_many(self, tasks: Iterable[Submitted[Any] | int], timeout: float | timedelta | None = None) -> list[Ended]:
        """How these tasks ended, in their order, once all have.

        `tasks`: handles or ids. `timeout`: seconds or timedelta in all, None for as long as it takes; ends that arrive
        in time are remembered by the handles.

        While no server runs, the database tells of those that have ended. Raises WaitTimeout, UnknownTask if a
        task's record was deleted, ServerUnavailable if the server is away for longer than `reconnect`, ClientClosed,
        InvalidOption.
        """
        handles = self._handles(tasks)
        for _ in self._ends(self._line(), handles, options.seconds_of("timeout", timeout)):
            pass
        return list(map(_known_end, handles))

    @overload
    def as_completed(
        self, tasks: Iterable[Submitted[R]], timeout: float | timedelta | None = None
    ) -> Iterator[Submitted[R]]: ...
    @overload
    def as_completed(
        self, tasks: Iterable[Submitted[Any] | int], timeout: float | timedelta | None = None
    ) -> Iterator[Submitted[Any]]: ...
    def as_completed(
        self, tasks: Iterable[Submitted[Any] | int], timeout: float | timedelta | None = None
    ) -> Iterator[Submitted[Any]]:
        """The handles of these tasks, given as handles or ids, each as soon as it has ended, in whatever way.

        `timeout`: seconds or timedelta in all, from the first on, None for as long as it takes. Of more than 80,000
        tasks the first ones are watched first. It has a connection of its own, which is closed with the iterator: other
        calls may be made in between.

        Raises InvalidOption at once; while iterating what `wait_many` raises.
        """
        handles, seconds = self._handles(tasks), options.seconds_of("timeout", timeout)

        def completed() -> Iterator[Submitted[Any]]:
            with closing(Line(self._exchange)) as line:
                for part in self._ends(line, handles, seconds):
                    yield from part

        return completed()

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

    def _handles(self, tasks: Iterable[Submitted[Any] | int]) -> list[Submitted[Any]]:
        return [task if isinstance(task, Submitted) else self.handle(task) for task in tasks]

    def _line(self) -> Line:
        line: Line | None = getattr(self._lines, "line", None)
        if line is None:
            line = self._lines.line = Line(self._exchange)
        return line

    def _submit_one(self, submission: Submission[R]) -> Submitted[R]:
        """As `submit_many` of it alone, in half the time."""
        run_at_us = submission._run_at_us
        message = protocol.Submit(
            protocol.submission_id(), [submission._spec], None, [submission._payload],
            None if run_at_us is None else [run_at_us],
        )  # fmt: skip
        if submission._once is not None:
            message.keys, message.on_duplicate = keys([submission._once])
        if submission._waits is not None:
            message.depends_on, message.on_dependency_failure = dependencies([submission], [submission._waits])
        reply = self._store(message, (submission,))
        handle: Submitted[R] = Submitted(reply.first_id, submission._spec.kind, self, submission._results)
        tell([handle], reply, None)
        return handle

    def _submit_batch(self, batch: Sequence[Submission[R]], parent: tuple[int, int] | None = None) -> BatchOutcome[R]:
        """As `submit_many`; `parent`: the task whose children these become, and the lease of its attempt."""
        message = columns(batch)
        message.parent = parent
        reply = self._store(message, batch)
        ids = range(reply.first_id, reply.first_id + len(batch))
        kinds = map(_kind, map(_spec, batch))
        handles: BatchOutcome[R] = BatchOutcome(map(Submitted, ids, kinds, repeat(self), map(_results, batch)))
        tell(handles, reply, message.spec_of)
        return handles

    def _store(self, message: protocol.Submit, batch: Sequence[Submission[Any]]) -> protocol.Submitted:
        """Have a batch stored, by the server or, where none runs, from here; however often it takes, with one id."""
        refuse_while_importing()

        def commit() -> protocol.Submitted:
            from ringq.client import alone  # noqa: PLC0415 - the store is not loaded by those whom a server serves

            reports = {one.kind: one.report for one in batch if one.report is not None}
            reply = alone.commit(self.database, message, reports.values())
            self._stored.alone = True
            return reply

        self._stored.alone = False
        reply = self._ask(message, protocol.Submitted, commit)
        if reply.count != len(batch):
            raise ProtocolError(f"sent {len(batch)} tasks, the server counted {reply.count}")
        return reply

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

    def _ends(self, line: Line, handles: list[Submitted[R]], timeout: float | None) -> Iterator[list[Submitted[R]]]:
        """The handles in parts, as they have been told of their ends."""
        unknown = [handle for handle in handles if handle._ended is None]
        if len(unknown) < len(handles):
            asked = set(map(id, unknown))  # a handle is looked at once: another thread may tell it
            yield [handle for handle in handles if id(handle) not in asked]
        waiting = {handle.id: handle for handle in unknown}
        twins: dict[int, list[Submitted[R]]] = {}
        if len(waiting) < len(unknown):  # some tasks were given more than once
            for handle in unknown:
                twins.setdefault(handle.id, []).append(handle)
        watch = Watch(line, self._requests.__next__, waiting, self._ended_alone)
        for ends in watch.ends(timeout):
            if twins:
                part = [end for end in ends for _ in twins[end.task_id]]
                told = [twin for end in ends for twin in twins[end.task_id]]
            else:
                part, told = ends, [waiting[end.task_id] for end in ends]
            for handle, end in zip(told, part, strict=True):
                handle._ended = end
            yield told


def _path(database: object) -> Path:
    path = os.fspath(database) if isinstance(database, (str, os.PathLike)) else None
    if not isinstance(path, str) or not path or "\0" in path or not os.path.basename(os.path.abspath(path)):
        raise InvalidOption(f"database: expected the path of a file, got {database!r}")
    return Path(path)

"""Submit and answer: what an application holds in its hand - submit, wait, ask."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import timedelta
from itertools import repeat
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, overload

from ringq import protocol
from ringq.client.controls import DomainControl
from ringq.client.core import Core, Ends, task_id_of
from ringq.client.events import Watching
from ringq.client.line import Exchange, Line
from ringq.client.maps import Maps
from ringq.client.outcome import BatchOutcome, tell
from ringq.client.running import Running
from ringq.client.steps import Blocking, finish
from ringq.errors import InvalidOption
from ringq.kinds import Ended, Submission, Submitted, Task, binding, options
from ringq.kinds.batch import columns, single
from ringq.kinds.options import SubmissionOptions

if TYPE_CHECKING:
    from ringq.query import Query

R = TypeVar("R")
Reply = TypeVar("Reply", bound=protocol.Message)

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
    return Client(database_of(database), seconds)


class Client(Blocking, Core, Maps, Running, Watching):
    """A connection to the server of one database. Made by `ringq.connect`.

    Attributes: `database`, its path.
    """

    def __init__(self, database: Path, reconnect_s: float | None) -> None:
        """Opens nothing yet. Raises InvalidOption for a path too long for a socket."""
        super().__init__(Exchange(database, reconnect_s))
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
        return self._submit_one(submission_of(kind, payload, given))

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
        return Submitted(task_id_of(task_id), "", self)

    def wait_many(self, tasks: Iterable[Submitted[Any] | int], timeout: float | timedelta | None = None) -> list[Ended]:
        """How these tasks ended, in their order, once all have.

        `tasks`: handles or ids. `timeout`: seconds or timedelta in all, None for as long as it takes; ends that arrive
        in time are remembered by the handles.

        While no server runs, the database tells of those that have ended. Raises WaitTimeout, UnknownTask if a
        task's record was deleted, ServerUnavailable if the server is away for longer than `reconnect`, ClientClosed,
        InvalidOption.
        """
        handles = self._handles(tasks)
        ends = self._ends(self._line(), handles, options.seconds_of("timeout", timeout))
        while finish(ends.part):
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
            with closing(self._own_line()) as line:
                ends = self._ends(line, handles, seconds)
                while part := finish(ends.part):
                    yield from part

        return completed()

    # -- ask --------------------------------------------------------------------------------------

    @property
    def query(self) -> Query:
        """Questions to the database itself; answered also while nothing runs."""
        return self._query_of()

    def domain(self, name: str) -> DomainControl:
        """What can be said of one domain. Raises InvalidOption for what is no name."""
        return DomainControl(self, name)

    # -- inside -----------------------------------------------------------------------------------

    def _handles(self, tasks: Iterable[Submitted[Any] | int]) -> list[Submitted[Any]]:
        return [task if isinstance(task, Submitted) else self.handle(task) for task in tasks]

    def _line(self) -> Line:
        line: Line | None = getattr(self._lines, "line", None)
        if line is None:
            line = self._lines.line = Line(self._exchange)
        return line

    def _note_alone(self, alone: bool) -> None:
        self._stored.alone = alone

    def _submit_one(self, submission: Submission[R]) -> Submitted[R]:
        """As `submit_many` of it alone, in half the time."""
        reply = finish(self._store, single(submission), (submission,))
        handle: Submitted[R] = Submitted(reply.first_id, submission._spec.kind, self, submission._results)
        tell([handle], reply, None)
        return handle

    def _ask(self, message: protocol.Message, expected: type[Reply]) -> Reply:
        """The server's reply to a message for which no verb stands here."""
        return finish(self._reply, message, expected)

    def _submit_batch(self, batch: Sequence[Submission[R]], parent: tuple[int, int] | None = None) -> BatchOutcome[R]:
        """As `submit_many`; `parent`: the task whose children these become, and the lease of its attempt."""
        message = columns(batch)
        message.parent = parent
        reply = finish(self._store, message, batch)
        ids = range(reply.first_id, reply.first_id + len(batch))
        kinds = map(_kind, map(_spec, batch))
        handles: BatchOutcome[R] = BatchOutcome(map(Submitted, ids, kinds, repeat(self), map(_results, batch)))
        tell(handles, reply, message.spec_of)
        return handles

    def _ends(self, line: Line, handles: list[Submitted[R]], timeout: float | None) -> Ends[Submitted[R]]:
        return Ends(line, self._requests.__next__, self.database, handles, timeout)


def database_of(database: object) -> Path:
    """The path of a database, absolute: also after a chdir. Raises InvalidOption for what is no path of a file."""
    path = os.fspath(database) if isinstance(database, (str, os.PathLike)) else None
    if not isinstance(path, str) or not path or "\0" in path or not os.path.basename(os.path.abspath(path)):
        raise InvalidOption(f"database: expected the path of a file, got {database!r}")
    return Path(os.path.abspath(path))


def submission_of(
    kind: str | Task[..., Any], payload: Mapping[str, Any] | str | None, given: SubmissionOptions
) -> Submission[Any]:
    """What `submit` was asked to store. Raises InvalidOption, InvalidPayload, PayloadTooLarge."""
    if given:
        options.check_names("submit", given, SubmissionOptions.__annotations__)
    if isinstance(kind, Task):
        source = kind.options(**given) if given else kind
        return source.submission_of({} if payload is None else payload)
    return Submission(kind, payload, **given)

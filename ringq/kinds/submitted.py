"""Answer: the handle of a submitted task, and how it ended."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Generic, Protocol, TypeVar, cast

import msgspec

from ringq.codec import ResultCodec, decode_json
from ringq.errors import TaskCancelled, TaskDead, TaskFailed, TaskTimedOut
from ringq.model import Cancellation, Outcome, Reason, Status
from ringq.progress import TaskProgress

R_co = TypeVar("R_co", covariant=True)


# As a handle below, not tracked by the garbage collector: `error` is plain JSON.
class Ended(msgspec.Struct, frozen=True, gc=False):
    """How a task ended.

    Attributes: `task_id`; `status`, always a terminal one; `reason`; `result`, the JSON text of a completed
    task's result; `error`, the recorded details of any other.
    """

    task_id: int
    status: Status
    reason: Reason
    result: str | None = None
    error: dict[str, Any] | None = None


class MapCall(msgspec.Struct, Generic[R_co], frozen=True, gc=False):
    """How one call of a map ended.

    Attributes: `index`, its place among the inputs; `result`, what the handler returned; `error`, the exception if
    the call failed: then `result` is None.
    """

    index: int
    result: R_co | None = None
    error: Exception | None = None


class Waiter(Protocol):
    """What a handle needs of its client."""

    def wait_many(self, tasks: Iterable[Submitted[Any]], timeout: float | timedelta | None = None) -> list[Ended]:
        """How these tasks ended, in order, once all have."""

    def cancel(self, *tasks: Submitted[Any] | int) -> list[Cancellation]:
        """Cancel these tasks: what became of each."""

    def progress(self, task: Submitted[Any] | int) -> TaskProgress | None:
        """How far a task is, if it runs."""


# Not tracked by the garbage collector: it would walk a million handles again and again; none is in a cycle.
class Stored(msgspec.Struct, Generic[R_co], eq=False, gc=False):
    """A task that is stored, whoever waits for it.

    Attributes: `id`, the task's id; `kind`, as in `media::thumbnail` (empty if only the id was known); `outcome`, what
    became of the submission: unless it was inserted, requeued or superseded another one, `id` is that of the task that
    has its key; `replaced_id`, the task that was superseded, None if none was; `group_paused`, whether it waits
    because its group was paused when it was stored.
    """

    id: int
    kind: str
    _client: Any
    _results: ResultCodec | None = None
    _ended: Ended | None = None
    outcome: Outcome = Outcome.INSERTED
    replaced_id: int | None = None
    group_paused: bool = False

    @property
    def known_end(self) -> Ended | None:
        """How the task ended, if this handle has been told; asks nobody."""
        return self._ended

    def __repr__(self) -> str:
        state = f", {self._ended.status.value}" if self._ended else ""
        return f"Submitted({self.kind or 'task'}, id={self.id}{state})"

    def _result_of(self, ended: Ended) -> R_co:
        """What its end gives to who asked for the result. Raises TaskFailed, or an heir of it; InvalidResult."""
        if ended.status is not Status.COMPLETED:
            raise failure_of(self.kind, ended)
        if ended.result is None:
            return cast(R_co, None)
        if self._results is None:
            return cast(R_co, decode_json(ended.result, object))
        return cast(R_co, self._results.decode(ended.result))


class Submitted(Stored[R_co], Generic[R_co], eq=False, gc=False):
    """A task that is stored: the handle to ask for its end.

    Attributes: as `Stored` says.
    """

    def wait(self, timeout: float | timedelta | None = None) -> Ended:
        """How the task ended, whatever that is; waits for it.

        `timeout`: seconds or timedelta, None for as long as it takes. Raises WaitTimeout; the task goes on. Raises
        UnknownTask if its record was deleted, ServerUnavailable if no server answers.
        """
        if self._ended is None:
            client: Waiter = self._client
            self._ended = client.wait_many([self], timeout)[0]
        return self._ended

    def result(self, timeout: float | timedelta | None = None) -> R_co:
        """The handler's result; waits for it.

        `timeout`: seconds or timedelta, None for as long as it takes.

        Raises TaskFailed, or its heirs TaskTimedOut, TaskDead and TaskCancelled, if the task ended without a
        result: the handler's traceback is a note on the exception. Raises InvalidResult if the stored result
        does not fit the handler's return hint any more, and everything `wait` raises.
        """
        return self._result_of(self.wait(timeout))

    def cancel(self) -> Cancellation:
        """Cancel the task: `outcome` says whether it has ended with that, runs and was asked to, or had ended before.

        Asks the server, or the database where none runs; see `Client.cancel`, also for what it raises.
        """
        client: Waiter = self._client
        return client.cancel(self)[0]

    def progress(self) -> TaskProgress | None:
        """How far the task is; None if it does not run now. See `Client.progress`, also for what it raises."""
        client: Waiter = self._client
        return client.progress(self)


_HOW = {
    Status.DEAD_LETTER: "is a dead letter",
    Status.CANCELLED: "was cancelled",
    Status.SUPERSEDED: "was superseded",
    Status.EXPIRED: "expired",
    Status.DEPENDENCY_FAILED: "depends on a task that failed",
}


def failure_of(kind: str, ended: Ended, index: int | None = None) -> TaskFailed:
    """The exception that tells of an end without a result; `index`, if it is of one call of a map, its place there."""
    error = ended.error or {}
    error_class: type[TaskFailed] = TaskFailed
    if ended.status is Status.CANCELLED:
        error_class = TaskCancelled
    elif ended.status is Status.FAILED and ended.reason in (Reason.RUN_TIMEOUT, Reason.TOTAL_TIMEOUT):
        error_class = TaskTimedOut
    elif ended.status is Status.DEAD_LETTER:
        error_class = TaskDead
    name = f"task {ended.task_id}" if index is None else f"call {index} in task {ended.task_id}"
    name = f"{name} ({kind})" if kind else name
    how = _HOW.get(ended.status, "failed")
    why = ": ".join(str(error[key]) for key in ("type", "message") if error.get(key))
    message = f"{name} {how}: {why or ended.reason.value or 'no details'}"
    failure = error_class(
        message, task_id=ended.task_id, status=ended.status.value, reason=ended.reason.value, error=error,
        index=index,
    )  # fmt: skip
    if error.get("traceback"):
        failure.add_note(f"In the worker:\n{error['traceback']}")
    return failure

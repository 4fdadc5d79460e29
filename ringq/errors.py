"""Values: every error ringq raises. A class's docstring is its default message."""

from __future__ import annotations

import inspect
from datetime import timedelta
from typing import Any, Final

SPAN_S_MAX: Final = 366 * 24 * 3600.0  # of whatever has a length of time


class RingqError(Exception):
    """Something went wrong in ringq."""

    def __init__(self, message: str | None = None, *args: Any) -> None:
        super().__init__(message or inspect.getdoc(type(self)) or type(self).__name__, *args)

    def __reduce__(self) -> tuple[Any, ...]:
        # Python would call the class with `args` alone, which is not how a TaskFailed is made: a pool of processes that
        # cannot read an exception waits for ever.
        return _revived, (type(self), self.args), vars(self)


def _revived(cls: type[RingqError], args: tuple[Any, ...]) -> RingqError:
    error = cls.__new__(cls, *args)
    error.args = args
    return error


# -- what was asked for is wrong: nothing was written ---------------------------------------------


class InvalidOption(RingqError, ValueError):
    """An option has a value that makes no sense."""


class InvalidKind(RingqError, ValueError):
    """A handler cannot be registered as it stands."""


class InvalidSubmission(RingqError, ValueError):
    """A submission was refused; nothing of its batch was written."""


class UnknownKind(InvalidSubmission):
    """No handler of that kind is registered."""


class UnknownDomain(InvalidSubmission):
    """No kind of that domain is registered."""


class InvalidPayload(InvalidSubmission):
    """The arguments do not fit the handler, or are not JSON."""


class InvalidResult(RingqError, ValueError):
    """The handler's result does not fit its return hint, is not JSON, or is too large."""


class InvalidCheckpoint(RingqError, ValueError):
    """What shall be kept for the next attempt is not JSON, or is too large."""


class PayloadTooLarge(InvalidSubmission):
    """The encoded arguments are larger than the limit."""


class BatchTooLarge(InvalidSubmission):
    """The batch has more tasks or bytes than one submission may have."""


class InvalidDependency(InvalidSubmission):
    """A task cannot depend on that one: there is none, it is the task itself, or a member of another batch."""


class DependencyFailed(InvalidSubmission):
    """What the task shall depend on has ended, and has not completed."""


class CyclicDependency(InvalidSubmission):
    """Tasks would wait for each other for ever."""


class NoParent(InvalidSubmission):
    """The task has no parent, so it can have no siblings."""


class StaleAttempt(InvalidSubmission):
    """The attempt that asks has ended: another one has its place."""


class MapInUse(InvalidSubmission):
    """Another program is mapping with this key."""


class MapMismatch(InvalidSubmission):
    """The key of a map was used for other inputs."""


class KeyInUse(RingqError, ValueError):
    """Another task that has not ended has the key."""


class UnknownTask(RingqError, LookupError):
    """There is no task with that id."""


class UnknownCallback(RingqError, LookupError):
    """No task waits for that token: it was resolved, its time was over, or there never was one."""


class NotDead(RingqError, ValueError):
    """The task is no dead letter."""


class UnknownSchedule(RingqError, LookupError):
    """There is no schedule of that name."""


class InvalidSchedule(RingqError, ValueError):
    """The schedule cannot be changed in this way."""


class UnknownScope(RingqError, LookupError):
    """Nobody has set a rate for that scope."""


class BurstExceeded(RingqError, ValueError):
    """More permits at once than the burst of their rate: they would never be there."""


class InvalidConfig(RingqError, ValueError):
    """A setting is unknown or out of range."""


class AppImportError(RingqError):
    """The application could not be imported."""


class StateFailed(RingqError):
    """The initialiser of a state raised; its exception is the cause of this one."""


class UnknownState(RingqError, LookupError):
    """No state of the type that was asked for is declared, or several are."""


# -- the server or its database -------------------------------------------------------------------


class NotBound(RingqError):
    """No client is bound: open one with `with ringq.connect("my.db"):` or set RINGQ_DB=my.db."""


class ClientClosed(RingqError):
    """This client was closed: wait inside the `with` block, or open another one with `ringq.connect`."""


class ServerUnavailable(RingqError, ConnectionError):
    """No server answers for this database: start one with `ringq serve`."""


class ServerStopping(RingqError):
    """The server is shutting down and takes no more submissions."""


class ProtocolError(RingqError):
    """The other side sent something that is not the ringq protocol."""


class StoreError(RingqError):
    """The database cannot be used."""


class NotADatabase(StoreError):
    """The file is not a ringq database."""


class NewerSchema(StoreError):
    """The database was written by a newer ringq; upgrade ringq to open it."""


class AlreadyServed(StoreError):
    """Another server owns this database."""


class StoreBusy(StoreError):
    """Another program keeps the database locked; nothing was written, and trying again later is safe."""


class StorageFull(StoreError):
    """The disk is full; nothing was written."""


class StorageFailed(StoreError):
    """The disk failed; the server stops rather than guess what was written."""


class CannotCreate(RingqError):
    """A file, directory, socket or shared memory segment could not be created."""


class CannotStart(RingqError):
    """The server cannot start any worker."""


# -- how a task ended -----------------------------------------------------------------------------


class TaskFailed(RingqError):
    """The task ended without a result.

    Attributes: `task_id`; `status` and `reason` as in the task's record; `error`, the recorded details
    (exception type, message and traceback text, or signal, exit code, last stack and output); `index`, the place
    among the inputs of the map that the call belongs to, None for a task of its own.
    """

    def __init__(
        self, message: str, *, task_id: int, status: str, reason: str, error: dict[str, Any] | None = None,
        index: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.task_id = task_id
        self.index = index
        self.status = status
        self.reason = reason
        self.error = error or {}


class TaskCancelled(TaskFailed):
    """The task was cancelled."""


class TaskTimedOut(TaskFailed):
    """The task ran longer than its run time limit, or than the time that was left for all of it."""


class TaskDead(TaskFailed):
    """The task is a dead letter: it killed too many workers, or its retries are used up."""


class WaitTimeout(RingqError, TimeoutError):
    """The task did not end within the time one was willing to wait; it is still on its way."""


class RateTimeout(RingqError, TimeoutError):
    """The rate lets nothing pass within the time one was willing to wait."""


# -- raised by handlers: what shall become of their task --------------------------------------------


class Permanent(RingqError):
    """Trying again would not help: the task fails, however many retries it has left."""


class RetryLater(RingqError):
    """The attempt failed and shall be made again; counts as one of the task's retries.

    `after`: seconds, 0 or more, or a timedelta to wait instead of what the task's retry policy says. A task that has no
    policy of its own is retried three times.
    """

    def __init__(self, message: str | None = None, *, after: float | timedelta | None = None) -> None:
        super().__init__(message or "the handler asked to be called again later")
        self.after_s = None if after is None else span_s("after", after)


class Snooze(RingqError):
    """Not now: the attempt is given back, and made again `after` seconds, 0 or more, or a timedelta. Not a failure."""

    def __init__(self, after: float | timedelta, message: str | None = None) -> None:
        super().__init__(message or "the handler asked to be called again later")
        self.after_s = span_s("after", after)


class Throttled(RingqError):
    """What the handler uses has asked for a break: no task of its queue starts for a while. Not a failure.

    How long is said of the queue (`ringq queue set --cooldown`), a minute if nobody has; `after`, seconds, 0 or more,
    or a timedelta, if it must be longer. The attempt is given back.
    """

    def __init__(self, message: str | None = None, *, after: float | timedelta | None = None) -> None:
        super().__init__(message or "the handler was throttled")
        self.after_s = None if after is None else span_s("after", after)


class Cancel(RingqError):
    """The task is not to be done after all: it ends as cancelled."""


def span_s(option: str, span: Any) -> float:
    """A length of time in seconds, from a number or a timedelta. Raises InvalidOption."""
    seconds = span.total_seconds() if isinstance(span, timedelta) else span
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds <= SPAN_S_MAX:
        raise InvalidOption(f"{option}: expected seconds (a number or a timedelta) from 0 to 366 days, got {span!r}")
    return float(seconds)


# -- raised by ringq.testing -----------------------------------------------------------------------


class NothingToRun(RingqError):
    """An inline run waits for a task that cannot end: nothing is left that may run now."""


class RunsOn(RingqError):
    """An inline run has run as many tasks as it may, and there are more."""


# -- raised inside handlers: not caught by `except Exception` --------------------------------------


class AttemptInterrupted(BaseException):
    """The attempt must end now; the parent kills the process if it does not."""


class RunTimeout(AttemptInterrupted):
    """The handler ran longer than its run time limit."""


class TotalTimeout(RunTimeout):
    """The time for the whole task, from its submission on, is over: it is not tried again."""


class MemoryLimit(AttemptInterrupted):
    """The worker holds more memory than the task may: the process ends soon, whatever the handler does."""


class AttemptCancelled(AttemptInterrupted):
    """The task was cancelled while it ran."""


class AttemptStopped(AttemptInterrupted):
    """The attempt shall end, the task shall not: it begins anew later, at no cost. A handler that returns has completed
    all the same.
    """


class AttemptPaused(AttemptStopped):
    """The task was paused while it ran. The process is not killed for that."""


class AttemptPreempted(AttemptStopped):
    """A more urgent task needs the worker. The process is killed if the attempt does not end within the grace time."""

"""Run: what a handler is told about its attempt, and what it may tell back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from ringq.budgets import IoBudget
from ringq.callback import Callback
from ringq.errors import (
    AttemptCancelled,
    AttemptInterrupted,
    AttemptPaused,
    AttemptPreempted,
    InvalidOption,
    MemoryLimit,
    RunTimeout,
    TotalTimeout,
    UnknownState,
)
from ringq.kin import Alone, Kin, Spawning
from ringq.model import Reason
from ringq.reporting import Reporting, ReportPort, Unheard

T = TypeVar("T")


# tags; when the time for the whole task is over, by the monotonic clock; whose child it is
Facts = tuple[Mapping[str, str], int | None, int | None]


class AttemptPort(Protocol):
    """Where a Context's words go: the worker's record in the ring. Plain stores and loads, no system call."""

    def cancel_requested(self) -> int:
        """The code of the `Reason` for which this attempt shall end, 0 while it may go on."""

    def acquire(self, scope: str, permits: float, timeout: float | timedelta | None) -> None:
        """Take tokens of a rate limit, waiting for them."""

    def hold(self, scope: str, until: datetime | float | timedelta) -> None:
        """Let nothing of a scope pass for a while."""

    def record_io(self, **used: int) -> None:
        """Add to what the attempt has moved, in bytes by axis."""

    def kin(self, task_id: int, lease: int) -> Kin:
        """Where requests for other tasks go."""


class StateSource(Protocol):
    """Where a Context's states come from: the App's."""

    def get(self, type_: type[T]) -> T:
        """The state of that type in this process. Raises UnknownState."""


class _Nowhere:
    """The port of an inert Context."""

    def cancel_requested(self) -> int:
        return 0

    def acquire(self, scope: str, permits: float, timeout: float | timedelta | None) -> None:
        pass

    def hold(self, scope: str, until: datetime | float | timedelta) -> None:
        pass

    def record_io(self, **used: int) -> None:
        pass

    def kin(self, task_id: int, lease: int) -> Kin:
        return Alone()


class _Given:
    """The states that were given by hand."""

    def __init__(self, states: Mapping[type[Any], Any]) -> None:
        self._states = dict(states)

    def get(self, type_: type[T]) -> T:
        meant = found_among(type_, self._states)
        if meant is None:
            raise no_state(type_, listed(self._states))
        found: T = self._states[meant]
        return found


_NOWHERE = _Nowhere()
_INTERRUPTIONS: Mapping[int, type[AttemptInterrupted]] = {
    Reason.RUN_TIMEOUT.code: RunTimeout,
    Reason.TOTAL_TIMEOUT.code: TotalTimeout,
    Reason.MEMORY_LIMIT.code: MemoryLimit,
    Reason.PAUSED.code: AttemptPaused,
    Reason.PREEMPTED.code: AttemptPreempted,
}
_WHY = {
    Reason.RUN_TIMEOUT.code: "the run time limit is over",
    Reason.TOTAL_TIMEOUT.code: "the time for the whole task is over",
    Reason.MEMORY_LIMIT.code: "the worker holds more memory than the task's memory limit",
    Reason.PAUSED.code: "the task was paused; it begins anew later",
    Reason.PREEMPTED.code: "a more urgent task needs the worker; this one begins anew later",
}


class Context(Spawning, Reporting):
    """What a handler knows about its attempt.

    A handler whose first parameter is annotated `ringq.Context`, or is called `ctx` and not annotated, is
    given one. When the handler is called as a plain function the context is inert: ids and lease are 0, there
    is no deadline, progress goes nowhere and nothing cancels it. A test may make one with states of its own and pass
    it first: `classify(ringq.Context(state={Model: fake}), "a.jpg")`. What it then asks for is in `spawned`.

    Attributes: `task_id`, the same for every attempt of a task (the idempotency key for what the handler does
    outside); `lease`, unique to this attempt; `attempt`, 1 for the first; `kind`, as in `media::thumbnail`; `tags`,
    those of the task, not to be changed.
    """

    __slots__ = (
        *("_deadline_ns", "_facts", "_kin", "_parent", "_port", "_reports", "_states", "_tags"),
        *("attempt", "kind", "lease", "task_id"),
    )

    def __init__(
        self,
        task_id: int = 0,
        lease: int = 0,
        attempt: int = 1,
        kind: str = "",
        *,
        run_timeout_ms: int = 0,
        port: AttemptPort = _NOWHERE,
        state: Mapping[type[Any], Any] | None = None,
        tags: Mapping[str, str] | None = None,
        facts: Callable[[], Facts] | None = None,
        parent_id: int | None = None,
        results: Sequence[Any] | None = None,
        reports: ReportPort | None = None,
    ) -> None:
        """Made by the worker as the attempt starts: the deadline is `run_timeout_ms` from now, 0 is none.

        `state`: what `state(...)` gives, by type, and nothing else; None for the states of the App. `tags`: what `tags`
        are. `facts`: asks for what the worker was not told, when the handler wants to know. `parent_id`: what that is.
        `results`: what `results()` gives, of an inert one. `reports`: who hears how far it is; None: nobody.
        """
        self.task_id = task_id
        self.lease = lease
        self.attempt = attempt
        self.kind = kind
        self._deadline_ns = time.monotonic_ns() + run_timeout_ms * 1_000_000 if run_timeout_ms else None
        self._port = port
        self._tags = tags
        self._facts = facts
        self._parent = parent_id
        self._kin: Kin | None = None if results is None else Alone(results)
        self._reports: ReportPort = Unheard() if reports is None else reports
        self._states: StateSource | None = None if state is None else _Given(state)

    def __repr__(self) -> str:
        return f"Context({self.kind or 'inert'}, task_id={self.task_id}, attempt={self.attempt})"

    @property
    def tags(self) -> Mapping[str, str]:
        """The tags of the task."""
        self._ask()
        return MappingProxyType({} if self._tags is None else self._tags)

    @property
    def parent_id(self) -> int | None:
        """The task whose child this one is; None for one that has no parent."""
        self._ask()
        return self._parent

    @property
    def deadline(self) -> datetime | None:
        """When the attempt's time is up, in UTC; None without a limit. To decide, use `remaining()`."""
        left = self.remaining()
        return None if left is None else datetime.now(UTC) + timedelta(seconds=left)

    def remaining(self) -> float | None:
        """Seconds until the attempt's time is up, never below 0.0; None without a limit.

        That is what ends first of its `run_timeout` and the `total_timeout` of the task. Jumps of the wall clock do not
        change it.
        """
        self._ask()
        if self._deadline_ns is None:
            return None
        return max(0.0, (self._deadline_ns - time.monotonic_ns()) / 1e9)

    def _ask(self) -> None:
        """Once, and only if a handler wants to know: the answer takes a turn of the parent's loop."""
        ask, self._facts = self._facts, None
        if ask is not None:
            try:
                tags, ends_ns, self._parent = ask()
            except BaseException:  # told to end while it waited
                self._facts = ask
                raise
            self._tags = tags if self._tags is None else self._tags
            ends = [at for at in (self._deadline_ns, ends_ns) if at is not None]
            self._deadline_ns = min(ends, default=None)

    def _own_kin(self) -> Kin:
        if self._kin is None:
            self._kin = self._port.kin(self.task_id, self.lease)
        return self._kin

    def state(self, type_: type[T]) -> T:
        """What the initialiser that `@media.state` or `@app.state` declares for this type has made, once per process.

        `type_`: the type that the initialiser says it returns or yields, or a parent of it if there is one such state
        only. What the task's own domain declares goes before what its App does; that of other domains is not seen. In a
        worker the states are there before the first attempt. In any other process, where a handler is called as a plain
        function, one is initialised when it is first asked for, and what its initialiser raises is raised here. It is
        shared: by the attempts of this process, and by the threads of one attempt.

        Raises UnknownState with the types there are, InvalidOption if `type_` is no type.
        """
        if not isinstance(type_, type):
            raise InvalidOption(f"state: expected a type, as in ctx.state(Model), got {type_!r}")
        if self._states is None:
            return _Given({}).get(type_)
        return self._states.get(type_)

    def offer(self, states: StateSource) -> None:
        """Give states from there, unless some were given by hand. For ringq's own use."""
        if self._states is None:
            self._states = states

    def acquire(self, scope: str, permits: float = 1, timeout: float | timedelta | None = None) -> None:
        """Wait until a rate limit lets this pass: `ctx.acquire("github")` before each call of a service.

        `scope`, `permits`, `timeout`: as for `Client.acquire`, and the budget is the same, of all workers and clients.
        A cancel and the run time limit end the wait; the time counts as the attempt's. In an `async` handler it blocks
        the loop. Outside a worker it returns at once.

        Raises what `Client.acquire` raises.
        """
        self._port.acquire(scope, permits, timeout)

    def hold(self, scope: str, until: datetime | float | timedelta) -> None:
        """Let nothing of a scope pass, for anybody: the service said 429. Outside a worker nothing happens.

        `until`: seconds or timedelta from now, as of a Retry-After, or an instant; as for `Client.hold`, which says
        what is raised.
        """
        self._port.hold(scope, until)

    def record_io(self, *, rx: int = 0, tx: int = 0, read: int = 0, write: int = 0) -> None:
        """Add to what this attempt has moved: bytes received and sent, read from disks and written, each from 0 on.

        For a kind with an `io=` budget, of which later tasks are expected to move as much where the budget says
        nothing. What the process itself reads from disks and writes the kernel counts; what it receives and sends it
        does not. Of other kinds, and outside a worker, nothing happens. Raises InvalidOption for what is no number of
        bytes.
        """
        used = IoBudget(disk_read=read, disk_write=write, net_rx=rx, net_tx=tx)
        self._port.record_io(**used.plain())

    def callback(self, timeout: float | timedelta | None = None) -> Callback:
        """Have somebody outside complete the task: who knows the token that this gives. Give it away, then return.

        The task is parked when the handler has returned, and no worker has it: it ends with `client.complete(token,
        result)`, in any process, or `client.fail`. What the handler returns is kept as the task's memo. If the attempt
        does not end well the token is worth nothing, and the next attempt has to ask for its own; a second one of the
        same attempt takes the place of the first.

        `timeout`: how long from now on to wait for that, seconds or timedelta, 1 ms to 366 days, None for ever;
        `client.extend` gives more. When it is over the attempt has failed, and the task's retry policy decides.

        The token is on disk when this returns: it takes a turn of the parent's loop and a sync. Outside a worker
        nobody knows the token. Raises InvalidSubmission in a call of a map, in `finalize` and in `on_cancel`;
        InvalidOption; StaleAttempt if the attempt is over; ServerUnavailable. An attempt that has spawned children as
        well fails as it ends: the task can wait for one of the two only.
        """
        return self._own_kin().callback(timeout)

    def check_cancelled(self) -> None:
        """Return if the attempt may go on; for loops that want to end cleanly.

        Raises RunTimeout when its time is up (TotalTimeout, a RunTimeout, if that was the time for the whole task),
        MemoryLimit when its process holds too much memory, AttemptCancelled when the task was cancelled, AttemptStopped
        when it shall begin anew later: AttemptPaused or AttemptPreempted. None of them is an Exception, so
        `except Exception` does not swallow them.
        """
        requested = self._port.cancel_requested()
        if requested:
            raise interruption(requested)


def interruption(requested: int) -> AttemptInterrupted:
    """What is raised in a handler that shall end for the reason with this code."""
    return _INTERRUPTIONS.get(requested, AttemptCancelled)(_WHY.get(requested, "the task was cancelled"))


def found_among(type_: type[Any], known: Iterable[type[Any]]) -> type[Any] | None:
    """Which of the known types is meant: the type itself, else its only heir. Raises UnknownState for several."""
    known = list(known)
    if type_ in known:
        return type_
    heirs = [one for one in known if issubclass(one, type_)]
    if len(heirs) > 1:
        raise UnknownState(f"several states are a {type_.__qualname__}: ask for one of {listed(heirs)}")
    return heirs[0] if heirs else None


def no_state(type_: type[Any], there: str, where: str = "@app.state") -> UnknownState:
    """What is raised if nothing is meant. `there`: what there is; `where`: how one says that it shall be."""
    told = f"there is {there}" if there else "there is none"
    return UnknownState(f"no state of type {type_.__qualname__}; declare it with {where} ({told})")


def listed(types: Iterable[type[Any]]) -> str:
    """Types by their names."""
    return ", ".join(one.__qualname__ for one in types)

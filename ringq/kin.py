"""Run: what a handler asks to be stored together with its receipt, and is told of the tasks that its own belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar, overload

from ringq.callback import Callback, new_token

if TYPE_CHECKING:
    from ringq.kinds import Ended, Submission

T = TypeVar("T")
Role = Literal["child", "sibling", "follow_up"]


class Spawned(NamedTuple):
    """A task that a handler has asked for.

    Attributes: `kind`, as in `media::thumbnail`; `payload`, its arguments as JSON text; `role`: "child", "sibling" or
    "follow_up"; `place`, from 0 on, among those that its attempt asked for in this role; `id`, that of the task if it
    is stored already, as with `at_once=True`, else None.
    """

    kind: str
    payload: str
    role: Role
    place: int
    id: int | None = None


class Kin(Protocol):
    """Where a Context's requests for tasks go, and its questions about others: to the attempt's receipt, its server."""

    spawned: list[Spawned]

    def spawn(self, submissions: Iterable[Submission[Any]], role: Role, at_once: bool) -> list[Spawned]:
        """Have these stored with the receipt, or at once."""

    def results(self, type_: Any) -> list[Any]:
        """Of what the task depends on."""

    def result_of(self, place: int, type_: Any) -> Any:
        """Of one of these."""

    def children(self) -> list[Ended]:
        """How the children have ended."""

    def memo(self, type_: Any) -> Any:
        """What the handler has returned."""

    def callback(self, timeout: float | timedelta | None) -> Callback:
        """Have somebody outside complete the task."""


class Alone:
    """What an inert Context belongs to: nobody. Keeps what was asked for, to be looked at."""

    def __init__(self, results: Sequence[Any] = ()) -> None:
        """`results`: of what the task is said to depend on."""
        self.spawned: list[Spawned] = []
        self._results = list(results)

    def spawn(self, submissions: Iterable[Submission[Any]], role: Role, at_once: bool) -> list[Spawned]:
        """Nothing is stored."""
        first = sum(one.role == role for one in self.spawned)
        found = [Spawned(one.kind, one.payload, role, first + place) for place, one in enumerate(submissions)]
        self.spawned += found
        return found

    def results(self, type_: Any) -> list[Any]:
        """As they were given."""
        return list(self._results)

    def result_of(self, place: int, type_: Any) -> Any:
        """As it was given."""
        return self._results[place]

    def children(self) -> list[Ended]:
        """It has none."""
        return []

    def memo(self, type_: Any) -> Any:
        """Nothing was returned."""
        return None

    def callback(self, timeout: float | timedelta | None) -> Callback:
        """Nobody knows the token."""
        return Callback(new_token(0), 0)


class Spawning:
    """The part of a Context that is about other tasks."""

    __slots__ = ()

    def _own_kin(self) -> Kin:
        raise NotImplementedError

    @property
    def spawned(self) -> list[Spawned]:
        """What this attempt has asked for so far, in order; for tests, which call a handler with a Context of theirs:
        then nothing of it is stored.
        """
        return list(self._own_kin().spawned)

    def spawn(self, submission: Submission[Any], *, at_once: bool = False) -> Spawned:
        """Ask for a child: a task that this one waits for after its handler has returned, without holding a worker.

        `submission`: as `task.submission(...)` or `task.options(...).submission(...)` gives it. What it does not say
        itself, it has of this task: its tags, what is left of its `ttl`, a priority at least as urgent. It may depend
        on others that this attempt has asked for, given as their submissions.

        It is kept until the handler has returned, and then stored with the receipt, in one transaction: if the attempt
        fails, nothing of it was ever there. `at_once`: stored now, and on disk when this returns; it may begin now,
        and it stays though the attempt fails.

        Raises InvalidSubmission in a call of a map, in `finalize` and in `on_cancel`; BatchTooLarge for more than
        200,000 tasks, or 256 MiB, of one attempt; StaleAttempt after the attempt has ended; and `at_once`, what
        `Client.submit_many` raises.
        """
        return self._own_kin().spawn((submission,), "child", at_once)[0]

    def spawn_many(self, submissions: Iterable[Submission[Any]], *, at_once: bool = False) -> list[Spawned]:
        """Ask for many children: as `spawn` of each; `at_once`, all are stored in one transaction.

        An empty list says that there are none: `finalize` is called all the same.
        """
        return self._own_kin().spawn(submissions, "child", at_once)

    def spawn_sibling(self, submission: Submission[Any]) -> Spawned:
        """Ask for a task that has the same parent as this one: that waits for both. Stored with the receipt, as by
        `spawn`; it has tags and the like of the parent.

        Raises NoParent if this task has none, and what `spawn` raises.
        """
        return self._own_kin().spawn((submission,), "sibling", False)[0]

    def spawn_siblings(self, submissions: Iterable[Submission[Any]]) -> list[Spawned]:
        """Ask for many: as `spawn_sibling` of each."""
        return self._own_kin().spawn(submissions, "sibling", False)

    def follow_up(self, submission: Submission[Any]) -> Spawned:
        """Ask for a task of its own, for which nobody waits: what is to be done next.

        It is stored with the receipt, in one transaction: there is no moment in which this task is done and that one is
        not there, nor the other way round. May be asked for in `finalize` too. Raises what `spawn` raises.
        """
        return self._own_kin().spawn((submission,), "follow_up", False)[0]

    @overload
    def results(self) -> list[Any]: ...
    @overload
    def results(self, type_: type[T]) -> list[T | None]: ...
    def results(self, type_: Any = Any) -> list[Any]:
        """The results of the tasks that this one depends on, in the order in which they were named.

        `type_`: a type, or any hint, that each of them has; else they are plain JSON. In the place of one that has not
        completed, which is possible with `on_dependency_failure="ignore"`, stands None.

        Asks the server. Raises InvalidResult for one that has another type, InvalidOption for what is no type.
        """
        return self._own_kin().results(type_)

    @overload
    def result_of(self, place: int) -> Any: ...
    @overload
    def result_of(self, place: int, type_: type[T]) -> T: ...
    def result_of(self, place: int, type_: Any = Any) -> Any:
        """The result of one task that this one depends on: the first that was named has the place 0.

        `type_`: as for `results`. Raises TaskFailed or its heirs if it has not completed, IndexError if this task does
        not depend on so many, InvalidResult.
        """
        return self._own_kin().result_of(place, type_)

    def children(self) -> list[Ended]:
        """In `finalize`: how each child has ended, in the order in which they were spawned. Elsewhere: none."""
        return self._own_kin().children()

    @overload
    def memo(self) -> Any: ...
    @overload
    def memo(self, type_: type[T]) -> T: ...
    def memo(self, type_: Any = Any) -> Any:
        """In `finalize`: what the handler has returned, as plain JSON or of that type. Elsewhere: None."""
        return self._own_kin().memo(type_)

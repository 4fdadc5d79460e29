"""Submit: on what a submission depends - tasks that are stored, and members of the batch it is submitted with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias, TypedDict, cast

from ringq.codec import ResultOf, awaits
from ringq.errors import InvalidOption, RingqError
from ringq.graph import check_count
from ringq.kinds.limits import LimitOptions
from ringq.kinds.submitted import Stored
from ringq.model import OnDependencyFailure

if TYPE_CHECKING:
    from ringq.kinds.submission import Submission

FailureMode = Literal["cancel", "fail", "ignore"]
MODES: Final = {mode.value: mode.code for mode in OnDependencyFailure}


@dataclass(frozen=True, slots=True)
class Member:
    """A submission by its place in the batch that it is submitted with, 0 for the first: for who cannot name it yet.

    `ringq.Submission("media::report", depends_on=ringq.Member(2))` depends on the third. Raises InvalidOption.
    """

    index: int

    def __post_init__(self) -> None:
        if not isinstance(self.index, int) or isinstance(self.index, bool) or self.index < 0:
            raise InvalidOption(f"Member: expected a place in the batch from 0 on, got {self.index!r}")


Upstream: TypeAlias = "Stored[Any] | Submission[Any] | Member | int"


class DependencyOptions(TypedDict, total=False):
    """On what a call depends.

    `depends_on`: a handle, an id, a Submission or Member of the same `submit_many`, or several of these, at most
    10,000: it does not begin before all of them have completed. `on_dependency_failure`: if one of them ends without
    having completed, the call does not run and ends as dependency_failed, for "cancel" (else) with what depends on it
    in turn, for "fail" without; for "ignore" it runs all the same.
    """

    depends_on: Upstream | Iterable[Upstream] | None
    on_dependency_failure: FailureMode | None


class CallOptions(LimitOptions, DependencyOptions, total=False):
    """What a call may say, besides what is written out: its limits, and what it depends on."""


class Waits(NamedTuple):
    """What a submission waits for.

    Attributes: `tasks`, each once and in order: ids, Submissions, Members; `on_failure`, the code of what becomes of it
    if one of them does not complete.
    """

    tasks: tuple[Any, ...] = ()
    on_failure: int = OnDependencyFailure.CANCEL.code

    def and_also(self, kind: str, tasks: Iterable[Any]) -> Waits:
        """The same with more of them behind the others. Raises InvalidOption, InvalidSubmission."""
        return self._replace(tasks=_checked(kind, (*self.tasks, *map(_upstream, tasks))))


def waits_of(kind: str, depends_on: Any = None, on_dependency_failure: Any = None) -> Waits | None:
    """What was said of dependencies; None if nothing was. Raises InvalidOption; InvalidSubmission for too many."""
    if depends_on is None and on_dependency_failure is None:
        return None
    mode = "cancel" if on_dependency_failure is None else on_dependency_failure
    if not isinstance(mode, str) or mode not in MODES:
        raise InvalidOption(f"on_dependency_failure: expected one of {', '.join(MODES)}, got {on_dependency_failure!r}")
    given = depends_on
    if given is None:
        given = ()
    elif _is_one(given) or isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        given = (given,)
    return Waits(on_failure=MODES[mode]).and_also(kind, given)


def others_of(given: CallOptions) -> LimitOptions:
    """What is not about dependencies: limits, and what is no option at all, for `spec_of` to refuse."""
    return cast(LimitOptions, {name: given[name] for name in given if name not in DependencyOptions.__annotations__})  # type: ignore[literal-required]


def said_of(kind: str, given: DependencyOptions) -> Waits | None:
    """What options say of dependencies, as `waits_of`."""
    return waits_of(kind, given.get("depends_on"), given.get("on_dependency_failure"))


def stored_only(kind: str, waits: Waits | None) -> tuple[tuple[int, ...], int]:
    """The ids and the code of the policy of who can wait for stored tasks alone. Raises InvalidOption for others."""
    if waits is None:
        return (), OnDependencyFailure.CANCEL.code
    for one in waits.tasks:
        if not isinstance(one, int):
            raise InvalidOption(f"depends_on: a schedule of {kind} depends on tasks that are stored, got {one!r:.100}")
    return waits.tasks, waits.on_failure


def awaiting(
    kind: str, arguments: Iterable[Any], encode: Callable[[Callable[[ResultOf], int]], str], waits: Waits | None,
    error: RingqError,
) -> tuple[str, Waits]:  # fmt: skip
    """Payload and dependencies of a call that was refused for this error, because it takes results of other tasks.

    `encode`: makes the payload, given what numbers these. Raises what `encode` does; `error` if that was not why.
    """
    if not awaits(arguments):
        raise error
    before = waits or Waits()
    numbers: dict[Any, int] = {task: number for number, task in enumerate(before.tasks)}

    def number_of(result: ResultOf) -> int:
        return numbers.setdefault(_upstream(result.task), len(numbers))

    payload = encode(number_of)
    return payload, before._replace(tasks=_checked(kind, numbers))


def _checked(kind: str, tasks: Iterable[Any]) -> tuple[Any, ...]:
    once = tuple(dict.fromkeys(tasks))
    check_count(kind, len(once))
    return once


def _upstream(one: Any) -> Any:
    """A task as it is kept: what can be submitted by itself, anything else by its id. Raises InvalidOption."""
    if not _is_one(one):
        raise InvalidOption(f"depends_on: expected handles, ids, or submissions of the same batch, got {one!r:.100}")
    known = one.id if isinstance(one, Stored) else one
    if isinstance(known, int) and not 0 < known < 1 << 63:
        raise InvalidOption(f"depends_on: no task has the id {known}")
    return known


def _is_one(given: Any) -> bool:
    from ringq.kinds.submission import Submission  # noqa: PLC0415 - which knows what it waits for

    return isinstance(given, (int, Stored, Submission, Member)) and not isinstance(given, bool)

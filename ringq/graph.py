"""Values: which tasks of one submission wait for which, and whether that can ever end. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from ringq.errors import BatchTooLarge, CyclicDependency, InvalidDependency, InvalidSubmission

DEPENDENCIES_MAX: Final = 10_000
"""On how many tasks one may depend."""
BATCH_DEPENDENCIES_MAX: Final = 500_000
"""How many dependencies one submission may name in all: each is a row."""
SHOWN: Final = 12
"""So many tasks of a circle are named in a message."""

Column = Sequence[Sequence[int] | None]
"""What each depends on: ids, and -1 - n for the n-th task of the same submission."""


def check_depends(depends_on: Column, count: int, kind_of: Callable[[int], str]) -> None:
    """Refuse what can be told without asking anybody, of `count` tasks; `kind_of` the n-th is for the message.

    Which ids there are, and how those ended, is not looked at. Raises BatchTooLarge; InvalidSubmission for a task that
    depends on more than DEPENDENCIES_MAX, InvalidDependency for one that depends on itself or on what can be no task,
    CyclicDependency with the path for those that would wait for each other.
    """
    if len(depends_on) != count:
        raise InvalidSubmission("the submission's columns do not fit together")
    total = sum(map(len, filter(None, depends_on)))
    if total > BATCH_DEPENDENCIES_MAX:
        raise BatchTooLarge(
            f"the batch names {total:,} dependencies, the limit is {BATCH_DEPENDENCIES_MAX:,}: let its tasks depend on "
            "one that depends on what they have in common"
        )
    is_in_order = True  # each names only those before it: then there is no circle, and nothing to search
    for number, own in enumerate(depends_on):
        if not own:
            continue
        if len(own) > DEPENDENCIES_MAX:
            check_count(f"{kind_of(number)} ({number + 1})", len(own))
        least = min(own)
        if least <= -1 - number:
            is_in_order = False
            if -1 - number in own:
                raise InvalidDependency(f"{kind_of(number)} ({number + 1}) depends on itself")
        if least < -count or 0 in own or max(own) >= 1 << 63:
            wrong = next(one for one in own if not (-count <= one < 1 << 63 and one))
            what = f"no task has the id {wrong}" if wrong >= 0 else f"the submission has no task {-wrong}"
            raise InvalidDependency(f"{kind_of(number)} ({number + 1}): {what}")
    circle = [] if is_in_order else find_cycle(depends_on)
    if circle:
        raise CyclicDependency(f"these would wait for each other for ever: {_path(circle, kind_of)}")


def check_count(name: str, count: int) -> None:
    """Raise InvalidSubmission if a task of this name depends on too many."""
    if count > DEPENDENCIES_MAX:
        raise InvalidSubmission(
            f"{name} depends on {count:,} tasks, the limit is {DEPENDENCIES_MAX:,}: let it depend on tasks that depend "
            "on some of them each"
        )


def find_cycle(depends_on: Column) -> list[int]:
    """Which tasks of a submission wait for each other: each for the next, the first again at the end. None: [].

    Visits every task and every reference once, with a stack of its own: a chain may have 200,000 links.
    """
    new, under_way, done = range(3)
    states = bytearray(len(depends_on))
    for root, own in enumerate(depends_on):
        if not own or states[root] != new:
            continue
        path, ways = [root], [iter(own)]
        states[root] = under_way
        while path:
            for reference in ways[-1]:
                other = -1 - reference
                if other < 0 or states[other] == done:
                    continue
                if states[other] == under_way:
                    return [*path[path.index(other) :], other]
                states[other] = under_way
                path.append(other)
                ways.append(iter(depends_on[other] or ()))
                break
            else:
                states[path.pop()] = done
                ways.pop()
    return []


def _path(circle: Sequence[int], kind_of: Callable[[int], str]) -> str:
    names = [f"{kind_of(number)} ({number + 1})" for number in circle[:SHOWN]]
    if len(circle) > SHOWN + 1:
        names.append(f"… {len(circle) - SHOWN - 1:,} more …")
    if len(circle) > SHOWN:
        names.append(f"{kind_of(circle[-1])} ({circle[-1] + 1})")
    return " -> ".join(names)

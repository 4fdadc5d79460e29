"""Submit: on what the tasks of a batch depend, as columns of its message. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ringq.errors import InvalidDependency
from ringq.graph import check_depends
from ringq.kinds.submission import Submission
from ringq.kinds.waits import Member, Waits

Columns = tuple[list[list[int] | None] | None, list[int] | None]


def dependencies(batch: Sequence[Submission[Any]], waits: Sequence[Waits | None]) -> Columns:
    """What each depends on - ids, and -1 - n for the n-th of the batch - and what becomes of it if that fails.

    None twice if none depends on anything.

    Raises InvalidDependency for a submission that is not in the batch, or stands in it twice; and what `check_depends`
    raises.
    """
    places: dict[int, int] = {}
    twice: set[int] = set()
    for number, one in enumerate(batch):
        if places.setdefault(id(one), number) != number:
            twice.add(id(one))

    def referred(number: int, one: Any) -> int:
        if isinstance(one, int):
            return one
        if isinstance(one, Member):
            return -1 - one.index
        place = places.get(id(one))
        if place is None or id(one) in twice:
            name = f"{batch[number].kind} ({number + 1})"
            if place is None:
                where = "which is not in this batch: submit both together with submit_many, or pass its handle"
            else:
                where = "which is in this batch more than once: which one is meant?"
            raise InvalidDependency(f"{name} depends on {one!r}, {where}")
        return -1 - place

    resolved: dict[int, list[int] | None] = {id(None): None}  # tasks of one `options(...)` share what they wait for
    for number, own in enumerate(waits):
        if own is not None and id(own) not in resolved:
            resolved[id(own)] = [referred(number, one) for one in own.tasks] or None
    depends_on = [resolved[id(own)] for own in waits]
    if not any(depends_on):
        return None, None
    check_depends(depends_on, len(batch), lambda number: batch[number].kind)
    policies = [0 if own is None else own.on_failure for own in waits]
    return depends_on, policies if any(policies) else None

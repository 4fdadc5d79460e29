"""Flow: what the tasks of a submission depend on. Inside the writer's transaction, before and after they are written.

it has completed ──► remembered      it has ended otherwise ──► refused, or with `ignore` remembered
it is active ──► an open edge: the task is blocked
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Final

from ringq import failpoint
from ringq.entries import Batch
from ringq.errors import CyclicDependency, DependencyFailed, InvalidDependency, RingqError
from ringq.graph import find_cycle
from ringq.model import OnDependencyFailure, OnDuplicate, Status
from ringq.tags import digest_of

IDS_AT_ONCE: Final = 4096  # that are looked up in a step: 4 ms
EDGES_AT_ONCE: Final = 2048  # that are written in a step: 4 ms
LOOKS_AT_ONCE: Final = 8192  # at edges, in a step: 2 ms
COMPLETED: Final = Status.COMPLETED.code
SUPERSEDE: Final = OnDuplicate.SUPERSEDE.code
CANCEL, IGNORE = OnDependencyFailure.CANCEL.code, OnDependencyFailure.IGNORE.code
Edge = tuple[int, int, int, int]  # (upstream, task id, role, place), as the store takes them


@dataclass(slots=True)
class Claims:
    """Attributes: `blocked`, those of the tasks that have to wait; `merged`, the numbers of dependencies by the numbers
    they had, for the n-th that is inserted, where some are one.

    Edges are made as they are written: those of a batch may be two millions, and took 250 MB.
    """

    upstream: list[list[int] | None]
    roles: list[int] | None
    statuses: dict[int, int | None]  # of tasks that were there before: how they have ended
    blocked: set[int] = field(default_factory=set)
    merged: dict[int, list[int]] = field(default_factory=dict)
    _named: tuple[Sequence[int], Sequence[int], Sequence[int]] = ((), (), ())

    def resolve(self, ids: Sequence[int], places: Sequence[int], all_ids: Sequence[int]) -> Iterator[None]:
        """Name the tasks by their ids: `ids` are inserted, from these `places`; `all_ids` are at each place.

        Yields after each part.
        """
        self._named = ids, places, all_ids
        looked_at = 0
        for task_id, _, own in self._each():
            if len(own) > 1 and len(set(own)) < len(own):  # duplicates of one key
                firsts = {upstream: number for number, upstream in reversed(list(enumerate(own)))}
                self.merged[task_id - ids[0]] = [firsts[upstream] for upstream in own]
            if not self.statuses or any(self.statuses.get(upstream) is None for upstream in own):
                self.blocked.add(task_id)
            looked_at += len(own)
            if looked_at >= LOOKS_AT_ONCE:
                looked_at = 0
                yield

    def write(self, store: Any) -> Iterator[None]:
        """Write the edges; yields after each part."""
        opened: list[Edge] = []
        closed: list[Edge] = []
        for task_id, role, own in self._each():
            for number, upstream in enumerate(own):
                rows = opened if self.statuses.get(upstream) is None else closed
                rows.append((upstream, task_id, role, number))
                if len(opened) + len(closed) >= EDGES_AT_ONCE:
                    store.insert_edges(opened, closed)
                    opened, closed = [], []
                    yield
        store.insert_edges(opened, closed)
        failpoint.hit("graph.linked")

    def _each(self) -> Iterator[tuple[int, int, list[int]]]:
        """(task id, role, what it depends on) of the tasks that depend on anything."""
        ids, places, all_ids = self._named
        for task_id, place in zip(ids, places, strict=True):
            own = self.upstream[place]
            if own:
                role = CANCEL if self.roles is None else self.roles[place]
                yield task_id, role, [one if one > 0 else all_ids[-1 - one] for one in own]


def look_up(store: Any, batch: Batch) -> Generator[None, None, Claims | RingqError]:
    """What the tasks of this batch depend on; or why they cannot. Yields after each part."""
    assert batch.depends_on is not None
    statuses: dict[int, int | None] = {}
    wanted = sorted({one for own in batch.depends_on if own for one in own if one > 0})
    for start in range(0, len(wanted), IDS_AT_ONCE):
        part = wanted[start : start + IDS_AT_ONCE]
        for task_id, (is_there, status) in store.upstream_states(part).items():
            if not is_there:
                return _nobody(batch, task_id)
            statuses[task_id] = status
        yield
    failed = {task_id for task_id, status in statuses.items() if status not in (None, COMPLETED)}
    refused = _failed(batch, failed, statuses) if failed else None
    circle = None if batch.keys is None else _circle(store, batch, batch.keys)
    return refused or circle or Claims(batch.depends_on, batch.roles, statuses)


def circle_of_family(
    store: Any, batch: Batch, roles: Sequence[int], parents: Mapping[int, int], is_out: Callable[[int], bool]
) -> CyclicDependency | None:
    """Whether a child of this batch would wait for what waits for it: by a dependency, its key or its serial key.

    `parents`: whose children those with a role are; `is_out`: whether a task that has a key runs, or may.
    """
    named = {one for own in batch.depends_on or () if own for one in own if one > 0}
    is_serial = any(spec.serial_key is not None for spec in batch.specs)
    for role, parent in parents.items() if named or is_serial or batch.keys else ():
        waits, turns = store.below(parent), _turns_above(store, parent) if is_serial else {}
        met = _reaching(batch.depends_on or (), waits.intersection(named))
        for place in (place for place, own in enumerate(roles) if own == role):
            spec = batch.specs[0 if batch.spec_of is None else batch.spec_of[place]]
            holder = _holder(store, batch, spec.kind, batch.keys[place]) if batch.keys else None
            how = f"depends on task {met[place]}" if place in met else None
            if holder is not None and holder in waits and is_out(holder):
                how = how or f"has the key of task {holder}"
            if spec.serial_key in turns:
                how = how or f"has the serial key of task {turns[spec.serial_key]}"
            if how is not None:
                return CyclicDependency(
                    f"{_name(batch, place)} {how}, which waits for it: it is a child of task {parent}"
                )
    return None


def _turns_above(store: Any, parent: int) -> dict[str | None, int]:
    """The serial keys of a task and those above it: they keep the turn until they have ended."""
    above: list[int] = [parent]
    while (up := store.parent_of(above[-1])) is not None:
        above.append(up)
    return {key: task_id for task_id, key, _ in store.serials_of(above)}


def _holder(store: Any, batch: Batch, kind: str, key: str | None) -> int | None:
    """Who has this key."""
    if key is None:
        return None
    kinds = batch.names.get(kind) or [kind]
    found = (store.find_holder(store.intern_kind(one), digest_of(key)) for one in kinds)
    return next((holder.task_id for holder in found if holder is not None), None)


def _reaching(depends_on: Sequence[list[int] | None], ids: Set[int]) -> dict[int, int]:
    """The places of those that depend on one of these stored tasks, also by others of the batch -> on which one."""
    found, dependents = dict[int, int](), defaultdict[int, list[int]](list)
    for place, own in enumerate(depends_on) if ids else ():
        for one in own or ():
            if one < 0:
                dependents[-1 - one].append(place)
            elif one in ids:
                found[place] = one
    left = list(found)
    while left:
        above = left.pop()
        fresh = [place for place in dependents[above] if place not in found]
        found.update(dict.fromkeys(fresh, found[above]))
        left += fresh
    return found


def _nobody(batch: Batch, task_id: int) -> InvalidDependency:
    place = next(n for n, own in enumerate(batch.depends_on or ()) if own and task_id in own)
    return InvalidDependency(f"{_name(batch, place)} depends on task {task_id}, and there is no such task")


def _failed(batch: Batch, failed: set[int], statuses: dict[int, int | None]) -> DependencyFailed | None:
    for place, own in enumerate(batch.depends_on or ()):
        if own and (batch.roles is None or batch.roles[place] != IGNORE) and not failed.isdisjoint(own):
            task_id = next(one for one in own if one in failed)
            how = Status.of(statuses[task_id] or 0).value
            return DependencyFailed(
                f"{_name(batch, place)} depends on task {task_id}, which has ended as {how}: it would never run; with "
                'on_dependency_failure="ignore" it runs all the same'
            )
    return None


def _circle(store: Any, batch: Batch, keys: Sequence[str | None]) -> CyclicDependency | None:
    """Whether keys make tasks wait for each other: of duplicates in the batch, and of what is superseded."""
    upstream, spec_of = batch.depends_on or [], batch.spec_of or [0] * len(keys)
    kinds = [batch.specs[n].kind for n in spec_of]
    last = {name: place for place, name in enumerate(zip(kinds, keys, strict=True)) if name[1] is not None}
    counts = [last.get(name, place) for place, name in enumerate(zip(kinds, keys, strict=True))]
    if any(place != counts[place] for place in range(len(keys))):
        upstream = [
            [one if one > 0 else -1 - counts[-1 - one] for one in own] if own and counts[place] == place else None
            for place, own in enumerate(upstream)
        ]
        circle = find_cycle(upstream)
        if circle:
            path = " -> ".join(_name(batch, place) for place in circle)
            return CyclicDependency(f"with one task for each key these would wait for each other for ever: {path}")
    waiting: dict[int, list[int]] = {}  # of those that are depended on: for whom they wait then, by places
    named = {one for own in upstream if own for one in own if one > 0}
    for place, key in enumerate(keys if named else ()):
        own = upstream[place]
        if key is None or not own or batch.on_duplicate is None or batch.on_duplicate[place] != SUPERSEDE:
            continue
        holder = store.find_holder(store.intern_kind(kinds[place]), digest_of(key))
        if holder is None:
            continue
        waits = store.below(holder.task_id).intersection(named)
        if waits.intersection(own):
            return CyclicDependency(
                f"{_name(batch, place)} takes the place of task {holder.task_id}, and depends on task "
                f"{min(waits.intersection(own))}, which waits for that one"
            )
        for one in waits:
            waiting.setdefault(one, []).append(place)
    return _circle_through(batch, upstream, waiting)


def _circle_through(
    batch: Batch, upstream: Sequence[list[int] | None], waiting: dict[int, list[int]]
) -> CyclicDependency | None:
    """Whether tasks of the batch would wait for each other by way of stored ones: `waiting`, each for which places."""
    count, ids = len(upstream), list(waiting)
    places = {task_id: count + number for number, task_id in enumerate(ids)}
    inside = [own and [-1 - places[one] if one in places else one for one in own] for own in upstream]
    circle = find_cycle([*inside, *([-1 - place for place in waiting[one]] for one in ids)]) if ids else []
    if not circle:
        return None
    path = " -> ".join(_name(batch, place) if place < count else f"task {ids[place - count]}" for place in circle)
    return CyclicDependency(f"in place of those with their keys these would wait for each other for ever: {path}")


def _name(batch: Batch, place: int) -> str:
    return f"{batch.specs[0 if batch.spec_of is None else batch.spec_of[place]].kind} ({place + 1})"

"""Flow: a submission on its way into the writer's transaction - all of its tasks, a slice at a time, or none."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Generator, Iterable, Sequence, Set
from dataclasses import dataclass, field
from itertools import repeat
from operator import attrgetter
from typing import Any

from ringq import codec, depending, failpoint, keys
from ringq.depending import Claims
from ringq.entries import Admitted, Batch, Chunks, Spec, Told
from ringq.errors import InvalidSubmission, MapInUse, RingqError
from ringq.places import Place, Places, place_of

ITS_OWN = ("label", "tags", "serial_key")  # of a spec: not interned with it, but written for each task
columns = attrgetter(*(n for n in Spec.__dataclass_fields__ if n not in ITS_OWN))  # astuple copies values, for 10 us
Lane = Place | tuple[int, str]  # or with a serial key (priority, key) of those who wait for a turn
SLICE_ROWS = 2048  # 1 to 3 ms
SLICE_CHARS = 1 << 20  # of payloads
SLICE_SPECS = 256  # 3 ms, if all are new


@dataclass(slots=True)
class Taken:
    """What a submission came to: to be handed on, and answered, after COMMIT."""

    answer: Callable[[], None]
    admitted: list[Admitted] = field(default_factory=list)
    has_delayed: bool = False
    count: int = 0
    has_ttl: bool = False
    lined: list[tuple[int, str, Sequence[int]]] = field(default_factory=list)  # as in `Committed`
    ids: Sequence[int] = ()  # of the tasks that were inserted
    places: Sequence[int] = ()  # theirs in the batch
    spawned: list[tuple[int, int]] = field(default_factory=list)  # (task, whose child it is)

    def join(self, committed: Any) -> None:
        """Add to what a transaction makes true."""
        committed.admitted += self.admitted
        committed.lined += self.lined
        committed.delayed |= self.has_delayed
        committed.submitted += self.count
        committed.expiring |= self.has_ttl
        committed.spawned += self.spawned


def insert(store: Any, batch: Batch, now_us: int, hand: keys.Hand | None = None) -> Generator[None, None, Taken]:
    """Write a batch into the open transaction; yields after each slice, returns what came of it.

    `hand`: what a batch with keys needs, and leaves what it has done to other tasks in.

    The ids it takes are `store.next_task_id` and on, which is moved when the last slice is written. Until COMMIT
    nobody may wait for them: `store.stored_below`.
    """
    known = store.find_submission(batch.submission)
    if known is not None and known[1] == len(batch.payloads):
        return Taken(_answer(batch, known[0], True, _told_before(store, batch), _paused(store, batch, now_us)))
    if known is not None:
        return _refused(batch, InvalidSubmission("this submission id was given to another batch"))
    map_id = None
    if batch.chunks is not None:
        map_id = _find_map(store, batch.specs[0].kind, batch.chunks, now_us)
        if map_id is None:
            return _refused(batch, MapInUse("another program has gone on with this map"))
    claims = None
    if batch.depends_on is not None:
        found = yield from depending.look_up(store, batch)
        if isinstance(found, RingqError):
            return _refused(batch, found)
        claims = found
    decided = None
    if batch.keys is not None:
        assert hand is not None
        decided = yield from keys.decide(store, batch, now_us, hand)
        batch = decided.batch
    return (yield from _write(store, batch, now_us, map_id, decided, claims, None if hand is None else hand.places))


def _write(
    store: Any, batch: Batch, now_us: int, map_id: int | None, decided: keys.Decided | None, claims: Claims | None,
    own: Places | None,
) -> Generator[None, None, Taken]:  # fmt: skip
    specs = yield from _intern_specs(store, batch.specs)
    first_id = store.next_task_id
    ids = range(first_id, first_id + len(batch.payloads))
    held = yield from _held(ids, decided, claims)
    for number, numbers in () if claims is None else claims.merged.items():
        batch.payloads[number] = codec.renumbered(batch.payloads[number], numbers)
    delayed: set[int] = set()
    lanes = _lanes(batch.specs, own)
    places: dict[Lane, array[int]] = {}
    lined = [lane for lane in lanes if not isinstance(lane, Place)]
    has_ttl = any(any(_spans_ms(spec)) for spec in batch.specs)
    for part in _slices(batch, SLICE_ROWS if decided is None else keys.SLICE_KEYS):
        _insert_slice(store, batch, specs, ids[part], part, now_us)
        if batch.run_at_us is not None:
            late = _late(batch.run_at_us[part], ids[part], now_us, held)
            store.insert_delayed(late)
            delayed.update(task_id for _, task_id in late)
        if decided is not None:
            decided.keep(store, part)
        if held:
            delayed.update(held.intersection(ids[part]))
        if has_ttl:
            store.insert_expiries(_expiries(batch, ids, part, now_us, held))
        if lined or held or not _is_plain(batch):
            _place(batch, lanes, part, ids, delayed, places)
        if batch.chunks is not None:
            firsts, counts, digests = (column[part] for column in batch.chunks[1:])
            store.insert_chunks(map_id, list(zip(firsts, counts, ids[part], digests, strict=True)))
        failpoint.hit("writer.after_slice")
        yield
    if claims is not None:
        yield from claims.write(store)
    store.insert_submission(batch.submission, first_id, len(ids if batch.keys is None else batch.keys), now_us)
    store.next_task_id = first_id + len(ids)
    lines = _lines(ids, lined, places)
    admitted = _admitted(store, batch, ids, lanes, places, is_plain=not held and _is_plain(batch))
    told = decided.told if decided else None
    answer = _answer(batch, first_id, False, told, _paused(store, batch, now_us))
    own_places = range(len(ids)) if decided is None else decided.places
    return Taken(answer, admitted, bool(delayed), len(ids), has_ttl, lines, ids, own_places)


def _held(ids: range, decided: keys.Decided | None, claims: Claims | None) -> Generator[None, None, set[int]]:
    """Those of the tasks that wait for others."""
    behind = set() if decided is None else set(decided.behind)
    if claims is None:
        return behind
    if decided is None:
        yield from claims.resolve(ids, range(len(ids)), ids)
    else:
        yield from claims.resolve(ids, decided.places, ids if decided.told is None else decided.told.ids)
    return behind | claims.blocked


def _answer(
    batch: Batch, first_id: int, is_replay: bool, told: Told | None, paused: list[int] | None
) -> Callable[[], None]:
    if paused is not None:
        return lambda: batch.reply(first_id, is_replay, told, paused)
    if told is not None:
        return lambda: batch.reply(first_id, is_replay, told)
    return lambda: batch.reply(first_id, is_replay)


def _paused(store: Any, batch: Batch, now_us: int) -> list[int] | None:
    """Those of the specs whose group is paused; None if no task has to wait for that."""
    pauses = store.pauses()
    rows = ((n, pauses.get(("group", spec.group))) for n, spec in enumerate(batch.specs)) if pauses else ()
    held = [n for n, row in rows if row is not None and (row.resume_at_us is None or row.resume_at_us > now_us)]
    return held or None


def _told_before(store: Any, batch: Batch) -> Told | None:
    """What the first one of a repeated batch was told besides its ids."""
    text = None if batch.keys is None else store.find_outcome(batch.submission)
    return None if text is None else Told(*json.loads(text))


def _refused(batch: Batch, error: RingqError) -> Taken:
    return Taken(lambda: batch.refuse(error))


def _find_map(store: Any, kind: str, chunks: Chunks, now_us: int) -> int | None:
    """The number of the map these chunks go on with; None if it has gone further already."""
    found: int | None = store.find_map(kind, chunks.key)
    if found is None:
        found = store.insert_map(kind, chunks.key, now_us)
    return found if store.map_end(found) <= chunks.firsts[0] else None


def _slices(batch: Batch, rows_max: int) -> Iterable[slice]:
    count = len(batch.payloads)
    size = sum(map(len, batch.payloads))
    rows_max = max(1, rows_max // (1 + max(map(_marks, batch.specs))))
    rows = max(1, min(rows_max, SLICE_CHARS * count // size)) if size else rows_max
    return (slice(start, min(count, start + rows)) for start in range(0, count, rows))


def _intern_specs(store: Any, specs: Sequence[Spec]) -> Generator[None, None, list[int]]:
    """Their numbers. There may be as many as tasks: a group each; looking all up again for each slice took seconds."""
    numbers: list[int] = []
    for start in range(0, len(specs), SLICE_SPECS):
        if start:
            yield
        own = specs[start : start + SLICE_SPECS]
        numbers += [store.intern_spec(*columns(spec)) for spec in own]
    return numbers


def _insert_slice(store: Any, batch: Batch, specs: list[int], ids: range, part: slice, now_us: int) -> None:
    payloads = batch.payloads[part]
    _insert_marks(store, batch, ids, part)
    if _is_plain(batch):
        store.insert_alike(ids[0], specs[0], now_us, payloads)
        return
    spec_of = repeat(specs[0]) if batch.spec_of is None else map(specs.__getitem__, batch.spec_of[part])
    run_at: Iterable[int | None] = repeat(None) if batch.run_at_us is None else batch.run_at_us[part]
    store.insert_tasks(list(zip(ids, spec_of, repeat(now_us), run_at, payloads)))


def is_plain(spec: Spec) -> bool:
    """Whether its tasks have no rows but their own."""
    return not any(_spans_ms(spec)) and not _marks(spec)


def _marks(spec: Spec) -> int:
    """How many rows each of its tasks has for what it is called and found by."""
    return len(spec.tags) + (spec.label is not None) + (spec.serial_key is not None)


def _insert_marks(store: Any, batch: Batch, ids: range, part: slice) -> None:
    """What the tasks of a slice are called and found by."""
    own = None if batch.spec_of is None else batch.spec_of[part]
    if not any(_marks(batch.specs[number]) for number in set(own or [0])):
        return
    tasks = list(zip(ids, map(batch.specs.__getitem__, own or repeat(0)), strict=False))
    tags = [(task_id, *tag) for task_id, spec in tasks for tag in spec.tags]
    store.insert_tags(tags)
    store.insert_labels([(task_id, spec.label) for task_id, spec in tasks if spec.label is not None])
    store.insert_serials([(task_id, spec.serial_key) for task_id, spec in tasks if spec.serial_key is not None])


def _is_plain(batch: Batch) -> bool:
    """Its tasks differ in nothing but their payloads, and may all start now."""
    return batch.spec_of is None and batch.run_at_us is None


def _spans_ms(spec: Spec) -> tuple[int, int, int]:
    """How long a new task may wait altogether, by each of two limits; and for a worker."""
    return (0 if spec.ttl_from else spec.ttl_ms or 0), spec.total_timeout_ms or 0, spec.queue_timeout_ms or 0


def _late(run_at_us: Sequence[int | None], ids: range, now_us: int, held: Set[int]) -> list[tuple[int, int]]:
    """(instant, task id) of the tasks of a slice whose time has not come, and that wait for nothing else."""
    rows = zip(run_at_us, ids, strict=True)
    return [(at, task_id) for at, task_id in rows if at and at > now_us and task_id not in held]


def _expiries(batch: Batch, ids: range, part: slice, now_us: int, held: Set[int]) -> list[tuple[int, int]]:
    """(instant, task id) of the tasks of a slice that may not begin after an instant.

    What is `held` does not wait for a worker yet.
    """
    spans = list(map(_spans_ms, batch.specs))
    rows = []
    for place in range(*part.indices(len(ids))):
        ttl_ms, total_ms, queue_ms = spans[batch.spec_of[place] if batch.spec_of else 0]
        rows += [(now_us + ms * 1000, ids[place]) for ms in (ttl_ms, total_ms) if ms]
        if queue_ms and ids[place] not in held:
            run_at_us = batch.run_at_us[place] if batch.run_at_us else None
            rows.append((max(now_us, run_at_us or 0) + queue_ms * 1000, ids[place]))
    return rows


def _lanes(specs: Sequence[Spec], places: Places | None) -> list[Lane]:
    """Where tasks of these specs go. Those of one lane must come together, in order, so they are told apart here.

    Without `places` nobody publishes, or it is one spec, as of a schedule: then the backlog knows the lane.
    """
    if places is None and len(specs) > 1:
        places = keys.TOGETHER
    whole = map(place_of, specs)
    narrow = whole if places is None else map(places.narrow, whole)
    return [
        place if spec.serial_key is None else (spec.priority, spec.serial_key)
        for place, spec in zip(narrow, specs, strict=True)
    ]


def _place(
    batch: Batch, lanes: Sequence[Lane], part: slice, ids: range, delayed: set[int], places: dict[Lane, array[int]]
) -> None:  # fmt: skip
    """Note which tasks of a slice may start now, by lane: 8 bytes each. Rows of 200,000 took the parent 20 MiB."""
    for place in range(*part.indices(len(ids))):
        if ids[place] not in delayed:
            lane = lanes[batch.spec_of[place] if batch.spec_of else 0]
            places.setdefault(lane, array("q")).append(place)


def _lines(
    ids: range, lined: Sequence[tuple[int, str]], places: dict[Lane, array[int]]
) -> list[tuple[int, str, Sequence[int]]]:
    """Take those that wait for a turn out of the others: (priority, serial key, ids)."""
    own = [(*line, places.pop(line)) for line in dict.fromkeys(lined) if line in places]
    return [(priority, key, array("q", map(ids.__getitem__, there))) for priority, key, there in own]


def _admitted(
    store: Any, batch: Batch, ids: range, lanes: Sequence[Lane], places: dict[Lane, array[int]], *, is_plain: bool
) -> list[Admitted]:
    """The batch's tasks that may start now, by lane."""
    kinds = [store.intern_kind(spec.kind) for spec in batch.specs]
    limits = [spec.run_timeout_ms or 0 for spec in batch.specs]
    if is_plain and isinstance(lanes[0], Place):
        return [Admitted(lanes[0], ids, repeat(kinds[0]), repeat(limits[0]), batch.payloads)]
    spec_of = batch.spec_of or [0] * len(ids)
    return [
        Admitted(
            lane, array("q", map(ids.__getitem__, own)),
            (kinds[spec_of[place]] for place in own), (limits[spec_of[place]] for place in own),
            [batch.payloads[place] for place in own],
        )
        for lane, own in places.items()
        if isinstance(lane, Place)
    ]  # fmt: skip

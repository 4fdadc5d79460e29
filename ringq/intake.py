"""Flow: a submission on its way into the writer's transaction - all of its tasks, a slice at a time, or none."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

from ringq.backlog import Admitted
from ringq.entries import Batch, Chunks
from ringq.errors import InvalidSubmission, MapInUse, RingqError

SLICE_ROWS = 2048  # 1 to 3 ms
SLICE_CHARS = 1 << 20  # of payloads


@dataclass(slots=True)
class Taken:
    """What a submission came to: to be handed on, and answered, after COMMIT."""

    answer: Callable[[], None]
    admitted: list[Admitted] = field(default_factory=list)
    has_delayed: bool = False
    count: int = 0


def insert(store: Any, batch: Batch, now_us: int) -> Generator[None, None, Taken]:
    """Write a batch into the open transaction; yields after each slice, returns what came of it.

    The ids it takes are `store.next_task_id` and on, which is moved when the last slice is written: until then nobody
    may wait for them.
    """
    known = store.find_submission(batch.submission)
    if known is not None and known[1] == len(batch.payloads):
        return Taken(lambda: batch.reply(known[0], True))
    if known is not None:
        return _refused(batch, InvalidSubmission("this submission id was given to another batch"))
    map_id = None
    if batch.chunks is not None:
        map_id = _find_map(store, batch.specs[0].kind, batch.chunks, now_us)
        if map_id is None:
            return _refused(batch, MapInUse("another program has gone on with this map"))
    first_id = store.next_task_id
    ids = range(first_id, first_id + len(batch.payloads))
    delayed: set[int] = set()
    for part in _slices(batch):
        _insert_slice(store, batch, ids[part], part, now_us)
        if batch.run_at_us is not None:
            late = [(at, i) for at, i in zip(batch.run_at_us[part], ids[part], strict=True) if at and at > now_us]
            store.insert_delayed(late)
            delayed.update(task_id for _, task_id in late)
        if batch.chunks is not None:
            firsts, counts, digests = (column[part] for column in batch.chunks[1:])
            store.insert_chunks(map_id, list(zip(firsts, counts, ids[part], digests, strict=True)))
        yield
    store.insert_submission(batch.submission, first_id, len(ids), now_us)
    store.next_task_id = first_id + len(ids)
    admitted = _admitted(store, batch, ids, delayed)
    return Taken(lambda: batch.reply(first_id, False), admitted, bool(delayed), len(ids))


def _refused(batch: Batch, error: RingqError) -> Taken:
    return Taken(lambda: batch.refuse(error))


def _find_map(store: Any, kind: str, chunks: Chunks, now_us: int) -> int | None:
    """The number of the map these chunks go on with; None if it has gone further already."""
    found: int | None = store.find_map(kind, chunks.key)
    if found is None:
        found = store.insert_map(kind, chunks.key, now_us)
    return found if store.map_end(found) <= chunks.firsts[0] else None


def _slices(batch: Batch) -> Iterable[slice]:
    count = len(batch.payloads)
    size = sum(map(len, batch.payloads))
    rows = max(1, min(SLICE_ROWS, SLICE_CHARS * count // size)) if size else SLICE_ROWS
    return (slice(start, min(count, start + rows)) for start in range(0, count, rows))


def _insert_slice(store: Any, batch: Batch, ids: range, part: slice, now_us: int) -> None:
    specs = [store.intern_spec(s.kind, s.queue, s.priority, s.group, s.run_timeout_ms) for s in batch.specs]
    payloads = batch.payloads[part]
    if batch.spec_of is None and batch.run_at_us is None:
        store.insert_alike(ids[0], specs[0], now_us, payloads)
        return
    spec_of = repeat(specs[0]) if batch.spec_of is None else map(specs.__getitem__, batch.spec_of[part])
    run_at: Iterable[int | None] = repeat(None) if batch.run_at_us is None else batch.run_at_us[part]
    store.insert_tasks(list(zip(ids, spec_of, repeat(now_us), run_at, payloads)))


def _admitted(store: Any, batch: Batch, ids: range, delayed: set[int]) -> list[Admitted]:
    """The batch's tasks that may start now, by lane."""
    kinds = [store.intern_kind(spec.kind) for spec in batch.specs]
    limits = [spec.run_timeout_ms or 0 for spec in batch.specs]
    lanes = [(spec.priority, spec.queue) for spec in batch.specs]
    if not delayed and batch.spec_of is None:
        return [Admitted(*lanes[0], ids, repeat(kinds[0]), repeat(limits[0]), batch.payloads)]
    spec_of = batch.spec_of or [0] * len(ids)
    places: dict[tuple[int, str], array[int]] = {}  # 8 bytes a task: rows of 200,000 took the parent 20 MiB
    for place, index in enumerate(spec_of):
        if ids[place] not in delayed:
            places.setdefault(lanes[index], array("q")).append(place)
    return [
        Admitted(
            *lane, array("q", map(ids.__getitem__, own)),
            (kinds[spec_of[place]] for place in own), (limits[spec_of[place]] for place in own),
            [batch.payloads[place] for place in own],
        )
        for lane, own in places.items()
    ]  # fmt: skip

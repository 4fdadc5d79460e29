"""Flow: submissions of one plain task each, on their way into the writer's transaction together.

So do many clients submit that each wait for an answer. One at a time, each took 19 us of a transaction; together, 5.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from itertools import groupby, repeat
from typing import Any

from ringq import failpoint, intake
from ringq.entries import Admitted, Batch
from ringq.keys import Hand
from ringq.places import place_of

AT_ONCE = 16  # statements for so many rows, or fewer, are kept
PAYLOAD_CHARS_MAX = 16_384  # so that they are written in some milliseconds


def groups(batches: Sequence[Batch]) -> Iterator[list[Batch]]:
    """These, in their order, in groups: neighbours whose tasks differ in nothing but their payloads are in one."""
    for _, alike in groupby(batches, _likeness):
        group = list(alike)
        for start in range(0, len(group), AT_ONCE):
            yield group[start : start + AT_ONCE]


def insert(store: Any, group: Sequence[Batch], now_us: int, hand: Hand) -> Generator[None, None, list[intake.Taken]]:
    """Write a group into the open transaction, as `intake.insert` does with each of it."""
    together = _insert_alike(store, group, now_us, hand)
    if together is not None:
        return [together]
    taken = []
    for batch in group:
        taken.append((yield from intake.insert(store, batch, now_us, hand)))
    return taken


def _insert_alike(store: Any, group: Sequence[Batch], now_us: int, hand: Hand) -> intake.Taken | None:
    """Write a group with a few statements. None, and nothing is written, if each of it must be looked at.

    As when one of them was stored before, or is to be told that its group is paused.
    """
    spec = group[0].specs[0]
    if not _is_small(group[0]) or not intake.is_plain(spec) or ("group", spec.group) in store.pauses():
        return None
    number, kind = store.intern_spec(*intake.columns(spec)), store.intern_kind(spec.kind)
    ids = range(store.next_task_id, store.next_task_id + len(group))
    if not store.insert_submissions([batch.submission for batch in group], ids[0], now_us):
        return None
    payloads = [batch.payloads[0] for batch in group]
    store.insert_alike(ids[0], number, now_us, payloads)
    failpoint.hit("writer.after_slice")
    store.next_task_id = ids.stop

    def answer() -> None:
        for batch, task_id in zip(group, ids, strict=True):
            batch.reply(task_id, False)

    place = hand.places.narrow(place_of(spec))
    tasks = Admitted(place, ids, repeat(kind), repeat(spec.run_timeout_ms or 0), payloads)
    return intake.Taken(answer, [tasks], count=len(ids))


def _likeness(batch: Batch) -> int:
    """The same for those that may be in one group: equal specs are the same object."""
    return id(batch.specs[0]) if _is_small(batch) else id(batch)


def _is_small(batch: Batch) -> bool:
    is_plain = batch.run_at_us is None and batch.keys is None and batch.chunks is None
    is_plain = is_plain and batch.depends_on is None and batch.family is None
    return is_plain and len(batch.payloads) == 1 and len(batch.payloads[0]) <= PAYLOAD_CHARS_MAX

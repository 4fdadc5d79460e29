"""Flow: what becomes of submissions with a key that an active task has. Inside the writer's transaction.

             it is pending                it runs, or may                   somebody waits behind it
skip         duplicate, upgraded          requeued: waits behind it         duplicate, upgraded: of who waits
supersede    superseded: in its place     requeued: waits behind it         superseded: in the place of who waits
reject       rejected                     rejected                          rejected
"""

from __future__ import annotations

import json
from collections.abc import Container, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast

import msgspec

from ringq.entries import Batch, Spec, Told
from ringq.lifecycle import Interruptions
from ringq.model import OnDuplicate, Outcome, Reason, Status
from ringq.places import Place, Places, place_of
from ringq.receipts import ReceiptRow
from ringq.tags import digest_of

KeyRow = tuple[int, int, bytes, str]  # task id, kind, digest, key
SLICE_KEYS = 256  # 2 ms
PART = 16_384  # of what is only looked at in memory: 5 ms
TOGETHER = Places()  # where nothing is published, no task needs a lane of its own
INSERTED, DUPLICATE, UPGRADED = Outcome.INSERTED.code, Outcome.DUPLICATE.code, Outcome.UPGRADED.code
REQUEUED, SUPERSEDED, REJECTED = Outcome.REQUEUED.code, Outcome.SUPERSEDED.code, Outcome.REJECTED.code


class Reach(Protocol):
    """What is asked of whoever publishes tasks."""

    @property
    def places(self) -> Places:
        """Which tasks have lanes of their own."""

    def is_out(self, task_id: int) -> bool:
        """Whether a keyed task was published, and nothing that came of it is committed."""

    def withdraw(self, task_id: int, place: Place) -> bool:
        """See to it that a pending task is not published. False if it is in no lane."""


class Hand:
    """Pending tasks that the transaction under way has taken out of the backlog, and those that it ends.

    It takes several steps, between which other tasks are published: what it relies on must not be among them.
    """

    def __init__(
        self, store: Any, reach: Reach | None, interruptions: Mapping[int, Interruptions], cancels: Container[int] = ()
    ) -> None:
        """`cancels`: tasks that end as soon as no worker has them; then they are in no lane."""
        self._store = store
        self._cancels = cancels
        self._reach = reach
        self.places = TOGETHER if reach is None else reach.places
        self._interruptions = interruptions
        self.taken: set[int] = set()
        self.fresh: list[tuple[Place, int]] = []  # of those, what this transaction has inserted
        self.delayed: list[int] = []  # that are ended before their time came
        self._resumed: set[int] = set()  # that were preempted, and are not any more
        self.ended: list[ReceiptRow] = []

    def is_out(self, task_id: int) -> bool:
        """Whether the task runs, or may.

        Where nobody publishes tasks, a client writes alone: then every task may have run to its end whose server died,
        and its receipt be in shared memory. Better a run too many than one that was asked for and never made.
        """
        if self._reach is None:
            return not self._store.previous.clean
        if self._store.has_families and self._store.waiting_row(task_id) is not None:  # its handler has run
            return True
        return task_id in self._cancels or self._reach.is_out(task_id)

    def take(self, task_id: int, place: Place) -> bool:
        """Take a pending task out of its lane: after COMMIT it goes where it belongs then, if it has not ended.

        False if it is in none.
        """
        if task_id in self.taken:
            return True
        if task_id in self._store.preempted:  # which is in no lane; whatever becomes of it, it need not wait for others
            self._store.delete_preempted([task_id])
            self._resumed.add(task_id)
            return True
        if task_id >= self._store.stored_below:
            self.fresh.append((place, task_id))
            self.taken.add(task_id)
        elif self._reach is not None and self._reach.withdraw(task_id, place):
            self.taken.add(task_id)
        return task_id in self.taken

    def replace(self, task_id: int, kind: int, by: int, now_us: int) -> None:
        """Another task takes the place of this one, which ends."""
        error = json.dumps({"type": "Replaced", "message": f"task {by} took its place", "task": by})
        attempts = self._interruptions.get(task_id, Interruptions()).attempts
        codes = (Status.SUPERSEDED.code, Reason.REPLACED.code)
        row = (task_id, 0, kind, attempts, *codes, now_us, 0, None, None, None, None, error)
        self.ended.append(cast(ReceiptRow, row))  # no worker
        self._store.leave_key(task_id)

    @property
    def left(self) -> set[int]:
        """Of the tasks that were taken those that have not ended."""
        return self.taken.union(self._resumed).difference(row[0] for row in self.ended)

    def back(self) -> list[int]:
        """After a rollback: what belongs where it was."""
        return [task_id for task_id in self.taken if task_id < self._store.stored_below]


@dataclass(slots=True)
class Decided:
    """A batch without what is not inserted. `told`: None if all is."""

    batch: Batch
    told: Told | None
    keys: list[KeyRow | None]  # of the tasks that are inserted, as the store takes them
    behind: dict[int, int] = field(default_factory=dict)  # of those, who waits for whom
    others: dict[int, list[int]] = field(default_factory=dict)  # kind -> the other kinds that are names of the same
    places: list[int] = field(default_factory=list)  # in the batch as it was, of the tasks that are inserted

    def keep(self, store: Any, part: slice) -> None:
        """Write the keys of this part of the tasks that are inserted."""
        rows = [row for row in self.keys[part] if row is not None]
        store.insert_keys(rows, [(row[0], self.behind[row[0]]) for row in rows if row[0] in self.behind])


def free_keys(store: Any, ended: list[int], now_us: int) -> tuple[list[tuple[int, int | None]], set[int]]:
    """Keys of tasks that have ended are free. Who waited for one of them, with their times; who waits on."""
    keyed = store.keyed.intersection(ended)
    if not keyed:
        return [], set()
    waited = store.free_keys(list(keyed))
    blocked = store.still_blocked([task_id for task_id, _ in waited]) if store.has_graph and waited else set()
    free = [row for row in waited if row[0] not in blocked]
    later = [(run_at_us, task_id) for task_id, run_at_us in free if run_at_us and run_at_us > now_us]
    store.put_off(later)
    return free, {task_id for _, task_id in later}


def decide(store: Any, batch: Batch, now_us: int, hand: Hand) -> Generator[None, None, Decided]:
    """Decide about each task of a batch with keys; yields after each slice.

    Of several with one key in the batch the last one counts; the others are its duplicates.
    """
    assert batch.keys is not None
    count = len(batch.payloads)
    spec_of = batch.spec_of or [0] * count
    modes = batch.on_duplicate or [0] * count
    kinds = [store.intern_kind(spec.kind) for spec in batch.specs]
    others = _others(store, batch)
    scopes = [min(kind, *others[kind]) if kind in others else kind for kind in kinds]
    names: list[tuple[int, str] | None] = []
    last: dict[tuple[int, str] | None, int] = {}  # the place of the one that counts
    for part in _parts(count):
        own = zip(spec_of[part], batch.keys[part], strict=True)
        names += [None if key is None else (scopes[s], key) for s, key in own]
        last.update(zip(names[part], range(count)[part], strict=True))
        yield
    decided = Decided(batch, None, [], others=others)
    told, inserted = Told([INSERTED] * count, [0] * count, [0] * count), list[int]()
    for place, name in enumerate(names):
        if place and place % SLICE_KEYS == 0:
            yield
        if name is not None and last[name] != place:
            told.outcomes[place] = DUPLICATE
            continue
        task_id = store.next_task_id + len(inserted)
        row = None
        if name is not None:
            row = (task_id, kinds[spec_of[place]], digest_of(name[1]), name[1])
            made = _decide_one(store, row, batch.specs[spec_of[place]], modes[place], now_us, hand, decided)
            told.outcomes[place], told.ids[place], told.replaced[place] = made
        if told.outcomes[place] in (INSERTED, REQUEUED, SUPERSEDED):
            told.ids[place] = task_id
            inserted.append(place)
            decided.keys.append(row)
    if len(inserted) < count or told.outcomes.count(INSERTED) < count:
        for part in _parts(count):
            yield
            for place, name in enumerate(names[part], part.start):
                told.ids[place] = told.ids[last[name]] if name is not None else told.ids[place]
        decided.told = told
        yield
        store.insert_outcome(batch.submission, msgspec.json.encode(told).decode())  # json takes 15 ms for 100,000
    yield
    run_at = None if batch.run_at_us is None else [batch.run_at_us[place] for place in inserted]
    payloads = [batch.payloads[place] for place in inserted]
    decided.places = inserted
    decided.batch = replace(batch, spec_of=[spec_of[p] for p in inserted], payloads=payloads, run_at_us=run_at)
    return decided


def _parts(count: int) -> Iterator[slice]:
    return (slice(start, min(count, start + PART)) for start in range(0, count, PART))


def _others(store: Any, batch: Batch) -> dict[int, list[int]]:
    """Of kinds that have aliases: by the number of each name the numbers of the others."""
    found: dict[int, list[int]] = {}
    for kind, names in batch.names.items():
        if len(names) > 1:
            found[store.intern_kind(kind)] = [store.intern_kind(name) for name in names if name != kind]
    return found


def _decide_one(
    store: Any, row: KeyRow, spec: Spec, mode: int, now_us: int, hand: Hand, decided: Decided
) -> tuple[int, int, int]:
    """(outcome, id of the task that is or will be there, id of the one that was superseded or 0)."""
    task_id, kind, digest, _ = row
    found = store.find_holder(kind, digest)
    for other in decided.others.get(kind, ()) if found is None else ():
        found = found or store.find_holder(other, digest)
    if found is None:
        return INSERTED, task_id, 0
    if mode == OnDuplicate.REJECT.code:
        return REJECTED, found.follower or found.task_id, 0
    is_out = not found.is_delayed and hand.is_out(found.task_id)
    if is_out and (found.follower is None or mode == OnDuplicate.SUPERSEDE.code):
        decided.behind[task_id] = found.task_id
    if mode == OnDuplicate.SUPERSEDE.code:
        if not is_out and kind in decided.others:  # it may have inherited the key under any name
            store.drop_key(found.task_id)
        return _supersede(store, found, is_out, row, now_us, hand)
    if task_id in decided.behind:
        return REQUEUED, task_id, 0
    return _skip(store, found, spec.priority, hand)


def _supersede(store: Any, found: Any, is_out: bool, row: KeyRow, now_us: int, hand: Hand) -> tuple[int, int, int]:
    """Take the place of what has not begun."""
    task_id, specs = row[0], store.specs()
    if found.follower is not None:
        hand.replace(found.follower, store.intern_kind(specs[found.follower_spec].kind), task_id, now_us)
    if is_out:
        return (REQUEUED, task_id, 0) if found.follower is None else (SUPERSEDED, task_id, found.follower)
    if found.is_delayed:
        hand.delayed.append(found.task_id)
    else:
        hand.take(found.task_id, place_of(specs[found.spec]))
    hand.replace(found.task_id, store.intern_kind(specs[found.spec].kind), task_id, now_us)
    return SUPERSEDED, task_id, found.task_id


def _skip(store: Any, found: Any, priority: int, hand: Hand) -> tuple[int, int, int]:
    """Leave what has not begun as it is, or make it as urgent as this."""
    newest, number = (found.task_id, found.spec) if found.follower is None else (found.follower, found.follower_spec)
    spec = store.specs()[number]
    if priority >= spec.priority:
        return DUPLICATE, newest, 0
    if found.follower is None and not found.is_delayed:
        hand.take(newest, place_of(spec))
    store.set_spec(newest, store.intern_spec(*spec._replace(priority=priority)))
    return UPGRADED, newest, 0

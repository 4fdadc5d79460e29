"""Flow: what the receipts of attempts carry besides results - children, siblings, follow-ups - on its way to the store.

receipt: result, tasks ──► tasks as a submission writes them ──► it has ended: its receipt as any
                                                            └──► its children have not: it waits

All of it is in the transaction of the receipt, or nothing: a receipt that comes twice, because a crash came between
COMMIT and the freeing of its slot, finds its attempt on record.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence
from typing import Any, Final, NamedTuple

from ringq import callbacks, codec, failpoint, intake, protocol
from ringq.admission import Admission
from ringq.aging import Aging
from ringq.committed import Committed
from ringq.depending import circle_of_family
from ringq.entries import Batch, Family, Spec
from ringq.errors import InvalidSubmission, NoParent, ProtocolError, RingqError, StaleAttempt
from ringq.keys import Hand
from ringq.model import CHILD, Reason, Status
from ringq.receipts import ReceiptRow
from ringq.resolving import Resolution
from ringq.store.schema_graph import CHILDREN
from ringq.store.waiting import WaitingRow
from ringq.tags import TAGS_MAX, ordered
from ringq.verdicts import Verdicts

COMPLETED, FAILED = Status.COMPLETED.code, Status.FAILED.code
WAITING: Final = Reason.WAITING.code
EDGES_AT_ONCE: Final = 2048
NOT_WANTED: Final = '{"type":"Cancelled","message":"it was cancelled while it ran; what it has spawned is dropped"}'


class Heritage(NamedTuple):
    """What tasks have of a parent: its tags, what is left of its time to live, how urgent it is by now."""

    tags: dict[str, str]
    ttl_ms: int | None
    priority: int


class Spawning:
    """Of one transaction."""

    def __init__(
        self, store: Any, admission: Admission | None, aging: str | None, verdicts: Verdicts, hand: Hand, now_us: int
    ) -> None:
        """`aging`: how waiting makes tasks more urgent, as settings say it."""
        self._store = store
        self._admission = admission
        self._aging = Aging.read(aging) if aging else None
        self._verdicts = verdicts
        self._hand = hand
        self._now_us = now_us

    def take(
        self, receipts: Sequence[ReceiptRow], committed: Committed, resolution: Resolution
    ) -> Generator[None, None, Sequence[ReceiptRow]]:
        """The receipts as they are to be recorded, without those of tasks that go on; what they carry is written."""
        carry = {row[0] for row in receipts if row[5] == WAITING and row[4] == COMPLETED}
        if self._store.has_families:  # children of an attempt before may live
            carry |= self._store.parents_among([row[0] for row in receipts if row[4] == COMPLETED])
        if not carry:
            return receipts
        rows: list[ReceiptRow] = []
        for row in receipts:
            if row[0] not in carry or row[4] != COMPLETED:
                rows.append(row)
            elif not self._store.is_recorded(row[0], row[1]):
                try:
                    ended = yield from self._take_one(row, committed, resolution)
                except (InvalidSubmission, ProtocolError) as error:
                    ended = _failed(row, Reason.INVALID_SPAWN, codec.encode_error(error).decode())
                rows += [] if ended is None else [ended]
        return rows

    def insert(self, batch: Batch) -> Generator[None, None, intake.Taken]:
        """Write a batch whose tasks are children, or refuse it: see `intake.insert`."""
        assert batch.family is not None
        task_id, lease, *_ = batch.family
        parent = self._store.upstream_states([task_id])[task_id]
        if parent != (True, None) or self._store.is_recorded(task_id, lease):
            error = StaleAttempt(f"task {task_id} is not run by that attempt any more: it can have no children by it")
            return intake.Taken(lambda: batch.refuse(error))
        return (yield from self._insert(batch, batch.family))

    # -- inside -------------------------------------------------------------------------------

    def _take_one(
        self, row: ReceiptRow, committed: Committed, resolution: Resolution
    ) -> Generator[None, None, ReceiptRow | None]:
        """The receipt to be recorded, None if the task goes on. Raises InvalidSubmission, ProtocolError."""
        task_id, lease = row[:2]
        if task_id in self._verdicts.cancels:
            return _failed(row, Reason.CANCELLED, NOT_WANTED)
        carried = protocol.Carried(row[11] or "null") if row[5] != WAITING else protocol.decode_carried(row[11] or "")
        is_last = task_id in self._store.finalizing
        if carried.batch is not None:
            if is_last and protocol.CHILD in (carried.roles or ()):
                raise InvalidSubmission("finalize runs when all children have ended: it may submit follow-ups only")
            yield from self._spawn(task_id, lease, carried, committed)
            failpoint.hit("graph.spawned")
        if carried.parks and not is_last:
            ended = callbacks.park(self._store, row, carried, committed, self._now_us)
            if ended is None:
                self._go_on(row, committed)
                committed.waiting.append((task_id, 0))
            return ended
        children = 0 if is_last else self._store.count_children(task_id)
        if is_last or not (carried.waits or children):
            failpoint.hit("graph.finalized")
            return (*row[:5], Reason.NONE.code, *row[6:11], carried.result, None)
        self._go_on(row, committed)
        waiting = WaitingRow(task_id, CHILDREN, lease, carried.finalizes, carried.fail_fast, self._now_us)
        self._store.insert_waiting(waiting, carried.result)
        failpoint.hit("graph.waiting")
        self._verdicts.bound_waiting(task_id, committed)
        committed.waiting.append((task_id, children))
        resolution.look_at_parent(task_id)
        return None

    def _go_on(self, row: ReceiptRow, committed: Committed) -> None:
        """The attempt has ended, its task has not."""
        self._store.insert_attempts([(*row[:4], WAITING, *row[6:11], None)])
        self._store.delete_leases([row[0]])
        self._verdicts.went_on(row[0], Reason.WAITING)
        committed.again.append(row[0])

    def _spawn(
        self, task_id: int, lease: int, carried: protocol.Carried, committed: Committed
    ) -> Generator[None, None, None]:
        """Write the tasks that a receipt carries. Raises InvalidSubmission."""
        assert carried.batch is not None
        if self._admission is None:
            raise InvalidSubmission("nobody knows which kinds there are")
        refused: list[RingqError] = []
        carried.batch.parent = (task_id, lease)
        batch = self._admission.check(carried.batch, lambda *_: None, refused.append)
        roles = carried.roles
        if batch.family is None or roles is None or len(roles) != len(batch.payloads):
            raise InvalidSubmission("the columns of what was spawned do not fit together")
        taken = yield from self._insert(batch, batch.family._replace(roles=roles))
        taken.answer()
        for error in refused:
            raise error if isinstance(error, InvalidSubmission) else InvalidSubmission(str(error))
        taken.join(committed)

    def _insert(self, batch: Batch, family: Family) -> Generator[None, None, intake.Taken]:
        roles = family.roles or [protocol.CHILD] * len(batch.payloads)
        parents = {protocol.CHILD: family.task_id}
        if protocol.SIBLING in roles:
            parent = self._store.parent_of(family.task_id)
            if parent is None or self._store.upstream_states([parent])[parent] != (True, None):
                why = "has no parent" if parent is None else f"is a child of task {parent}, which has ended"
                error = NoParent(f"task {family.task_id} {why}, so it can have no siblings: spawn a child")
                return intake.Taken(lambda: batch.refuse(error))
            parents[protocol.SIBLING] = parent
        circle = circle_of_family(self._store, batch, roles, parents, self._hand.is_out)
        if circle is not None:
            return intake.Taken(lambda: batch.refuse(circle))
        self._inherit(batch, parents, roles, family.is_urgent)
        before = {parent: self._store.count_children(parent) for parent in set(parents.values())}
        taken = yield from intake.insert(self._store, batch, self._now_us, self._hand)
        edges = [
            (task_id, parents[roles[place]], CHILD, before[parents[roles[place]]] + place)
            for task_id, place in zip(taken.ids, taken.places, strict=True)
            if roles[place] in parents
        ]
        for start in range(0, len(edges), EDGES_AT_ONCE):
            self._store.insert_edges(edges[start : start + EDGES_AT_ONCE])
            yield
        taken.spawned = [edge[:2] for edge in edges]
        return taken

    def _inherit(self, batch: Batch, parents: dict[int, int], roles: Sequence[int], is_urgent: Sequence[bool]) -> None:
        """Give the tasks what they have of their parents where nobody has said otherwise."""
        left = {role: self._left_by(parent) for role, parent in parents.items()}
        numbers: dict[tuple[int, int], int] = {}
        pairs = zip(batch.spec_of or [0] * len(roles), roles, strict=True)
        spec_of = [numbers.setdefault(pair, len(numbers)) for pair in pairs]
        batch.specs = [
            _heir(batch.specs[n], left[role], is_urgent[n]) if role in left else batch.specs[n] for n, role in numbers
        ]
        batch.spec_of = None if len(numbers) == 1 else spec_of

    def _left_by(self, parent: int) -> Heritage:
        ((_, number),) = self._store.specs_of([parent])
        priority = self._store.specs()[number].priority
        if self._aging is not None:
            priority = self._aging.effective(priority, self._now_us - self._store.since_of(parent)[1])
        ends_us = next((at for at, why in self._store.limits_of(parent, number) if why is Reason.TTL), None)
        ttl_ms = None if ends_us is None else rounded(max(1, (ends_us - self._now_us) // 1000))
        return Heritage(self._store.tags_of(parent), ttl_ms, priority)


def rounded(span_ms: int) -> int:
    """A little less, at most 1/32: specs are kept for ever, and each parent's children would have one of their own."""
    step = 1 << max(0, span_ms.bit_length() - 6)
    return span_ms // step * step


def _heir(spec: Spec, left: Heritage, is_urgent: bool) -> Spec:
    """`is_urgent`: somebody has said how urgent it is."""
    own = dict(spec.tags)
    gaps = [tag for tag in left.tags.items() if tag[0] not in own][: TAGS_MAX - len(own)]
    return dataclasses.replace(
        spec,
        tags=ordered({**own, **dict(gaps)}),
        ttl_ms=spec.ttl_ms or left.ttl_ms,
        ttl_from=spec.ttl_from if spec.ttl_ms else 0,
        priority=spec.priority if is_urgent else min(spec.priority, left.priority),
    )


def _failed(row: ReceiptRow, reason: Reason, error: str) -> ReceiptRow:
    return (*row[:4], FAILED, reason.code, *row[6:11], None, error)

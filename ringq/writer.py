"""Flow: the only code that changes the database. Submissions, receipts and interruptions share one transaction.

    submissions ──┐                      ┌──► answers to be given, new tasks for the dispatcher
    receipts  ────┼──► BEGIN … COMMIT ───┼──► slots freed, results for those who wait
    interruptions ┘                      └──► tasks given back

Nothing on the right happens before COMMIT: a slot freed earlier would run its task again after a crash.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, Protocol

from ringq import failpoint, together, upkeep
from ringq.admission import Admission
from ringq.checkpoints import Checkpoints
from ringq.clock import Clock
from ringq.committed import Committed
from ringq.config import BATCH_TASKS_MAX, Config
from ringq.entries import Batch, Interruption
from ringq.errors import RingqError, StorageFull, StoreBusy
from ringq.keys import Hand, Reach
from ringq.lifecycle import Interruptions
from ringq.receipts import ReceiptRow, result_bytes
from ringq.recording import Recording
from ringq.spawning import Spawning
from ringq.verdicts import Verdicts

OUTPUTS_HELD_MAX = 64  # accounts of what attempts printed that wait for a database that cannot be written
RETRY_NS = 1_000_000_000  # how often a full or locked database is tried again
STEP_NS = 4_000_000  # how long the loop may be kept by a submission of many tasks: the rest is written in later turns


class Change(Protocol):
    """What somebody asks for besides a submission: one part of a transaction."""

    def apply(self, store: Any, verdicts: Verdicts, committed: Committed) -> Callable[[], None]:
        """Write it; what answers it after COMMIT. Reads what it needs in the transaction itself.

        One that would keep the loop for long writes a part of it, and is called again in the next transaction if it
        has put itself into `committed.unfinished`.
        """

    def refuse(self, error: RingqError) -> None:
        """Answer that nothing could be written."""


class Freeing(Protocol):
    """What the writer needs of the ring."""

    def free(self) -> int: ...
    def revoke(self, task_id: int) -> bool | None: ...


class Writer:
    """Collects what is to be recorded and commits it in one transaction."""

    def __init__(self, store: Any, config: Config, clock: Clock) -> None:
        self._store = store
        self._config = config
        self._clock = clock
        self.reach: Reach | None = None  # set once there is somebody who publishes tasks
        self.admission: Admission | None = None  # set where receipts may carry tasks
        self._verdicts = Verdicts(store, config, clock)
        self.cancels = self._verdicts.cancels  # which tasks shall end
        self.stops = self._verdicts.stops  # which attempts, so that their tasks begin anew later
        self._ring: Freeing | None = None
        self.checkpoints = Checkpoints(store, clock)
        self._batches: list[Batch] = []
        self._receipts: list[ReceiptRow] = []
        self._interrupted: list[Interruption] = []
        self._leases: list[tuple[int, int, int, int, int, int]] = []
        self._leased = {row[0] for row in store.leases()}  # tasks that have a lease row
        self._due: list[int] = []
        self._outputs: list[tuple[int, int, bytes, bytes, int]] = []
        self._changes: list[Change] = []
        self._oldest_ns: int | None = None
        self._blocked_until_ns = 0
        self._under_way: Generator[None, None, Committed] | None = None  # a transaction that takes several steps
        self.trouble: RingqError | None = None  # why the last transaction was held back
        self._since_upkeep = 0
        self.statistics = {"commits": 0, "receipts": 0, "submitted": 0, "replays": 0, "stale": 0}

    @property
    def ring(self) -> Freeing | None:
        """Set once there are slots to free."""
        return self._ring

    @ring.setter
    def ring(self, ring: Freeing) -> None:
        self._ring = self.cancels.ring = self.stops.ring = ring

    # -- collecting ---------------------------------------------------------------------------

    def submit(self, batch: Batch) -> None:
        """Take a checked submission: `Committed.answers` has its answer; a refusal is sent at once."""
        self._batches.append(batch)
        self._stamp()

    def change(self, change: Change) -> None:
        """Take what else somebody asks for; answered as a submission is."""
        self._changes.append(change)
        self._stamp()

    def record(self, receipts: Sequence[ReceiptRow]) -> None:
        """Take drained receipts. Their slots stay in use until COMMIT."""
        if receipts:
            self._receipts.extend(receipts)
            self._stamp()

    def interrupt(self, interruption: Interruption) -> None:
        """Take the end of an attempt whose worker left no receipt."""
        self._interrupted.append(interruption)
        self._stamp()

    def lease(self, task_id: int, lease: int, kind: int, attempt: int, worker: int, started_us: int) -> None:
        """Make a long attempt's lease durable, so that a host's death can be charged to it. Idempotent."""
        if task_id not in self._leased:
            self._leased.add(task_id)
            self._leases.append((task_id, lease, kind, attempt, worker, started_us))
            self._stamp()

    def keep_output(self, task_id: int, lease: int, head: bytes, tail: bytes, dropped_bytes: int) -> None:
        """Store what an attempt printed. While the database cannot be written only so many are held in memory.

        The task id is what its worker said, and a handler may have made it say anything.
        """
        is_known = 0 < task_id < self._store.stored_below
        if is_known and (self.trouble is None or len(self._outputs) < OUTPUTS_HELD_MAX):
            self._outputs.append((task_id, lease, head, tail, dropped_bytes))
            self._stamp()

    def come_due(self, task_ids: Sequence[int]) -> None:
        """The time of these delayed tasks has come."""
        if task_ids:
            self._due.extend(task_ids)
            self._stamp()

    def give_back(self, task_ids: Sequence[int]) -> list[int]:
        """No worker has these tasks any more. Returns those that may run; the others end now: see `Verdicts`."""
        may_run = self._verdicts.give_back(task_ids)
        if len(may_run) < len(task_ids):
            self._stamp()
        return may_run

    @property
    def interruptions(self) -> dict[int, Interruptions]:
        """What happened so far to active tasks that had attempts."""
        return self._verdicts.interruptions

    @property
    def has_due(self) -> bool:
        """Whether tasks that came due wait for the next COMMIT."""
        return bool(self._due)

    @property
    def uncommitted(self) -> int:
        """Slots whose receipts wait for the next COMMIT."""
        return len(self._receipts) + len(self._interrupted)

    def wait_ns(self, saturated: bool) -> int | None:
        """How long the next commit may wait: 0 now, also while one is under way; None when there is nothing to write.

        Somebody waits for the answer to a submission, and on an idle system nothing is gained by waiting. Only while
        published tasks keep all workers busy (`saturated`) do receipts gather for `commit_interval_ms`: with tasks of
        half a millisecond on 2 cores that halves the commits and runs 6 % more tasks. (With no-ops it changes nothing:
        so many receipts arrive during one transaction that the next is large by itself.)
        """
        if self._under_way is not None:
            return 0
        now = self._clock.monotonic_ns()
        if self._oldest_ns is None:
            wait_ns = self.checkpoints.wait_ns()
            return wait_ns if wait_ns is None else max(wait_ns, self._blocked_until_ns - now)
        if now < self._blocked_until_ns:
            return self._blocked_until_ns - now
        somebody_waits = self._batches or self._changes or self._due
        if somebody_waits or not saturated or len(self._receipts) >= self._config.batch_receipts_max:
            return 0
        return max(0, self._oldest_ns + round(self._config.commit_interval_ms * 1e6) - now)

    # -- writing ------------------------------------------------------------------------------

    def commit(self, lowest_active: Callable[[], int | None]) -> Committed:
        """Write everything collected in one transaction, then free its slots.

        Returns what is true now: the caller tells it to whom it concerns, and calls `answers`, each once. Empty when
        it was held back: a full disk, or a stranger who locks the database, is not raised. Then submissions are
        refused, receipts stay in the ring and are tried again. Raises StorageFailed when the disk failed.
        """
        while (committed := self.advance(lowest_active)) is None:
            pass
        return committed

    def advance(self, lowest_active: Callable[[], int | None]) -> Committed | None:
        """As `commit`, but a step at a time while there are many tasks to store: None until the transaction is over.

        Meanwhile the loop turns, publishes what is committed and drains receipts, which join this transaction.
        `lowest_active` is asked in the last step; it is that of the first.
        """
        work, self._under_way = self._under_way or self._transaction(lowest_active), None
        until_ns = self._clock.monotonic_ns() + STEP_NS
        try:
            while True:
                next(work)
                if self._clock.monotonic_ns() >= until_ns:
                    break
        except StopIteration as end:
            committed: Committed = end.value
            return committed
        self._under_way = work
        return None

    def tidy(self, body_bytes: int) -> None:
        """After everybody was answered: move the log into the database file if enough has gathered there.

        `body_bytes`: of the payloads and results written since the last time. Raises StorageFailed.
        """
        self._store.checkpoint_if_due(body_bytes)

    @property
    def is_under_way(self) -> bool:
        """Whether a transaction is open that takes further steps."""
        return self._under_way is not None

    def _transaction(self, lowest_active: Callable[[], int | None]) -> Generator[None, None, Committed]:
        committed, now_us = Committed(), self._clock.now_us()
        hand = self.cancels.hand = Hand(self._store, self.reach, self.interruptions, self.cancels)
        spawning = Spawning(self._store, self.admission, self._config.aging, self._verdicts, hand, now_us)
        recording = Recording(
            self._store, self._verdicts, committed, hand, spawning, self._leased, self.statistics, now_us
        )
        batches = self._next_batches()
        changes, self._changes = self._changes, []
        applied = 0
        try:
            with self._store.transaction():
                for group in together.groups(batches):
                    yield from self._insert_group(group, committed, hand, spawning)
                    yield
                self._verdicts.begin(hand.ended)
                yield from recording.take_back()
                if hand.ended:
                    yield
                if self.cancels.has_returned:
                    self._verdicts.end_late(committed)
                until_ns = self._clock.monotonic_ns() + STEP_NS
                while applied < len(changes) and (not applied or self._clock.monotonic_ns() < until_ns):
                    committed.answers.append(changes[applied].apply(self._store, self._verdicts, committed))
                    applied += 1
                if self.cancels.has_returned:
                    self._verdicts.end_cancelled(committed)
                yield from recording.record(self._receipts, self._interrupted)
                self.checkpoints.write(committed.receipts)
                self._insert_leases()
                if self._outputs:
                    self._store.insert_outputs(self._outputs)
                self._store.delete_delayed([*self._due, *hand.delayed])
                self._keep_up(lowest_active, len(committed.receipts))
                failpoint.hit("writer.before_commit")
        except (StorageFull, StoreBusy) as error:
            self._hold_back([*batches, *self._batches, *changes, *self._changes], error)
            self._verdicts.begin()
            return Committed(revoked=committed.revoked, returned=[*committed.revoked, *hand.back()])  # those go back
        self.trouble = None
        self._changes[:0] = [*committed.unfinished, *changes[applied:]]  # the next transaction has time for those
        failpoint.hit("writer.after_commit")
        committed.due = self._due
        committed.withdrawn = hand.fresh
        self._receipts, self._interrupted, self._leases, self._due, self._outputs = [], [], [], [], []
        self.checkpoints.written()
        self._oldest_ns = None if not self._batches and not self._changes else self._clock.monotonic_ns()
        if self.ring is not None:
            self.ring.free()
        failpoint.hit("writer.after_free")
        self._count(committed)
        if self.cancels.has_returned:
            self._stamp()
        committed.body_bytes = result_bytes(committed.receipts) + sum(sum(map(len, b.payloads)) for b in batches)
        return committed

    def _next_batches(self) -> list[Batch]:
        """The oldest, about as many tasks as one submission may have: slots and answers wait for this COMMIT."""
        tasks = count = 0
        while count < len(self._batches) and tasks < BATCH_TASKS_MAX:
            tasks += len(self._batches[count].payloads)
            count += 1
        taken, self._batches = self._batches[:count], self._batches[count:]
        return taken

    def _insert_group(
        self, group: list[Batch], committed: Committed, hand: Hand, spawning: Spawning
    ) -> Generator[None, None, None]:
        if group[0].family is not None:
            rows = [(yield from spawning.insert(group[0]))]
        else:
            rows = yield from together.insert(self._store, group, self._clock.now_us(), hand)
        for taken in rows:
            taken.join(committed)
            committed.answers.append(taken.answer)

    def _insert_leases(self) -> None:
        if self._leases:
            ended = {row[0] for row in self._receipts} | {i.task_id for i in self._interrupted}
            self._store.insert_leases([row for row in self._leases if row[0] not in ended])

    def _keep_up(self, lowest_active: Callable[[], int | None], ended: int) -> None:
        self._since_upkeep += ended
        if self._since_upkeep >= upkeep.EVERY:
            before_us = self._clock.now_us() - round(self._config.submission_keep_s * 1e6)
            upkeep.step(self._store, lowest_active(), before_us)
            self._since_upkeep = 0

    def _hold_back(self, refused: Iterable[Batch | Change], error: RingqError) -> None:
        self.trouble, self._batches, self._changes = error, [], []
        for one in refused:
            one.refuse(error)
        self._blocked_until_ns = self._clock.monotonic_ns() + RETRY_NS
        held = self._receipts or self._interrupted or self._leases or self._due or self._outputs
        if not held and not self.cancels.has_returned:
            self._oldest_ns = None

    def _count(self, committed: Committed) -> None:
        """Bring what is kept in memory in line with what is durable now."""
        self.statistics["commits"] += 1
        self.statistics["receipts"] += len(committed.receipts)
        self.statistics["submitted"] += committed.submitted
        self._verdicts.note(committed)
        if self._leased:
            self._leased.difference_update(committed.again, (row[0] for row in committed.receipts))

    def _stamp(self) -> None:
        if self._oldest_ns is None:
            self._oldest_ns = self._clock.monotonic_ns()

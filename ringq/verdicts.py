"""Flow: what becomes of tasks whose attempt did not complete. Inside the writer's transaction.

failed, cut off ──► verdict ──► again: at once, or when its time comes
                            └─► final: failed, dead letter, cancelled; a chunk goes on as smaller ones
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ringq import codec, retry
from ringq.cancels import Cancels
from ringq.clock import Clock
from ringq.committed import Committed
from ringq.config import Config
from ringq.entries import Interruption
from ringq.lifecycle import (
    NO_FAILURE,
    RETRYABLE,
    STOPS,
    Interruptions,
    Verdict,
    after_failure,
    after_interruption,
    after_lapse,
    is_legal,
)
from ringq.model import Reason, Status
from ringq.queues import cooldown
from ringq.receipts import ReceiptRow
from ringq.retry import Retry
from ringq.splitting import replacement
from ringq.stops import Stops

FAILED = Status.FAILED.code


class Verdicts:
    """Counts the attempts of each task that had some without ending. `interruptions` has these counts by task."""

    def __init__(self, store: Any, config: Config, clock: Clock) -> None:
        self._store = store
        self._config = config
        self._clock = clock
        self.interruptions = {i: Interruptions(*counts) for i, counts in store.attempts_summary().items()}
        self._policy = None if config.retry is None else retry.read(config.retry)
        self.cancels = Cancels(store, clock)
        self.stops = Stops(clock)
        self._tallies: dict[int, Interruptions] = {}  # of this transaction; true after its COMMIT

    def give_back(self, task_ids: Sequence[int]) -> list[int]:
        """No worker has these tasks any more, and they have not begun. Returns those that may run.

        The others were cancelled, or their time was over while a worker had them: the next transaction ends them.
        """
        if self.stops:
            self.stops.ended(task_ids)
        ending = {task_id for task_id in task_ids if task_id in self.cancels}
        if self._store.has_ttl:
            now_us = self._clock.now_us()
            for task_id, spec in self._store.specs_of(task_ids):
                limits = self._store.limits_of(task_id, spec)
                if limits and limits[0][0] <= now_us:
                    ending.add(task_id)
        self.cancels.give_back(ending)
        return [task_id for task_id in task_ids if task_id not in ending]

    def begin(self, replaced: Sequence[ReceiptRow] = ()) -> None:
        """A transaction begins: what was counted in one that was rolled back never happened.

        `replaced`: the ends of tasks whose places it has given to others; they are written with all receipts.
        """
        self._tallies = {}
        self.cancels.begin(replaced)

    def interrupted(self, interruptions: Sequence[Interruption], committed: Committed) -> None:
        """Record attempts that ended without a receipt. The receipts that are due to them are in `committed` then."""
        again: list[tuple[Verdict, tuple[Any, ...]]] = []
        for i in interruptions:
            reason = self._reason(i.task_id, i.reason)
            so_far = self._counted(i.task_id).plus(reason)
            verdict = after_interruption(
                reason, so_far, crashes_max=self._config.crashes_max, lost_max=self._config.lost_max,
                retry=self._policy_of(i.task_id) if reason in RETRYABLE else None, chance=random.random(),  # noqa: S311
            )  # fmt: skip
            assert is_legal(Status.RUNNING, verdict.status, verdict.reason), verdict
            is_cancelled = verdict.status is Status.CANCELLED  # then a chunk does not go on as smaller ones
            if not is_cancelled and self._replace(i, verdict.status is not Status.PENDING, committed):
                continue
            self._tallies[i.task_id] = so_far
            times = (i.ended_us, max(0, i.ended_us - i.started_us), i.worker, i.cpu_us, i.rss_kib)
            if verdict.status is Status.PENDING:
                again.append((verdict, (i.task_id, i.lease, i.kind, i.attempt, reason.code, *times, i.error)))
            else:
                codes = (verdict.status.code, verdict.reason.code)
                committed.receipts.append((i.task_id, i.lease, i.kind, i.attempt, *codes, *times, None, i.error))
        self._record(again, committed)

    def received(self, receipts: Sequence[ReceiptRow], committed: Committed) -> Sequence[ReceiptRow]:
        """Record attempts that failed and are made again; the receipts of the others, as they are to be written."""
        failed = [row for row in receipts if row[4] == FAILED]
        if not failed:
            return receipts
        policies = self._policies([row[0] for row in failed])
        again: list[tuple[Verdict, tuple[Any, ...]]] = []
        final: list[ReceiptRow] = []
        for row in receipts:
            if row[4] != FAILED or row[0] not in policies:  # the store will say that one has ended before
                final.append(row)
                continue
            reason = self._reason(row[0], Reason.of(row[5]))
            asked_s = codec.asked_delay_s(row[12])
            so_far = self._counted(row[0]).plus(reason)
            verdict = after_failure(
                reason,
                so_far,
                policies[row[0]],
                asked_s,
                random.random(),  # noqa: S311
            )
            assert is_legal(Status.RUNNING, verdict.status, verdict.reason), verdict
            if verdict.status is Status.PENDING:
                self._tallies[row[0]] = so_far
                if reason is Reason.THROTTLED:
                    self._throttle(row[0], asked_s, committed)
                again.append((verdict, (*row[:4], reason.code, *row[6:11], row[12])))
            else:
                final.append((*row[:4], verdict.status.code, verdict.reason.code, *row[6:]))
        self._record(again, committed)
        return final

    def lapsed(self, rows: Sequence[ReceiptRow], committed: Committed) -> list[ReceiptRow]:
        """Attempts had ended well, and nobody outside has completed their tasks: they failed. Returns what is final.

        These have the lease 0; the others are made again. The rows are those of the attempts as they are recorded.
        """
        policies = self._policies([row[0] for row in rows])
        again: list[tuple[Verdict, tuple[Any, ...]]] = []
        final: list[ReceiptRow] = []
        for row in rows:
            counted = self._counted(row[0])
            so_far = replace(counted, attempts=max(counted.attempts, row[3]), failures=counted.failures + 1)
            verdict = after_lapse(Reason.of(row[5]), so_far, policies[row[0]], random.random())  # noqa: S311
            assert is_legal(Status.WAITING, verdict.status, verdict.reason), verdict
            if verdict.status is Status.PENDING:
                self._tallies[row[0]] = so_far
                again.append((verdict, (*row[:4], row[5], *row[6:11], row[12])))
            else:
                final.append((row[0], 0, *row[2:4], verdict.status.code, verdict.reason.code, *row[6:]))
        self._record(again, committed)
        return final

    def end_cancelled(self, committed: Committed) -> None:
        """End tasks that somebody cancelled, and that came back without having ended."""
        returned = [task for task in self.cancels.returned() if task[0] in self.cancels]
        self.cancels.end([(task_id, spec, self.attempts_of(task_id)) for task_id, spec in returned], committed)

    def end_late(self, committed: Committed) -> None:
        """End tasks that came back when their time was over. To be called before anybody asks something of them."""
        for task_id, spec in self.cancels.returned():
            if task_id not in self.cancels:
                reason = self._store.limits_of(task_id, spec)[0][1]
                self.cancels.end([(task_id, spec, self.attempts_of(task_id))], committed, Status.EXPIRED, reason)

    def attempts_of(self, task_id: int) -> int:
        """How many attempts the task has had, but for snoozed ones."""
        return self._counted(task_id).attempts

    def went_on(self, task_id: int, reason: Reason) -> None:
        """An attempt has ended, and neither has it failed nor has its task ended."""
        self._tallies[task_id] = self._counted(task_id).plus(reason)

    def bound_waiting(self, task_id: int, committed: Committed) -> None:
        """The handler has returned: the time for all of its task may be over while it waits for others."""
        if self._store.has_ttl:
            ((_, spec),) = self._store.specs_of([task_id])
            self._store.insert_expiries([(at_us, task_id) for at_us, _ in self._store.limits_of(task_id, spec)])
            committed.expiring = True

    def released(self, task_id: int, attempts: int) -> None:
        """A dead letter is given another chance after so many attempts: every limit begins anew."""
        self._tallies[task_id] = Interruptions(attempts)

    def renew(self, task_ids: Sequence[int], committed: Committed) -> None:
        """These tasks wait from now on as if they had just been submitted."""
        if self._store.has_ttl and task_ids:
            now_us = self._clock.now_us()
            self._store.renew(task_ids, now_us)
            self._over(task_ids, now_us, committed)

    def queued(self, tasks: Sequence[tuple[int, int | None]], now_us: int, committed: Committed) -> None:
        """These tasks, given with their times, have waited for others, and wait for a worker now."""
        if self._store.has_ttl:
            run_at_us, specs = dict(tasks), self._store.specs()
            for task_id, spec in self._store.specs_of(list(run_at_us)):
                if queue_ms := specs[spec].queue_timeout_ms:
                    starts_us = max(now_us, run_at_us[task_id] or 0)
                    self._store.insert_expiries([(starts_us + queue_ms * 1000, task_id)])
                    committed.expiring = True

    def note(self, committed: Committed) -> None:
        """After COMMIT: bring the counts in line with what is durable now."""
        self.cancels.note(committed.receipts)
        if self.stops:
            self.stops.ended([*committed.again, *(row[0] for row in committed.receipts)])
        self.interruptions.update(self._tallies)
        if self.interruptions:
            for row in committed.receipts:
                self.interruptions.pop(row[0], None)

    def _reason(self, task_id: int, reason: Reason) -> Reason:
        """What an attempt without success ended for: a cancel stands above all, and of two stops the stronger one."""
        if task_id in self.cancels:
            return Reason.CANCELLED
        stop = self.stops.get(task_id) if reason in STOPS else None
        return reason if stop is None else stop.reason

    def _counted(self, task_id: int) -> Interruptions:
        return self._tallies.get(task_id) or self.interruptions.get(task_id, Interruptions())

    def _record(self, again: list[tuple[Verdict, tuple[Any, ...]]], committed: Committed) -> None:
        """These attempts did not end their tasks."""
        if not again:
            return
        self._store.insert_attempts([row for _, row in again])
        self._store.prune_attempts({row[0] for verdict, row in again if verdict.reason in NO_FAILURE})
        self._store.delete_leases([row[0] for _, row in again])
        if self._store.has_callbacks:
            self._store.delete_callbacks([row[0] for _, row in again])
        committed.again += [row[0] for _, row in again]
        committed.unended += [(row, verdict.delay_s) for verdict, row in again]
        now_us = self._clock.now_us()
        later = [(now_us + round(verdict.delay_s * 1e6), row[0]) for verdict, row in again if verdict.delay_s]
        self._store.put_off(later)
        committed.delayed |= bool(later)
        if self._store.has_ttl:
            over = self._over([row[0] for _, row in again], now_us, committed)
            again = [(verdict, row) for verdict, row in again if row[0] not in over]
        committed.alone += [row[0] for verdict, row in again if verdict.alone]
        again = self._hold_preempted(again)
        committed.returned += [row[0] for verdict, row in again if not verdict.delay_s]

    def _hold_preempted(self, again: list[tuple[Verdict, tuple[Any, ...]]]) -> list[tuple[Verdict, tuple[Any, ...]]]:
        """The tasks whose place a more urgent one wants still wait until none does. Returns the others."""
        held = {row[0] for verdict, row in again if verdict.reason is Reason.PREEMPTED and row[0] in self.stops}
        if held:
            self._store.insert_preempted(held)
        return [(verdict, row) for verdict, row in again if row[0] not in held]

    def _over(self, task_ids: Sequence[int], now_us: int, committed: Committed) -> set[int]:
        """Those of these that may not have another attempt: their time is over, and they end. The others are noted."""
        over: set[int] = set()
        for task_id, spec in self._store.specs_of(task_ids):
            limits = self._store.limits_of(task_id, spec)
            if limits and limits[0][0] <= now_us:
                over.add(task_id)
                ended = [(task_id, spec, self.attempts_of(task_id))]
                self.cancels.end(ended, committed, Status.EXPIRED, limits[0][1])
            else:
                self._store.insert_expiries([(at_us, task_id) for at_us, _ in limits])
        committed.expiring = True
        return over

    def _policy_of(self, task_id: int) -> Retry | None:
        return self._policies([task_id]).get(task_id)

    def _policies(self, task_ids: Sequence[int]) -> dict[int, Retry | None]:
        """How each of these tasks is tried again: as it, its queue or the server says. Only of active ones."""
        specs = self._store.specs()
        found: dict[int, Retry | None] = {}
        for task_id, number in self._store.specs_of(task_ids):
            written = specs[number].retry or self._store.queue(specs[number].queue).retry
            found[task_id] = self._policy if written is None else retry.read(written)
        return found

    def _throttle(self, task_id: int, hint_s: float | None, committed: Committed) -> None:
        """The queue of this task begins to cool down, or goes on with it."""
        ((_, number),) = self._store.specs_of([task_id])
        row = self._store.queue(self._store.specs()[number].queue)
        throttles, until_us = cooldown(row, self._clock.now_us(), hint_s)
        self._store.set_queue(row.name, throttles=throttles, throttled_until_us=until_us)
        committed.queues.append(row.name)

    def _replace(self, i: Interruption, is_final: bool, committed: Committed) -> bool:
        """Whether the task was a chunk that goes on as smaller ones; then they take its place."""
        new = replacement(self._store, i, is_final, self._clock.now_us())
        if new is None:
            return False
        assert is_legal(Status.RUNNING, new.status, new.reason), new
        if new.tasks:
            if self._store.has_graph:
                self._store.move_edges(i.task_id, [row[0] for row in new.tasks])
            self._store.insert_tasks(new.tasks)
            pieces = [row[0] for row in new.tasks]
            self._store.copy_tags(i.task_id, pieces)
            self._store.insert_pieces(i.task_id, pieces)
            self._store.next_task_id += len(pieces)
            if self._store.has_ttl:
                self._over(pieces, new.tasks[0][2], committed)
            committed.admitted.append(new.admitted)
        times = (i.ended_us, new.us + max(0, i.ended_us - i.started_us), i.worker, i.cpu_us, i.rss_kib)
        codes = (new.status.code, new.reason.code)
        committed.receipts.append((i.task_id, i.lease, i.kind, i.attempt, *codes, *times, new.result, new.error))
        return True

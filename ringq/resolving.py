"""Flow: what the end of tasks means for those that wait for them. Inside the transaction that has their receipts.

                     it completed ──► one less to wait for ──► the last one: the task may start, the parent is finalized
    a task has ended ┤
                     it did not ────► dependents: dependency_failed, or as if it had (`ignore`)
                                 ├──► its parent fails and its siblings are cancelled, or go on (`fail_fast`)
                                 └──► its own children are cancelled

What ends by that has a receipt of its own in the same transaction, and what waited for it follows in turn: at any
depth, without recursion.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from typing import Any, Final

from ringq import failpoint
from ringq.cancelling import cancel
from ringq.committed import Committed
from ringq.model import CHILD, OnDependencyFailure, Reason, Status
from ringq.receipts import ReceiptRow
from ringq.store.schema_graph import CHILDREN, FINALIZING
from ringq.verdicts import Verdicts

EDGES_AT_ONCE: Final = 1024  # 4 ms
CHILDREN_AT_ONCE: Final = 250  # as many as one step cancels elsewhere
COMPLETED, REPLACED = Status.COMPLETED.code, Reason.REPLACED.code
FAIL, IGNORE = OnDependencyFailure.FAIL.code, OnDependencyFailure.IGNORE.code


class Resolution:
    """Of one transaction. What comes of it is added to `committed`, whose receipts are to be written by the caller, and
    are to be followed then.
    """

    def __init__(self, store: Any, verdicts: Verdicts, committed: Committed, now_us: int) -> None:
        self._store = store
        self._verdicts = verdicts
        self._committed = committed
        self._now_us = now_us
        self._harmless: set[int] = set()  # ended by a dependency, in a way that goes no further

    def follow(self, receipts: Sequence[ReceiptRow]) -> Generator[None, None, None]:
        """These have been written: see to whom it concerns. Yields after each part."""
        ended = [row[0] for row in receipts]
        for row in receipts:
            if row[5] == REPLACED:  # who waited for it waits for the task that is in its place
                self._store.move_edges(row[0], [json.loads(row[12] or "{}")["task"]])
        unmet = [row[0] for row in receipts if row[4] != COMPLETED]
        if unmet:  # what has completed depends on nothing any more, and its children have ended
            yield from self._cancel_children(unmet)
            self._store.close_edges_of(unmet)
        if self._store.has_families and self._store.waiting_rows(ended):
            self._store.delete_waiting(ended)
        completed = {row[0] for row in receipts if row[4] == COMPLETED} | self._harmless
        edges = self._store.open_edges(ended, EDGES_AT_ONCE)
        while edges:
            self._resolve(edges, completed)
            yield
            is_all = len(edges) < EDGES_AT_ONCE
            edges = [] if is_all else self._store.open_edges(ended, EDGES_AT_ONCE, edges[-1][:2])

    def look_at_parent(self, task_id: int) -> None:
        """Its handler has returned: its children may have ended before that."""
        child = self._store.failed_child(task_id)
        self._settle_parents({task_id: None if child is None else child[0]})

    def _resolve(self, edges: Sequence[tuple[int, int, int]], completed: set[int]) -> None:
        """What these ends, as (upstream, task id, role), mean for the tasks."""
        failing: dict[int, int] = {}  # task -> what it depends on and has not completed, the first of all
        parents: dict[int, int | None] = {}  # likewise a child
        goes_no_further: set[int] = set()
        for upstream, task_id, role in edges:
            if role == CHILD:
                is_first = parents.get(task_id) is None
                parents[task_id] = upstream if is_first and upstream not in completed else parents.get(task_id)
            elif role != IGNORE and upstream not in completed and task_id not in failing:
                failing[task_id] = upstream
                if role == FAIL:
                    goes_no_further.add(task_id)
        self._store.close_edges([edge[:2] for edge in edges])
        failpoint.hit("graph.resolved")
        self._harmless |= goes_no_further.intersection(self._fail(failing))
        candidates = {task_id for _, task_id, role in edges if role != CHILD and task_id not in failing}
        if candidates:
            self._release(candidates)
        self._settle_parents(parents)

    def _fail(self, failing: dict[int, int]) -> set[int]:
        """These depend on what has not completed. Those that end by that: not the ones that have ended otherwise."""
        if not failing:
            return set()
        ended: set[int] = set()
        cancels, states = self._verdicts.cancels, self._store.task_states(sorted(failing))
        for task_id, state in states.items():
            if state.status is None and cancels.ended_as(task_id) is None:
                upstream = failing[task_id]
                text = f"task {upstream}, on which it depends, has not completed"
                why = json.dumps({"type": "DependencyFailed", "message": text, "task": upstream})
                task = (task_id, state.spec, self._verdicts.attempts_of(task_id))
                status, source = Status.DEPENDENCY_FAILED, Status.BLOCKED
                cancels.end([task], self._committed, status, Reason.NONE, why, source)
                ended.add(task_id)
        return ended

    def _release(self, task_ids: set[int]) -> None:
        """Those of these that depend on nothing any more may start, or when their time comes."""
        cancels, committed = self._verdicts.cancels, self._committed
        found = [row for row in self._store.free_of(task_ids) if cancels.ended_as(row[0]) is None]
        committed.unblocked += [task_id for task_id, _ in found]
        failpoint.hit("graph.released")
        behind = self._store.behind(task_ids) if self._store.keyed else ()
        free = [row for row in found if row[0] not in behind]
        later = [(run_at_us, task_id) for task_id, run_at_us in free if run_at_us and run_at_us > self._now_us]
        if later:
            self._store.put_off(later)
            committed.delayed = True
        delayed = {task_id for _, task_id in later}
        committed.returned += [task_id for task_id, _ in free if task_id not in delayed]
        self._verdicts.queued(free, self._now_us, committed)

    def _settle_parents(self, parents: dict[int, int | None]) -> None:
        """Children of these have ended: the one that is named, if one is, without completing."""
        if not parents:
            return
        still = self._store.still_waiting(parents)
        for row in self._store.waiting_rows(parents):
            child = parents[row.task_id]
            if row.phase != CHILDREN or self._verdicts.cancels.ended_as(row.task_id) is not None:
                continue
            if child is not None and row.fail_fast:
                self._fail_parent(row.task_id, child)
            elif row.task_id not in still:
                self._end_parent(row)

    def _end_parent(self, row: Any) -> None:
        """All children have ended, and none of them ends the parent."""
        task_id = row.task_id
        failed = None if row.finalizes else self._store.failed_child(task_id)
        if row.finalizes:
            self._store.set_phase(task_id, FINALIZING)
            failpoint.hit("graph.finalizing")
            self._committed.finalizing.append(task_id)
            self._committed.returned.append(task_id)
        elif failed is not None:
            self._fail_parent(task_id, failed[0])
        else:
            self._complete(row)

    def _fail_parent(self, task_id: int, child: int) -> None:
        ((_, spec),) = self._store.specs_of([task_id])
        why = {"type": "ChildFailed", "message": f"task {child}, a child of it, has not completed", "task": child}
        self._verdicts.cancels.end(
            [(task_id, spec, self._verdicts.attempts_of(task_id))], self._committed, Status.FAILED, Reason.CHILD_FAILED,
            json.dumps(why), Status.WAITING,
        )  # fmt: skip

    def _complete(self, row: Any) -> None:
        """It has nothing left to do: what its handler has returned is its result."""
        receipt = _receipt(self._store, row, self._now_us, self._store.memo(row.task_id))
        self._committed.receipts.append(receipt)
        self._verdicts.cancels.note_ends([receipt])

    def _cancel_children(self, parents: Sequence[int]) -> Generator[None, None, None]:
        """What is left of the children of tasks that have ended."""
        seen: set[int] = set()
        why = json.dumps({"type": "ParentEnded", "message": "the task that spawned it has ended"})
        while children := self._store.active_children(parents, CHILDREN_AT_ONCE):
            self._store.close_edges_to(children)
            fresh = [child for child, _ in children if child not in seen]
            seen.update(fresh)
            cancel(fresh, self._store, self._verdicts, self._committed, why=why)
            failpoint.hit("graph.cancelled")
            yield


def _receipt(store: Any, row: Any, now_us: int, result: str | None) -> ReceiptRow:
    """The receipt of a task that waits, as its `WaitingRow`, and completes without another attempt.

    It has taken as long as its handler did: that is what workers are shared by, and it had none since. No attempt ends
    it: that of its handler has ended before.
    """
    own = store.returned_attempt(row.task_id, row.lease)
    codes = (own.attempt, COMPLETED, Reason.NONE.code)
    times = (now_us, own.duration_us, own.worker or 0, own.cpu_us, own.rss_kib)
    return (row.task_id, 0, own.kind, *codes, *times, result, None)

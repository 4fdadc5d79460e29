"""Flow: hands tasks with serial keys to the backlog, of each key one at a time; the others wait outside of it.

    submitted, due, given back ──► has it the turn? ──► backlog ──► workers
                                   no: in line             │
                                          ▲                │ the turn is passed on
                                          └── has ended ───┘

What waits in line is in no lane: what is to be taken out of the backlog is told apart here.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import Any, Protocol

from ringq.committed import Committed
from ringq.dispatch import Dispatcher
from ringq.places import Place, Places
from ringq.returning import Returning
from ringq.serial import Serials


class Revoking(Protocol):
    """What is needed of the ring."""

    def revoke(self, task_id: int) -> bool | None: ...


class Turns:
    """Who has the turn. Is asked in place of the dispatcher what the writer asks (`keys.Reach`)."""

    def __init__(self, store: Any, feed: Any, dispatcher: Dispatcher) -> None:
        self._store = store
        self._feed = feed
        self._dispatcher = dispatcher
        self.returning = Returning(dispatcher, feed)
        self.serials = Serials()
        self.stopping = False  # then what had been published is in no lane any more, and nothing is taken from one

    def load_all(self) -> None:
        """Fill the backlog as `Feed.load_all` does, with those that have the turn."""
        self._feed.load_all()
        if self._store.has_serials:
            self._feed.give_back(self.serials.load(self._store.in_line(), self._store.begun_serials()))
        if self._store.finalizing:
            states = self._store.task_states(sorted(self._store.finalizing))
            self._feed.give_back([task_id for task_id, state in states.items() if not state.is_held])

    def is_out(self, task_id: int) -> bool:
        """See `keys.Reach`."""
        return self._dispatcher.is_out(task_id)

    @property
    def places(self) -> Places:
        """See `keys.Reach`."""
        return self._dispatcher.places

    def withdraw(self, task_id: int, place: Place) -> bool:
        """See `keys.Reach`."""
        if self.stopping:
            return False
        if self.serials.withdraw(task_id):
            self.returning.hold(task_id)
            return True
        return self.returning.withdraw(task_id, place)

    def oldest_held(self) -> int | None:
        """The smallest id of the tasks that wait for others, or have returned and not ended."""
        held: int | None = self._store.first_waiting() if self._store.has_graph else None
        return held

    def settle(self, committed: Committed, ring: Revoking) -> list[int]:
        """Follow a transaction; the tasks to be given back to the backlog.

        Leaves in `committed` what is to be taken out of the backlog, which is to be done after this and before those
        are given back.
        """
        back = [*committed.due, *committed.returned]
        if not self._store.has_serials:  # as in most databases: that is all it costs
            return back
        ended = {row[0] for row in committed.receipts}
        self._leave_out(committed)
        out = dict.fromkeys(self.serials.ended(ended))
        self.serials.has_begun(committed.again)
        rows = self._store.serials_of(back) if back else []
        come = [row[0] for row in rows]
        out.update(dict.fromkeys(self._admitted([row for row in rows if row[0] not in ended], committed, ended)))
        if not self.stopping:
            firsts = [*come, *(task_ids[0] for _, _, task_ids in committed.lined)]
            self._take_turns(firsts, out, committed, ring)
        return [*set(back).difference(come), *out]

    def _leave_out(self, committed: Committed) -> None:
        """Of what is to be taken out of the backlog, leave out what is in line, or would be by this transaction."""
        if not committed.withdrawn and not committed.removed:
            return
        lined = {task_id for _, _, task_ids in committed.lined for task_id in task_ids}
        if committed.withdrawn:
            fresh = {task_id for _, task_id in committed.withdrawn}
            committed.lined = [
                (priority, key, kept)
                for priority, key, task_ids in committed.lined
                if (kept := [task_id for task_id in task_ids if task_id not in fresh])
            ]  # those have ended, or come back
        for rows in (committed.withdrawn, committed.removed):
            rows[:] = [row for row in rows if row[1] not in lined and not self.serials.waits(row[1])]

    def _admitted(
        self, come: Iterable[tuple[int, str, int]], committed: Committed, ended: Container[int]
    ) -> Iterator[int]:
        """Have those stand in line that may run now; those that have the turn."""
        for task_id, key, priority in come:
            yield from self.serials.admit_all(key, priority, [task_id])
        for priority, key, task_ids in committed.lined:
            kept = [task_id for task_id in task_ids if task_id not in ended] if ended else task_ids
            if kept:
                yield from self.serials.admit_all(key, priority, kept)

    def _take_turns(self, task_ids: Iterable[int], out: dict[int, None], committed: Committed, ring: Revoking) -> None:
        """What is more urgent than who has the turn gets it, unless that one has begun.

        `out`: those that will be given to the backlog, and are in no lane yet.
        """
        for task_id in task_ids:
            holder = self.serials.ahead_of(task_id)
            if holder is None:
                continue
            if holder not in out:
                revoked = ring.revoke(holder)
                if revoked is False:
                    self.serials.has_begun([holder])
                    continue
                if revoked:
                    self._dispatcher.ended([holder])
                    self._dispatcher.came_back([holder])
                else:
                    held = self._store.specs_of([holder])
                    committed.removed += [(self._store.place_of(holder, number), holder) for _, number in held]
            out.pop(holder, None)
            out.update(dict.fromkeys(self.serials.pass_on(holder)))

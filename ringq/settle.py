"""Face: a transaction, and what it makes true for everybody - clients, dispatcher, backlog."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ringq import failpoint
from ringq.bus import Bus
from ringq.committed import Committed
from ringq.dispatch import Dispatcher
from ringq.errors import RingqError
from ringq.feed import Feed
from ringq.harvest import Harvest
from ringq.listener import Listener
from ringq.log import warn
from ringq.model import Status
from ringq.places import Place
from ringq.ring import Parent
from ringq.traffic import Traffic
from ringq.turns import Turns
from ringq.writer import Writer

LARGE: Final = 20_000  # tasks that a transaction has stored: its COMMIT has taken some 10 ms
NOT_RUN: Final = (  # most of them
    *(Status.SUPERSEDED.code, Status.CANCELLED.code, Status.EXPIRED.code, Status.DEAD_LETTER.code),
    Status.DEPENDENCY_FAILED.code,
)


class Settlement:
    """Commits, and hands on what is durable now. Nothing of it may happen before."""

    def __init__(
        self, writer: Writer, listener: Listener, feed: Feed, dispatcher: Dispatcher, harvest: Harvest,
        traffic: Traffic, turns: Turns, bus: Bus | None = None,
    ) -> None:  # fmt: skip
        self._writer = writer
        self._listener = listener
        self._feed = feed
        self._dispatcher = dispatcher
        self._harvest = harvest
        self._traffic = traffic
        self._turns = turns
        self._bus = bus
        self._untold: list[Committed] = []
        self._untidy_bytes: int | None = None  # of bodies written since there was time to tidy up; None: no COMMIT was

    def commit(self, ring: Parent) -> None:
        """One transaction, or a step of one that stores many tasks.

        Clients are told by `answer`, which whoever calls this must call before the loop may sleep. Raises
        StorageFailed; a full or locked database holds everything back.
        """
        trouble = self._writer.trouble
        self._turns.stopping = self._listener.stopping
        committed = self._writer.advance(lambda: self._lowest_active(ring))
        if committed is None:
            return
        self._say(trouble, self._writer.trouble)
        self._untold.append(committed)
        for (kind, status), (count, duration_us, _) in committed.sums.items():
            if status not in NOT_RUN:
                self._dispatcher.pace.learn(kind, count, duration_us)
        if committed.receipts or committed.again:
            self._harvest.committed()
            self._dispatcher.came_back(row[0] for row in committed.receipts)
            self._dispatcher.came_back(committed.again)
        for task_id in committed.alone:
            self._dispatcher.run_alone(task_id)
        if committed.receipts:
            self._dispatcher.forget(row[0] for row in committed.receipts)
        back = self._turns.settle(committed, ring)
        self._feed.backlog.append(*committed.admitted)
        for place, task_id in committed.withdrawn:
            self._feed.backlog.remove(place, task_id)
        if committed.revoked or committed.removed:
            self._dispatcher.ended(committed.revoked)
            self._dispatcher.came_back(committed.revoked)  # also what a rollback leaves pending
            self._remove(committed.removed)
        self._turns.returning.give_back(back)
        self._look_ahead(committed, ring)
        if self._bus is not None and self._bus.words:
            self._bus.take(committed)

    def answer(self) -> None:
        """Tell clients what is durable now: the workers have been given what they can do meanwhile.

        Then there is time to tidy up; after many tasks, in the next turn. To be called in each turn. Raises
        StorageFailed from that.
        """
        untold, self._untold = self._untold, []
        for committed in untold:
            for answer in committed.answers:
                answer()
            failpoint.hit("writer.after_reply")
            self._listener.tell(committed.receipts)
            self._untidy_bytes = committed.body_bytes + (self._untidy_bytes or 0)
        is_large = any(committed.submitted >= LARGE for committed in untold)
        if self._untidy_bytes is not None and not is_large:
            self._writer.tidy(self._untidy_bytes)
            self._untidy_bytes = None
        self._turns.returning.step()
        if self._bus is not None and self._bus.words:
            self._bus.step()

    def finish(self, ring: Parent) -> None:
        """If a transaction is under way, go through with it: somebody else needs one."""
        while self._writer.is_under_way:
            self.commit(ring)

    def _remove(self, tasks: Sequence[tuple[Place, int]]) -> None:
        """These have ended before their turn came."""
        if self._listener.stopping:
            return  # what had been published is in no lane any more, and nothing is taken from one
        stranded = self._dispatcher.stranded
        for place, task_id in tasks:
            if task_id in stranded:
                stranded.discard(task_id)
            elif not self._turns.returning.discard(task_id):
                self._feed.backlog.remove(place, task_id)

    def take_back(self, ring: Parent) -> None:
        """What no worker has claimed yet is published anew, if its queue lets it: it may lie there for long."""
        task_ids = [row[0] for row in ring.revoke_all()]
        self._dispatcher.ended(task_ids)
        self._dispatcher.came_back(task_ids)
        self._feed.give_back(self._writer.give_back(task_ids))

    def _look_ahead(self, committed: Committed, ring: Parent) -> None:
        """What may start from now on, and when something has its time next."""
        if committed.queues or committed.controls:
            self.take_back(ring)
            self._traffic.follow(committed.queues, committed.controls)
        if committed.expiring:
            self._feed.look_for_expiries()
        if committed.delayed or committed.due:
            self._feed.look_for_delayed()

    def _lowest_active(self, ring: Parent) -> int | None:
        turns = self._turns
        ids = (
            self._feed.backlog.min_task_id(), ring.min_task_id(), self._dispatcher.stranded.oldest(),
            turns.returning.oldest(), turns.serials.oldest(), turns.oldest_held(),
        )  # fmt: skip
        return min((task_id for task_id in ids if task_id is not None), default=None)

    def _say(self, before: RingqError | None, now: RingqError | None) -> None:
        if now is not None and type(before) is not type(now):
            warn(f"{now}; submissions are refused and receipts kept in memory until it can be written")
        elif before is not None and now is None:
            warn("the database can be written again")

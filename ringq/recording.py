"""Flow: receipts on their way into the store, and those that come of them. Inside the writer's transaction."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, Final

from ringq.committed import Committed
from ringq.entries import Interruption
from ringq.keys import Hand, free_keys
from ringq.receipts import ReceiptRow, joined, sums
from ringq.resolving import Resolution
from ringq.spawning import Spawning
from ringq.verdicts import Verdicts

AT_ONCE: Final = 1024  # in a step: 4 ms. A batch may replace, and an end may end, as many tasks as there are


class Recording:
    """Of one transaction. All ends of tasks go through here, in `committed.receipts`."""

    def __init__(
        self, store: Any, verdicts: Verdicts, committed: Committed, hand: Hand, spawning: Spawning, leased: set[int],
        statistics: dict[str, int], now_us: int,
    ) -> None:  # fmt: skip
        """`leased`: tasks that have a lease row; `statistics`: counts replays, and receipts that came too late."""
        self._store = store
        self._verdicts = verdicts
        self._committed = committed
        self._hand = hand
        self._spawning = spawning
        self._resolution = Resolution(store, verdicts, committed, now_us)
        self._leased = leased
        self._statistics = statistics
        self._now_us = now_us
        self._written = self._replaced = 0  # of the receipts, and of the tasks whose places others took

    def record(
        self, receipts: Sequence[ReceiptRow], interrupted: Sequence[Interruption]
    ) -> Generator[None, None, None]:
        """All that has come back from workers; also what comes meanwhile, since the slots of all are freed after it."""
        committed, first = self._committed, (0, 0)
        while True:
            rows, cut_off = receipts[first[0] :], interrupted[first[1] :]
            first = len(receipts), len(interrupted)
            self._verdicts.interrupted(cut_off, committed)
            ends = yield from self._spawning.take(rows, committed, self._resolution)
            committed.receipts += self._verdicts.received(ends, committed)
            yield from self.take_back()
            if first == (len(receipts), len(interrupted)):
                return

    def take_back(self) -> Generator[None, None, None]:
        """What batches have taken out of the backlog ends, or goes back to where it belongs."""
        committed, hand = self._committed, self._hand
        self._verdicts.cancels.note_ends(hand.ended[self._replaced :])
        committed.receipts += hand.ended[self._replaced :]
        self._replaced = len(hand.ended)
        committed.returned += hand.left.difference(committed.returned)
        while self._written < len(committed.receipts):
            rows = self._insert(committed.receipts[self._written : self._written + AT_ONCE])
            self._written = min(len(committed.receipts), self._written + AT_ONCE)
            if self._store.has_graph:
                yield from self._resolution.follow(rows)
            if self._written < len(committed.receipts):
                yield

    def _insert(self, rows: list[ReceiptRow]) -> list[ReceiptRow]:
        """Those of these that were not there yet."""
        refused = self._store.insert_receipts(rows)
        self._verdicts.cancels.settle(rows)
        if refused:
            replays = sum(row[1] == lease for row, lease in refused)
            self._statistics["replays"] += replays
            self._statistics["stale"] += len(refused) - replays
            keys = {row[:2] for row, _ in refused}
            rows = [row for row in rows if row[:2] not in keys]
        self._store.add_statistics(added := sums(rows))
        self._committed.sums = joined(self._committed.sums, added)
        if self._leased:
            self._store.delete_leases([row[0] for row in rows if row[0] in self._leased])
        if self._store.keyed:
            waited, later = free_keys(self._store, [row[0] for row in rows], self._now_us)
            self._committed.returned += [task_id for task_id, _ in waited if task_id not in later]
            self._committed.delayed |= bool(later)
            self._verdicts.queued(waited, self._now_us, self._committed)
        return rows

"""Flow: what every few thousand ends is set right in the database, a part at a time. Inside the writer's transaction.

Receipts come in at any rate; each step gets over more rows than receipts can have left since the one before.
"""

from __future__ import annotations

from typing import Any, Final

EVERY: Final = 4096  # receipts between two steps
SPAN: Final = 2 * EVERY  # ids, batches or times to live that one step gets over: some 10 ms if there are so many


def step(store: Any, lowest_active: int | None, submitted_before_us: int) -> None:
    """Move the low-water mark; forget batches of before an instant, times to live and pauses that mean nothing now.

    `lowest_active`: the smallest id of a task that has not ended; None if there is none.
    """
    mark = (store.next_task_id if lowest_active is None else lowest_active) - 1
    # It has come far behind while there was an old task: not all of it in one turn.
    store.set_low_water(min(mark, store.low_water + SPAN))
    store.leave_stragglers(SPAN)
    store.prune_submissions(submitted_before_us, SPAN)  # each receipt may have had one of its own
    if store.has_ttl:
        store.prune_expiries(SPAN)
    store.forget_pause_spans(lowest_active)

"""Flow: kinds that no worker has a handler for any more. Their tasks become dead letters when their turn has come.

a worker that has the kind, or a reload under way  ──► its tasks wait
every worker has told its kinds, and none has this ──► `unknown_kind_wait` ──► dead letters, a page at a time

An App that was started by mistake must not give up a million tasks before somebody has read what the server says.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ringq.clock import Clock
from ringq.committed import Committed
from ringq.dispatch import Dispatcher
from ringq.errors import RingqError
from ringq.model import Reason, Status
from ringq.pool import Pool
from ringq.registry import Registry
from ringq.verdicts import Verdicts
from ringq.writer import Writer

AT_ONCE: Final = 250  # of one transaction: some 4 ms


class Vanishing:
    """Gives up tasks that were met on the way to the workers and have had no handler for `wait_s`."""

    def __init__(
        self, wait_s: float, clock: Clock, registry: Registry, pool: Pool, dispatcher: Dispatcher, writer: Writer
    ) -> None:
        self._wait_s = wait_s
        self._clock = clock
        self._registry = registry
        self._pool = pool
        self._dispatcher = dispatcher
        self._writer = writer
        self._since_ns: dict[int, int] = {}  # when each kind was missed first
        self._is_under_way = False

    def step(self) -> None:
        """Have some tasks of kinds that were missed for long enough ended."""
        if not self._registry.vanished and not self._since_ns:
            return  # as in nearly every turn
        kinds = self._missed(self._clock.monotonic_ns())
        if not kinds or self._is_under_way or not self._registry.is_settled:
            return
        task_ids = self._dispatcher.stranded.some(kinds, AT_ONCE)
        if task_ids:
            self._is_under_way = True
            self._writer.change(GiveUp(task_ids, self._done))

    def wait_ns(self) -> int | None:
        """Until `step` has something to do; None if that takes an event first."""
        if self._is_under_way or not self._since_ns or not len(self._dispatcher.stranded):
            return None
        if not self._registry.is_settled or self._wait_s == math.inf:
            return None
        over_ns = min(
            (since for kind, since in self._since_ns.items() if self._dispatcher.stranded.some([kind], 1)), default=None
        )
        if over_ns is None:
            return None
        return max(0, over_ns + round(self._wait_s * 1e9) - self._clock.monotonic_ns())

    def _missed(self, now_ns: int) -> list[int]:
        """Kinds whose time is over. It begins anew with a reload: nobody knows what kinds the code has that failed."""
        vanished = self._registry.vanished
        rotation = self._pool.rotation
        if rotation.is_reloading or rotation.reload_error is not None:
            vanished = {}
        if self._since_ns.keys() != vanished.keys():
            self._since_ns = {kind: self._since_ns.get(kind, now_ns) for kind in vanished}
        return [kind for kind, since_ns in self._since_ns.items() if now_ns - since_ns >= self._wait_s * 1e9]

    def _done(self, others: Sequence[int]) -> None:
        self._is_under_way = False
        for task_id in others:
            self._dispatcher.stranded.discard(task_id)


@dataclass(frozen=True, slots=True)
class GiveUp:
    """These tasks shall end, unless they have: nobody has a handler of their kinds.

    Paused ones do not: they may have been paused to gain time. They are met again when they go on.

    `done` is called when that is durable, or could not be written; with those that had ended otherwise.
    """

    task_ids: Sequence[int]
    done: Callable[[Sequence[int]], None]

    def apply(self, store: Any, verdicts: Verdicts, committed: Committed) -> Callable[[], None]:
        """See `Change`."""
        cancels, specs = verdicts.cancels, store.specs()
        by_kind: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
        held: list[int] = []  # their turn is yet to come, again
        for task_id, state in store.task_states(self.task_ids).items():
            if state.status is None and cancels.ended_as(task_id) is None and task_id not in cancels:
                spec = specs[state.spec]
                committed.removed.append((store.place_of(task_id, state.spec), task_id))
                if store.paused_by(spec.queue, spec.kind, spec.group):
                    held.append(task_id)
                else:
                    by_kind[spec.kind].append((task_id, state.spec, verdicts.attempts_of(task_id)))
        committed.returned += held
        for kind, tasks in by_kind.items():
            why = {"type": "UnknownKind", "message": f"no worker has a handler of kind {kind!r}"}
            cancels.end(tasks, committed, Status.DEAD_LETTER, Reason.UNKNOWN_KIND, json.dumps(why))
        removed = {task_id for tasks in by_kind.values() for task_id, _, _ in tasks}.union(held)
        return lambda: self.done([task_id for task_id in self.task_ids if task_id not in removed])

    def refuse(self, _error: RingqError) -> None:
        """See `Change`."""
        self.done([])

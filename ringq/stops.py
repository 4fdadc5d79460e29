"""Flow: which running attempts shall end so that others run, or nobody does; their tasks begin anew later, at no cost.

    READY in the ring ──► taken back, as if it had never been published
    a worker has it   ──► soft exception ──► attempt: paused, preempted
                                  ├─► preempted, and the grace time is over: SIGTERM, SIGKILL ──► the same
                                  └─► completed before it saw that, or all the same: completed

Nothing of it is durable. A restart ends every attempt anyhow, and whoever asked finds out anew whether there is a
reason to.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from ringq.clock import Clock
from ringq.lifecycle import STOPS
from ringq.model import Reason


class Revoking(Protocol):
    """What is needed of the ring."""

    def revoke(self, task_id: int) -> bool | None: ...


class Stop(NamedTuple):
    """Since when the attempt is asked to stop, by the monotonic clock, and for which of STOPS."""

    since_ns: int
    reason: Reason


class Stops:
    """What runs and was asked to stop. `ring`: None while there is none."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.ring: Revoking | None = None
        self._asked: dict[int, dict[Reason, int]] = {}  # by task and reason, since when

    def __len__(self) -> int:
        return len(self._asked)

    def __contains__(self, task_id: object) -> bool:
        return task_id in self._asked

    def get(self, task_id: int) -> Stop | None:
        """What is asked of a task. Of two reasons the one that is put through: a pause may be ignored."""
        asked = self._asked.get(task_id)
        if asked is None:
            return None
        reason = Reason.PREEMPTED if Reason.PREEMPTED in asked else Reason.PAUSED
        return Stop(asked[reason], reason)

    def ask(self, task_ids: Sequence[int], reason: Reason) -> list[int]:
        """These tasks shall stop for PAUSED or PREEMPTED. What is asked already stays so, since then.

        Returns those that were published and that no worker had: they are taken back, and whoever asks gives them back
        to the backlog. Of those that are not in the ring nothing is asked.
        """
        assert reason in STOPS
        revoked: list[int] = []
        if self.ring is None:
            return revoked
        now_ns = self._clock.monotonic_ns()
        for task_id in task_ids:
            is_revoked = self.ring.revoke(task_id)
            if is_revoked:
                revoked.append(task_id)
            elif is_revoked is False:
                self._asked.setdefault(task_id, {}).setdefault(reason, now_ns)
        return revoked

    def withdraw(self, task_ids: Iterable[int], reason: Reason) -> None:
        """These may go on, as far as this reason is concerned. An attempt that has been told ends all the same."""
        for task_id in task_ids:
            asked = self._asked.get(task_id, {})
            asked.pop(reason, None)
            if not asked:
                self._asked.pop(task_id, None)

    def ended(self, task_ids: Iterable[int]) -> None:
        """The attempts of these tasks are over."""
        for task_id in task_ids:
            self._asked.pop(task_id, None)

"""Values: which moves between statuses are legal, and where an interrupted attempt sends its task. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ringq.model import Reason, Status

# (from, to): why. None is "does not exist yet". Every pair that is missing here is illegal.
TRANSITIONS: dict[tuple[Status | None, Status], tuple[Reason, ...]] = {
    (None, Status.PENDING): (Reason.NONE,),
    (Status.PENDING, Status.RUNNING): (Reason.NONE,),
    (Status.RUNNING, Status.COMPLETED): (Reason.NONE,),
    (Status.RUNNING, Status.FAILED): (
        Reason.HANDLER_ERROR,
        Reason.RUN_TIMEOUT,
        Reason.INVALID_PAYLOAD,
        Reason.INVALID_RESULT,
        Reason.UNKNOWN_KIND,
    ),
    (Status.RUNNING, Status.PENDING): (Reason.CRASH, Reason.LOST, Reason.DAMAGED_RECEIPT, Reason.STOPPED),
    (Status.RUNNING, Status.DEAD_LETTER): (Reason.CRASH_LIMIT, Reason.LOST_LIMIT),
    (Status.RUNNING, Status.SUPERSEDED): (Reason.SPLIT,),  # a chunk of calls goes on as smaller ones
}


def is_legal(source: Status | None, target: Status, reason: Reason) -> bool:
    """Whether a task may move from `source` to `target` because of `reason`."""
    return reason in TRANSITIONS.get((source, target), ())


@dataclass(frozen=True, slots=True)
class Interruptions:
    """How often attempts of one task ended without ending the task."""

    attempts: int = 0
    crashes: int = 0
    lost: int = 0

    def plus(self, reason: Reason) -> Interruptions:
        """The same with one more attempt that ended for `reason`."""
        lost = reason in (Reason.LOST, Reason.DAMAGED_RECEIPT)
        return Interruptions(self.attempts + 1, self.crashes + (reason is Reason.CRASH), self.lost + lost)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where a task goes after an attempt was interrupted."""

    status: Status
    reason: Reason
    alone: bool = False  # the next attempt must have the whole pool to itself


def after_interruption(reason: Reason, interruptions: Interruptions, *, crashes_max: int, lost_max: int) -> Verdict:
    """Decide about a task whose attempt just ended for `reason`; `interruptions` includes that attempt.

    A worker's death while it ran the task (CRASH) makes a dead letter at the `crashes_max`-th time. Where it cannot be
    known whose fault it was (LOST: the parent, the host or the segment went down with it; DAMAGED_RECEIPT: anybody may
    have written there) it is allowed `lost_max` times, then once more with no neighbour that could be blamed instead,
    and then it is a dead letter too. RUN_TIMEOUT is final.
    """
    if reason is Reason.RUN_TIMEOUT:
        return Verdict(Status.FAILED, Reason.RUN_TIMEOUT)
    if interruptions.crashes >= crashes_max:
        return Verdict(Status.DEAD_LETTER, Reason.CRASH_LIMIT)
    if interruptions.lost > lost_max:
        return Verdict(Status.DEAD_LETTER, Reason.LOST_LIMIT)
    return Verdict(Status.PENDING, reason, alone=interruptions.lost == lost_max)

"""Values: which moves between statuses are legal, and where an attempt that did not complete sends its task. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from ringq.model import GIVEN_BACK, Reason, Status
from ringq.retry import Retry

# An attempt that ended for one of these may be followed by another.
AGAIN: Final = (
    Reason.CRASH,
    Reason.LOST,
    Reason.DAMAGED_RECEIPT,
    Reason.STOPPED,
    Reason.HANDLER_ERROR,
    Reason.RUN_TIMEOUT,
    Reason.MEMORY_LIMIT,
    Reason.RETRY_LATER,
    Reason.SNOOZED,
    Reason.THROTTLED,
    Reason.PAUSED,
    Reason.PREEMPTED,
)

Moves = dict[tuple[Status | None, Status], tuple[Reason, ...]]

# (from, to): why. Every pair that is missing is illegal. None is "does not exist yet", NONE a move that says why by
# itself; of a pause the mask says it. A task is paused while its queue, group or domain is, or all are, and it does not
# run: of each such move the database has the row of that alone.
TRANSITIONS: Final[Moves] = {
    (None, Status.PENDING): (Reason.NONE,),
    (None, Status.PAUSED): (Reason.NONE,),
    (Status.PENDING, Status.RUNNING): (Reason.NONE,),
    (Status.PENDING, Status.PAUSED): (Reason.NONE,),
    (Status.PENDING, Status.CANCELLED): (Reason.CANCELLED,),
    (Status.PENDING, Status.EXPIRED): (Reason.TTL, Reason.QUEUE_TIMEOUT, Reason.TOTAL_TIMEOUT),
    (Status.PENDING, Status.SUPERSEDED): (Reason.REPLACED,),  # another task with its key took its place
    (Status.PENDING, Status.DEAD_LETTER): (Reason.UNKNOWN_KIND,),  # its turn came, and nobody has a handler
    (Status.PAUSED, Status.PENDING): (Reason.NONE,),  # with the last bit of the mask
    (Status.PAUSED, Status.CANCELLED): (Reason.CANCELLED,),
    (Status.PAUSED, Status.EXPIRED): (
        Reason.TTL,
        Reason.QUEUE_TIMEOUT,
        Reason.TOTAL_TIMEOUT,
    ),  # a pause does not stop that clock
    (Status.PAUSED, Status.SUPERSEDED): (Reason.REPLACED,),
    (Status.RUNNING, Status.COMPLETED): (Reason.NONE,),
    (Status.RUNNING, Status.FAILED): (
        Reason.HANDLER_ERROR,
        Reason.PERMANENT,
        Reason.RUN_TIMEOUT,
        Reason.MEMORY_LIMIT,
        Reason.TOTAL_TIMEOUT,
        Reason.INVALID_PAYLOAD,
        Reason.INVALID_RESULT,
        Reason.UNKNOWN_KIND,
        Reason.CALLBACK_FAILED,  # it had before the handler has returned
        Reason.INVALID_SPAWN,
    ),
    (Status.RUNNING, Status.CANCELLED): (Reason.CANCELLED,),
    (Status.RUNNING, Status.PENDING): AGAIN,
    (Status.RUNNING, Status.PAUSED): AGAIN,  # something that holds it was paused meanwhile, or it was preempted
    (Status.RUNNING, Status.DEAD_LETTER): (Reason.CRASH_LIMIT, Reason.LOST_LIMIT, Reason.RETRY_LIMIT),
    (Status.RUNNING, Status.SUPERSEDED): (Reason.SPLIT,),  # a chunk of calls goes on as smaller ones
    (Status.DEAD_LETTER, Status.PENDING): (Reason.NONE,),  # somebody gave it another chance
    (Status.DEAD_LETTER, Status.PAUSED): (Reason.NONE,),
    (None, Status.BLOCKED): (Reason.NONE,),  # what it depends on has not ended
    (Status.BLOCKED, Status.PENDING): (Reason.NONE,),
    (Status.BLOCKED, Status.PAUSED): (Reason.NONE,),
    (Status.BLOCKED, Status.CANCELLED): (Reason.CANCELLED,),
    (Status.BLOCKED, Status.EXPIRED): (Reason.TTL, Reason.TOTAL_TIMEOUT),
    (Status.BLOCKED, Status.SUPERSEDED): (Reason.REPLACED,),
    (Status.BLOCKED, Status.DEPENDENCY_FAILED): (Reason.NONE,),
    (Status.RUNNING, Status.WAITING): (Reason.WAITING,),  # its handler has returned; children or a callback have not
    (Status.WAITING, Status.PENDING): (Reason.NONE, Reason.CALLBACK_TIMEOUT, Reason.CALLBACK_FAILED),  # finalize, again
    (Status.WAITING, Status.PAUSED): (Reason.NONE, Reason.CALLBACK_TIMEOUT, Reason.CALLBACK_FAILED),
    (Status.WAITING, Status.COMPLETED): (Reason.NONE,),
    (Status.WAITING, Status.FAILED): (
        Reason.CHILD_FAILED,
        Reason.CALLBACK_FAILED,
        Reason.CALLBACK_TIMEOUT,
        Reason.TOTAL_TIMEOUT,
    ),
    (Status.WAITING, Status.DEAD_LETTER): (Reason.RETRY_LIMIT,),
    (Status.WAITING, Status.CANCELLED): (Reason.CANCELLED,),
}


RETRYABLE: Final = frozenset({Reason.HANDLER_ERROR, Reason.RUN_TIMEOUT, Reason.MEMORY_LIMIT, Reason.RETRY_LATER})
ENDED: Final = frozenset({Reason.RUN_TIMEOUT, Reason.MEMORY_LIMIT, Reason.TOTAL_TIMEOUT})  # by a limit of the task
STOPS: Final = frozenset({Reason.PAUSED, Reason.PREEMPTED})  # the attempt ended so that others run, or nobody does
NO_FAILURE: Final = frozenset(GIVEN_BACK)
WITHOUT_POLICY: Final = Retry.exponential(initial=1.0, max=60.0)  # of who asks to be called again and said no more


def is_legal(source: Status | None, target: Status, reason: Reason) -> bool:
    """Whether a task may move from `source` to `target` because of `reason`."""
    return reason in TRANSITIONS.get((source, target), ())


@dataclass(frozen=True, slots=True)
class Interruptions:
    """How often attempts of one task ended without ending the task. `attempts` are all but those that were given back;
    the others count from when it was last a dead letter.
    """

    attempts: int = 0
    crashes: int = 0
    lost: int = 0
    failures: int = 0

    def plus(self, reason: Reason) -> Interruptions:
        """The same with one more attempt that ended for `reason`."""
        if reason in NO_FAILURE:
            return self
        return Interruptions(
            self.attempts + 1,
            self.crashes + (reason is Reason.CRASH),
            self.lost + (reason in (Reason.LOST, Reason.DAMAGED_RECEIPT)),
            self.failures + (reason in RETRYABLE),
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where a task goes after an attempt that did not complete."""

    status: Status
    reason: Reason
    alone: bool = False  # the next attempt must have the whole pool to itself
    delay_s: float = 0.0  # until the next attempt


def after_interruption(
    reason: Reason, interruptions: Interruptions, *, crashes_max: int, lost_max: int, retry: Retry | None = None,
    chance: float = 1.0,
) -> Verdict:  # fmt: skip
    """Decide about a task whose attempt ended for `reason` without a receipt; `interruptions` includes that attempt.

    A worker's death while it ran the task (CRASH) makes a dead letter at the `crashes_max`-th time. Where it cannot be
    known whose fault it was (LOST: the parent, the host or the segment went down with it; DAMAGED_RECEIPT: anybody may
    have written there) it is allowed `lost_max` times, then once more with no neighbour that could be blamed instead,
    and then it is a dead letter too. RUN_TIMEOUT and MEMORY_LIMIT are failures like the handler's own: `after_failure`.
    CANCELLED and TOTAL_TIMEOUT are the end of the task, however the attempt ended; a stop costs it nothing.
    """
    if reason is Reason.CANCELLED:
        return Verdict(Status.CANCELLED, reason)
    if reason in STOPS:
        return Verdict(Status.PENDING, reason, alone=interruptions.lost == lost_max)
    if reason in ENDED:
        verdict = after_failure(reason, interruptions, retry, None, chance)
        return replace(verdict, alone=verdict.status is Status.PENDING and interruptions.lost == lost_max)
    if interruptions.crashes >= crashes_max:
        return Verdict(Status.DEAD_LETTER, Reason.CRASH_LIMIT)
    if interruptions.lost > lost_max:
        return Verdict(Status.DEAD_LETTER, Reason.LOST_LIMIT)
    return Verdict(Status.PENDING, reason, alone=interruptions.lost == lost_max)


def after_failure(
    reason: Reason, interruptions: Interruptions, retry: Retry | None, after_s: float | None, chance: float
) -> Verdict:
    """Decide about a task whose attempt failed for `reason`; `interruptions` includes that attempt.

    `retry`: the task's policy; without one only RETRY_LATER is retried. `after_s`: what the handler asks for, instead
    of the policy's delay. `chance`, 0 to 1, decides where there is jitter. What is given back is no failure; what was
    throttled waits with its queue. CANCELLED is the end of the task, whatever its policy says.
    """
    if reason is Reason.CANCELLED:
        return Verdict(Status.CANCELLED, reason)
    if reason in NO_FAILURE:
        return Verdict(Status.PENDING, reason, delay_s=(after_s or 0.0) if reason is Reason.SNOOZED else 0.0)
    if reason not in RETRYABLE:
        return Verdict(Status.FAILED, reason)
    if not retry and reason is Reason.RETRY_LATER:
        retry = WITHOUT_POLICY
    if not retry or not retry.max_retries:
        return Verdict(Status.FAILED, Reason.HANDLER_ERROR if reason is Reason.RETRY_LATER else reason)
    if interruptions.failures > retry.max_retries:
        return Verdict(Status.DEAD_LETTER, Reason.RETRY_LIMIT)
    delay_s = retry.delay_s(interruptions.failures - 1, chance) if after_s is None else after_s
    return Verdict(Status.PENDING, reason, delay_s=delay_s)


def after_lapse(reason: Reason, interruptions: Interruptions, retry: Retry | None, chance: float) -> Verdict:
    """Decide about a parked task that nobody has completed in time (CALLBACK_TIMEOUT), or that shall be tried again
    (CALLBACK_FAILED): its attempt has failed, and `interruptions` counts that. `retry`, `chance`: as for a failure.
    """
    verdict = after_failure(Reason.HANDLER_ERROR, interruptions, retry, None, chance)
    return replace(verdict, reason=reason) if verdict.reason is Reason.HANDLER_ERROR else verdict

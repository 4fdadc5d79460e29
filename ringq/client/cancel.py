"""Submit and answer: the client's verbs for cancellation."""

from __future__ import annotations

from typing import Any, Final, NamedTuple, Unpack

import msgspec

from ringq import protocol
from ringq.client.changing import Asking, change
from ringq.client.steps import Verb
from ringq.clock import SystemClock
from ringq.errors import InvalidOption, ProtocolError
from ringq.kinds import Filter, Stored, options
from ringq.kinds.filters import FilterOptions
from ringq.model import Cancellation, CancelOutcome, Status

AT_ONCE: Final = 1000  # asked for at a time by filters; the server decides how many of them it ends in a transaction
IDS_MAX: Final = 10_000
WAITS: Final[dict[Any, int]] = {  # what a selection says of who waits for others: the status, or 0 for neither
    Status.PENDING: 0, Status.PAUSED: 0, Status.BLOCKED: Status.BLOCKED.code, Status.WAITING: Status.WAITING.code,
}  # fmt: skip
STATUSES: Final = (Status.PENDING, Status.RUNNING, Status.PAUSED, Status.BLOCKED, Status.WAITING)


class CancelCounts(NamedTuple):
    """How many tasks `cancel_all` has ended, and how many others run and were asked to end."""

    cancelled: int
    cancelling: int


class Cancelling:
    """Tasks that nobody needs any more."""

    @Verb
    async def cancel(self: Asking, *tasks: Stored[Any] | int) -> list[Cancellation]:
        """Cancel tasks, given as handles or ids, at most 10,000; returns what became of each, in that order.

        Many are cancelled in several transactions, so that others go on meanwhile.

        One that waits for its turn, its time or its next attempt has ended when this returns: `cancelled`. One that
        runs is asked to end: `cancelling`. AttemptCancelled is raised in its handler, and its worker is killed if that
        does not help; it ends as cancelled, unless the handler completes before it notices. One that had ended before
        stays as it is: `too_late`. Who waits for the result of a cancelled task gets TaskCancelled.

        While no server runs, what is pending ends at once, too; after a crash of the server it is for the next one to
        end: `cancelling`. Raises UnknownTask if there is no such task, then none is cancelled; InvalidOption, and
        what `submit_many` raises about the server and the database.
        """
        ids = [options.task_id_of(task) for task in tasks]
        if not 0 < len(ids) <= IDS_MAX:
            raise InvalidOption(f"tasks: expected 1 to {IDS_MAX:,} at a time, got {len(ids):,}")
        reply = await change(self, protocol.Cancel(protocol.Selection(ids)), protocol.Cancelled)
        try:
            told = {
                task_id: Cancellation(task_id, CancelOutcome.of(outcome), Status.of(status))
                for task_id, outcome, status in zip(reply.task_ids, reply.outcomes, reply.statuses, strict=True)
            }
            return [told[task_id] for task_id in ids]
        except (KeyError, ValueError) as error:
            raise ProtocolError(f"malformed answer to a cancel: {error}") from None

    @Verb
    async def cancel_all(
        self: Asking, filter: Filter | None = None, *, all: bool = False,  # noqa: A002
        **given: Unpack[FilterOptions],
    ) -> CancelCounts:  # fmt: skip
        """Cancel every task that has not ended and has all of what is given; or simply `all`.

        `filter`: a `ringq.Filter`; or what it would say, by name, as `cancel_all(queue="bulk", tags={"shop": "12"})`. A
        `status` is pending, running, paused, blocked or waiting, as tasks are listed: of what has begun a moment ago
        nobody knows. Tasks that are submitted after the call are not meant. Some hundreds are cancelled in one
        transaction, so others go on meanwhile, and if the server is lost on the way some are cancelled and some are
        not: ask again.

        Returns how many were cancelled and how many run and were asked to end: see `cancel`. Raises InvalidOption if
        nothing is given, and what `submit_many` raises about the server and the database.
        """
        chosen = Filter.of("cancel_all", filter, given)
        if chosen.is_empty is not all:
            raise InvalidOption("cancel_all: say which tasks, as by kind, queue or tags, or say all=True")
        if chosen.status not in (None, *STATUSES):
            raise InvalidOption(
                f"status: nothing that is {chosen.status} can be cancelled: expected {', '.join(STATUSES)}"
            )
        before_us = SystemClock().now_us() + 1
        wanted = protocol.Selection(
            **chosen.wanted(), limit=AT_ONCE,
            submitted_before_us=before_us if chosen.before_us is None else min(before_us, chosen.before_us),
            is_running=None if chosen.status is None else chosen.status is Status.RUNNING,
            is_paused=chosen.status is Status.PAUSED if chosen.status in (Status.PENDING, Status.PAUSED) else None,
            waits=WAITS.get(chosen.status),
        )  # fmt: skip
        cancelled = cancelling = 0
        while True:
            reply = await change(self, protocol.Cancel(wanted), protocol.Cancelled)
            cancelled += reply.outcomes.count(CancelOutcome.CANCELLED.code)
            cancelling += reply.outcomes.count(CancelOutcome.CANCELLING.code)
            if reply.after == 0:
                return CancelCounts(cancelled, cancelling)
            wanted = msgspec.structs.replace(wanted, after=reply.after)

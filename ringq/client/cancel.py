"""Submit and answer: the client's verbs for cancellation."""

from __future__ import annotations

import time
from typing import Any, Final, NamedTuple

from ringq import protocol
from ringq.client.changing import Asking, change
from ringq.errors import InvalidOption, ProtocolError
from ringq.kinds import Submitted, Task, options
from ringq.model import Cancellation, CancelOutcome, Status

AT_ONCE: Final = 1000  # asked for at a time by filters; the server decides how many of them it ends in a transaction
IDS_MAX: Final = 10_000


class CancelCounts(NamedTuple):
    """How many tasks `cancel_all` has ended, and how many others run and were asked to end."""

    cancelled: int
    cancelling: int


class Cancelling:
    """Tasks that nobody needs any more."""

    def cancel(self: Asking, *tasks: Submitted[Any] | int) -> list[Cancellation]:
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
        reply = change(self, protocol.Cancel(protocol.Selection(ids)), protocol.Cancelled)
        try:
            told = {
                task_id: Cancellation(task_id, CancelOutcome.of(outcome), Status.of(status))
                for task_id, outcome, status in zip(reply.task_ids, reply.outcomes, reply.statuses, strict=True)
            }
            return [told[task_id] for task_id in ids]
        except (KeyError, ValueError) as error:
            raise ProtocolError(f"malformed answer to a cancel: {error}") from None

    def cancel_all(
        self: Asking, *, kind: str | Task[..., Any] | None = None, domain: str | None = None, queue: str | None = None,
        group: str | None = None, all: bool = False,  # noqa: A002
    ) -> CancelCounts:  # fmt: skip
        """Cancel every task that has not ended and has all of what is given; or simply `all`.

        `kind`: `domain::name`, or the task itself. `domain`: the part of the kind before `::`. Tasks that are submitted
        after the call are not meant. Some hundreds are cancelled in one transaction, so others go on meanwhile, and if
        the server is lost on the way some are cancelled and some are not: ask again.

        Returns how many were cancelled and how many run and were asked to end: see `cancel`. Raises InvalidOption if
        nothing is given, and what `submit_many` raises about the server and the database.
        """
        filters = {"domain": domain, "queue": queue, "group": group}
        for option, text in filters.items():
            if text is not None and (not isinstance(text, str) or not text):
                raise InvalidOption(f"{option}: expected a name, got {text!r}")
        name = None if kind is None else options.check_kind(kind.kind if isinstance(kind, Task) else kind)
        if (name is None and not any(filters.values())) is not all:
            raise InvalidOption("cancel_all: give a kind, domain, queue or group, or say all=True")
        before_us = time.time_ns() // 1000 + 1
        after = cancelled = cancelling = 0
        while True:
            chosen = protocol.Selection(None, name, domain, queue, group, before_us, after, AT_ONCE)
            reply = change(self, protocol.Cancel(chosen), protocol.Cancelled)
            cancelled += reply.outcomes.count(CancelOutcome.CANCELLED.code)
            cancelling += reply.outcomes.count(CancelOutcome.CANCELLING.code)
            after = reply.after
            if after == 0:
                return CancelCounts(cancelled, cancelling)

"""Answer: what became of the submissions of a batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from ringq import protocol
from ringq.errors import ProtocolError
from ringq.kinds import Stored, Submitted
from ringq.model import Outcome

R = TypeVar("R")
H = TypeVar("H", bound=Stored[Any])


class Handles(list[H], Generic[H]):
    """The handles of a batch, in the order of its submissions, each with its outcome."""

    def of(self, outcome: Outcome) -> list[H]:
        """Those of this outcome, in order."""
        return [handle for handle in self if handle.outcome is outcome]

    @property
    def counts(self) -> dict[Outcome, int]:
        """How many there are of each outcome that there is."""
        return dict(Counter(handle.outcome for handle in self))

    @property
    def inserted(self) -> list[H]:
        """Tasks that no other one stood in the way of."""
        return self.of(Outcome.INSERTED)

    @property
    def duplicates(self) -> list[H]:
        """Handles of the tasks that were there already, or come later in the batch."""
        return self.of(Outcome.DUPLICATE)

    @property
    def upgraded(self) -> list[H]:
        """Handles of pending tasks that were made more urgent."""
        return self.of(Outcome.UPGRADED)

    @property
    def requeued(self) -> list[H]:
        """Tasks that run after one that runs now."""
        return self.of(Outcome.REQUEUED)

    @property
    def superseded(self) -> list[H]:
        """Tasks that took the place of others, their `replaced_id`."""
        return self.of(Outcome.SUPERSEDED)

    @property
    def group_paused(self) -> list[H]:
        """Tasks that wait because their group was paused when they were stored."""
        return [handle for handle in self if handle.group_paused]

    @property
    def rejected(self) -> list[H]:
        """Handles of the tasks that have the keys of those that were not stored."""
        return self.of(Outcome.REJECTED)


class BatchOutcome(Handles[Submitted[R]], Generic[R]):
    """The handles of a client that blocks."""


def tell(handles: Sequence[Stored[Any]], reply: protocol.Submitted, spec_of: Sequence[int] | None) -> None:
    """Note in each handle what became of it. Raises ProtocolError for what makes no sense."""
    if reply.outcomes is not None:
        _tell_outcomes(handles, reply.outcomes)
    if reply.paused is not None:
        paused = set(reply.paused)
        for place, handle in enumerate(handles):
            is_new = handle.outcome not in (Outcome.DUPLICATE, Outcome.UPGRADED, Outcome.REJECTED)
            handle.group_paused = is_new and (0 if spec_of is None else spec_of[place]) in paused


def _tell_outcomes(handles: Sequence[Stored[Any]], outcomes: protocol.Outcomes) -> None:
    try:
        for handle, code, task_id, replaced in zip(
            handles, outcomes.codes, outcomes.ids, outcomes.replaced, strict=True
        ):
            handle.id, handle.outcome, handle.replaced_id = task_id, Outcome.of(code), replaced or None
    except (KeyError, ValueError):
        raise ProtocolError("the server's outcomes do not fit the submission") from None

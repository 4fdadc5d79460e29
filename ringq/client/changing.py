"""Submit and answer: changes that a client asks for - of the server, or done by the client itself while none runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from ringq import protocol
from ringq.kinds import KindReport

Reply = TypeVar("Reply", bound=protocol.Message)


class Asking(Protocol):
    """What the verbs of a client need of it."""

    database: Path

    def _ask(
        self, message: protocol.Message, expected: type[Reply], alone: Callable[[], Reply] | None = None
    ) -> Reply: ...


def change(
    client: Asking, message: protocol.Message, expected: type[Reply], reports: Sequence[KindReport] = ()
) -> Reply:
    """The answer to a message that changes something. `reports`: of kinds that a server may never have seen."""

    def by_itself() -> Reply:
        from ringq.client import alone  # noqa: PLC0415 - the store is not loaded by those whom a server serves

        return alone.change(client.database, message, expected, reports)

    return client._ask(message, expected, by_itself)

"""Submit and answer: changes that a client asks for - of the server, or done by the client itself while none runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from ringq import protocol
from ringq.client.line import Exchange
from ringq.kinds import KindReport

if TYPE_CHECKING:
    from ringq.query import Query

R = TypeVar("R")
Reply = TypeVar("Reply", bound=protocol.Message)


class Asking(Protocol):
    """What the verbs of a client need of it."""

    database: Path

    @property
    def _exchange(self) -> Exchange: ...

    async def _reply(
        self, message: protocol.Message, expected: type[Reply], alone: Callable[[], Reply] | None = None
    ) -> Reply: ...
    def _query_of(self) -> Query: ...
    async def _look(self, question: Callable[[Query], R]) -> R: ...


async def change(
    client: Asking, message: protocol.Message, expected: type[Reply], reports: Sequence[KindReport] = ()
) -> Reply:
    """The answer to a message that changes something. `reports`: of kinds that a server may never have seen."""

    def by_itself() -> Reply:
        from ringq.client import alone  # noqa: PLC0415 - the store is not loaded by those whom a server serves

        return alone.change(client.database, message, expected, reports)

    return await client._reply(message, expected, by_itself)

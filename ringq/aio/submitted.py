"""Answer: the handle of a submitted task, for who awaits its end."""

from __future__ import annotations

from collections.abc import Generator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ringq.client.outcome import Handles
from ringq.kinds import Ended, Stored
from ringq.model import Cancellation
from ringq.progress import TaskProgress

if TYPE_CHECKING:
    from ringq.aio.client import Client

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Submitted(Stored[R_co], Generic[R_co], eq=False, gc=False):
    """A task that is stored: the handle to ask for its end. Awaiting it gives its result, as `result()`.

    Attributes: those of `ringq.Submitted`.
    """

    async def wait(self, timeout: float | timedelta | None = None) -> Ended:
        """As `ringq.Submitted.wait`."""
        if self._ended is None:
            client: Client = self._client
            (self._ended,) = await client.wait_many([self], timeout)
        return self._ended

    async def result(self, timeout: float | timedelta | None = None) -> R_co:
        """As `ringq.Submitted.result`."""
        return self._result_of(await self.wait(timeout))

    async def cancel(self) -> Cancellation:
        """As `ringq.Submitted.cancel`."""
        client: Client = self._client
        (cancellation,) = await client.cancel(self)
        return cancellation

    async def progress(self) -> TaskProgress | None:
        """As `ringq.Submitted.progress`."""
        client: Client = self._client
        return await client.progress(self)

    def __await__(self) -> Generator[Any, None, R_co]:
        return self.result().__await__()


class BatchOutcome(Handles[Submitted[R]], Generic[R]):
    """The handles of a batch, as `ringq.BatchOutcome`."""

"""Face: the client for asyncio.

    async with ringq.aio.connect("photos.db") as client:
        submitted = await client.submit(thumbnail, {"path": "a.jpg"})
        print(await submitted.result(timeout=10))

Its verbs are those of `ringq.Client`, awaited: they take the same steps, see `ringq.client.steps`.
"""

from __future__ import annotations

from ringq.aio.client import Client, DomainControl, connect
from ringq.aio.events import EventStream
from ringq.aio.results import MapResults
from ringq.aio.submitted import BatchOutcome, Submitted

__all__ = ["BatchOutcome", "Client", "DomainControl", "EventStream", "MapResults", "Submitted", "connect"]

"""Submit and answer: the client - commits tasks through the server of a database, and waits for their ends."""

from __future__ import annotations

from ringq.client.cancel import CancelCounts
from ringq.client.client import Client, connect
from ringq.client.outcome import BatchOutcome
from ringq.client.results import MapResults

__all__ = ["BatchOutcome", "CancelCounts", "Client", "MapResults", "connect"]

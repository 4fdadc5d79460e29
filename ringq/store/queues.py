"""Store: what an operator has said of queues. A queue of which nobody has said anything has no row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from ringq.store.controls import ControlTables

# All of them, for the parent's own table.
SELECT_QUEUES: Final = """
SELECT name, max_workers, retry, cooldown, throttles, throttled_until_us, retention, dead_retention, defaults
FROM queue ORDER BY name
"""

# The whole row, as it is in the parent's table.
WRITE_QUEUE: Final = """
INSERT INTO queue
    (name, max_workers, retry, cooldown, throttles, throttled_until_us, retention, dead_retention, defaults)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET
    max_workers = excluded.max_workers, retry = excluded.retry, cooldown = excluded.cooldown,
    throttles = excluded.throttles, throttled_until_us = excluded.throttled_until_us,
    retention = excluded.retention, dead_retention = excluded.dead_retention, defaults = excluded.defaults
"""

# What the last server said of tasks.
SELECT_SERVER_DEFAULTS: Final = "SELECT options FROM server_defaults"

# What this server says of them.
WRITE_SERVER_DEFAULTS: Final = """
INSERT INTO server_defaults (id, options) VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET options = excluded.options
"""


class QueueRow(NamedTuple):
    """One queue; None: nobody has said, so the server's flags decide, or the built-in value."""

    name: str
    max_workers: int | None = None
    retry: str | None = None
    cooldown: str | None = None
    throttles: int = 0  # windows in a row in which a handler said that it was throttled
    throttled_until_us: int | None = None
    retention: str | None = None
    dead_retention: str | None = None
    defaults: str | None = None  # options of tasks, as JSON


class QueueTables(ControlTables):
    """Statements about queues. Those that write belong into `transaction()`."""

    _queues: dict[str, QueueRow]

    def queues(self) -> Mapping[str, QueueRow]:
        """Every queue of which something was said."""
        return self._queues

    def queue(self, name: str) -> QueueRow:
        """What was said of this queue."""
        return self._queues.get(name) or QueueRow(name)

    def set_queue(self, name: str, **columns: Any) -> QueueRow:
        """Change some columns of a queue."""
        row = self.queue(name)._replace(**columns)
        self._write(WRITE_QUEUE, [row])
        self._queues[name] = row
        self._reload.add(self._load_queues)
        return row

    def server_defaults(self) -> str | None:
        """What the last server said of tasks for whom nobody else does, as JSON; None if it said nothing."""
        row = self._read_one(SELECT_SERVER_DEFAULTS)
        return None if row is None else row[0]

    def set_server_defaults(self, options: str) -> None:
        """Remember what this server says."""
        self._write(WRITE_SERVER_DEFAULTS, [(options,)])

    def _load_queues(self) -> None:
        self._queues = {row[0]: QueueRow(*row) for row in self._read(SELECT_QUEUES)}

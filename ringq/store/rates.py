"""Store: rate limits and how full their buckets are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ringq.bucket import RateRow
from ringq.store.retention import RetentionTables

# All of them, for the parent's own buckets.
SELECT_RATES: Final = """
SELECT scope, permits, interval_us, burst, tokens, stamped_us, held_until_us, declared FROM rate ORDER BY scope
"""

# One of them.
SELECT_RATE: Final = """
SELECT scope, permits, interval_us, burst, tokens, stamped_us, held_until_us, declared FROM rate WHERE scope = ?
"""

# The whole row.
WRITE_RATE: Final = """
INSERT INTO rate (scope, permits, interval_us, burst, tokens, stamped_us, held_until_us, declared)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (scope) DO UPDATE SET
    permits = excluded.permits, interval_us = excluded.interval_us, burst = excluded.burst, tokens = excluded.tokens,
    stamped_us = excluded.stamped_us, held_until_us = excluded.held_until_us, declared = excluded.declared
"""

# How full they are, unless they were removed meanwhile.
UPDATE_LEVEL: Final = "UPDATE rate SET tokens = ?, stamped_us = ?, held_until_us = ? WHERE scope = ?"

# The scope is limited no more.
DELETE_RATE: Final = "DELETE FROM rate WHERE scope = ?"


class RateTables(RetentionTables):
    """Statements about rate limits. Those that write belong into `transaction()`."""

    def rates(self) -> list[RateRow]:
        """Every rate limit."""
        return [RateRow(*row) for row in self._read(SELECT_RATES)]

    def rate(self, scope: str) -> RateRow | None:
        """The rate limit of a scope."""
        row = self._read_one(SELECT_RATE, (scope,))
        return None if row is None else RateRow(*row)

    def write_rate(self, row: RateRow) -> None:
        """Limit a scope, or change its limit."""
        self._write(WRITE_RATE, [row])

    def write_levels(self, rows: Sequence[RateRow]) -> None:
        """Note how full these buckets are."""
        self._write(UPDATE_LEVEL, [(row.tokens, row.stamped_us, row.held_until_us, row.scope) for row in rows])

    def delete_rate(self, scope: str) -> None:
        """Limit a scope no more."""
        self._write(DELETE_RATE, [(scope,)])

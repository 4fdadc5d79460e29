"""Values: receipts as rows - what the ring hands out and the store inserts - and what is counted of them."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

# The columns of a receipt, in the order in which the ring hands them out and the store inserts them.
ReceiptRow = tuple[int, int, int, int, int, int, int, int, int, int | None, int | None, str | None, str | None]
RESULT = itemgetter(11)


def result_bytes(rows: Sequence[ReceiptRow]) -> int:
    """The size of the results, in characters."""
    return sum(map(len, filter(None, map(RESULT, rows))))


def sums(rows: Sequence[ReceiptRow]) -> dict[tuple[int, int], tuple[int, int, int]]:
    """(kind, status) -> (count, total and longest duration in microseconds)."""
    entries: dict[tuple[int, int], list[int]] = {}
    for row in rows:
        key = (row[2], row[4])
        entry = entries.get(key)
        if entry is None:
            entries[key] = [1, row[7], row[7]]
        else:
            entry[0] += 1
            entry[1] += row[7]
            if row[7] > entry[2]:
                entry[2] = row[7]
    return {key: (count, total, longest) for key, (count, total, longest) in entries.items()}

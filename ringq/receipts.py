"""Values: receipts as rows - what the ring hands out and the store inserts - and what is counted of them."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

# The columns of a receipt, in the order in which the ring hands them out and the store inserts them.
ReceiptRow = tuple[int, int, int, int, int, int, int, int, int, int | None, int | None, str | None, str | None]
RESULT = itemgetter(11)
DURATION = itemgetter(7)
HEAD = itemgetter(2, 3, 4, 5)
Sums = dict[tuple[int, int], tuple[int, int, int]]  # (kind, status) -> (count, total and longest duration in us)
Head = tuple[int, int, int, int]  # (kind, attempt, status, reason)


def alike(rows: Sequence[ReceiptRow]) -> dict[Head, Sequence[ReceiptRow]]:
    """The rows by what most have in common; in one transaction nearly always all of them have."""
    heads = list(dict.fromkeys(map(HEAD, rows)))
    if len(heads) == 1:
        return {heads[0]: rows}
    groups: dict[Head, list[ReceiptRow]] = {head: [] for head in heads}
    for row in rows:
        groups[HEAD(row)].append(row)
    return dict(groups)


def result_bytes(rows: Sequence[ReceiptRow]) -> int:
    """The size of the results, in characters."""
    return sum(map(len, filter(None, map(RESULT, rows))))


def joined(first: Sums, second: Sums) -> Sums:
    """What is counted in both."""
    if not first:
        return second
    counts = dict(first)
    for key, (count, total, longest) in second.items():
        before = counts.get(key, (0, 0, 0))
        counts[key] = (before[0] + count, before[1] + total, max(before[2], longest))
    return counts


def sums(rows: Sequence[ReceiptRow]) -> Sums:
    """What is counted of these receipts."""
    entries: Sums = {}
    for (kind, _, status, _), group in alike(rows).items():
        durations = list(map(DURATION, group))
        count, total, longest = entries.get((kind, status), (0, 0, 0))
        entries[kind, status] = (count + len(group), total + sum(durations), max([longest, *durations]))
    return entries

"""Values: how often something may happen - token buckets by scope. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from ringq.bucket import BURST_MAX, Bucket, RateRow, is_number
from ringq.config import NAME_CHARS_MAX
from ringq.errors import BurstExceeded, InvalidOption, UnknownScope

KNOWN_MAX: Final = 10_000  # sets of names of which the buckets are remembered: groups may be any number
WORDS: Final = ("kind", "group", "queue")


class Rates:
    """All buckets, by scope: `kind:media::thumbnail`, `group:acme`, `queue:bulk`, or a free name without a colon.

    Instants are microseconds of a clock that only grows. The line of those who `acquire` goes before tasks.
    """

    def __init__(self) -> None:
        self._kinds: dict[str, Bucket] = {}
        self._groups: dict[str, Bucket] = {}
        self._queues: dict[str, Bucket] = {}
        self._buckets: dict[str, Bucket] = {}
        self._known: dict[tuple[str, str | None, str], list[Bucket]] = {}

    @property
    def scopes(self) -> set[str]:
        """What is limited."""
        return set(self._buckets)

    def admit(self, kind: str, group: str | None, queue: str, wanted: int, now_us: int) -> tuple[int, int | None]:
        """(how many of `wanted` tasks of this kind, group and queue may start, when to look again for the others).

        The tokens of those are taken from all buckets concerned; if one refuses, from none. When all may start, there
        is no when.
        """
        if not self._buckets:
            return wanted, None
        found = self._known.get((kind, group, queue))
        if found is None:
            found = self._concerned(kind, group, queue)
        if not found:
            return wanted, None
        count = wanted
        for bucket in found:
            free = bucket.free(now_us)
            if free < count:
                count = free
        if count:
            for bucket in found:
                bucket.take(count)
        if count == wanted:
            return count, None
        return count, max([bucket.when(1, now_us) for bucket in found])

    def give_back(self, kind: str, group: str | None, queue: str, count: int) -> None:
        """So many tasks that were admitted did not start after all."""
        for bucket in self._concerned(kind, group, queue):
            bucket.take(-count)

    def wait_us(self, kind: str, group: str | None, queue: str, now_us: int) -> int:
        """In how many microseconds the next task of this kind, group and queue may start; 0: now. Takes nothing."""
        refusing = [bucket for bucket in self._concerned(kind, group, queue) if not bucket.free(now_us)]
        return max((bucket.when(1, now_us) - now_us for bucket in refusing), default=0)

    def limits(self, kind: str, group: str | None, queue: str) -> bool:
        """Whether a rate is set for tasks of this kind, group and queue."""
        return bool(self._concerned(kind, group, queue))

    def acquire(
        self, scope: str, permits: float, now_us: int, ticket: bytes = b"", patience_us: float = math.inf
    ) -> int:
        """0 if the tokens were taken; else how many microseconds to wait.

        `ticket` names who asks: it keeps its place in line if it asks again in time, after so long or after LOOK_US,
        whatever is sooner. A kind, group or queue without a rate is not limited.

        Raises UnknownScope for a free name without a rate; BurstExceeded for more than can ever be there at once;
        InvalidOption.
        """
        check(scope)
        check_permits(permits)
        bucket = self._buckets.get(scope)
        if bucket is None:
            if ":" not in scope:
                raise UnknownScope(unknown(scope))
            return 0
        if permits > bucket.rate.burst:
            raise BurstExceeded(
                f"{permits:g} permits of {scope!r} at once, its burst is {bucket.rate.burst:g}: ask for fewer, or say "
                f"more of it with set_rate({scope!r}, ..., burst={math.ceil(permits)})"
            )
        return bucket.queue_up(permits, now_us, ticket, patience_us)

    def hold(self, scope: str, until_us: int) -> None:
        """Nothing of this scope passes before an instant. Raises UnknownScope."""
        bucket = self._buckets.get(scope)
        if bucket is None:
            raise UnknownScope(unknown(scope))
        bucket.hold(until_us)

    def set(self, row: RateRow, now_us: int, wall_us: int) -> None:
        """Limit a scope; what is limited already keeps its tokens, its line, and the longer hold."""
        known = self._buckets.get(row.scope)
        bucket = row.bucket(now_us, wall_us)
        if known is not None:
            if known.rate != row.rate:
                known.configure(row.rate, now_us)
            if bucket.held_us > max(now_us, known.held_us):
                known.hold(bucket.held_us)
            return
        self._buckets[row.scope] = bucket
        self._known.clear()
        for word, named in self._named():
            if row.scope.startswith(word):
                named[row.scope.removeprefix(word)] = bucket

    def remove(self, scope: str) -> None:
        """Limit a scope no more. Idempotent."""
        self._buckets.pop(scope, None)
        self._known.clear()
        for word, named in self._named():
            if scope.startswith(word):
                named.pop(scope.removeprefix(word), None)

    @property
    def is_dirty(self) -> bool:
        """Whether `dirty_rows` would give any."""
        return any(bucket.is_dirty for bucket in self._buckets.values())

    def dirty_rows(self, now_us: int, wall_us: int) -> list[RateRow]:
        """What has changed since it was asked for last, as it is to be stored."""
        rows = []
        for scope, bucket in self._buckets.items():
            if bucket.is_dirty:
                bucket.is_dirty = False
                rows.append(RateRow.of(scope, bucket, now_us, wall_us))
        return rows

    def soil(self, scopes: Iterable[str]) -> None:
        """Their rows were not stored after all."""
        for scope in scopes:
            if scope in self._buckets:
                self._buckets[scope].is_dirty = True

    def _concerned(self, kind: str, group: str | None, queue: str) -> list[Bucket]:
        """The buckets that limit such tasks; remembered, since few sets of names are asked for again and again."""
        known = self._known.get((kind, group, queue))
        if known is None:
            found = (self._kinds.get(kind), self._groups.get(group or ""), self._queues.get(queue))
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            known = self._known[kind, group, queue] = [bucket for bucket in found if bucket is not None]
        return known

    def _named(self) -> Iterable[tuple[str, dict[str, Bucket]]]:
        return ("kind:", self._kinds), ("group:", self._groups), ("queue:", self._queues)


def check(scope: object) -> None:
    """Raises InvalidOption for what is no scope."""
    if not isinstance(scope, str) or not 0 < len(scope) <= NAME_CHARS_MAX + len("group:") or not scope.isprintable():
        raise InvalidOption(f"scope: expected 1 to {NAME_CHARS_MAX} printable characters, got {scope!r:.100}")
    word, colon, name = scope.partition(":")
    if colon and (word not in WORDS or not name or (word == "kind" and len(name.split("::")) != 2)):
        raise InvalidOption(
            f"scope: {scope!r} is none: write kind:domain::name, group:NAME, queue:NAME, or a name without a colon"
        )


def check_permits(permits: object) -> None:
    """Raises InvalidOption for what is no number of permits above 0."""
    if not (is_number(permits) and 0 < permits <= BURST_MAX):  # type: ignore[operator]
        raise InvalidOption(f"permits: expected more than 0, at most {BURST_MAX:g}, got {permits!r}")


def unknown(scope: str) -> str:
    """What is said of a scope without a rate."""
    return f"nobody has set a rate for {scope!r}: say it with client.set_rate({scope!r}, '10/s') or `ringq rate set`"

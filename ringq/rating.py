"""Flow: rate limits of this server - the buckets in memory, and what the database knows of them.

    acquire ──► the buckets, at once            settings, holds ──► COMMIT ──► the buckets
    levels  ──► with a transaction, once a second at most, and at a stop

After a kill -9 what was taken within the last second may be taken again: a write for each token would cost a sync.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ringq import protocol
from ringq.bucket import Bucket, Rate, RateRow
from ringq.clock import Clock
from ringq.committed import Committed
from ringq.errors import InvalidOption, RingqError, UnknownScope
from ringq.notation import rate as read_rate
from ringq.rates import Rates, check, check_permits, unknown
from ringq.verdicts import Verdicts
from ringq.writer import Change

SAVE_NS: Final = 1_000_000_000
Answer = Callable[[protocol.Message], None]
Refuse = Callable[[RingqError], None]


class Rating:
    """Attributes: `rates`, which the gate asks. `write` has a change written."""

    def __init__(
        self, store: Any, clock: Clock, write: Callable[[Change], None],
        on_change: Callable[[Iterable[str]], None] = lambda _: None,
    ) -> None:  # fmt: skip
        """`on_change` is told of which scopes there are others now, or held ones."""
        self._on_change = on_change
        self._look_again_us: int | None = None  # when tasks may start that lacked a token
        self._clock = clock
        self._write = write
        self._save_ns = 0  # not before that
        self._is_saving = self._is_lost = False
        self.rates = Rates()
        rows = store.rates()
        self._declared = {row.scope: row.rate for row in rows if row.declared}  # by the code of an earlier run
        for row in rows:
            self.rates.set(row, self._now_us(), clock.now_us())

    def change(self, change: Change) -> None:
        """Answer who wants tokens; have anything else written. Raises what `Rates.acquire` does."""
        if isinstance(change, Acquire):
            asked = change.message
            patience_us = math.inf if asked.patience_us is None else asked.patience_us
            wait_us = self.rates.acquire(asked.scope, asked.permits, self._now_us(), asked.ticket, patience_us)
            change.answer(protocol.Granted(wait_us))
            return
        if isinstance(change, SetRate):
            change.then = self._follow
        elif isinstance(change, HoldRate):
            change.then = self._hold
        self._write(change)

    def declare(self, reports: Iterable[dict[str, Any]]) -> None:
        """A worker told its kinds: these are the rates that stand in the code. They hold at once."""
        given = [one for one in reports if one.get("rate") is not None and one["name"] == one["names"][0]]  # no aliases
        declared = {f"kind:{one['name']}": read_rate(one["rate"]) for one in given}
        if declared != self._declared:
            self._declared = declared
            now_us = self._clock.now_us()
            new = declared.keys() - self.rates.scopes
            for scope in new:
                self.rates.set(changed(None, scope, declared[scope], now_us), self._now_us(), now_us)
            self._on_change(new)
            self._write(Declare(declared, now_us, self._follow))

    def admit(self, kind: str, group: str | None, queue: str, wanted: int) -> int:
        """As the gate asks: see `gate.Tokens`."""
        count, again_us = self.rates.admit(kind, group, queue, wanted, self._now_us())
        if again_us is not None and (self._look_again_us is None or again_us < self._look_again_us):
            self._look_again_us = again_us
        return count

    def give_back(self, kind: str, group: str | None, queue: str, count: int) -> None:
        """As the gate asks."""
        self.rates.give_back(kind, group, queue, count)

    def limits(self, kind: str, group: str | None, queue: str) -> bool:
        """As the gate asks."""
        return self.rates.limits(kind, group, queue)

    def span_us(self, kind: str, group: str | None, queue: str) -> int:
        """In how many microseconds the next task of this kind, group and queue may start; 0: now."""
        return self.rates.wait_us(kind, group, queue, self._now_us())

    def step(self, is_stopping: bool) -> None:
        """Have the levels written, if it is time; `is_stopping`: whatever has changed, since it may be the last.

        To be called before tasks are published.
        """
        self._look_again_us = None
        if self._is_saving or not self.rates.is_dirty or (is_stopping and self._is_lost):
            return
        if is_stopping or self._clock.monotonic_ns() >= self._save_ns:
            self._save_ns = self._clock.monotonic_ns() + SAVE_NS
            self._is_saving = True
            self._write(Levels(self.rates, lambda: (self._now_us(), self._clock.now_us()), self._saved))

    def wait_ns(self) -> int | None:
        """Until `step` has something to do, or tasks may start; None if that takes an event first."""
        if self._look_again_us is None and not self.rates.is_dirty:
            return None
        again_us, now_ns = self._look_again_us, self._clock.monotonic_ns()
        waits = [] if again_us is None else [max(0, again_us * 1000 - now_ns)]
        if not self._is_saving and self.rates.is_dirty:
            waits.append(max(0, self._save_ns - now_ns))
        return min(waits, default=None)

    def _saved(self, scopes: Sequence[str], *, is_durable: bool) -> None:
        self._is_saving, self._is_lost = False, not is_durable
        if not is_durable:
            self.rates.soil(scopes)

    def _follow(self, scope: str, row: RateRow | None) -> None:
        """This is what the database says now."""
        if row is not None:
            self.rates.set(row, self._now_us(), self._clock.now_us())
            self._on_change([scope])
            return
        self.rates.remove(scope)
        self._on_change([scope])
        if scope in self._declared:  # nobody else says anything any more
            self._write(Declare(self._declared, self._clock.now_us(), self._follow))

    def _hold(self, scope: str, until_us: int) -> None:
        if scope in self.rates.scopes:
            self.rates.hold(scope, self._now_us() + max(0, until_us - self._clock.now_us()))

    def _now_us(self) -> int:
        return self._clock.monotonic_ns() // 1000


@dataclass(slots=True)
class SetRate:
    """An operator limits a scope, or takes that back. `then` is told what is durable."""

    message: protocol.SetRate
    now_us: int
    answer: Answer
    refuse: Refuse
    then: Callable[[str, RateRow | None], None] = lambda _scope, _row: None

    def apply(self, store: Any, _verdicts: Verdicts, _committed: Committed) -> Callable[[], None]:
        """See `Change`."""
        scope, row = self.message.scope, None
        known = store.rate(scope)
        if self.message.rate is not None:
            row = changed(known, scope, _rate(self.message.rate), self.now_us)
            store.write_rate(row)
        elif known is None:
            error: RingqError = UnknownScope(unknown(scope))
            return lambda: self.refuse(error)
        elif known.declared:
            error = InvalidOption(f"the rate of {scope} stands in the code: change it there, or set another one")
            return lambda: self.refuse(error)
        else:
            store.delete_rate(scope)

        def told() -> None:
            self.then(scope, row)
            self.answer(protocol.Changed(1))

        return told


@dataclass(slots=True)
class HoldRate:
    """Nothing of a scope shall pass for a while. `then` is told until when, by the wall clock."""

    message: protocol.HoldRate
    now_us: int
    answer: Answer
    refuse: Refuse
    then: Callable[[str, int], None] = lambda _scope, _until_us: None

    def apply(self, store: Any, _verdicts: Verdicts, _committed: Committed) -> Callable[[], None]:
        """See `Change`."""
        scope = self.message.scope
        known = store.rate(scope)
        if known is None:
            return lambda: self.refuse(UnknownScope(unknown(scope)))
        bucket = known.bucket(self.now_us, self.now_us)
        bucket.hold(max(self.now_us, self.message.until_us))
        store.write_rate(RateRow.of(scope, bucket, self.now_us, self.now_us, known.declared))

        def told() -> None:
            self.then(scope, self.message.until_us)
            self.answer(protocol.Changed(1))

        return told


@dataclass(frozen=True, slots=True)
class Acquire:
    """Somebody wants tokens. A server answers without writing anything; an inline run lets everybody pass."""

    message: protocol.Acquire
    answer: Answer
    refuse: Refuse

    def apply(self, store: Any, _verdicts: Verdicts, _committed: Committed) -> Callable[[], None]:
        """See `Change`."""
        rates = Rates()
        row = store.rate(self.message.scope)
        if row is not None:
            rates.set(changed(None, row.scope, row.rate, 0), 0, 0)
        try:
            rates.acquire(self.message.scope, self.message.permits, 0)
        except RingqError as raised:
            error = raised
            return lambda: self.refuse(error)
        return lambda: self.answer(protocol.Granted(0))


@dataclass(frozen=True, slots=True)
class Declare:
    """What the code says is written where no operator says anything; what it says no more is forgotten."""

    declared: dict[str, Rate]
    now_us: int
    then: Callable[[str, RateRow | None], None]

    def apply(self, store: Any, _verdicts: Verdicts, _committed: Committed) -> Callable[[], None]:
        """See `Change`."""
        known = {row.scope: row for row in store.rates()}
        told: dict[str, RateRow | None] = {}
        for scope, rate in self.declared.items():
            row = known.get(scope)
            if row is None or (row.declared and row.rate != rate):
                told[scope] = changed(row, scope, rate, self.now_us, declared=1)
                store.write_rate(told[scope])
        for scope, row in known.items():
            if row.declared and scope not in self.declared:
                told[scope] = None
                store.delete_rate(scope)

        def tell() -> None:
            for one in told.items():
                self.then(*one)

        return tell

    def refuse(self, _error: RingqError) -> None:
        """See `Change`."""


@dataclass(slots=True)
class Levels:
    """How full the buckets are. `clock` gives the monotonic and the wall clock's microseconds."""

    rates: Rates
    clock: Callable[[], tuple[int, int]]
    done: Callable[..., None]
    scopes: Sequence[str] = ()

    def apply(self, store: Any, _verdicts: Verdicts, _committed: Committed) -> Callable[[], None]:
        """See `Change`."""
        rows = self.rates.dirty_rows(*self.clock())
        self.scopes = [row.scope for row in rows]
        store.write_levels(rows)
        return lambda: self.done(self.scopes, is_durable=True)

    def refuse(self, _error: RingqError) -> None:
        """See `Change`."""
        self.done(self.scopes, is_durable=False)


def of(message: protocol.Message, now_us: int, answer: Answer, refuse: Refuse) -> Change:
    """What shall happen about a SetRate, a HoldRate or an Acquire; `now_us` by the wall clock. Raises InvalidOption."""
    if isinstance(message, protocol.SetRate):
        check(message.scope)
        if message.rate is not None:
            _rate(message.rate)
        return SetRate(message, now_us, answer, refuse)
    if isinstance(message, protocol.HoldRate):
        check(message.scope)
        if not 0 <= message.until_us < 2**62:
            raise InvalidOption(f"until: expected an instant, got {message.until_us}")
        return HoldRate(message, now_us, answer, refuse)
    assert isinstance(message, protocol.Acquire)
    check_permits(message.permits)
    if len(message.ticket) != protocol.SUBMISSION_ID_BYTES:
        raise InvalidOption(f"the ticket must have {protocol.SUBMISSION_ID_BYTES} bytes")
    return Acquire(message, answer, refuse)


def changed(known: RateRow | None, scope: str, rate: Rate, now_us: int, declared: int = 0) -> RateRow:
    """A row with this rate: full if it is new; else with the tokens it had, as many as the new burst allows."""
    if known is None:
        bucket = Bucket(rate, rate.burst, now_us)
    else:
        bucket = known.bucket(now_us, now_us)
        bucket.configure(rate, now_us)
    return RateRow.of(scope, bucket, now_us, now_us, declared)


def _rate(fields: protocol.RateFields) -> Rate:
    return Rate(fields.permits, fields.interval_us, fields.burst)

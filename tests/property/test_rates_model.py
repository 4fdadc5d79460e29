"""Whatever is asked of rate limits, in whatever order: no more passes than the rate allows, and no token is lost."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ringq.bucket import Bucket, Rate, RateRow
from ringq.rates import Rates

S = 1_000_000
WALL = 1_800_000_000 * S
SCOPES = ("kind:a::b", "group:acme", "queue:bulk")

rate = st.builds(
    Rate.of,
    st.sampled_from([0.1, 0.5, 1, 3, 7, 10, 1000]),
    st.sampled_from([1000, 10_000, S, 60 * S, 86_400 * S]),
    st.sampled_from([None, 1, 1.5, 4, 100]),
)


def row(scope: str, limit: Rate, tokens: float, wall_us: int) -> RateRow:
    return RateRow(scope, limit.permits, limit.interval_us, limit.burst, tokens, wall_us)


class ManyBuckets(RuleBasedStateMachine):
    """Exact buckets, filled by fractions, beside the real ones."""

    def __init__(self) -> None:
        super().__init__()
        self.now_us = 10**9
        self.rates = Rates()
        self.limits: dict[str, Rate] = {}
        self.tokens: dict[str, Fraction] = {}

    @rule(scope=st.sampled_from(SCOPES), limit=rate)
    def set(self, scope: str, limit: Rate) -> None:
        self.rates.set(row(scope, limit, limit.burst, WALL), self.now_us, WALL)
        before = self.tokens.get(scope, Fraction(limit.burst))
        self.limits[scope], self.tokens[scope] = limit, min(before, Fraction(limit.burst))

    @precondition(lambda self: self.limits)
    @rule(index=st.integers(0, 2))
    def remove(self, index: int) -> None:
        scope = sorted(self.limits)[index % len(self.limits)]
        self.rates.remove(scope)
        del self.limits[scope], self.tokens[scope]

    @rule(span_us=st.sampled_from([0, 1, 500, 10_000, S, 59 * S, 3600 * S]))
    def wait(self, span_us: int) -> None:
        self.now_us += span_us
        for scope, limit in self.limits.items():
            come = Fraction(span_us) * Fraction(limit.permits) / limit.interval_us
            self.tokens[scope] = min(Fraction(limit.burst), self.tokens[scope] + come)

    @rule(wanted=st.integers(1, 12), group=st.sampled_from(["acme", None]), back=st.integers(0, 3))
    def admit(self, wanted: int, group: str | None, back: int) -> None:
        concerned = [scope for scope in self.limits if group or not scope.startswith("group:")]
        least = min((self.tokens[scope] for scope in concerned), default=Fraction(wanted))
        count, look_us = self.rates.admit("a::b", group, "bulk", wanted, self.now_us)
        close = Fraction(1, 10**4)
        assert min(wanted, int(max(Fraction(0), least - close))) <= count <= min(Fraction(wanted), least + close)
        assert (look_us is None) == (count == wanted)
        back = min(back, count)
        self.rates.give_back("a::b", group, "bulk", back)
        for scope in concerned:
            self.tokens[scope] -= count - back
        if look_us is not None:
            self.look_then(look_us, concerned, back)

    def look_then(self, look_us: int, concerned: list[str], back: int) -> None:
        """The instant that was named is not late, and if nothing was given back not early."""
        assert look_us > self.now_us
        per_us = {scope: Fraction(self.limits[scope].permits) / self.limits[scope].interval_us for scope in concerned}
        come = {scope: self.tokens[scope] + (look_us - self.now_us) * per_us[scope] for scope in concerned}
        assert min(come.values()) > 1 - Fraction(1, 10**3)
        assert back or min(come[scope] - 2 * per_us[scope] for scope in concerned) < 1 + Fraction(1, 10**3)

    @rule(span_us=st.sampled_from([0, 5000, S, 3600 * S]), jump_us=st.sampled_from([0, -S, -(10**15)]))
    def restart(self, span_us: int, jump_us: int) -> None:
        self.rates.soil(self.rates.scopes)
        rows = self.rates.dirty_rows(self.now_us, WALL)
        self.rates = Rates()
        for one in rows:
            self.rates.set(one, self.now_us, WALL + (jump_us or span_us))
        for scope, limit in self.limits.items():
            come = 0 if jump_us else Fraction(span_us) * Fraction(limit.permits) / limit.interval_us
            self.tokens[scope] = min(Fraction(limit.burst), max(Fraction(0), self.tokens[scope]) + come)

    @invariant()
    def levels_are_those_of_the_model(self) -> None:
        self.rates.soil(self.rates.scopes)
        for one in self.rates.dirty_rows(self.now_us, WALL):
            assert abs(one.tokens - max(Fraction(0), self.tokens[one.scope])) < Fraction(1, 10**3)


TestManyBuckets = ManyBuckets.TestCase


@given(
    rate,
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from([0, 1, 999, 100_000, S, 70 * S]), st.booleans()), max_size=60
    ),
)
def test_no_more_is_granted_than_the_burst_and_what_comes_in(limit: Rate, asked: list[Any]) -> None:
    rates = Rates()
    start_us = now_us = 10**9
    rates.set(row("queue:bulk", limit, limit.burst, WALL), now_us, WALL)
    granted = 0.0
    for number, (permits, span_us, by_hand) in enumerate(asked):
        now_us += span_us
        if by_hand and 0 < permits <= limit.burst:
            granted += permits * (rates.acquire("queue:bulk", permits, now_us, bytes([number])) == 0)
        else:
            granted += rates.admit("a::b", None, "bulk", permits, now_us)[0]
        assert granted <= limit.burst + (now_us - start_us) / limit.token_us + 1e-3


@given(rate, st.lists(st.floats(0.01, 1), min_size=1, max_size=12))
def test_those_who_wait_all_come_to_their_turn_in_order(limit: Rate, wanted: list[float]) -> None:
    bucket = Bucket(limit, 0, 0)
    waits = [bucket.queue_up(permits, 0, bytes([number]), float("inf")) for number, permits in enumerate(wanted)]
    assert waits == sorted(waits)
    alone = Bucket(limit, 0, 0)
    total = 0.0
    for number, permits in enumerate(wanted):
        total += permits
        if total > limit.burst:
            return
        assert alone.queue_up(permits, waits[number], b"x", float("inf")) == 0

"""Rate limits without a server: how they are written, tokens, holds, the line of those who wait, and their rows."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest

from ringq import notation
from ringq.bucket import GRACE_US, LOOK_US, Bucket, Rate, RateRow
from ringq.clock import microseconds_of
from ringq.errors import BurstExceeded, InvalidOption, UnknownScope
from ringq.rates import Rates

S = 1_000_000
T0 = 5_000 * S
WALL = 1_800_000_000 * S


def limited(**scopes: str) -> Rates:
    """Rates by scope, `_` for a colon; every bucket is full at T0."""
    rates = Rates()
    for name, text in scopes.items():
        rates.set(full(name.replace("_", ":"), text), T0, WALL)
    return rates


def full(scope: str, text: str) -> RateRow:
    rate = notation.rate(text)
    return RateRow(scope, rate.permits, rate.interval_us, rate.burst, rate.burst, WALL)


def tokens(rates: Rates, scope: str, now_us: int) -> float:
    rates.soil(rates.scopes)
    return next(row.tokens for row in rates.dirty_rows(now_us, WALL) if row.scope == scope)


# -- how a rate is written ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "permits", "interval_us", "burst", "printed"),
    [
        ("10/s", 10, S, 10, "10/s"),
        ("100/m burst 20", 100, 60 * S, 20, "100/m burst 20"),
        ("5 per 30s", 5, 30 * S, 5, "5 per 30s"),
        (" 5  per 30s  burst 9 ", 5, 30 * S, 9, "5 per 30s burst 9"),
        ("0.5/s", 0.5, S, 1, "0.5/s"),
        ("1 / d", 1, 86_400 * S, 1, "1/d"),
        ("2/500ms", 2, S // 2, 2, "2 per 0.5s"),
        ("3/ms burst 1.5", 3, 1000, 1.5, "3/ms burst 1.5"),
    ],
)
def test_a_rate_is_read_and_printed(written: str, permits: float, interval_us: int, burst: float, printed: str) -> None:
    rate = notation.rate(written)
    assert rate == Rate(permits, interval_us, burst)
    assert str(rate) == printed
    assert notation.rate(printed) == rate


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("ten/s", "is no rate"),
        ("10", "is no rate"),
        ("", "is no rate"),
        (10, "is no rate"),
        ("nan/s", "is no rate"),
        ("10/fortnight", "'fortnight' is no interval"),
        ("10/0s", "1 ms to 366 days, got 0 s"),
        ("10/-1s", "no interval"),
        ("10/400d", "1 ms to 366 days"),
        ("0/s", "more than 0 permits"),
        ("-3/s", "more than 0 permits"),
        ("10/s burst 0.5", "with less nothing may"),
        ("10/s burst many", "'many' is no burst"),
        ("10/s burst 0", "burst: expected 1"),
        ("1e7/s", "more than a million a second"),
    ],
)
def test_what_is_no_rate_is_told_in_one_line(written: object, said: str) -> None:
    with pytest.raises(ValueError, match=said) as told:
        notation.rate(written)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("scope", ["", "kind:", "kind:thumbnail", "group:", "team:a", ":", "a:b", "x\n", 7, "x" * 300])
def test_what_is_no_scope_is_refused(scope: str) -> None:
    with pytest.raises(InvalidOption, match="scope: "):
        Rates().acquire(scope, 1, T0)


# -- tasks ----------------------------------------------------------------------------------------


def test_what_is_not_limited_may_start() -> None:
    assert Rates().admit("a::b", None, "default", 7, T0) == (7, None)
    assert limited(queue_bulk="1/s").admit("a::b", "acme", "default", 7, T0) == (7, None)


def test_of_those_that_want_to_start_as_many_may_as_there_are_tokens() -> None:
    rates = limited(queue_bulk="10/s burst 4")
    assert rates.admit("a::b", None, "bulk", 3, T0) == (3, None)
    assert rates.admit("a::b", None, "bulk", 3, T0) == (1, T0 + S // 10)
    assert rates.admit("a::b", None, "bulk", 3, T0 + S // 10 - 1) == (0, T0 + S // 10)
    assert rates.admit("a::b", None, "bulk", 3, T0 + S // 10) == (1, T0 + 2 * S // 10)
    assert rates.admit("a::b", None, "bulk", 9, T0 + 3600 * S) == (4, T0 + 3600 * S + S // 10)


def test_the_tightest_of_kind_group_and_queue_decides_and_no_token_of_the_others_is_lost() -> None:
    rates = Rates()
    for scope, text in (("kind:a::b", "8/s"), ("group:acme", "2/m"), ("queue:bulk", "5/s")):
        rates.set(full(scope, text), T0, WALL)
    assert rates.admit("a::b", "acme", "bulk", 6, T0) == (2, T0 + 30 * S)
    left = {scope: tokens(rates, scope, T0) for scope in sorted(rates.scopes)}
    assert left == pytest.approx({"group:acme": 0, "kind:a::b": 6, "queue:bulk": 3})
    assert rates.admit("a::b", "acme", "bulk", 6, T0) == (0, T0 + 30 * S)
    assert tokens(rates, "kind:a::b", T0) == pytest.approx(6)
    assert rates.admit("a::b", None, "bulk", 6, T0) == (3, T0 + S // 5)


def test_when_to_look_again_is_when_the_last_of_the_buckets_has_a_token() -> None:
    rates = Rates()
    for scope, text in (("kind:a::b", "1/m"), ("queue:bulk", "1/s")):
        rates.set(full(scope, text), T0, WALL)
    assert rates.admit("a::b", None, "bulk", 2, T0) == (1, T0 + 60 * S)


def test_what_did_not_start_is_given_back_but_a_bucket_is_never_more_than_full() -> None:
    rates = limited(queue_bulk="10/s burst 4")
    assert rates.admit("a::b", None, "bulk", 4, T0)[0] == 4
    rates.give_back("a::b", None, "bulk", 3)
    assert rates.admit("a::b", None, "bulk", 9, T0)[0] == 3
    rates.give_back("a::b", None, "bulk", 100)
    assert rates.admit("a::b", None, "bulk", 100, T0)[0] == 4


def test_a_slow_rate_looked_at_all_the_time_loses_nothing() -> None:
    rates = Rates()
    rates.set(full("queue:bulk", "1/d burst 1000000"), T0, WALL)
    assert rates.admit("a::b", None, "bulk", 10**6, T0)[0] == 10**6
    day = 86_400 * S
    for part in range(1, 10_000):
        assert rates.admit("a::b", None, "bulk", 1, T0 + day * part // 10_000)[0] == 0
    assert rates.admit("a::b", None, "bulk", 1, T0 + day)[0] == 1


# -- changes --------------------------------------------------------------------------------------


def test_another_rate_keeps_the_tokens_as_many_as_its_burst_allows() -> None:
    rates = limited(github="10/s burst 8")
    assert rates.acquire("github", 2, T0) == 0
    rates.set(full("github", "1/m burst 100"), T0, WALL)
    assert tokens(rates, "github", T0) == pytest.approx(6)
    rates.set(full("github", "1/m burst 4"), T0, WALL)
    assert tokens(rates, "github", T0) == pytest.approx(4)


def test_what_is_removed_is_not_limited_any_more() -> None:
    rates = Rates()
    for scope in ("kind:a::b", "group:acme", "queue:bulk"):
        rates.set(full(scope, "1/d"), T0, WALL)
        assert rates.limits("a::b", "acme", "bulk")
        assert rates.admit("a::b", "acme", "bulk", 5, T0)[0] == 1
        rates.remove(scope)
        rates.remove(scope)
        assert rates.admit("a::b", "acme", "bulk", 5, T0) == (5, None)


def test_nothing_passes_while_a_scope_is_held_and_none_gather_meanwhile() -> None:
    rates = limited(queue_bulk="10/s")
    rates.hold("queue:bulk", T0 + 60 * S)
    rates.hold("queue:bulk", T0 + 30 * S)  # the longer one stays
    assert rates.admit("a::b", None, "bulk", 5, T0 + 59 * S) == (0, T0 + 60 * S + S // 10)
    rates.give_back("a::b", None, "bulk", 9)  # not the way around it
    assert rates.admit("a::b", None, "bulk", 5, T0 + 59 * S)[0] == 0
    rates = limited(queue_bulk="10/s")
    rates.hold("queue:bulk", T0 + 60 * S)
    assert rates.admit("a::b", None, "bulk", 5, T0 + 60 * S + S // 10)[0] == 1


def test_a_new_rate_does_not_end_a_hold() -> None:
    rates = limited(github="10/s")
    rates.hold("github", T0 + 60 * S)
    rates.set(full("github", "100/s"), T0, WALL)
    assert rates.acquire("github", 1, T0, b"a") >= 60 * S


def test_a_hold_of_no_time_takes_the_tokens_away() -> None:
    rates = limited(github="10/s")
    rates.hold("github", T0)
    assert rates.acquire("github", 1, T0) == S // 10


def test_an_unknown_scope_cannot_be_held() -> None:
    with pytest.raises(UnknownScope, match="set_rate"):
        Rates().hold("github", T0)


# -- who waits ------------------------------------------------------------------------------------


def test_who_acquires_is_told_how_long_to_wait_and_gets_it_then() -> None:
    rates = limited(github="10/s burst 1")
    assert rates.acquire("github", 1, T0, b"a") == 0
    assert rates.acquire("github", 1, T0, b"b") == S // 10
    assert rates.acquire("github", 1, T0 + S // 10, b"b") == 0


def test_those_who_wait_are_served_in_their_order_also_before_tasks() -> None:
    rates = limited(queue_bulk="10/s burst 2")
    assert rates.acquire("queue:bulk", 2, T0, b"a") == 0
    assert rates.acquire("queue:bulk", 2, T0, b"big") == 2 * S // 10
    assert rates.acquire("queue:bulk", 1, T0, b"small") == 3 * S // 10
    now_us = T0 + 15 * S // 100  # a token is there, for the one in front
    assert rates.acquire("queue:bulk", 1, now_us, b"late") == T0 + 4 * S // 10 - now_us
    assert rates.admit("a::b", None, "bulk", 1, now_us) == (0, T0 + 5 * S // 10)
    assert rates.acquire("queue:bulk", 2, T0 + 2 * S // 10, b"big") == 0
    assert rates.acquire("queue:bulk", 1, T0 + 3 * S // 10, b"small") == 0
    assert rates.acquire("queue:bulk", 1, T0 + 4 * S // 10, b"late") == 0


def test_who_does_not_come_back_loses_its_place() -> None:
    rates = limited(github="1/m burst 5")
    assert rates.acquire("github", 5, T0, b"a") == 0
    assert rates.acquire("github", 5, T0, b"dead") == 300 * S
    assert rates.acquire("github", 1, T0, b"b") == 360 * S
    now_us = T0 + LOOK_US
    assert rates.acquire("github", 1, now_us, b"b") == 359 * S
    now_us += LOOK_US + GRACE_US
    assert rates.acquire("github", 1, now_us, b"b") == T0 + 60 * S - now_us


def test_who_would_have_to_wait_too_long_has_no_place() -> None:
    rates = limited(github="1/m")
    assert rates.acquire("github", 1, T0, b"a") == 0
    assert rates.acquire("github", 1, T0, b"b", 59 * S) == 60 * S
    assert rates.acquire("github", 1, T0, b"c", 61 * S) == 60 * S


def test_what_can_never_be_granted_is_refused() -> None:
    rates = limited(github="10/s burst 20")
    with pytest.raises(BurstExceeded, match="burst is 20"):
        rates.acquire("github", 21, T0)
    for permits in (0, -1, math.nan, math.inf, True, "1"):
        with pytest.raises(InvalidOption, match="permits: "):
            rates.acquire("github", permits, T0)  # type: ignore[arg-type]
    with pytest.raises(UnknownScope, match=r"client\.set_rate\('gitlab'"):
        rates.acquire("gitlab", 1, T0)
    assert rates.acquire("queue:bulk", 21, T0) == 0  # a queue without a rate is not limited


# -- rows -----------------------------------------------------------------------------------------


def test_a_restart_keeps_the_level_and_gives_what_has_come_in_meanwhile() -> None:
    rates = limited(github="1/s burst 10")
    assert rates.acquire("github", 9, T0) == 0
    (row,) = rates.dirty_rows(T0, WALL)
    assert row.tokens == pytest.approx(1)
    assert not rates.is_dirty
    later = Rates()
    later.set(row, 77, WALL + 3 * S)  # another boot: its monotonic clock begins anew
    assert tokens(later, "github", 77) == pytest.approx(4)
    later = Rates()
    later.set(row, 77, WALL + 10**6 * S)
    assert tokens(later, "github", 77) == pytest.approx(10)


def test_a_wall_clock_that_was_set_back_gives_no_tokens_and_no_longer_hold() -> None:
    rates = limited(github="1/s burst 10")
    assert rates.acquire("github", 9, T0) == 0
    rates.hold("github", T0 + 5 * S)
    (row,) = rates.dirty_rows(T0, WALL)
    later = Rates()
    later.set(row, T0, WALL - 10**6 * S)
    assert later.acquire("github", 1, T0, b"a") == 6 * S
    assert later.acquire("github", 1, T0 + 6 * S, b"a") == 0


def test_a_hold_lasts_over_a_restart() -> None:
    rates = limited(github="1/s burst 10")
    rates.hold("github", T0 + 60 * S)
    (row,) = rates.dirty_rows(T0, WALL)
    assert row.held_until_us == WALL + 60 * S
    later = Rates()
    later.set(row, 0, WALL + 20 * S)
    assert later.acquire("github", 1, 0, b"a") == 41 * S
    record = row.record(WALL + 20 * S)
    assert (record.rate, record.tokens) == ("1/s burst 10", 0)
    assert record.held_until is not None
    after = row.record(WALL + 62 * S)
    assert (after.held_until, after.tokens) == (None, 2)


def test_rows_that_were_not_stored_come_again() -> None:
    rates = limited(github="1/s")
    assert rates.dirty_rows(T0, WALL) == []
    rates.acquire("github", 1, T0)
    assert [row.scope for row in rates.dirty_rows(T0, WALL)] == ["github"]
    assert rates.dirty_rows(T0, WALL) == []
    rates.soil(["github", "gone"])
    assert [row.scope for row in rates.dirty_rows(T0, WALL)] == ["github"]


def test_a_bucket_whose_clock_stands_still_gives_its_burst_and_no_more() -> None:
    bucket = Bucket(Rate(1000, S, 5), 5, T0)
    taken = 0
    while (free := bucket.free(T0)) and taken < 100:
        bucket.take(1)
        taken += 1
    assert (taken, free) == (5, 0)


def test_a_hold_for_ever_is_shown_also_when_the_clocks_have_drifted() -> None:
    rates = limited(github="1/s burst 10")
    rates.hold("github", T0 + microseconds_of(datetime.max.replace(tzinfo=UTC)) - WALL)
    (row,) = rates.dirty_rows(T0, WALL + 1)
    assert row.record(WALL + 1).held_until == datetime.max.replace(tzinfo=UTC)

"""How often a task is tried again and how long it waits: every shape, its bounds, and its text."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ringq
from ringq.errors import SPAN_S_MAX, InvalidOption
from ringq.retry import RETRIES_MAX, Retry, read

SPANS = st.one_of(
    st.sampled_from([0.0, 0.001, 1.0, 60.0, 3600.0, 86400.0, SPAN_S_MAX]),
    st.floats(0, SPAN_S_MAX).map(lambda seconds: round(seconds, 6)),
)
COUNTS = st.integers(0, RETRIES_MAX)
FACTORS = st.floats(1, 1000).map(lambda factor: float(f"{factor:.6f}")).map(lambda factor: float(f"{factor:g}"))
POLICIES = st.one_of(
    st.builds(Retry.constant, SPANS, max_retries=COUNTS),
    st.builds(Retry.linear, SPANS, SPANS, SPANS, max_retries=COUNTS),
    st.builds(Retry.exponential, SPANS, SPANS, max_retries=COUNTS, factor=FACTORS, jitter=st.booleans()),
)


def delays(policy: Retry, chance: float = 1.0) -> list[float]:
    return [policy.delay_s(index, chance) for index in range(5)]


def test_a_constant_delay_stays_what_it_is() -> None:
    assert delays(Retry.constant(2.5)) == [2.5] * 5
    assert delays(Retry.constant()) == [0.0] * 5
    assert Retry.constant().max_retries == Retry.linear(1, 1).max_retries == Retry.exponential().max_retries == 3


def test_a_linear_delay_grows_by_the_same_each_time_up_to_its_bound() -> None:
    assert delays(Retry.linear(1, 5)) == [1, 6, 11, 16, 21]
    assert delays(Retry.linear(1, 5, max=12)) == [1, 6, 11, 12, 12]


def test_an_exponential_delay_is_multiplied_each_time_up_to_its_bound() -> None:
    assert delays(Retry.exponential(1, 60)) == [1, 2, 4, 8, 16]
    assert delays(Retry.exponential(1, 5)) == [1, 2, 4, 5, 5]
    assert delays(Retry.exponential(2, 100, factor=3)) == [2, 6, 18, 54, 100]
    assert delays(Retry.exponential(1, 60, factor=1)) == [1] * 5


@pytest.mark.parametrize("chance", [0.0, 0.25, 1.0])
def test_full_jitter_takes_any_time_up_to_the_exponential_one(chance: float) -> None:
    assert delays(Retry.exponential(1, 5, jitter=True), chance) == [chance * s for s in (1, 2, 4, 5, 5)]


def test_chance_decides_nothing_where_there_is_no_jitter() -> None:
    for policy in (Retry.constant(1), Retry.linear(1, 2), Retry.exponential(1)):
        assert delays(policy, 0.0) == delays(policy, 1.0)


@given(policy=POLICIES, index=st.integers(0, RETRIES_MAX), chance=st.floats(0, 1))
def test_every_delay_lies_between_nothing_and_the_bound_however_many_there_were(
    policy: Retry, index: int, chance: float
) -> None:
    assert 0 <= policy.delay_s(index, chance) <= (policy.initial_s if policy.backoff == "constant" else policy.max_s)


def test_a_power_that_no_float_holds_is_the_bound() -> None:
    assert Retry.exponential(1, 60, factor=1000, max_retries=1000).delay_s(999, 1.0) == 60
    assert Retry.exponential(0, 60, factor=1000, max_retries=1000).delay_s(999, 1.0) == 0


@given(policy=POLICIES)
def test_what_a_policy_is_written_as_is_read_as_the_same(policy: Retry) -> None:
    again = Retry.read(str(policy))
    assert (again.max_retries, again.backoff, str(again)) == (policy.max_retries, policy.backoff, str(policy))
    assert delays(again) == pytest.approx(delays(policy), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("0", Retry.none()),
        ("3", Retry.constant(max_retries=3)),
        (" 3 ", Retry.constant(max_retries=3)),
        ("3 constant 10s", Retry.constant(10)),
        ("3 constant 10", Retry.constant(10)),
        ("3 constant 0.5s", Retry.constant(0.5)),
        ("3 constant 250ms", Retry.constant(timedelta(milliseconds=250))),
        ("5 linear 1s+5s..1m", Retry.linear(1, 5, 60, max_retries=5)),
        ("5 linear 1s+5s", Retry.linear(1, 5, max_retries=5)),
        ("5 linear 1.5m+0.5h..1.5d", Retry.linear(90, 1800, 129_600, max_retries=5)),
        ("5 exponential 1s..1h", Retry.exponential(1, timedelta(hours=1), max_retries=5)),
        ("5 exponential 1s..1hx3", Retry.exponential(1, 3600, max_retries=5, factor=3)),
        ("5 exponential 1sx1.5", Retry.exponential(1, SPAN_S_MAX, max_retries=5, factor=1.5)),
        ("5 jitter 500ms..1m", Retry.exponential(0.5, 60, max_retries=5, jitter=True)),
    ],
)
def test_a_policy_is_read_from_text(written: str, expected: Retry) -> None:
    assert Retry.read(written) == read(written) == Retry.of(written) == expected


def test_a_policy_is_written_shortly() -> None:
    written = ["0", "3", "3 constant 2m", "5 linear 1s+5s..1m", "5 exponential 1s..1h", "5 jitter 1s..1dx3"]
    assert [str(Retry.read(text)) for text in written] == written


def test_a_number_is_that_many_retries_at_once() -> None:
    assert Retry.of(4) == Retry.constant(max_retries=4)
    policy = Retry.exponential()
    assert Retry.of(policy) is policy


@pytest.mark.parametrize(
    "written",
    [
        "", "x", "-1", "3.5", "3  constant 1s", "3 constant", "3 sometimes 1s", "3 constant 1y", "3 constant -1s",
        "3 constant 1s..2s", "3 constant 1s+1s", "3 constant 1sx2", "3 linear 1s+1sx2", "3 exponential 1s+1s..2s",
        "3 exponential 1s..", "3 exponential 1s..2sx", "3 exponential 1s..2sx0.5", "3 exponential 1s..2sx1001",
        "3 exponential 1s..2sx1.2.3", "3 linear 367d+1s", "1001", "999999999", "9" * 5000, "3 constant 9e9",
        "3 constant nan", "3 constant " + "9" * 400, "3 exponential .s", "٣",
    ],
)  # fmt: skip
def test_text_that_is_no_policy_gets_one_clear_line(written: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        Retry.read(written)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("given_", [None, 1.5, True, [], b"3", -1, 1001])
def test_what_is_no_policy_at_all_is_told_so(given_: Any) -> None:
    with pytest.raises(InvalidOption, match=r"^(retry|max_retries): expected"):
        Retry.of(given_)


@pytest.mark.parametrize("count", [-1, RETRIES_MAX + 1, 1.0, True, None, "3"])
def test_a_count_out_of_range_is_refused_naming_the_range(count: Any) -> None:
    for make in (Retry.constant, lambda **given: Retry.linear(1, 1, **given), Retry.exponential):
        with pytest.raises(InvalidOption, match=r"max_retries: expected 0 to 1000, got"):
            make(max_retries=count)


@pytest.mark.parametrize("span", [-0.001, SPAN_S_MAX + 1, float("nan"), float("inf"), timedelta(-1), True, "1s", None])
def test_a_span_out_of_range_is_refused_naming_the_option(span: Any) -> None:
    wrong = {
        "delay": lambda: Retry.constant(span),
        "initial": lambda: Retry.exponential(span),
        "increment": lambda: Retry.linear(1, span),
        "max": lambda: Retry.linear(1, 1, span),
    }
    for name, make in wrong.items():
        with pytest.raises(InvalidOption, match=rf"^{name}: expected seconds .* from 0 to 366 days, got"):
            make()


@pytest.mark.parametrize("factor", [0.99, 1000.1, float("nan"), float("inf"), "2"])
def test_a_factor_out_of_range_is_refused(factor: Any) -> None:
    with pytest.raises(InvalidOption, match="factor: expected 1 to 1000"):
        Retry.exponential(factor=factor)


@pytest.mark.parametrize("after", [-1, float("nan"), float("inf"), True, "5", 367 * 86400, timedelta(-1)])
@pytest.mark.parametrize("ask", [lambda after: ringq.RetryLater(after=after), ringq.Snooze])
def test_a_handler_that_asks_for_an_impossible_delay_is_told_so(ask: Any, after: Any) -> None:
    with pytest.raises(InvalidOption, match="after: expected seconds"):
        ask(after)

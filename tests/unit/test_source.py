"""Reading a caller's iterable: as it comes, as far as it is wanted, whatever it does."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from ringq.client import source as module
from ringq.client.source import IDLE, Source
from ringq.errors import InvalidOption, InvalidPayload


class Clock:
    """A monotonic clock that only a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def of(iterable: Any, *, star: bool = False) -> Source:
    return Source(iterable, star=star)


def test_inputs_become_calls_with_one_argument() -> None:
    source = of(["a", (1, 2), None])
    assert source.take(0, 2) == [("a",), ((1, 2),)]
    assert (source.read, source.left(2), source.has_ended(2)) == (2, 1, False)
    assert source.take(2, 5) == [(None,)]
    assert (source.read, source.left(3), source.has_ended(3), source.error) == (3, 0, True, None)
    assert source.take(3, 5) == []


def test_what_was_not_let_go_is_given_again() -> None:
    source = of(range(6))
    assert source.take(0, 4) == source.take(0, 4) == [(0,), (1,), (2,), (3,)]
    source.let_go(2)
    assert (source.take(2, 9), source.has_ended(2), source.has_ended(6)) == ([(2,), (3,), (4,), (5,)], False, True)
    assert source.take(4, 1) == [(4,)]


def test_starmap_spreads_tuples_and_names_what_is_neither() -> None:
    calls = of([(1, 2), [3], {"a": 4}, 5, "ab"], star=True).take(0, 9)
    assert calls[:3] == [(1, 2), (3,), {"a": 4}]
    assert all(isinstance(call, InvalidPayload) for call in calls[3:])
    assert "a tuple or a dict of arguments, got 5" in str(calls[3])


@pytest.mark.parametrize("strange", [5, None, object()])
def test_what_is_no_iterable_is_refused(strange: Any) -> None:
    with pytest.raises(InvalidOption, match="expected an iterable"):
        of(strange)


def test_an_endless_iterable_is_read_as_far_as_wanted() -> None:
    numbers = itertools.count()
    source = of(numbers)
    assert len(source.take(0, 10)) == 10
    assert next(numbers) == 10
    assert source.left(10) is None


def test_what_an_iterable_raises_is_kept_with_the_inputs_before_it() -> None:
    def broken() -> Iterator[int]:
        yield from (1, 2)
        raise OSError("disk gone")

    source = of(broken())
    assert source.take(0, 5) == [(1,), (2,)]
    assert (source.has_ended(2), str(source.error)) == (True, "disk gone")
    assert source.take(2, 5) == []


def test_a_slow_iterable_gives_what_it_has_after_a_moment(clock: Clock) -> None:
    def slow() -> Iterator[int]:
        for number in itertools.count():
            clock.now += module.READ_S / 3
            yield number

    source = of(slow())
    assert source.take(0, 100) == [(0,), (1,), (2,)]
    assert source.take(3, 2) == [(3,), (4,)]
    assert len(source.take(5, 50, whole=True)) == 50


def test_an_idle_iterable_is_left_alone_and_nothing_it_gave_is_lost() -> None:
    source = of(one for one in (1, IDLE, 2, 3, IDLE, 4, 5))
    assert (source.take(0, 3), source.is_idle) == ([(1,)], True)
    assert (source.take(1, 3, whole=True), source.is_idle) == ([], True)
    assert (source.take(1, 3, whole=True), source.is_idle) == ([(2,), (3,), (4,)], False)
    assert (source.take(4, 3), source.has_ended(5)) == ([(5,)], True)


def test_inputs_read_before_ctrl_c_are_read_again_after_it() -> None:
    class Interrupted:
        def __init__(self) -> None:
            self.number = 0

        def __iter__(self) -> Interrupted:
            return self

        def __next__(self) -> int:
            self.number += 1
            if self.number == 3:
                raise KeyboardInterrupt
            return self.number

    source = of(Interrupted())
    with pytest.raises(KeyboardInterrupt):
        source.take(0, 4)
    assert source.take(0, 4) == [(1,), (2,), (4,), (5,)]


def test_a_generator_that_ctrl_c_has_ended_is_no_complete_one() -> None:
    def numbers() -> Iterator[int]:
        yield from (1, 2)
        raise KeyboardInterrupt

    source = of(numbers())
    with pytest.raises(KeyboardInterrupt):
        source.take(0, 4)
    assert source.take(0, 4) == [(1,), (2,)]
    assert (source.has_ended(2), type(source.error)) == (True, KeyboardInterrupt)


class Hinted:
    """Gives three numbers and says something else."""

    def __init__(self, hint: Any) -> None:
        self.hint = hint

    def __iter__(self) -> Iterator[int]:
        return iter(range(3))

    def __length_hint__(self) -> Any:
        if isinstance(self.hint, Exception):
            raise self.hint
        return self.hint


@pytest.mark.parametrize(
    ("hint", "left"), [(2, 2), (3, 3), (1000, 1000), (0, 0), (-1, None), (1 << 80, None), ("x", None),
                       (ValueError("no"), None), (NotImplemented, None)]
)  # fmt: skip
def test_a_length_that_is_a_lie_harms_nothing(hint: Any, left: int | None) -> None:
    source = of(Hinted(hint))
    assert source.left(0) == left
    assert source.take(0, 10) == [(0,), (1,), (2,)]
    rest = source.left(3)
    assert rest is None or rest >= 0
    assert source.has_ended(3)

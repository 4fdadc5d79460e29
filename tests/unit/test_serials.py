"""Who has the turn of a serial key: the pure part, by itself and against a list that is sorted each time."""

from __future__ import annotations

import gc
import tracemalloc
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringq.serial import ID_MASK, Serials


def test_one_of_a_key_has_the_turn_and_the_next_one_is_the_most_urgent_then_the_oldest() -> None:
    serials = Serials()
    assert [serials.admit("a", 128, 1), serials.admit("b", 128, 2)] == [True, True]
    assert not any(serials.admit("a", priority, task_id) for priority, task_id in [(128, 5), (64, 9), (128, 4)])
    assert [serials.waiting_for(task_id) for task_id in (1, 2, 4, 9, 77)] == [None, None, 1, 1, None]
    assert serials.ended({1}) == [9]
    assert serials.waiting_for(4) == 9
    assert [serials.ended({9}), serials.ended({4}), serials.ended({5}), serials.ended({2})] == [[4], [5], [], []]
    assert not serials._lines
    assert serials.admit("a", 128, 6)


def test_who_has_the_turn_keeps_it_when_it_comes_back() -> None:
    serials = Serials()
    serials.admit("a", 128, 1)
    assert not serials.admit("a", 128, 2)
    serials.has_begun([1, 2, 3])
    assert serials.admit("a", 128, 1)
    assert not serials.waits(1)


def test_the_turn_is_passed_on_to_a_more_urgent_one_only_before_it_has_begun() -> None:
    serials = Serials()
    serials.admit("a", 128, 1)
    serials.admit("a", 128, 2)
    assert serials.ahead_of(2) is None
    serials.admit("a", 64, 3)
    assert serials.ahead_of(3) == 1
    assert serials.pass_on(1) == [3]
    assert [serials.waiting_for(task_id) for task_id in (1, 2, 3)] == [3, 3, None]
    serials.has_begun([3])
    serials.admit("a", 0, 4)
    assert serials.ahead_of(4) is None
    assert [serials.ended({3}), serials.ended({4}), serials.ended({1})] == [[4], [1], [2]]


def test_who_waits_and_ends_vanishes_from_the_line() -> None:
    serials = Serials()
    serials.admit_all("a", 128, [1, 2, 3, 4])
    assert serials.ended({2}) == []
    assert serials.withdraw(3)
    assert not serials.withdraw(3)
    assert serials.ended({1}) == [4]
    serials.admit("a", 128, 3)
    assert serials.ended({4, 3}) == []
    assert (len(serials), serials._lines) == (0, {})


def test_a_start_gives_the_turn_to_who_has_begun_else_to_the_first() -> None:
    serials = Serials()
    tasks = [(1, "a", 128), (2, "b", 128), (3, "a", 128), (4, "b", 64), (6, "c", 128)]
    assert sorted(serials.load(tasks, [(3, "a", 128), (5, "c", 128)])) == [3, 4]
    assert [serials.waiting_for(task_id) for task_id in (1, 2, 3, 4, 6)] == [3, 4, None, None, 5]
    assert serials.admit("c", 128, 5)  # its next attempt is due
    assert serials.ahead_of(1) is None


def test_a_line_in_which_most_have_left_takes_no_more_memory_than_the_others() -> None:
    serials = Serials()
    serials.admit("a", 128, 1)
    for task_id in range(2, 10_000):  # as one key that is superseded again and again
        serials.admit("a", 128, task_id)
        serials.withdraw(task_id - 1)
    assert len(serials._lines["a"].orders) < 100
    assert serials.ended({1}) == [9999]


@pytest.mark.parametrize(("keys", "each"), [(1, 100_000), (10_000, 10)])
def test_a_task_that_waits_takes_little_memory(keys: int, each: int) -> None:
    serials = Serials()
    gc.collect()
    tracemalloc.start()
    ids = count(1)
    for _ in range(each):
        for key in range(keys):
            serials.admit(f"key {key}", 128, next(ids))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(serials) == keys * (each - 1)
    assert size < 200 * keys * each


MOVES = st.lists(
    st.tuples(st.sampled_from(["admit", "end", "withdraw", "begin", "overtake"]), st.integers(0, 2), st.integers(0, 7)),
    max_size=80,
)


@given(MOVES)
def test_it_does_as_a_list_that_is_sorted_each_time(moves: list[tuple[str, int, int]]) -> None:
    serials, ids = Serials(), count(1)
    waiting: dict[str, list[tuple[int, int]]] = {"a": [], "b": [], "c": []}
    held: dict[str, tuple[int, int]] = {}
    begun: set[int] = set()
    for move, which, n in moves:
        key = "abc"[which]
        line = waiting[key]
        if move == "admit":
            own = (n // 3, next(ids))
            assert serials.admit(key, *own) is (key not in held)
            line.append(own) if key in held else held.update({key: own})
        elif move == "begin" and key in held:
            serials.has_begun([held[key][1]])
            begun.add(held[key][1])
        elif move == "withdraw" and line:
            assert serials.withdraw(line.pop(n % len(line))[1])
        elif move == "end" and key in held:
            following = sorted(line)[:1]
            assert serials.ended({held.pop(key)[1]}) == [task_id for _, task_id in following]
            for own in following:
                line.remove(own)
                held[key] = own
        elif move == "overtake" and line:
            first = min(line)
            expected = held[key][1] if first < held[key] and held[key][1] not in begun else None
            assert serials.ahead_of(first[1]) == expected
            if expected is not None:
                assert serials.pass_on(expected) == [first[1]]
                line.remove(first)
                line.append(held[key])
                held[key] = first
        assert {k: v.holder & ID_MASK for k, v in serials._lines.items() if v.holder is not None} == {
            k: own[1] for k, own in held.items()
        }
        assert len(serials) == sum(map(len, waiting.values()))

"""Tasks of one submission that wait for each other: what is refused, and with which words."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from ringq.errors import BatchTooLarge, CyclicDependency, InvalidDependency, InvalidSubmission
from ringq.graph import DEPENDENCIES_MAX, Column, check_depends, find_cycle


def kind(number: int) -> str:
    return "media::" + "abcdefghijklmnopqrstuvwxyz"[number % 26]


def check(*depends_on: list[int] | None) -> None:
    check_depends(depends_on, len(depends_on), kind)


def test_tasks_may_depend_on_stored_ones_and_on_each_other_in_any_order() -> None:
    check(None, [-1], [-1, 7], [-2, -3])
    check([-2], None)  # the first on the second
    check([], [1], [(1 << 63) - 1])


def test_who_depends_on_itself_is_named() -> None:
    with pytest.raises(InvalidDependency, match=r"media::b \(2\) depends on itself"):
        check(None, [-1, -2])


def test_a_circle_is_told_with_its_path() -> None:
    with pytest.raises(CyclicDependency, match=r"media::a \(1\) -> media::b \(2\) -> media::a \(1\)$"):
        check([-2], [-1])
    with pytest.raises(
        CyclicDependency, match=r": media::b \(2\) -> media::d \(4\) -> media::c \(3\) -> media::b \(2\)$"
    ):
        check(None, [-1, -4], [-2], [-3])


def test_of_a_long_circle_some_are_named() -> None:
    count = 1000
    with pytest.raises(CyclicDependency) as caught:
        check(*([-1 - (number + 1) % count] for number in range(count)))
    assert "media::a (1) -> media::b (2) -> " in str(caught.value)
    assert str(caught.value).endswith(" -> media::l (12) -> … 988 more … -> media::a (1)")


def test_what_can_be_no_task_is_refused() -> None:
    with pytest.raises(InvalidDependency, match=r"media::b \(2\): the submission has no task 3$"):
        check(None, [-3])
    with pytest.raises(InvalidDependency, match=r"media::b \(2\): no task has the id 0$"):
        check(None, [-1, 0])
    with pytest.raises(InvalidDependency, match=r"no task has the id 9223372036854775808$"):
        check([1 << 63])


def test_the_limit_of_dependencies_is_told_with_the_one_that_has_more() -> None:
    check(list(range(1, DEPENDENCIES_MAX + 1)))
    with pytest.raises(InvalidSubmission, match=r"media::b \(2\) depends on 10,001 tasks, the limit is 10,000"):
        check(None, list(range(1, DEPENDENCIES_MAX + 2)))


def test_the_limit_of_a_batch_is_told() -> None:
    shared = list(range(1, 10_001))
    check(*[shared] * 50)
    with pytest.raises(BatchTooLarge, match="the batch names 510,000 dependencies, the limit is 500,000"):
        check(*[shared] * 51)


def test_a_column_of_another_length_is_refused() -> None:
    with pytest.raises(InvalidSubmission, match="columns"):
        check_depends([None], 2, kind)


def test_a_chain_of_200_000_in_the_worst_order_is_searched_without_recursion() -> None:
    count = 200_000
    assert find_cycle([*([-2 - number] for number in range(count - 1)), None]) == []
    assert len(find_cycle([*([-2 - number] for number in range(count - 1)), [-1]])) == count + 1


@pytest.mark.parametrize("seed", range(200))
def test_a_circle_is_found_exactly_if_there_is_one(seed: int) -> None:
    pick = random.Random(seed)
    count = pick.randint(2, 12)
    graph: Column = [
        [-1 - pick.randrange(count) if pick.random() < 0.8 else 5 for _ in range(pick.randint(0, 2))]
        for _ in range(count)
    ]
    left = {number: {-1 - one for one in own or () if one < 0} for number, own in enumerate(graph)}
    while free := [number for number, own in left.items() if not own & left.keys()]:
        for number in free:
            del left[number]

    found = find_cycle(graph)

    assert bool(found) == bool(left)
    for first, second in pairwise(found):
        assert -1 - second in (graph[first] or ())
    assert not found or found[0] == found[-1]

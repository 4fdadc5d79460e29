"""The tasks that nobody serves: few bytes each, and none is lost or kept too long."""

from __future__ import annotations

import random

from ringq.stranded import Pile, Stranded


def test_ids_come_back_in_order_whatever_was_added_and_taken_out() -> None:
    chance = random.Random(1)
    pile, model = Pile(), set[int]()
    for _ in range(5000):
        task_id = chance.randint(1, 400)
        if chance.random() < 0.5:
            pile.add(task_id)
            model.add(task_id)
        else:
            pile.discard(task_id)
            model.discard(task_id)
        assert len(pile) == len(model)
        assert (task_id in pile) == (task_id in model)
    assert list(pile) == sorted(model)


def test_what_is_taken_from_the_front_page_by_page_is_forgotten() -> None:
    stranded = Stranded()
    stranded.add(1, range(1, 10_001))
    stranded.add(2, range(10_001, 10_011))
    seen: list[int] = []
    while page := stranded.some([1], 500):
        seen += page
        for task_id in page:
            stranded.discard(task_id)
    assert seen == list(range(1, 10_001))
    assert (len(stranded), stranded.oldest()) == (10, 10_001)
    assert stranded._piles.keys() == {2}


def test_kinds_that_are_served_again_give_their_tasks_back_and_no_other() -> None:
    stranded = Stranded()
    stranded.add(1, [5, 7])
    stranded.add(2, [6])
    stranded.add(3, [4])
    assert stranded.take_out({1}) == [4, 6]
    assert list(stranded) == [5, 7]
    assert stranded.oldest() == 5
    assert Stranded().oldest() is None

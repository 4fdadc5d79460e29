"""Submissions of one task each in one transaction: written together, and as if each had come alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from ringq import together
from ringq.clock import ManualClock
from ringq.config import Config
from ringq.entries import Batch, Spec
from ringq.errors import RingqError, StorageFull
from ringq.store import Store
from ringq.writer import Writer

SPEC = Spec("media::thumbnail", "default", 128, None, None)
OTHER = replace(SPEC, queue="bulk")
SELECT_TASKS = "SELECT id, spec, run_at_us, payload FROM task ORDER BY id"
SELECT_SUBMISSIONS = "SELECT id, first_id, count FROM submission ORDER BY id"


@dataclass
class Desk:
    """A writer that is given submissions, and what it has answered to each."""

    store: Store
    clock: ManualClock = field(default_factory=ManualClock)
    answers: list[tuple[int, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.writer = Writer(self.store, Config(self.store.path), self.clock)

    def submit(self, number: int, spec: Spec = SPEC, count: int = 1, **columns: Any) -> None:
        def reply(first_id: int, replayed: bool, _told: Any = None) -> None:
            self.answers.append((number, (first_id, replayed)))

        def refuse(error: RingqError) -> None:
            self.answers.append((number, type(error).__name__))

        payloads = columns.pop("payloads", [f'{{"n":{number}}}'] * count)
        batch = Batch(number.to_bytes(16, "big"), [spec], None, payloads, None, reply, refuse)
        self.writer.submit(replace(batch, **columns))

    def commit(self) -> Any:
        committed = self.writer.commit(lambda: None)
        for answer in committed.answers:
            answer()
        return committed

    def taken(self) -> dict[int, Any]:
        answers, self.answers = dict(self.answers), []
        return answers

    def rows(self) -> list[Any]:
        return self.store._read(SELECT_TASKS) + self.store._read(SELECT_SUBMISSIONS)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with opened(tmp_path / "t.db") as store:
        yield Desk(store)


def opened(database: Path) -> Store:
    return Store.open(database, durability="normal")


def test_tasks_of_many_clients_are_one_part_of_the_backlog_and_each_is_answered(desk: Desk) -> None:
    for number in range(10):
        desk.submit(number)
    committed = desk.commit()
    assert desk.taken() == {number: (number + 1, False) for number in range(10)}
    (tasks,) = committed.admitted
    assert tasks.rows(99) == [(n + 1, 1, 1, 0, f'{{"n":{n}}}') for n in range(10)]
    assert committed.submitted == 10


def test_one_that_was_stored_before_is_answered_with_its_id_and_the_others_are_stored(desk: Desk) -> None:
    desk.submit(7)
    desk.commit()
    desk.taken()
    for number in (5, 7, 9):
        desk.submit(number)
    assert desk.commit().submitted == 2
    assert desk.taken() == {5: (2, False), 7: (1, True), 9: (3, False)}


def test_one_that_is_sent_twice_in_one_transaction_makes_one_task(desk: Desk) -> None:
    for number in (1, 2, 2, 3):
        desk.submit(number)
    assert desk.commit().submitted == 3
    assert [answer for number, answer in desk.answers if number == 2] == [(2, False), (2, True)]


def test_one_with_the_id_of_another_batch_is_refused_and_the_others_are_stored(desk: Desk) -> None:
    desk.submit(2, count=5)
    desk.commit()
    desk.taken()
    for number in (1, 2, 3):
        desk.submit(number)
    desk.commit()
    assert desk.taken() == {1: (6, False), 2: "InvalidSubmission", 3: (7, False)}


def test_a_full_disk_refuses_all_and_leaves_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise StorageFull("the disk is full")

    for number in range(3):
        desk.submit(number)
    with monkeypatch.context() as patch:
        patch.setattr(desk.store, "insert_alike", full)
        desk.commit()
    assert desk.taken() == dict.fromkeys(range(3), "StorageFull")
    assert desk.rows() == []
    desk.submit(0)
    desk.clock.advance(2)
    desk.commit()
    assert desk.taken() == {0: (1, False)}


def test_ids_follow_the_order_of_arrival_also_where_kinds_take_turns(desk: Desk) -> None:
    specs = [SPEC, SPEC, OTHER, SPEC, OTHER, OTHER]
    for number, spec in enumerate(specs):
        desk.submit(number, spec)
    committed = desk.commit()
    assert desk.taken() == {number: (number + 1, False) for number in range(6)}
    lanes = [(tasks.place.queue, list(tasks.ids)) for tasks in committed.admitted]
    expected = [(queue, [n + 1 for n, _ in own]) for queue, own in groupby(enumerate(specs), lambda one: one[1].queue)]
    assert lanes == expected


def test_whatever_comes_together_is_stored_as_if_each_had_come_alone(tmp_path: Path) -> None:
    chance = random.Random(4)
    specs = [SPEC, OTHER, replace(SPEC, ttl_ms=5), replace(SPEC, label="a"), replace(SPEC, tags=(("a", "b"),))]
    with opened(tmp_path / "a.db") as store, opened(tmp_path / "b.db") as other:
        desk, alone = Desk(store), Desk(other)
        for _ in range(30):
            for _ in range(chance.choice([1, 3, 40])):
                number, spec = chance.randrange(400), chance.choice([SPEC, SPEC, SPEC, *specs])
                columns: dict[str, Any] = chance.choice([
                    *[{}] * 5, {"count": 3}, {"run_at_us": [desk.clock.now_us() + 9]}, {"keys": [f"k{number % 9}"]},
                    {"payloads": ["1" * (together.PAYLOAD_CHARS_MAX + 1)]},
                ])  # fmt: skip
                desk.submit(number, spec, **columns)
                alone.submit(number, spec, **columns)
                alone.commit()
            desk.commit()
            assert desk.answers == alone.answers
        assert desk.rows() == alone.rows()
        assert {answer for _, answer in desk.answers} > {"InvalidSubmission"}

"""Keys, cancels, queues and dead letters meet: who waits behind a running task, and who is told to end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for

import ringq

Serve = Callable[..., Any]

HANDLERS = """
import os, time
import ringq

app = ringq.App("shop")

@app.task
def hold(gate: str) -> int:
    while not os.path.exists(gate):
        time.sleep(0.005)
    return 1

@app.task
def fails() -> None:
    raise ValueError("no")
"""


class Shop:
    """A server, its client, and gates that its tasks wait at."""

    def __init__(self, served: Any, folder: Path) -> None:
        self.client = served.client()
        self._folder = folder

    def hold(self, gate: int, **options: Any) -> Any:
        return self.client.submit("shop::hold", {"gate": str(self._folder / f"gate{gate}")}, key="x", **options)

    def open(self, gate: int) -> None:
        (self._folder / f"gate{gate}").touch()

    def runs(self, task: Any) -> None:
        wait_for(lambda: any(worker["task_id"] == task.id for worker in self.client.health()["workers"]))


@pytest.fixture
def shop(serve: Serve, tmp_path: Path) -> Shop:
    return Shop(serve(HANDLERS), tmp_path)


def test_one_who_waits_behind_another_can_be_cancelled_and_leaves_its_place_to_the_next(shop: Shop) -> None:
    first = shop.hold(1)
    shop.runs(first)
    second, third = shop.hold(2), shop.hold(3)
    assert (second.outcome, third.outcome, third.id) == ("requeued", "duplicate", second.id)
    assert second.cancel().outcome == "cancelled"
    assert shop.client.health()["pending"] == 0  # it was in no lane
    fourth = shop.hold(4)
    assert fourth.outcome == "requeued"
    shop.open(1)
    shop.open(4)
    assert (first.result(timeout=20), fourth.result(timeout=20)) == (1, 1)
    with pytest.raises(ringq.TaskCancelled):
        second.result(timeout=20)


def test_when_the_running_one_is_cancelled_who_waits_behind_it_runs(shop: Shop) -> None:
    first = shop.hold(1)
    shop.runs(first)
    second = shop.hold(2)
    assert first.cancel().outcome == "cancelling"
    shop.open(2)
    assert second.result(timeout=20) == 1
    with pytest.raises(ringq.TaskCancelled):
        first.result(timeout=20)


def test_all_of_a_kind_are_cancelled_also_who_waits_behind_another(shop: Shop) -> None:
    first = shop.hold(1)
    shop.runs(first)
    second = shop.hold(2)
    counts = shop.client.cancel_all(kind="shop::hold")
    assert (counts.cancelled, counts.cancelling) == (1, 1)
    for task in (first, second):
        with pytest.raises(ringq.TaskCancelled):
            task.result(timeout=20)
    shop.open(3)
    assert shop.hold(3).outcome == "inserted"


def test_in_a_paused_queue_a_key_is_upgraded_superseded_rejected_and_freed_by_a_cancel(shop: Shop) -> None:
    shop.client.pause_queue("default")
    shop.open(1)
    first = shop.hold(1)
    urgent = shop.hold(1, priority=1)
    assert (urgent.outcome, urgent.id) == ("upgraded", first.id)
    second = shop.hold(1, on_duplicate="supersede")
    assert (second.outcome, second.replaced_id) == ("superseded", first.id)
    assert shop.hold(1, on_duplicate="reject").outcome == "rejected"
    assert second.cancel().outcome == "cancelled"
    third = shop.hold(1)
    assert third.outcome == "inserted"
    shop.client.resume_queue("default")
    assert third.result(timeout=20) == 1
    counts = shop.client.query.counts()
    assert (counts[ringq.Status.SUPERSEDED], counts[ringq.Status.CANCELLED], counts[ringq.Status.COMPLETED]) == (
        1,
        1,
        1,
    )


def test_a_dead_letter_takes_its_key_again_unless_another_task_has_it(shop: Shop) -> None:
    def fails() -> Any:
        return shop.client.submit("shop::fails", {}, key="y", retry=1)

    first = fails()
    assert first.wait(timeout=20).status is ringq.Status.DEAD_LETTER
    shop.client.pause_queue("default")
    second = fails()
    assert second.outcome == "inserted"
    with pytest.raises(ringq.KeyInUse, match=f"task {second.id}"):
        shop.client.retry_dead(first)
    assert shop.client.retry_dead(all=True) == 0
    second.cancel()
    assert shop.client.retry_dead(first) == 1
    assert (fails().outcome, fails().id) == ("duplicate", first.id)
    shop.client.resume_queue("default")
    assert first.wait(timeout=20).status is ringq.Status.DEAD_LETTER

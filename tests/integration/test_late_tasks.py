"""Tasks whose time is over while something else happens to them: a worker has them, their host dies, a queue pauses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from plant import Plant

from ringq import protocol
from ringq.entries import Batch, Spec
from ringq.expiry import AGAIN_US
from ringq.lifecycle import Interruptions
from ringq.model import Reason, Status
from ringq.vanishing import Vanishing

EXPIRED = (Status.EXPIRED.code, Reason.TTL.code)


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    plant = Plant(tmp_path)
    yield plant
    plant.store.close()


def give(plant: Plant, *, run_at_us: int | None = None, key: str | None = None, **options: Any) -> int:
    task_id: int = plant.store.next_task_id
    spec = Spec("life::fine", "default", 128, None, None, **options)
    submission = task_id.to_bytes(16, "big")
    columns = [0], ["{}"], [run_at_us], lambda *_: None, plant.answers.append
    plant.submit(Batch(submission, [spec], *columns, keys=[key], on_duplicate=[0]))
    turn(plant)
    return task_id


def turn(plant: Plant) -> None:
    plant.look_at_the_time()
    plant.commit()


def begin(plant: Plant, task_id: int) -> None:
    plant.fill(1 + plant.ring.in_flight())
    plant.claim(task_id)


def end_of(plant: Plant, task_id: int) -> tuple[int, int] | None:
    rows = plant.read(f"SELECT status, reason FROM receipt WHERE task_id = {task_id}")
    return rows[0] if rows else None


def test_a_task_whose_time_is_over_when_its_worker_dies_before_it_began_ends(plant: Plant) -> None:
    task_id = give(plant, ttl_ms=1000)
    begin(plant, task_id)
    plant.clock.advance(1)
    turn(plant)
    assert end_of(plant, task_id) is None
    plant.drop(task_id)
    assert plant.fill(1) == []
    turn(plant)
    assert end_of(plant, task_id) == EXPIRED


def test_who_cancels_a_task_that_came_back_too_late_is_told_that_it_has_expired(plant: Plant) -> None:
    task_id = give(plant, ttl_ms=1000)
    begin(plant, task_id)
    plant.clock.advance(1)
    plant.drop(task_id)
    plant.cancel(task_id)
    turn(plant)
    assert plant.answers.pop().statuses == [Status.EXPIRED.code]
    assert len(plant.feed.backlog) == 0


def test_a_task_that_came_back_in_time_runs(plant: Plant) -> None:
    task_id = give(plant, ttl_ms=1000)
    begin(plant, task_id)
    plant.drop(task_id)
    turn(plant)
    assert [slot.task_id for slot in plant.fill(1)] == [task_id]


def test_a_task_whose_time_was_over_while_it_ran_is_not_run_again_after_its_host_died(plant: Plant) -> None:
    task_id = give(plant, ttl_ms=1000)
    begin(plant, task_id)
    plant.clock.advance(1)
    turn(plant)
    plant.kill(with_host=True)
    plant.clock.advance(AGAIN_US / 1e6)
    turn(plant)
    assert end_of(plant, task_id) == EXPIRED


def test_a_task_that_runs_is_looked_at_again_until_its_lease_is_durable(plant: Plant) -> None:
    task_id = give(plant, ttl_ms=1000)
    begin(plant, task_id)
    plant.clock.advance(1)
    turn(plant)
    assert plant.read("SELECT expires_us, task_id FROM expiry") == [(plant.clock.now_us() + AGAIN_US, task_id)]
    plant.keep_lease(task_id)
    turn(plant)
    plant.clock.advance(AGAIN_US / 1e6)
    turn(plant)
    assert plant.read("SELECT * FROM expiry") == []
    assert plant.expiries.next_us is None


def test_all_of_its_time_is_over_for_a_task_behind_another_also_if_its_wait_would_be_at_that_moment(
    plant: Plant,
) -> None:
    begin(plant, give(plant, key="a"))
    task_id = give(plant, key="a", total_timeout_ms=2000, queue_timeout_ms=2000)
    plant.clock.advance(2)
    turn(plant)
    assert end_of(plant, task_id) == (Status.EXPIRED.code, Reason.TOTAL_TIMEOUT.code)


def test_a_task_that_came_due_long_ago_has_waited_for_too_long(plant: Plant) -> None:
    """Its time to start and the end of its wait were both over when the server looked."""
    task_id = give(plant, run_at_us=plant.clock.now_us() + 1_000_000, queue_timeout_ms=1000)
    plant.clock.advance(10)
    turn(plant)
    assert end_of(plant, task_id) == (Status.EXPIRED.code, Reason.QUEUE_TIMEOUT.code)


def vanish(plant: Plant) -> None:
    """Nobody has the kind any more. Its tasks are met on their way to the workers, and given up."""
    number = plant.store.intern_kind("life::fine")
    plant.dispatcher.learn(frozenset({number}))
    plant.fill(1)
    give_up(plant, number)


def give_up(plant: Plant, number: int) -> None:
    rotation = SimpleNamespace(is_reloading=False, reload_error=None)
    workers: Any = SimpleNamespace(vanished={number: "life::fine"}, is_settled=True, rotation=rotation)
    Vanishing(0.0, plant.clock, workers, workers, plant.dispatcher, plant.writer).step()
    turn(plant)


def pause(plant: Plant, paused: bool) -> None:
    plant.ask(protocol.SetPause("queue", "default", paused))
    turn(plant)


def test_a_queue_that_is_paused_holds_tasks_whose_kind_is_gone_until_it_goes_on(plant: Plant) -> None:
    task_id = give(plant)
    number = plant.store.intern_kind("life::fine")
    plant.dispatcher.learn(frozenset({number}))
    plant.fill(1)
    pause(plant, True)
    give_up(plant, number)
    assert end_of(plant, task_id) is None
    assert (len(plant.dispatcher.stranded), len(plant.feed.backlog)) == (0, 1)
    pause(plant, False)
    vanish(plant)
    assert end_of(plant, task_id) == (Status.DEAD_LETTER.code, Reason.UNKNOWN_KIND.code)


def test_a_dead_letter_that_no_attempt_ended_begins_anew_and_stays_so_after_a_restart(plant: Plant) -> None:
    task_id = give(plant)
    for _ in range(2):
        begin(plant, task_id)
        plant.interrupt(task_id, Reason.CRASH)
        turn(plant)
    for _ in range(2):  # the second time, too
        vanish(plant)
        plant.ask(protocol.RetryDead(protocol.Dead([task_id])))
        plant.dispatcher.learn(frozenset())
        turn(plant)
        assert plant.writer.interruptions[task_id] == Interruptions(attempts=2)
        plant.kill()
        assert plant.writer.interruptions[task_id] == Interruptions(attempts=2)
    reasons = plant.read("SELECT lease > 0, reason FROM attempt ORDER BY lease")
    assert reasons == [(0, Reason.UNKNOWN_KIND.code), (1, Reason.CRASH.code), (1, Reason.CRASH.code)]

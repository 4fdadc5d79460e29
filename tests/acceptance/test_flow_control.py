"""Who runs next, and who may: order, shares, limits, rates, aging and preemption, as real servers put them through."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import closing
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
def hold(gate: str) -> None:
    while not os.path.exists(gate):
        time.sleep(0.005)

@app.task
def quick(number: int) -> int:
    return number

@app.task(retry=0)
def patient(gate: str) -> str:
    while not os.path.exists(gate):
        time.sleep(0.005)
    return "to its end"

@app.task(preemptible=False)
def stubborn(gate: str) -> None:
    while not os.path.exists(gate):
        time.sleep(0.005)
"""

# What was started, in the order of the leases, with the groups.
STARTED = """
SELECT receipt.task_id, spec.group_name FROM receipt
JOIN task ON task.id = receipt.task_id JOIN spec ON spec.id = task.spec ORDER BY receipt.lease
"""
TURNS = 30  # of the server's loop, each answers one question: by then it would have done what it is not to do


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


def started(served: Any) -> list[tuple[int, str | None]]:
    with closing(sqlite3.connect(served.database)) as db:
        return db.execute(STARTED).fetchall()


def quick(count: int, **given: Any) -> list[ringq.Submission[Any]]:
    return [ringq.Submission("shop::quick", {"number": number}, **given) for number in range(count)]


def words(client: Any, task: Any) -> list[str]:
    return [cause.word for cause in client.why(task).causes]


def runs(client: Any, task: Any) -> bool:
    return bool(words(client, task)[0] == "running")


def running(client: Any, tasks: Iterable[Any]) -> int:
    return sum(runs(client, task) for task in tasks)


def stays(condition: Callable[[], bool]) -> bool:
    return all(condition() for _ in range(TURNS))


# -- shares -----------------------------------------------------------------------------------------


def test_two_groups_of_three_to_one_start_in_that_proportion_while_both_wait(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        client.set_group("large", weight=3)
        client.set_group("small", weight=1)
        client.pause_all()
        handles = [*client.submit_many(quick(3000, group="large")), *client.submit_many(quick(1000, group="small"))]
        client.resume_all()
        client.wait_many(handles, timeout=120)
    groups = [group for _, group in started(served)]
    assert len(groups) == 4000
    for upto in range(500, 4001, 500):
        assert abs(groups[:upto].count("large") / upto - 0.75) <= 0.02


def test_a_minimum_is_kept_whatever_the_weights(serve: Serve, gate: Path, tmp_path: Path) -> None:
    with serve(HANDLERS, "--workers", "4").client() as client:
        first = client.submit("shop::hold", {"gate": str(tmp_path / "first")})
        wait_for(lambda: any((worker["running_s"] or 0) > 0.5 for worker in client.health()["workers"]))
        (tmp_path / "first").touch()  # tasks of this kind are known to be long: no more are given out than may run
        first.result(timeout=20)
        client.set_group("large", weight=1000)
        client.set_group("small", weight=0.001, min_slots=1)
        client.pause_all()
        large, small = (
            client.submit_many(ringq.Submission("shop::hold", {"gate": str(gate)}, group=group) for _ in range(8))
            for group in ("large", "small")
        )
        client.resume_all()
        wait_for(lambda: running(client, [*large, *small]) == 4)
        assert (running(client, large), running(client, small)) == (3, 1)
        shares = {row["group"]: row for row in client.health()["shares"]}
        assert (shares["large"]["in_use"], shares["small"]["in_use"]) == (3, 1)
        gate.touch()
        client.wait_many([*large, *small], timeout=60)


# -- nobody is held up by others --------------------------------------------------------------------


def took(client: Any, count: int, **given: Any) -> float:
    begun = time.perf_counter()
    client.wait_many(client.submit_many(quick(count, **given)), timeout=120)
    return time.perf_counter() - begun


def test_a_limited_group_costs_a_free_one_nothing(serve: Serve, gate: Path) -> None:
    with serve(HANDLERS, "--workers", "3").client() as client:
        client.set_group("limited", max_concurrency=1)
        occupied = client.submit("shop::hold", {"gate": str(gate)}, group="limited")
        wait_for(lambda: runs(client, occupied))
        took(client, 500, group="free")
        without = min(took(client, 2000, group="free") for _ in range(3))
        behind = client.submit_many(quick(5000, group="limited"))
        beside = min(took(client, 2000, group="free") for _ in range(3))
        assert beside < 1.5 * without + 0.05
        assert words(client, behind[0]) == ["group_full"]
        gate.touch()
        client.wait_many([occupied, *behind], timeout=60)


def test_a_long_queue_of_a_stopped_group_does_not_delay_free_tasks_behind_it(serve: Serve) -> None:
    with serve(HANDLERS).client() as client:
        client.set_group("stopped", max_concurrency=0)
        without = min(took(client, 100) for _ in range(7))
        stopped = client.submit_many(quick(100_000, group="stopped", priority=0))
        behind = min(took(client, 100) for _ in range(7))
        assert behind - without < 0.05
        assert words(client, stopped[0]) == words(client, stopped[-1]) == ["group_full"]


# -- limits -----------------------------------------------------------------------------------------

LIMITS = {
    "server": lambda client, limit: client.set_server(max_concurrency=limit),
    "queue": lambda client, limit: client.set_queue("bulk", max_workers=limit),
    "domain": lambda client, limit: client.set_domain("shop", max_concurrency=limit),
    "group": lambda client, limit: client.set_group("acme", max_concurrency=limit),
    "kind": lambda client, limit: client.set_kind("shop::hold", max_concurrency=limit),
}


@pytest.mark.parametrize("scope", LIMITS)
def test_a_limit_holds_follows_its_operator_and_outlives_the_server(serve: Serve, tmp_path: Path, scope: str) -> None:
    served = serve(HANDLERS, "--workers", "4")
    limit = LIMITS[scope]

    def submit(client: Any, gate: str) -> list[Any]:
        path = str(tmp_path / gate)
        one = ringq.Submission("shop::hold", {"gate": path}, queue="bulk", group="acme")
        return list(client.submit_many([one] * 6))

    with served.client() as client:
        limit(client, 2)
        tasks = submit(client, "first")
        wait_for(lambda: running(client, tasks) == 2)
        assert stays(lambda: running(client, tasks) == 2)
        assert words(client, tasks[-1]) == [f"{scope}_full"]
        limit(client, 3)
        wait_for(lambda: running(client, tasks) == 3)
        limit(client, 1)  # what runs goes on
        assert stays(lambda: running(client, tasks) == 3)
        limit(client, 3)
        (tmp_path / "first").touch()
        client.wait_many(tasks, timeout=60)
        limit(client, 0)
        tasks = submit(client, "second")
        assert stays(lambda: running(client, tasks) == 0)
    served.kill()
    served = serve(None, "--workers", "4")
    with served.client() as client:
        assert stays(lambda: running(client, tasks) == 0)
        assert f"{scope}_full" in words(client, tasks[0])
        limit(client, 2)
        wait_for(lambda: running(client, tasks) == 2)
        limit(client, None)
        wait_for(lambda: running(client, tasks) == 4)
        (tmp_path / "second").touch()
        client.wait_many(tasks, timeout=60)


@pytest.mark.parametrize("scope", ["kind:shop::quick", "group:acme", "queue:bulk"])
def test_a_rate_limits_starts_and_nobody_elses(serve: Serve, scope: str) -> None:
    with serve(HANDLERS).client() as client:
        client.set_rate(scope, "20/s", burst=1)
        begun = time.perf_counter()
        limited = client.submit_many(quick(11, queue="bulk", group="acme"))
        others = client.submit_many(
            ringq.Submission("shop::hold", {"gate": "/"}, queue="default", group="other") for _ in range(200)
        )
        client.wait_many(others, timeout=20)
        assert client.why(limited[-1]).status is ringq.Status.PENDING
        client.wait_many(limited, timeout=20)
        assert time.perf_counter() - begun >= 0.45  # ten tokens at 20/s, but for how coarsely they are counted


# -- aging ------------------------------------------------------------------------------------------


def test_a_task_that_has_waited_long_passes_newer_ones_but_not_by_a_pause(serve: Serve) -> None:
    served = serve(HANDLERS, "--aging", "grace 0s interval 20ms ceiling 64", "--workers", "1")
    with served.client() as client:
        client.set_kind("shop::quick", max_concurrency=0)  # which is no pause: who waits for it gets older
        client.pause_group("paused")
        paused = client.submit_many(quick(3, priority=192, group="paused"))
        old = client.submit_many(quick(3, priority=192, group="old"))
        wait_for(lambda: client.why(old[-1]).effective_priority <= 100)
        assert {client.why(task).effective_priority for task in paused} == {192}
        client.resume_group("paused")
        newer = client.submit_many(quick(3, priority=128))
        client.set_kind("shop::quick", max_concurrency=None)
        client.wait_many([*old, *newer, *paused], timeout=60)
        assert [task_id for task_id, _ in started(served)] == [task.id for task in (*old, *newer, *paused)]
        assert {client.query.task(task.id).priority for task in old} == {192}  # what is stored never changes


# -- preemption -------------------------------------------------------------------------------------

PREEMPT = ("--preempt-priority", "64")


def occupied(client: Any, kind: str, gate: Path) -> list[Any]:
    """Both workers have a task in the background, begun one after the other."""
    tasks = []
    for _ in range(2):
        tasks.append(client.submit(kind, {"gate": str(gate)}, priority=192))
        wait_for(lambda: runs(client, tasks[-1]))
    return tasks


def reasons(client: Any, task: Any) -> list[str]:
    return [attempt.reason for attempt in client.query.task(task.id).attempts]


def test_an_urgent_task_takes_one_place_and_the_other_task_never_notices(serve: Serve, gate: Path) -> None:
    with serve(HANDLERS, *PREEMPT).client() as client:
        elder, younger = occupied(client, "shop::patient", gate)
        urgent = client.submit("shop::quick", {"number": 1}, priority=64)
        assert urgent.result(timeout=20) == 1
        wait_for(lambda: runs(client, younger))  # goes on by itself
        assert runs(client, elder)
        assert (reasons(client, elder), reasons(client, younger)) == ([], [ringq.Reason.PREEMPTED])
        gate.touch()
        assert [task.result(timeout=20) for task in (elder, younger)] == ["to its end"] * 2
        for task in (elder, younger):  # although not one retry was allowed
            record = client.query.task(task.id)
            assert (record.status, record.attempts[-1].attempt) == (ringq.Status.COMPLETED, 1)


def test_what_is_not_urgent_has_its_time_later_or_meets_who_may_not_be_stopped_preempts_nobody(
    serve: Serve, gate: Path
) -> None:
    with serve(HANDLERS, *PREEMPT).client() as client:
        tasks = occupied(client, "shop::patient", gate)
        later = client.submit("shop::quick", {"number": 1}, priority=0, run_after=3600)
        beneath = client.submit("shop::quick", {"number": 2}, priority=65)
        assert stays(lambda: running(client, tasks) == 2)
        assert (words(client, later), client.why(beneath).status) == (["delayed"], ringq.Status.PENDING)
        gate.touch()
        client.wait_many([*tasks, beneath], timeout=20)
        gate.unlink()
        firm = occupied(client, "shop::stubborn", gate)
        urgent = client.submit("shop::quick", {"number": 3}, priority=0)
        assert stays(lambda: running(client, firm) == 2)
        gate.touch()
        assert urgent.result(timeout=20) == 3
        assert not any(reason == ringq.Reason.PREEMPTED for task in (*tasks, *firm) for reason in reasons(client, task))


# -- pauses -----------------------------------------------------------------------------------------


def test_what_a_schedule_makes_for_a_paused_group_lands_paused(serve: Serve) -> None:
    with serve(HANDLERS).client() as client:
        client.pause_group("acme")
        client.schedule("often", "shop::quick", {"number": 1}, every=0.1, group="acme")
        (landed,) = wait_for(lambda: client.query.tasks(status="paused"))
        assert (landed.schedule, landed.pause_reasons) == ("often", ringq.PauseReason.GROUP)
        assert stays(lambda: words(client, landed.id) == ["group_paused"])
        client.resume_group("acme")
        wait_for(lambda: len(client.query.tasks(status="completed")) >= 2)  # and it fires on
        client.pause_group("acme")
        wait_for(lambda: client.query.tasks(status="paused"))

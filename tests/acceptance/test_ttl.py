"""Times to live: a task that has not begun in time ends as expired; one that runs goes on."""

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
offers = app.domain("offers", ttl=0.3)

@app.task
def note(path: str) -> None:
    open(path, "a").close()

@offers.task
def offer(path: str) -> None:
    open(path, "a").close()

@app.task(ttl=0.3)
def hold(gate: str) -> int:
    while not os.path.exists(gate):
        time.sleep(0.005)
    return 1

@app.task(retry="5 constant 0.4s", ttl=0.6, ttl_from="attempt")
def fails() -> None:
    raise ValueError("no")
"""


def test_what_waits_too_long_ends_as_expired_whatever_it_waits_for(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    path = tmp_path / "ran"
    with served.client() as client:
        client.pause_queue("default")
        paused = client.submit("offers::offer", {"path": str(path)})
        later = client.submit("shop::note", {"path": str(path)}, ttl=0.3, run_after=3600)
        longer = client.submit("shop::note", {"path": str(path)}, ttl=3600)
        for task in (paused, later):
            end = task.wait(timeout=20)
            assert (end.status, end.reason) == (ringq.Status.EXPIRED, ringq.Reason.TTL)
        with pytest.raises(ringq.TaskFailed, match="expired"):
            paused.result()
        record = client.query.task(paused.id)
        assert (record.started_at, record.attempts) == (None, ())
        assert not path.exists()
        client.resume_queue("default")
        assert longer.wait(timeout=20).status is ringq.Status.COMPLETED
        counts = client.query.counts()
        assert (counts[ringq.Status.EXPIRED], counts[ringq.Status.PENDING]) == (2, 0)


def test_a_task_that_runs_when_its_time_is_over_goes_on(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    gate = tmp_path / "gate"
    with served.client() as client:
        task = client.submit("shop::hold", {"gate": str(gate)})
        other = client.submit("shop::hold", {"gate": str(tmp_path / "gate")})
        wait_for(lambda: sum(worker["task_id"] is not None for worker in client.health()["workers"]) == 2)
        behind = client.submit("shop::hold", {"gate": str(gate)})  # both workers are busy
        assert behind.wait(timeout=20).status is ringq.Status.EXPIRED
        assert client.query.task(task.id).status is not ringq.Status.EXPIRED
        gate.touch()
        assert (task.result(timeout=20), other.result(timeout=20)) == (1, 1)


def test_time_that_counts_from_the_first_attempt_ends_its_retries(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        task = client.submit("shop::fails", {})
        end = task.wait(timeout=20)
        assert (end.status, end.reason) == (ringq.Status.EXPIRED, ringq.Reason.TTL)
        record = client.query.task(task.id)
        assert [attempt.reason for attempt in record.attempts] == [ringq.Reason.HANDLER_ERROR] * 2
        assert (record.ended_at - record.attempts[0].started_at).total_seconds() >= 0.6


def test_time_goes_on_while_no_server_runs_and_after_its_death(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        client.pause_queue("default")
        dead = client.submit("shop::note", {"path": str(tmp_path / "ran")}, ttl=0.2)
        served.kill()
    alone = ringq.connect(served.database)
    stored = alone.submit("shop::note", {"path": str(tmp_path / "ran")}, ttl=0.2)
    assert alone.stored_alone
    served = serve()
    with served.client() as client:
        for task_id in (dead.id, stored.id):
            assert client.handle(task_id).wait(timeout=20).status is ringq.Status.EXPIRED
    assert not (tmp_path / "ran").exists()


def test_a_key_is_free_again_when_its_task_has_expired(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        client.pause_queue("default")
        first = client.submit("shop::note", {"path": str(tmp_path / "ran")}, ttl=0.2, key="k")
        assert first.wait(timeout=20).status is ringq.Status.EXPIRED
        assert client.submit("shop::note", {"path": str(tmp_path / "ran")}, key="k").outcome == "inserted"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"ttl": 0}, "ttl: expected seconds"),
        ({"ttl": -1}, "ttl: expected seconds"),
        ({"ttl": 1e12}, "ttl: expected at most"),
        ({"ttl": 1, "ttl_from": "birth"}, "ttl_from: expected submission or attempt, got 'birth'"),
    ],
)
def test_a_time_to_live_that_makes_no_sense_is_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ringq.InvalidOption, match=complaint):
        ringq.Submission("shop::note", {}, **options)

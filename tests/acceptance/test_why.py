"""Why is my task not running? Asked of a real server in each situation in which a task waits, and of the database."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for

import ringq
from ringq.gate import Refusal
from ringq.reasons import TEXTS

Serve = Callable[..., Any]
Cli = Callable[..., Any]

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

@app.task(preemptible=True)
def patient(gate: str) -> None:
    hold(gate)
"""


def words(client: Any, task: Any) -> list[str]:
    return [cause.word for cause in client.why(task).causes]


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


def occupy(client: Any, gate: Path, workers: int = 2, **given: Any) -> list[Any]:
    """All workers are busy until there is `gate`."""
    held = [client.submit("shop::hold", {"gate": str(gate)}, priority=0, **given) for _ in range(workers)]
    wait_for(lambda: all(words(client, one) == ["running"] for one in held))
    return held


def test_every_refusal_of_the_gate_has_its_words() -> None:
    assert {str(refusal) for refusal in Refusal} <= set(TEXTS)


def test_a_task_that_runs_or_has_ended_is_told_as_such(serve: Serve, gate: Path) -> None:
    with serve(HANDLERS).client() as client:
        first, second = occupy(client, gate)
        told = client.why(first.id)
        assert (told.status, told.effective_priority, told.ahead) == (ringq.Status.RUNNING, None, None)
        assert "worker" in told.causes[0].text
        gate.touch()
        client.wait_many([first, second])
        told = client.why(first)
        assert told.status is ringq.Status.COMPLETED
        assert told.causes == (ringq.Cause("ended", "it has ended: completed"),)
        with pytest.raises(ringq.UnknownTask, match="there is no task 99"):
            client.why(99)
        with pytest.raises(ringq.InvalidOption, match="expected a handle or the id"):
            client.why("first")


def test_a_task_whose_turn_has_not_come_is_told_how_many_are_before_it(serve: Serve, gate: Path) -> None:
    with serve(HANDLERS, "--queues", "default,bulk:4").client() as client:
        occupy(client, gate)
        batch = [("default", 100), ("bulk", 128), ("default", 128), ("bulk", 192), ("default", 128), ("bulk", 255)]
        tasks = client.submit_many(
            ringq.Submission("shop::quick", {"number": at}, queue=queue, priority=priority)
            for at, (queue, priority) in enumerate(batch * 100)
        )
        client.pause_queue("bulk")
        wait_for(lambda: words(client, tasks[1]) == ["queue_paused"])
        wait_for(lambda: client.why(tasks[-2]).ahead == 299)  # of the paused queue nothing is before it
        told = client.why(tasks[-2])
        assert (told.status, [cause.word for cause in told.causes]) == (ringq.Status.PENDING, ["queued"])
        assert (told.priority, told.effective_priority) == (128, 128)
        client.resume_queue("bulk")
        wait_for(lambda: client.why(tasks[-2]).ahead == 399)
        assert "399 tasks are before it" in client.why(tasks[-2]).causes[0].text


def test_what_a_task_waits_for_outside_of_the_order_is_said(serve: Serve, gate: Path) -> None:
    with serve(HANDLERS).client() as client:
        later = client.submit("shop::quick", {"number": 1}, run_after=3600)
        assert words(client, later) == ["delayed"]
        (holder,) = occupy(client, gate, 1, serial_key="one", key="again")
        in_line = client.submit("shop::quick", {"number": 2}, serial_key="one")
        assert words(client, in_line) == ["serial_key"]
        assert f"task {holder.id} has the turn" in client.why(in_line).causes[0].text
        behind = client.submit("shop::hold", {"gate": str(gate)}, key="again", on_duplicate="supersede")
        assert behind.id != holder.id
        assert words(client, behind) == ["behind_key"]
        gate.touch()
        client.wait_many([holder, in_line, behind])


def test_each_thing_that_is_paused_or_full_is_a_cause_of_its_own(serve: Serve, gate: Path) -> None:
    with serve(HANDLERS).client() as client:
        occupy(client, gate, 1, group="acme")
        task = client.submit("shop::quick", {"number": 1}, group="acme", run_after=3600)
        client.pause_group("acme", timedelta(hours=1), running="finish")
        client.pause_domain("shop", running="finish")
        client.pause_queue("default", running="finish")
        client.pause_all(running="finish")
        paused = ["delayed", "server_paused", "domain_paused", "group_paused", "queue_paused"]
        assert words(client, task) == paused
        told = client.why(task)
        assert told.status is ringq.Status.PAUSED
        assert "group acme is paused until 2" in told.causes[3].text
        client.set_group("acme", max_concurrency=1)
        client.set_kind("shop::quick", max_concurrency=0)
        client.set_domain("shop", max_concurrency=1)
        client.set_server(max_concurrency=1)
        client.set_queue("default", max_workers=1)
        full = ["server_full", "domain_full", "group_full", "queue_full", "kind_full"]
        wait_for(lambda: words(client, task) == [*paused, *full])
        assert "1 tasks of group acme run, of 1 that may" in client.why(task).causes[7].text
        for resume in (client.resume_all, lambda: client.resume_queue("default"), lambda: client.resume_domain("shop")):
            resume()
        client.resume_group("acme")
        assert words(client, task) == ["delayed", *full]


def test_a_queue_that_is_not_served_a_rate_and_a_kind_without_handler_are_causes(serve: Serve, gate: Path) -> None:
    served = serve(HANDLERS, "--queues", "default")
    with served.client() as client:
        elsewhere = client.submit("shop::quick", {"number": 1}, queue="elsewhere")
        assert words(client, elsewhere) == ["queue_not_served"]
        client.set_rate("kind:shop::quick", "1/h", burst=1)
        client.submit("shop::quick", {"number": 2}).result(timeout=20)
        second = client.submit("shop::quick", {"number": 3})
        wait_for(lambda: words(client, second) == ["rate"])
        client.remove_rate("kind:shop::quick")
        assert second.result(timeout=20) == 3
        client.pause_queue("default")
        orphan = client.submit("shop::quick", {"number": 4})
    assert served.stop() == 0
    served = serve(HANDLERS.replace("quick", "slow"), "--queues", "default")
    with served.client() as client:
        client.resume_queue("default")
        wait_for(lambda: words(client, orphan) == ["no_handler"])


def test_waiting_makes_a_task_count_as_more_urgent(serve: Serve, gate: Path) -> None:
    aging = "grace 0s interval 100ms ceiling 64"
    with serve(HANDLERS, "--aging", aging).client() as client:
        occupy(client, gate)
        tasks = client.submit_many(ringq.Submission("shop::quick", {"number": i}, priority=192) for i in range(100))
        wait_for(lambda: (client.why(tasks[-1]).effective_priority or 192) <= 180)
        fresh = client.submit("shop::quick", {"number": 1}, priority=185)
        told = client.why(fresh)
        assert (told.priority, told.ahead) == (185, 100)
        client.pause_all(running="finish")
        counts_as = client.why(tasks[-1]).effective_priority
        assert wait_for(lambda: client.why(fresh).causes[0].word == "server_paused")
        assert client.why(tasks[-1]).effective_priority == counts_as


def test_a_preempted_task_says_so(serve: Serve, gate: Path) -> None:
    with serve(HANDLERS, "--preempt-priority", "64").client() as client:
        low = [client.submit("shop::patient", {"gate": str(gate)}, priority=192) for _ in range(2)]
        wait_for(lambda: all(words(client, one) == ["running"] for one in low))
        urgent = [client.submit("shop::hold", {"gate": str(gate)}, priority=0) for _ in range(4)]
        wait_for(lambda: all(words(client, one) == ["running"] for one in urgent[:2]))
        wait_for(lambda: all(words(client, one) == ["preempted"] for one in low))
        assert client.why(low[0]).status is ringq.Status.PAUSED
        gate.touch()
        client.wait_many([*low, *urgent], timeout=20)


def test_without_a_server_the_database_says_what_it_knows(serve: Serve, cli: Cli) -> None:
    served = serve(HANDLERS)
    assert served.stop() == 0
    with served.client() as client:
        task = client.submit("shop::quick", {"number": 1}, run_after=3600, group="acme")
        client.pause_group("acme")
        assert words(client, task) == ["group_paused", "delayed", "no_server"]
        told = client.why(task)
        assert (told.status, told.priority, told.effective_priority) == (ringq.Status.PAUSED, 128, None)
        with pytest.raises(ringq.UnknownTask, match="there is no task 99"):
            client.why(99)
    done = cli("task", "why", str(task.id))
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "task 1: paused, priority 128",
        "  group_paused: group acme is paused: ringq group resume acme",
        f"  delayed: its time has not come: it may start from {client.query.task(1).run_at.isoformat()} on",
        "  no_server: no server runs on this database: ringq serve",
    ]


def test_the_verb_answers_with_json_and_one_line_for_a_mistake(serve: Serve, cli: Cli) -> None:
    with serve(HANDLERS).client() as client:
        task = client.submit("shop::quick", {"number": 1}, run_after=3600)
    told = json.loads(cli("task", "why", str(task.id), "--json").stdout)
    assert told["status"] == "pending"
    assert [cause["word"] for cause in told["causes"]] == ["delayed"]
    missing = cli("task", "why", "99")
    assert missing.returncode != 0
    assert missing.stderr.strip().splitlines() == ["ringq: there is no task 99"]

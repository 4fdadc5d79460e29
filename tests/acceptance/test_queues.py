"""Queues as their operator handles them: limited, paused, cooled down - while the server runs, and after its death."""

from __future__ import annotations

import json
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

@app.task(queue="bulk")
def hold(gate: str) -> int:
    while not os.path.exists(gate):
        time.sleep(0.005)
    return os.getpid()

@app.task(queue="bulk")
def quick(number: int) -> int:
    return number

@app.task(queue="net")
def ask(ctx: ringq.Context, mark: str, after: float) -> int:
    if not os.path.exists(mark):
        open(mark, "w").close()
        raise ringq.Throttled("429", after=after)
    return ctx.attempt

@app.task(queue="net")
def fails(mark: str) -> None:
    with open(mark, "a") as file:
        file.write("x")
    raise ValueError("no")
"""


def hold(gate: Path) -> ringq.Submission[Any]:
    return ringq.Submission("shop::hold", {"gate": str(gate)})


def running(served: Any) -> int:
    return sum(worker["task_id"] is not None for worker in served.health()["workers"])


def test_a_paused_queue_holds_its_tasks_over_the_parents_death_until_it_is_resumed(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        client.pause_queue("bulk")
        held = client.submit("shop::quick", {"number": 7})
        wait_for(lambda: client.health()["refusals"].get("queue_paused"))
    served.kill()
    served = serve()
    with served.client() as client:
        wait_for(lambda: client.health()["refusals"].get("queue_paused"))
        assert client.health()["closed_queues"] == {"bulk": "queue_paused"}
        record = client.query.task(held.id)
        assert (record.status, record.pause_reasons) == (ringq.Status.PAUSED, ringq.PauseReason.QUEUE)
        client.resume_queue("bulk")
        assert client.handle(held.id).result(timeout=20) == 7
    assert served.stop() == 0


def test_what_lies_ready_for_the_workers_is_taken_back_from_a_queue_that_is_paused(
    serve: Serve, tmp_path: Path
) -> None:
    served = serve(HANDLERS)
    done, gate = tmp_path / "done", tmp_path / "gate"
    done.touch()
    with served.client() as client:
        client.wait_many(client.submit_many(hold(done) for _ in range(500)), timeout=20)  # they are known to be short
        handles = client.submit_many(hold(gate) for _ in range(20))
        workers = len(served.health()["workers"])
        wait_for(lambda: running(served) == workers and client.health()["in_flight"] > workers)
        client.pause_queue("bulk", running="finish")
        gate.touch()
        wait_for(lambda: client.health()["in_flight"] == 0)
        begun = [handle for handle in handles if client.query.task(handle.id).status is ringq.Status.COMPLETED]
        assert len(begun) == workers
        client.resume_queue("bulk")
        client.wait_many(handles, timeout=20)


def test_a_limit_that_is_set_while_tasks_run_counts_them_and_wins_over_the_flag(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS, "--queues", "bulk:2,net")
    gates = [tmp_path / f"gate{number}" for number in range(3)]
    with served.client() as client:
        first, second, third = (client.submit("shop::hold", {"gate": str(gate)}) for gate in gates)
        wait_for(lambda: running(served) == 2)
        client.set_queue("bulk", max_workers=1)
        gates[0].touch()
        first.wait(timeout=20)
        wait_for(lambda: client.health()["refusals"].get("queue_full"))
        assert running(served) == 1
        gates[1].touch()
        second.wait(timeout=20)
        wait_for(lambda: running(served) == 1)
        assert not third.known_end
        client.set_queue("bulk", max_workers=None)  # the flag decides again
        fourth = client.submit("shop::hold", {"gate": str(gates[0])})
        fourth.wait(timeout=20)
        gates[2].touch()
        third.wait(timeout=20)


def test_a_throttled_task_waits_with_all_of_its_queue_and_loses_no_attempt(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        client.set_queue("net", cooldown="constant 0.05s", retry=0)
        task = client.submit("shop::ask", {"mark": str(tmp_path / "mark"), "after": 0.6})
        wait_for(lambda: client.health()["closed_queues"] == {"net": "queue_cooling"})
        behind = client.submit("shop::ask", {"mark": str(tmp_path / "mark"), "after": 0})
        other = client.submit("shop::quick", {"number": 1})
        assert other.result(timeout=20) == 1
        (queue,) = client.query.queues()
        assert queue.cooling_until is not None
        assert (task.result(timeout=20), behind.result(timeout=20)) == (1, 1)
        first, second = client.query.task(task.id).attempts
        assert (first.reason, first.attempt, second.attempt) == (ringq.Reason.THROTTLED, 1, 1)
        assert second.started_at >= queue.cooling_until
        assert (second.started_at - first.ended_at).total_seconds() >= 0.6
        assert client.health()["closed_queues"] == {}


def test_a_queue_that_cools_down_still_does_after_the_parents_death_and_may_be_resumed(
    serve: Serve, tmp_path: Path
) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        task = client.submit("shop::ask", {"mark": str(tmp_path / "mark"), "after": 3600})
        wait_for(lambda: client.health()["closed_queues"] == {"net": "queue_cooling"})
    served.kill()
    served = serve()
    with served.client() as client:
        assert client.health()["closed_queues"] == {"net": "queue_cooling"}
        client.resume_queue("net")
        assert client.handle(task.id).result(timeout=20) == 1


def test_a_queue_says_how_its_tasks_are_tried_again_if_they_do_not(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    mark = tmp_path / "mark"
    with served.client() as client:
        client.set_queue("net", retry=2)
        end = client.submit("shop::fails", {"mark": str(mark)}).wait(timeout=20)
        assert (end.status, mark.read_text()) == (ringq.Status.DEAD_LETTER, "xxx")
        mark.unlink()
        end = client.submit("shop::fails", {"mark": str(mark)}, retry=0).wait(timeout=20)
        assert (end.status, mark.read_text()) == (ringq.Status.FAILED, "x")


def test_what_a_pause_holds_is_told_with_its_reason_and_what_runs_finishes_if_asked_for(
    serve: Serve, tmp_path: Path, cli: Any
) -> None:
    served, gate = serve(HANDLERS, "--workers", "1"), tmp_path / "gate"
    with served.client() as client:
        runs = client.submit_many([hold(gate)])[0]
        wait_for(lambda: client.query.task(runs.id).status is ringq.Status.RUNNING)
        client.pause_queue("bulk", running="finish")
        held = client.submit("shop::quick", {"number": 1}, ttl=3600)
        assert client.query.task(runs.id).status is ringq.Status.RUNNING
        shown = json.loads(cli("task", "show", str(held.id), "--json").stdout)
        assert (shown["status"], shown["pause_reasons"]) == ("paused", ["queue"])
        assert "paused by\tqueue" in cli("task", "show", str(held.id)).stdout
        listed = cli("task", "list", "--status", "paused", "--json").stdout.splitlines()
        assert [json.loads(line)["id"] for line in listed] == [held.id]
        assert client.query.counts()[ringq.Status.PAUSED] == 1
        assert held.cancel().outcome is ringq.CancelOutcome.CANCELLED
        replaced = client.submit("shop::quick", {"number": 2}, key="one")
        later = client.submit("shop::quick", {"number": 3}, key="one", on_duplicate="supersede")
        assert client.query.task(replaced.id).status is ringq.Status.SUPERSEDED
        late = client.submit("shop::quick", {"number": 4}, ttl=0.1)
        assert late.wait(timeout=20).status is ringq.Status.EXPIRED  # that clock does not stand still
        gate.touch()
        assert runs.wait(timeout=20).status is ringq.Status.COMPLETED
        assert client.query.task(later.id).status is ringq.Status.PAUSED
        client.resume_queue("bulk")
        assert later.result(timeout=20) == 3
    assert served.stop() == 0


def test_a_flag_decides_until_an_operator_has_spoken_also_after_a_restart(serve: Serve, tmp_path: Path) -> None:
    """2 by the flag; 5 by the operator, over the same flag; then again what the flag says, which is another number."""
    gate = tmp_path / "gate"

    def running_of(served: Any, client: Any, most: int) -> None:
        tasks = client.submit_many([hold(gate)] * 6)
        wait_for(lambda: running(served) == most)
        assert client.health()["refusals"]["queue_full"] > 0
        gate.touch()
        client.wait_many(tasks, timeout=20)
        gate.unlink()

    served = serve(HANDLERS, "--workers", "4", "--queues", "bulk:2")
    with served.client() as client:
        running_of(served, client, 2)
        client.set_queue("bulk", max_workers=3)
    assert served.stop() == 0
    served = serve(None, "--workers", "4", "--queues", "bulk:2")
    with served.client() as client:
        running_of(served, client, 3)
        client.set_queue("bulk", max_workers=None)
    assert served.stop() == 0
    served = serve(None, "--workers", "4", "--queues", "bulk:1")
    with served.client() as client:
        running_of(served, client, 1)
        (record,) = client.query.queues()
        assert record.max_workers is None  # nobody wrote down what a flag says


def test_an_app_routes_kinds_for_which_nobody_else_says_a_queue(serve: Serve) -> None:
    served = serve("""
import ringq
other = ringq.App("other")
app = ringq.App("media", route={"media::": "bulk", "media::thumb": "fast", "other::": "rest"})
mail = app.domain("mail", queue="mail")

@app.task
def convert() -> None: ...

@app.task(aliases=["old::thumb"])
def thumbnail() -> None: ...

@app.task(queue="own")
def special() -> None: ...

@mail.task
def send() -> None: ...

@other.task
def more() -> None: ...

app.include(other)
""")
    with served.client() as client:
        kinds = ["media::convert", "media::thumbnail", "old::thumb", "media::special", "mail::send", "other::more"]
        tasks = client.submit_many([ringq.Submission(kind) for kind in kinds])
        said = client.submit("media::convert", queue="here")
        queues = [client.query.task(task.id).queue for task in tasks]
        assert queues == ["bulk", "fast", "fast", "own", "mail", "rest"]
        assert client.query.task(said.id).queue == "here"
    assert served.stop() == 0
    with served.client() as client:  # nobody runs: the last server's word counts
        assert client.query.task(client.submit("media::convert").id).queue == "bulk"


def test_a_queue_that_nobody_serves_is_told_of_once(serve: Serve) -> None:
    served = serve(HANDLERS, "--queues", "net")
    with served.client() as client:
        for number in range(2):
            client.submit("shop::quick", {"number": number})
        wait_for(lambda: "'bulk'" in served.stderr)
        client.submit("shop::quick", {"number": 3})
        wait_for(lambda: client.health()["refusals"]["queue_not_served"] >= 3)
    assert served.stderr.count("tasks wait in the queue 'bulk', which this server does not serve") == 1


def test_what_is_said_while_no_server_runs_is_there_for_the_next(serve: Serve, tmp_path: Path, cli: Any) -> None:
    served = serve(HANDLERS)
    assert served.stop() == 0
    assert cli("queue", "pause", "bulk").returncode == 0
    assert cli("queue", "set", "bulk", "--max-workers", "3", "--cooldown", "exponential 1s..1m").returncode == 0
    assert cli("queue", "set", "bulk", "--retention", "7d").returncode == 0
    (line,) = cli("queue", "list", "--json").stdout.splitlines()
    said = json.loads(line)
    assert said.pop("paused_since")
    assert said == {
        **{"name": "bulk", "max_workers": 3, "paused": True, "paused_until": None, "retry": None},
        **{"cooldown": "exponential 1s..1m", "cooling_until": None, "retention": "7d", "dead_retention": None},
        "defaults": {},
    }
    served = serve()
    with served.client() as client:
        assert client.health()["closed_queues"] == {"bulk": "queue_paused"}
    assert json.loads(cli("queue", "resume", "bulk", "--json").stdout)["paused"] is False
    assert json.loads(cli("queue", "pause", "net", "--json").stdout)["paused"] is True
    assert cli("queue", "resume", "net").stdout == ""
    said = json.loads(
        cli("queue", "set", "bulk", "--max-workers", "none", "--dead-retention", "forever", "--json").stdout
    )
    assert (said["name"], said["max_workers"], said["dead_retention"]) == ("bulk", None, "forever")
    shown = cli("queue", "list").stdout.splitlines()
    assert shown == [
        "queue\tstate\tmax workers\tretry\tcooldown\tretention\tdead retention\tdefaults",
        "bulk\topen\t\t\texponential 1s..1m\t7d\tforever\t",
    ]


def test_what_a_queue_and_the_server_say_of_tasks_holds_at_once_over_restarts_and_while_none_runs(
    serve: Serve, cli: Any
) -> None:
    flags = ("--defaults", "priority=200,queue=bulk,group=all,tags.team=sales,tags.site=here")
    served = serve(HANDLERS, *flags)
    with served.client() as client:
        client.set_queue("bulk", priority=7, run_timeout=30, tags={"team": "ops"})
        first = client.query.task(client.submit("shop::quick", {"number": 1}).id)
        client.set_queue("bulk", kill_after=3)
        assert client.query.task(client.submit("shop::quick", {"number": 1}).id).kill_after_s == 3.0
        client.schedule("hourly", "shop::quick", {"number": 2}, every=3600)
        wait_for(lambda: any(one.schedule for one in client.query.tasks()))
        (made,) = [one for one in client.query.tasks() if one.schedule]
        assert (made.queue, made.priority, made.kill_after_s, made.group) == ("bulk", 7, 3.0, "all")
        client.unschedule("hourly")
        cli("queue", "set", "net", "--defaults", "priority=9,memory_limit=1GB,ttl=1h,ttl_from=attempt")
        client.pause_queue("net")
        second = client.query.task(client.submit("shop::fails", {"mark": "m"}, tags={"site": "there"}).id)
    assert (first.queue, first.priority, first.group, first.run_timeout_s) == ("bulk", 7, "all", 30.0)
    assert first.tags == {"team": "ops", "site": "here"}
    assert (second.priority, second.memory_limit_mib, second.ttl_s, second.group) == (9, 1024, 3600.0, "all")
    assert second.tags == {"team": "sales", "site": "there"}
    assert served.stop() == 0
    with served.client() as client:  # what the last server said, and what is said now
        cli("queue", "set", "bulk", "--defaults", "priority=none,kill_after=2s")
        third = client.query.task(client.submit("shop::quick", {"number": 3}).id)
    assert (third.priority, third.run_timeout_s, third.kill_after_s, third.group) == (200, 30.0, 2.0, "all")
    served = serve(None, "--defaults", "group=other")
    with served.client() as client:
        fourth = client.query.task(client.submit("shop::quick", {"number": 4}).id)
    assert (fourth.priority, fourth.run_timeout_s, fourth.kill_after_s, fourth.group) == (128, 30.0, 2.0, "other")
    said = [json.loads(line)["defaults"] for line in cli("queue", "list", "--json").stdout.splitlines()]
    assert said == [
        {"run_timeout": 30.0, "tags": {"team": "ops"}, "kill_after": 2.0},
        {"priority": 9, "memory_limit": 1024.0, "ttl": 3600.0, "ttl_from": "attempt"},
    ]
    assert cli("queue", "list").stdout.splitlines()[1].endswith("\trun_timeout=30,kill_after=2,tags.team=ops")
    assert json.loads(cli("queue", "set", "bulk", "--defaults", "none", "--json").stdout)["defaults"] == {}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["set", "bulk"], "say at least one of --max-workers, --retry, --cooldown, --retention, --dead-retention"),
        (["set", "bulk", "--retention", "0"], "retention: '0' is not 1s to 36500d, nor forever"),
        (["set", "bulk", "--dead-retention", "soon"], "dead_retention: 'soon' is no span"),
        (["set", "bulk", "--defaults", "priority"], "'priority' is no option; write e.g. priority=64,"),
        (["set", "bulk", "--defaults", "priority=256"], "priority: '256' is not 0 (most urgent) to 255"),
        (["set", "bulk", "--defaults", "priorty=1"], "there is no default 'priorty'; did you mean priority?"),
        (["set", "bulk", "--defaults", "queue=a"], "there is no default 'queue'; there are priority, group,"),
        (["set", "bulk", "--defaults", "memory_limit=1MB"], "memory_limit: '1MB' is less than 64 MiB"),
        (["set", "bulk", "--defaults", "ttl=0"], "ttl: '0' is not 1ms to 366d"),
        (["set", "bulk", "--max-workers", "many"], "'many' is neither none nor a number"),
        (["set", "bulk", "--max-workers", "256"], "max_workers: expected 0 to 255 or None, got 256"),
        (["set", "bulk", "--retry", "often"], "retry: expected e.g. 3"),
        (["set", "bulk", "--cooldown", "5"], "cooldown: expected e.g. 'constant 60s'"),
        (["set", "bulk", "--cooldown", ""], "cooldown: expected e.g. 'constant 60s'"),
        (["set", "a:b", "--retry", "1"], "expected a name without comma or colon, got 'a:b'"),
        (["pause", "a,b"], "expected a name without comma or colon, got 'a,b'"),
    ],
)
def test_what_cannot_be_said_of_a_queue_is_refused_in_one_line(
    cli: Any, arguments: list[str], complaint: str, tmp_path: Path
) -> None:
    ringq.connect(tmp_path / "tasks.db").close()
    refused = cli("queue", *arguments)
    assert refused.returncode == 2
    assert complaint in refused.stderr
    assert "Traceback" not in refused.stderr

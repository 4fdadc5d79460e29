"""What is cancelled ends, wherever it is; what was quicker stands; and what the caller was told is what happened."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for

import ringq
from ringq import CancelOutcome, Reason, Status

Serve = Callable[..., Any]
GRACE_S = 6.0  # the ladder's two graces: soft exception to SIGTERM, SIGTERM to SIGKILL

HANDLERS = """
import itertools, pathlib, signal, time
import ringq

app = ringq.App("stop")

def begun(path):
    with open(path, "a") as file:
        file.write("begun\\n")

@app.task
def python_loop(path: str) -> None:
    begun(path)
    while True:
        pass

@app.task
async def sleeps(path: str) -> None:
    import asyncio
    begun(path)
    await asyncio.sleep(60)

@app.task
def cooperative(ctx: ringq.Context, path: str) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    begun(path)
    try:
        while True:
            ctx.check_cancelled()
            time.sleep(0.005)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])

@app.task
def blocks_signals(path: str) -> bool:
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
    begun(path)
    return 0 in itertools.repeat(1)

@app.task
def holds_the_gil(path: str) -> bool:
    begun(path)
    return 0 in itertools.repeat(1)

@app.task
def swallows(path: str) -> str:
    begun(path)
    try:
        time.sleep(60)
    except ringq.AttemptCancelled:
        return "done all the same"

@app.task(retry=5)
def raises_another(path: str) -> None:
    begun(path)
    try:
        time.sleep(60)
    except ringq.AttemptCancelled:
        raise ValueError("while cleaning up") from None

@app.task(retry=ringq.Retry.constant(60))
def fails() -> None:
    raise ValueError("try again")

@app.task
def spins(path: str, seconds: float) -> int:
    begun(path)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return 1

@app.task
def turn(path: str) -> None:
    begun(path)
    time.sleep(0.02)

@app.task
def quick(number: int) -> int:
    return number

@app.task
def brief(ms: float) -> float:
    time.sleep(ms / 1000)
    return ms

@app.task
def sweeps(path: str, hook: str) -> None:
    begun(path)
    while True:
        time.sleep(0.01)

@sweeps.on_cancel
async def tidy(ctx: ringq.Context, path: str, hook: str) -> None:
    with open(path, "a") as file:
        file.write(f"{ctx.task_id} {ctx.kind}\\n")
    print("tidying")
    if hook == "raises":
        raise OSError("no broom")
    if hook == "sleeps":
        time.sleep(60)
    if hook == "hangs":
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
        0 in itertools.repeat(1)

@app.task(queue="bulk", group="g")
def bulk(number: int) -> int:
    return number
"""


def begin(client: Any, kind: str, folder: Path, **payload: Any) -> Any:
    """A task of this kind that has begun."""
    note = folder / f"{kind}.note"
    task = client.submit(f"stop::{kind}", {"path": str(note), **payload})
    wait_for(note.exists)
    return task


def runs(folder: Path, kind: str) -> int:
    return len((folder / f"{kind}.note").read_text().splitlines())


def check_cancelled(client: Any, task: Any) -> ringq.TaskRecord:
    """Its end as who waits is told, and as it is recorded."""
    with pytest.raises(ringq.TaskCancelled) as caught:
        task.result(timeout=30)
    assert (caught.value.status, caught.value.reason) == ("cancelled", "cancelled")
    record: ringq.TaskRecord = ringq.Query(client.database).task(task.id)
    assert (record.status, record.reason) == (Status.CANCELLED, Reason.CANCELLED)
    return record


def requests(database: Path) -> int:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        count: int = db.execute("SELECT COUNT(*) FROM cancel_request").fetchone()[0]
        return count


# -- what does not run ------------------------------------------------------------------------


def test_a_pending_task_has_ended_when_cancel_returns_and_never_runs(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS, "--workers", "1")
    with served.client() as client:
        blocker = begin(client, "python_loop", tmp_path)
        note = tmp_path / "spins.note"
        waiting = [client.submit("stop::spins", {"path": str(note), "seconds": 0.0}) for _ in range(30)]
        chosen = waiting[::2]
        told = client.cancel(*chosen)
        assert [one.task_id for one in told] == [task.id for task in chosen]
        assert {(one.outcome, one.status) for one in told} == {(CancelOutcome.CANCELLED, Status.CANCELLED)}
        for task in chosen:
            record = check_cancelled(client, task)
            assert (record.started_at, record.attempts) == (None, ())
        blocker.cancel()
        assert [task.result(timeout=20) for task in waiting[1::2]] == [1] * 15
        assert runs(tmp_path, "spins") == 15
        assert {one.status: one.count for one in ringq.Query(client.database).statistics("stop::spins")} == {
            Status.COMPLETED: 15,
            Status.CANCELLED: 15,
        }


def test_a_delayed_task_is_cancelled_and_its_time_comes_to_nothing(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        soon = client.submit("stop::quick", {"number": 1}, run_after=0.3)
        late = client.submit("stop::quick", {"number": 2}, run_after=3600)
        assert soon.cancel().outcome is CancelOutcome.CANCELLED
        assert late.cancel().outcome is CancelOutcome.CANCELLED
        assert client.submit("stop::quick", {"number": 3}, run_after=0.5).result(timeout=10) == 3
        for task in (soon, late):
            check_cancelled(client, task)
        assert served.health()["delayed"] == 0


def test_a_task_that_waits_for_its_next_attempt_is_cancelled_and_keeps_the_attempts_it_had(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        task = client.submit("stop::fails")
        query = ringq.Query(client.database)
        wait_for(lambda: query.task(task.id).attempts)
        assert task.cancel().outcome is CancelOutcome.CANCELLED
        record = check_cancelled(client, task)
        assert [(one.attempt, one.status) for one in record.attempts] == [(1, None)]
        assert record.error == {"message": "before its next attempt"}


def test_what_waits_for_the_result_is_told(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS, "--workers", "1")
    with served.client() as client, served.client() as other:
        blocker = begin(client, "python_loop", tmp_path)
        waiting = client.submit("stop::quick", {"number": 1})
        with pytest.raises(ringq.WaitTimeout):
            waiting.wait(timeout=0.2)  # the server knows now who waits
        other.cancel(waiting.id)
        with pytest.raises(ringq.TaskCancelled, match="was cancelled: before it had begun"):
            waiting.result(timeout=10)
        other.cancel(blocker.id)


def test_a_task_that_nobody_has_a_handler_for_is_cancelled(serve: Serve) -> None:
    served = serve(HANDLERS)
    served.stop()
    with served.client() as client:
        tasks = [client.submit("stop::quick", {"number": n}) for n in range(3)]
    served = serve(HANDLERS.replace("def quick(", "def other("))
    with served.client() as client:
        wait_for(lambda: client.health()["without_handler"] == 3)
        assert client.cancel(tasks[1].id)[0].outcome is CancelOutcome.CANCELLED
        health = client.health()
        assert (health["without_handler"], health["pending"]) == (2, 2)
        assert client.cancel_all(kind="stop::quick") == (2, 0)
        assert client.health()["pending"] == 0


# -- what runs --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["python_loop", "sleeps", "cooperative", "raises_another"])
def test_the_soft_exception_ends_python_code_and_spares_the_worker(serve: Serve, tmp_path: Path, kind: str) -> None:
    served = serve(HANDLERS, "--workers", "1")
    with served.client() as client:
        task = begin(client, kind, tmp_path)
        began = time.monotonic()
        told = task.cancel()
        assert (told.outcome, told.status) == (CancelOutcome.CANCELLING, Status.RUNNING)
        record = check_cancelled(client, task)
        assert time.monotonic() - began < 2
        assert record.error is not None
        assert record.error["type"] == ("ValueError" if kind == "raises_another" else "ringq.errors.AttemptCancelled")
        assert [one.attempt for one in record.attempts] == [1]
        assert client.submit("stop::quick", {"number": 3}).result(timeout=10) == 3
        assert served.health()["worker_deaths"] == 0
    assert runs(tmp_path, kind) == 1
    assert requests(served.database) == 0


@pytest.mark.parametrize(("kind", "how"), [("holds_the_gil", "SIGTERM"), ("blocks_signals", "SIGKILL")])
def test_code_that_does_not_listen_dies_with_its_worker_and_that_is_no_crash(
    serve: Serve, tmp_path: Path, kind: str, how: str
) -> None:
    served = serve(HANDLERS, "--workers", "1")
    with served.client() as client:
        task = begin(client, kind, tmp_path)
        began = time.monotonic()
        assert task.cancel().outcome is CancelOutcome.CANCELLING
        assert task.cancel().outcome is CancelOutcome.CANCELLING  # asking twice is asking once
        record = check_cancelled(client, task)
        assert time.monotonic() - began < GRACE_S + 2
        assert record.error is not None
        assert record.error["signal"] == how
        assert record.error["message"].endswith("(cancelled)")
        assert [(one.attempt, one.reason) for one in record.attempts] == [(1, Reason.CANCELLED)]
        assert client.submit("stop::quick", {"number": 3}).result(timeout=10) == 3


def test_a_handler_that_completes_all_the_same_has_completed(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        task = begin(client, "swallows", tmp_path)
        assert task.cancel().outcome is CancelOutcome.CANCELLING
        assert task.result(timeout=10) == "done all the same"
        told = task.cancel()
        assert (told.outcome, told.status) == (CancelOutcome.TOO_LATE, Status.COMPLETED)
    assert requests(served.database) == 0


def test_a_cancel_that_races_completion_is_answered_with_what_happens(serve: Serve) -> None:
    """Every task ends once; whatever was told comes true."""
    served = serve(HANDLERS)
    seen: set[tuple[CancelOutcome, Status]] = set()
    with served.client() as client:
        for turn in range(60):
            payload = {"ms": 0.2 * (turn % 12)}
            if turn % 2:  # so that some wait, however fast the workers are
                tasks = list(client.submit_many([ringq.Submission("stop::brief", payload) for _ in range(8)]))
            else:
                tasks = [client.submit("stop::brief", payload) for _ in range(8)]
            time.sleep(0.0005 * (turn % 9))  # another moment of their lives each time
            told = client.cancel(*tasks)
            ends = client.wait_many(tasks, timeout=30)
            for one, end in zip(told, ends, strict=True):
                assert end.status in (Status.COMPLETED, Status.CANCELLED)
                if one.outcome is not CancelOutcome.CANCELLING:
                    assert one.status is end.status
                seen.add((one.outcome, end.status))
    assert {(CancelOutcome.CANCELLED, Status.CANCELLED), (CancelOutcome.TOO_LATE, Status.COMPLETED)} <= seen
    assert requests(served.database) == 0
    statistics = ringq.Query(served.database).statistics("stop::brief")
    assert sum(one.count for one in statistics) == 60 * 8


@pytest.mark.parametrize("hook", ["returns", "raises", "sleeps", "hangs"])
def test_a_task_answers_to_its_cancel_within_the_time_for_that(serve: Serve, tmp_path: Path, hook: str) -> None:
    times = {"cancel_hook_s": 0.3, "term_grace_s": 0.3, "kill_grace_s": 0.3}
    served = serve(HANDLERS, settings=times)
    with served.client() as client:
        task = begin(client, "sweeps", tmp_path, hook=hook)
        task.cancel()
        record = check_cancelled(client, task)
        assert (tmp_path / "sweeps.note").read_text().splitlines() == ["begun", f"{task.id} stop::sweeps"]
        assert record.error is not None
        assert record.error["type"] == ("WorkerDied" if hook == "hangs" else "ringq.errors.AttemptCancelled")
        (printed,) = ringq.Query(client.database).output(task.id)
        text = printed.head.decode()
        assert text.startswith("tidying\n")
        assert ("OSError: no broom" in text, "RunTimeout" in text) == (hook == "raises", hook == "sleeps")
        assert client.submit("stop::quick", {"number": 3}).result(timeout=10) == 3


def test_what_has_not_begun_or_has_completed_has_nothing_to_tidy_up(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        task = client.submit("stop::sweeps", {"path": str(tmp_path / "note"), "hook": "returns"}, run_after=3600)
        task.cancel()
        check_cancelled(client, task)
        assert client.submit("stop::quick", {"number": 3}).result(timeout=10) == 3
    assert not (tmp_path / "note").exists()


# -- deaths -----------------------------------------------------------------------------------


def test_a_parent_that_dies_between_the_request_and_the_end_has_not_forgotten_it(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        task = begin(client, "blocks_signals", tmp_path)
        assert task.cancel().outcome is CancelOutcome.CANCELLING
    served.kill()
    assert requests(served.database) == 1
    served = serve()
    with served.client() as client:
        record = check_cancelled(client, client.handle(task.id))
        assert record.attempts[-1].reason is Reason.CANCELLED
        assert client.submit("stop::quick", {"number": 3}).result(timeout=10) == 3
    assert runs(tmp_path, "blocks_signals") == 1
    assert requests(served.database) == 0


def test_a_server_that_stops_while_a_cancelled_task_runs_leaves_it_cancelled(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS, "--drain-timeout", "0.1s")
    with served.client() as client:
        task = begin(client, "blocks_signals", tmp_path)
        task.cancel()
    served.stop()
    assert ringq.Query(served.database).task(task.id).status is Status.CANCELLED
    assert requests(served.database) == 0


def test_while_no_server_runs_pending_tasks_end_at_once(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    served.stop()
    with served.client() as client:
        tasks = [client.submit("stop::quick", {"number": n}, run_after=60 * (n % 2)) for n in range(4)]
        assert {one.outcome for one in client.cancel(*tasks[:2])} == {CancelOutcome.CANCELLED}
        assert tasks[0].cancel().outcome is CancelOutcome.TOO_LATE
    served = serve()
    with served.client() as client:
        for task in tasks[:2]:
            check_cancelled(client, client.handle(task.id))
        assert client.handle(tasks[2].id).result(timeout=10) == 2


def test_after_a_crash_what_may_have_completed_is_left_to_the_next_server(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        running = begin(client, "python_loop", tmp_path)
        later = client.submit("stop::quick", {"number": 1}, run_after=3600)
    served.kill()
    with served.client() as client:
        assert {one.outcome for one in client.cancel(running.id, later.id)} == {CancelOutcome.CANCELLING}
    served = serve()
    with served.client() as client:
        for task in (running, later):
            check_cancelled(client, client.handle(task.id))
    assert runs(tmp_path, "python_loop") == 1
    assert requests(served.database) == 0


@pytest.mark.parametrize("kind", ["pending", "running"])
@pytest.mark.parametrize(
    "point", ["writer.before_commit", "writer.after_commit", "writer.after_free", "writer.after_reply"]
)
def test_a_parent_that_dies_anywhere_in_a_cancel_leaves_it_for_the_next(
    serve: Serve, tmp_path: Path, kind: str, point: str
) -> None:
    """The client asks again by itself, the database this time: what it is told comes true."""
    settings = {"lease_persist_ms": 3_600_000}  # no commit but those of the submission and of the cancel
    served = serve(HANDLERS, env={"RINGQ_FAILPOINT": f"{point}=kill:2"}, settings=settings)
    with served.client() as client:
        if kind == "running":
            task = begin(client, "blocks_signals", tmp_path)
        else:
            task = client.submit("stop::quick", {"number": 1}, run_after=3600)
        told = task.cancel()
        assert told.outcome is CancelOutcome.CANCELLING or told.status is Status.CANCELLED
    assert served.wait() == -9
    served = serve()
    with served.client() as client:
        check_cancelled(client, client.handle(task.id))
        assert client.submit("stop::quick", {"number": 3}).result(timeout=10) == 3
    assert kind == "pending" or runs(tmp_path, "blocks_signals") == 1
    assert requests(served.database) == 0


def test_a_server_that_drains_still_cancels(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS, "--workers", "1")
    with served.client() as client:
        running = begin(client, "python_loop", tmp_path)
        pending = [client.submit("stop::quick", {"number": n}) for n in range(5)]
        served.signal(signal.SIGTERM)
        wait_for(lambda: client.health()["stopping"])
        assert {one.outcome for one in client.cancel(*pending[:4])} == {CancelOutcome.CANCELLED}
        assert client.health()["stopping"]
        assert running.cancel().outcome is CancelOutcome.CANCELLING
    assert served.wait(5) == 0
    counts = ringq.Query(served.database).counts()
    assert (counts[Status.CANCELLED], counts[Status.PENDING]) == (5, 1)


# -- many, and the calls of a map --------------------------------------------------------------


def test_ten_thousand_pending_tasks_are_cancelled_by_what_they_share(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS, "--workers", "1")
    with served.client() as client:
        blocker = begin(client, "python_loop", tmp_path)
        bulk = client.submit_many([ringq.Submission("stop::bulk", {"number": n}) for n in range(10_000)])
        others = client.submit_many([ringq.Submission("stop::quick", {"number": n}) for n in range(10)])
        assert client.cancel_all(kind="stop::nothing") == (0, 0)
        assert client.cancel_all(queue="default", group="g") == (0, 0)
        assert client.cancel_all(queue="bulk", group="g", domain="stop") == (10_000, 0)
        assert {end.status for end in client.wait_many(bulk, timeout=30)} == {Status.CANCELLED}
        assert client.cancel_all(kind="stop::python_loop") == (0, 1)
        check_cancelled(client, blocker)
        assert [task.result(timeout=20) for task in others] == list(range(10))
        assert served.health()["pending"] == 0
        assert client.cancel_all(all=True) == (0, 0)


def test_the_chunk_of_a_map_is_cancelled_as_a_whole(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS, "--workers", "1")
    note = tmp_path / "turn.note"
    with served.client() as client, ThreadPoolExecutor() as pool:
        ends = pool.submit(lambda: list(client.map("stop::turn", [str(note)] * 1000, chunk=1000, errors="return")))
        wait_for(lambda: note.exists() and runs(tmp_path, "turn") > 5)
        began = time.monotonic()
        assert client.cancel(1)[0].outcome is CancelOutcome.CANCELLING
        check_cancelled(client, client.handle(1))
        assert time.monotonic() - began < 2
        assert {type(end) for end in ends.result(10)} == {ringq.TaskCancelled}
        assert len(ringq.Query(client.database).tasks()) == 1  # no piece of it goes on
        assert runs(tmp_path, "turn") < 500


# -- bad input, and the command ---------------------------------------------------------------


def test_an_unknown_id_spares_the_others(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        task = client.submit("stop::quick", {"number": 1}, run_after=3600)
        with pytest.raises(ringq.UnknownTask, match="there is no task 77"):
            client.cancel(task, 77)
        assert ringq.Query(client.database).task(task.id).status is Status.PENDING
        for wrong in ({}, {"kind": "stop::quick", "all": True}, {"queue": ""}):
            with pytest.raises(ringq.InvalidOption):
                client.cancel_all(**wrong)
        with pytest.raises(ringq.InvalidOption, match="1 to 10,000"):
            client.cancel()


def test_the_command_says_what_became_of_each_and_fails_if_there_was_nothing_to_cancel(serve: Serve, cli: Any) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        done = client.submit("stop::quick", {"number": 1})
        done.result(timeout=10)
        client.submit_many([ringq.Submission("stop::bulk", {"number": n}, run_after=3600) for n in range(5)])
    found = cli("task", "cancel", "1..3", "--json")
    assert found.returncode == 0
    assert [json.loads(line) for line in found.stdout.splitlines()] == [
        {"task_id": 1, "outcome": "too_late", "status": "completed"},
        {"task_id": 2, "outcome": "cancelled", "status": "cancelled"},
        {"task_id": 3, "outcome": "cancelled", "status": "cancelled"},
    ]
    assert cli("task", "cancel", "1", "2").returncode == 1
    assert cli("task", "cancel", "--queue", "bulk").stdout == "3 cancelled, 0 running and asked to end\n"
    found = cli("task", "cancel", "--all", "--json")
    assert (found.returncode, json.loads(found.stdout)) == (1, {"cancelled": 0, "cancelling": 0})
    assert cli("task", "cancel").returncode == 2
    assert cli("task", "cancel", "9").stderr == "ringq: there is no task 9\n"
    assert len(cli("task", "list", "--status", "cancelled").stdout.splitlines()) == 5 + 1

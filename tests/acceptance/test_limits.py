"""The limits of an attempt, of the wait for it, and of a whole task hold; what they end says why."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for

import ringq

Serve = Callable[..., Any]

HANDLERS = """
import itertools, os, signal, subprocess, sys, time
import ringq

app = ringq.App("limit")
brief = app.domain("brief", run_timeout=0.2, kill_after=0.3)
MIB = 1 << 20

@brief.task
def holds_the_gil() -> bool:
    return 0 in itertools.repeat(1)

@brief.task(kill_after=30)
def patient(path: str) -> None:
    try:
        while True:
            time.sleep(0.01)
    except ringq.RunTimeout:
        time.sleep(1)
        open(path, "w").close()
        raise

@app.task
def note(path: str) -> None:
    open(path, "a").close()

@app.task
def hold(gate: str) -> int:
    while not os.path.exists(gate):
        time.sleep(0.005)
    return 1

@app.task
def stuck(path: str) -> None:
    try:
        while True:
            time.sleep(0.01)
    except ringq.TotalTimeout:
        open(path, "a").close()
        raise

@app.task
def knows(ctx: ringq.Context, number: int = 0) -> tuple[dict[str, str], float | None]:
    assert ctx.tags is not None
    return dict(ctx.tags), ctx.remaining()

@app.task
def whoami() -> int:
    return os.getpid()

@app.task(retry="100 constant 0.1s")
def fails() -> None:
    raise ValueError("no")

@app.task(memory_limit="128MB")
def fills(mib: int, path: str = "") -> int:
    kept = []
    try:
        for _ in range(mib):
            kept.append(bytearray(MIB))
            time.sleep(0.002)
        for _ in range(100):
            time.sleep(0.05)
    except ringq.MemoryLimit:
        if path:
            open(path, "a").close()
        raise
    return len(kept)

@app.task(memory_limit="128MB")
def fills_and_stays(mib: int) -> bool:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    kept = bytearray(mib << 20)
    return 0 in itertools.repeat(1)

@app.task(memory_limit="192MB")
def lets_another_fill(mib: int) -> None:
    code = f"import time; kept = bytearray({mib} << 20); time.sleep(60)"
    subprocess.run([sys.executable, "-c", code], check=True)

@app.task(memory_limit=256)
def takes(mib: int) -> int:
    kept = bytearray(mib << 20)
    time.sleep(0.5 if mib > 256 else 0)
    return len(kept) >> 20
"""


def test_the_process_ends_when_its_kind_says_and_not_after_the_servers_five_seconds(serve: Serve) -> None:
    served = serve(HANDLERS, "--workers", "1")
    with served.client() as client:
        with pytest.raises(ringq.TaskTimedOut) as caught:
            client.submit("brief::holds_the_gil").result(timeout=30)
        assert caught.value.error["signal"] == "SIGTERM"
        record = client.query.task(caught.value.task_id)
        assert 0.5 <= record.attempts[0].duration_s < 3


def test_who_needs_longer_to_tidy_up_is_given_longer(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS, "--workers", "1")
    path = tmp_path / "tidy"
    with served.client() as client:
        with pytest.raises(ringq.TaskTimedOut):
            client.submit("brief::patient", {"path": str(path)}).result(timeout=30)
        assert path.exists()
        path.unlink()
        with pytest.raises(ringq.TaskTimedOut) as caught:
            client.submit("brief::patient", {"path": str(path)}, kill_after=0.2).result(timeout=30)
        assert not path.exists()
        assert caught.value.error["signal"] == "SIGTERM"


def test_a_cancelled_attempt_has_as_long_to_tidy_up_as_one_that_timed_out(serve: Serve) -> None:
    served = serve(HANDLERS, "--workers", "1")
    with served.client() as client:
        task = client.submit("brief::holds_the_gil", run_timeout=600)
        wait_for(lambda: served.health()["workers"][0]["task_id"] == task.id)
        task.cancel()
        assert task.wait(timeout=4).status is ringq.Status.CANCELLED


def test_a_call_of_a_map_that_does_not_end_is_ended_after_the_time_it_was_given(serve: Serve) -> None:
    served = serve(HANDLERS, "--workers", "1")
    with served.client() as client:
        (result,) = client.starmap("brief::holds_the_gil", [{}], errors="return", kill_after=0.1)
        assert isinstance(result, ringq.TaskTimedOut)


def test_what_runs_when_all_of_its_time_is_over_fails_and_is_not_tried_again(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    path = tmp_path / "told"
    with served.client() as client:
        with pytest.raises(ringq.TaskTimedOut) as caught:
            client.submit("limit::stuck", {"path": str(path)}, total_timeout=0.4, retry=5).result(timeout=20)
        assert (caught.value.status, caught.value.reason) == ("failed", "total_timeout")
        assert path.exists()
        (attempt,) = client.query.task(caught.value.task_id).attempts
        assert attempt.reason is ringq.Reason.TOTAL_TIMEOUT
        assert caught.value.error["type"] == "ringq.errors.TotalTimeout"


def test_c_code_that_runs_when_all_of_the_time_is_over_is_killed(serve: Serve) -> None:
    served = serve(HANDLERS, "--workers", "1")
    with served.client() as client:
        task = client.submit("brief::holds_the_gil", total_timeout=0.3, run_timeout=600, retry=5)
        end = task.wait(timeout=20)
        assert (end.status, end.reason) == (ringq.Status.FAILED, ringq.Reason.TOTAL_TIMEOUT)


def test_what_waits_for_its_next_attempt_when_all_of_its_time_is_over_expires(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        for retry in ("100 constant 0.1s", "100 constant 1h"):
            task = client.submit("limit::fails", {}, total_timeout=0.35, retry=retry)
            end = task.wait(timeout=20)
            assert (end.status, end.reason) == (ringq.Status.EXPIRED, ringq.Reason.TOTAL_TIMEOUT)
            record = client.query.task(task.id)
            assert record.ended_at is not None
            assert (record.ended_at - record.submitted_at).total_seconds() >= 0.35
            assert len(record.attempts) >= (2 if "0.1s" in retry else 1)


def test_who_waits_too_long_for_a_worker_expires_and_a_later_start_is_no_wait(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    path = str(tmp_path / "ran")
    with served.client() as client:
        later = client.submit("limit::note", {"path": path}, queue_timeout=0.5, run_after=1.0)
        assert later.wait(timeout=20).status is ringq.Status.COMPLETED
        client.pause_queue("default")
        waits = client.submit("limit::note", {"path": path}, queue_timeout=0.2)
        due = client.submit("limit::note", {"path": path}, queue_timeout=0.2, run_after=0.3)
        for task in (waits, due):
            end = task.wait(timeout=20)
            assert (end.status, end.reason) == (ringq.Status.EXPIRED, ringq.Reason.QUEUE_TIMEOUT)
        record = client.query.task(due.id)
        assert record.ended_at is not None
        assert (record.ended_at - record.submitted_at).total_seconds() >= 0.5


def test_each_retry_has_the_whole_time_to_wait_for_a_worker(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        task = client.submit("limit::fails", {}, queue_timeout=1.0, retry="4 constant 0.4s")
        end = task.wait(timeout=20)
        assert end.reason is ringq.Reason.RETRY_LIMIT  # its attempts have taken longer than a second in all
        waiting = client.submit("limit::fails", {}, queue_timeout=0.5, retry="4 constant 0.3s")
        wait_for(lambda: client.query.task(waiting.id).attempts)
        client.pause_queue("default")
        end = waiting.wait(timeout=20)
        assert (end.status, end.reason) == (ringq.Status.EXPIRED, ringq.Reason.QUEUE_TIMEOUT)


def test_who_waits_behind_a_task_with_its_key_does_not_wait_for_a_worker(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    gate = tmp_path / "gate"
    with served.client() as client:
        first = client.submit("limit::hold", {"gate": str(gate)}, key="k")
        wait_for(lambda: any(worker["task_id"] == first.id for worker in client.health()["workers"]))
        second = client.submit("limit::hold", {"gate": str(gate)}, key="k", queue_timeout=0.2)
        assert second.outcome == "requeued"
        witness = client.submit("limit::note", {"path": str(gate) + "x"}, run_after=0.6)
        witness.wait(timeout=20)
        assert client.query.task(second.id).status is ringq.Status.PENDING
        client.pause_queue("default", running="finish")
        gate.touch()
        end = second.wait(timeout=20)
        assert (end.status, end.reason) == (ringq.Status.EXPIRED, ringq.Reason.QUEUE_TIMEOUT)
        assert first.result(timeout=10) == 1


def test_the_limits_of_a_dead_letter_that_gets_another_chance_begin_anew(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        task = client.submit("limit::fails", {}, total_timeout=1.0, ttl=1.0, retry="1 constant 0.05s")
        assert task.wait(timeout=20).status is ringq.Status.DEAD_LETTER
        client.submit("limit::note", {"path": str(tmp_path / "x")}, run_after=1.2).wait(timeout=20)
        client.retry_dead(task)
        wait_for(lambda: client.query.task(task.id).status is ringq.Status.DEAD_LETTER)
        assert len(client.query.task(task.id).attempts) == 4


def test_an_attempt_that_holds_too_much_memory_is_told_and_its_worker_is_replaced(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS, "--workers", "1")
    path = tmp_path / "told"
    with served.client() as client:
        pid = client.submit("limit::whoami").result(timeout=10)
        with pytest.raises(ringq.TaskFailed) as caught:
            client.submit("limit::fills", {"mib": 400, "path": str(path)}).result(timeout=30)
        assert (caught.value.status, caught.value.reason) == ("failed", "memory_limit")
        assert caught.value.error["type"] == "ringq.errors.MemoryLimit"
        assert path.exists()
        (attempt,) = client.query.task(caught.value.task_id).attempts
        assert attempt.rss_kib is not None
        assert attempt.rss_kib > 128 * 1024
        assert client.submit("limit::whoami").result(timeout=10) != pid
        assert client.health()["worker_deaths"] == 0  # it has left


def test_a_handler_knows_its_tags_and_how_long_its_attempt_still_has(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        assert client.submit("limit::knows").result(timeout=10) == [{}, None]
        tags = {"customer": "acme", "order": "7"}
        found, left = client.submit("limit::knows", tags=tags, run_timeout=50.0).result(timeout=10)
        assert found == tags
        assert 40 < left <= 50
        for limits, most in (((60.0, 20.0), 20.0), ((20.0, 60.0), 20.0), ((None, 30.0), 30.0)):
            given = {"run_timeout": limits[0], "total_timeout": limits[1]}
            _, left = client.submit("limit::knows", **given).result(timeout=10)
            assert most - 10 < left <= most
        shared = client.map("limit::knows", range(3), tags=tags)
        assert list(shared) == [[tags, None]] * 3


def test_an_attempt_that_cannot_be_told_is_killed_soon_and_is_tried_again_as_its_policy_says(serve: Serve) -> None:
    served = serve(HANDLERS, "--workers", "1")
    with served.client() as client:
        task = client.submit("limit::fills_and_stays", {"mib": 300}, retry=1)
        end = task.wait(timeout=30)
        assert (end.status, end.reason) == (ringq.Status.DEAD_LETTER, ringq.Reason.RETRY_LIMIT)
        attempts = client.query.task(task.id).attempts
        assert [attempt.reason for attempt in attempts] == [ringq.Reason.MEMORY_LIMIT, ringq.Reason.RETRY_LIMIT]
        assert all(attempt.rss_kib > 300 * 1024 and attempt.duration_s < 5 for attempt in attempts)


def test_what_a_handler_has_started_counts(serve: Serve) -> None:
    if not Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").exists():
        return  # this kernel does not tell
    served = serve(HANDLERS)
    with served.client() as client:
        task = client.submit("limit::lets_another_fill", {"mib": 300})
        end = task.wait(timeout=30)
        assert (end.status, end.reason) == (ringq.Status.FAILED, ringq.Reason.MEMORY_LIMIT)
        assert client.query.task(task.id).attempts[0].rss_kib > 192 * 1024


def test_an_attempt_that_stays_below_its_limit_is_left_alone_and_the_call_decides_before_the_kind(
    serve: Serve,
) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        assert client.submit("limit::takes", {"mib": 100}).result(timeout=20) == 100
        assert client.submit("limit::takes", {"mib": 300}, memory_limit="1GB").result(timeout=20) == 300
        assert client.submit("limit::takes", {"mib": 300}).wait(timeout=20).reason is ringq.Reason.MEMORY_LIMIT


def test_a_call_of_a_map_that_takes_too_much_memory_fails_alone(serve: Serve) -> None:
    served = serve(HANDLERS, "--workers", "1")
    with served.client() as client:
        sizes = [10, 20, 600, 30, 40]
        results = list(client.map("limit::takes", sizes, chunk=5, errors="return"))
        assert [result for result in results if isinstance(result, int)] == [10, 20, 30, 40]
        assert results[2].reason == "memory_limit"


def test_a_map_has_no_limits_of_its_kind_for_waiting(serve: Serve, tmp_path: Path) -> None:
    served = serve(
        """
import ringq
app = ringq.App("limit", queue_timeout=0.001, total_timeout=0.001)

@app.task
def double(number: int) -> int:
    return 2 * number
"""
    )
    with served.client() as client:
        assert list(client.map("limit::double", range(50))) == list(range(0, 100, 2))


def test_limits_given_on_the_command_line_and_in_ndjson_hold(serve: Serve, cli: Any, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        client.pause_queue("default")
        lines = tmp_path / "tasks.ndjson"
        one = {"kind": "limit::note", "payload": {"path": "x"}}
        limits = [{"total_timeout": 0.2}, {"queue_timeout": 0.2}]
        lines.write_text("".join(json.dumps({**one, **limit}) + "\n" for limit in limits))
        cli("submit", "--from", str(lines), "--db", str(served.database), "--memory-limit", "1GB")
        flags = ("--queue-timeout", "0.2s", "--kill-after", "1s", "--memory-limit", "512MB")
        cli("submit", "limit::note", "--payload", '{"path": "x"}', *flags, "--db", str(served.database))
        ends = [client.handle(task_id).wait(timeout=20).reason for task_id in (1, 2, 3)]
        assert ends == ["total_timeout", "queue_timeout", "queue_timeout"]
        shown = dict(line.split("\t") for line in cli("task", "show", "3").stdout.splitlines() if "\t" in line)
        assert (shown["limit of a wait"], shown["kill after"]) == ("200.0 ms", "1.0 s")
        assert shown["memory limit"] == "512 MiB"
        told = json.loads(cli("task", "show", "1", "--json").stdout)
        assert (told["total_timeout_s"], told["memory_limit_mib"], told["queue_timeout_s"]) == (0.2, 1024.0, None)


def test_a_schedule_hands_its_limits_on_to_its_tasks(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        client.pause_queue("default")
        client.schedule("s", "limit::note", {"path": "x"}, every=3600, queue_timeout=0.2)
        wait_for(lambda: client.query.counts().get(ringq.Status.EXPIRED) == 1)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        *(
            ({name: wrong}, f"^{name}: expected seconds .* from 0.001 to 31622400, got {wrong}")
            for name, wrong in itertools.product(("kill_after", "total_timeout", "queue_timeout"), (0, -1, 1e12))
        ),
        *(
            ({"memory_limit": wrong}, "^memory_limit: expected 64 MiB or more, as 512 .*, got ")
            for wrong in (0, 63, -1, "1KB", "much", True, 1e30)
        ),
        ({"memory_limits": 1}, "there is no option 'memory_limits'; did you mean memory_limit"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ringq.InvalidOption, match=complaint):
        ringq.Submission("limit::note", {}, **options)
    with pytest.raises(ringq.InvalidOption, match=complaint):
        ringq.App("other", **options)

"""Stored tasks of a kind that the code has no longer: dead letters, once that is certain; and back, in bulk."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import wait_for

import ringq

Serve = Callable[..., Any]

VERSION_1 = """
import ringq
app = ringq.App("photos")

@app.task
def shrink(size: int) -> int:
    return size

@app.task
def note(number: int) -> int:
    return number
"""
VERSION_2 = VERSION_1.replace("def shrink(", "def resize(")
RENAMED = VERSION_2.replace("@app.task\ndef resize", '@app.task(aliases=["photos::shrink"])\ndef resize')
AT_ONCE = ("--unknown-kind-wait", "0")


def stored(serve: Serve, count: int, **options: Any) -> list[int]:
    """Tasks of a kind that the server had which took them; a paused queue kept them from running."""
    served = serve(VERSION_1)
    with served.client() as client:
        client.pause_queue("default")
        tasks = client.submit_many(ringq.Submission("photos::shrink", {"size": n}, **options) for n in range(count))
        assert served.stop() == 0
        client.resume_queue("default")
    return [task.id for task in tasks]


def test_tasks_of_a_kind_that_is_gone_are_dead_letters_and_come_back_after_the_fix(serve: Serve, cli: Any) -> None:
    ids = stored(serve, 1200, group="album", key=None)
    served = serve(VERSION_2, *AT_ONCE)
    with served.client() as client:
        ends = client.wait_many(ids, timeout=60)
        assert {(end.status, end.reason) for end in ends} == {(ringq.Status.DEAD_LETTER, ringq.Reason.UNKNOWN_KIND)}
        record = client.query.task(ids[0])
        assert record.error == {
            "type": "UnknownKind", "message": "no worker has a handler of kind 'photos::shrink'",
        }  # fmt: skip
        assert (record.attempts, record.started_at, record.group) == ((), None, "album")
        assert client.submit("photos::note", {"number": 3}).result(timeout=20) == 3
        assert client.health()["without_handler"] == 0
    assert "no handler here for photos::shrink: tasks of that kind are dead letters after 0 s" in served.stderr
    assert served.stop() == 0
    served = serve(RENAMED, *AT_ONCE)
    answer = cli("dead", "retry", "--kind", "photos::shrink", "--json")
    assert json.loads(answer.stdout) == {"retried": 1200}
    with served.client() as client:
        assert {end.status for end in client.wait_many(ids, timeout=60)} == {ringq.Status.COMPLETED}
        assert client.query.task(ids[7]).result == "7"
        assert [(row.kind, row.status, row.count) for row in client.query.statistics("photos::shrink")] == [
            ("photos::shrink", ringq.Status.COMPLETED, 1200)
        ]


def test_retried_before_the_fix_they_are_dead_letters_once_more(serve: Serve) -> None:
    ids = stored(serve, 3)
    served = serve(VERSION_2, *AT_ONCE)
    with served.client() as client:
        for _ in range(3):
            ends = client.wait_many(ids, timeout=20)
            assert {end.reason for end in ends} == {ringq.Reason.UNKNOWN_KIND}
            assert client.retry_dead(kind="photos::shrink") == 3


def test_a_minute_passes_before_anything_is_given_up(serve: Serve) -> None:
    ids = stored(serve, 3)
    served = serve(VERSION_2)
    with served.client() as client:
        wait_for(lambda: client.health()["without_handler"] == 3)
        assert client.submit("photos::note", {"number": 3}).result(timeout=20) == 3
        assert "no handler here for photos::shrink: tasks of that kind are dead letters after 60 s" in served.stderr
        assert [client.query.task(one).status for one in ids] == [ringq.Status.PENDING] * 3
        (served.folder / "handlers.py").write_text(RENAMED)
        served.signal(signal.SIGHUP)
        assert {end.status for end in client.wait_many(ids, timeout=20)} == {ringq.Status.COMPLETED}


def test_nobody_is_given_up_before_his_time_nor_in_a_paused_queue(serve: Serve) -> None:
    served = serve(VERSION_1)
    assert served.stop() == 0
    with served.client() as client:
        client.pause_queue("bulk")
        later = client.submit("photos::shrink", {"size": 0}, run_after=3600)
        held = client.submit("photos::shrink", {"size": 1}, queue="bulk")
        gone = client.submit("photos::shrink", {"size": 2})
        served = serve(VERSION_2, *AT_ONCE)
        assert gone.wait(timeout=20).reason is ringq.Reason.UNKNOWN_KIND
        assert client.query.task(later.id).status is ringq.Status.PENDING
        assert client.query.task(held.id).status is ringq.Status.PAUSED
        client.resume_queue("bulk")
        assert held.wait(timeout=20).reason is ringq.Reason.UNKNOWN_KIND


def test_a_reload_that_fails_gives_up_nothing(serve: Serve, tmp_path: Path) -> None:
    ids = stored(serve, 3)
    served = serve(VERSION_2, "--unknown-kind-wait", "2s")
    with served.client() as client:
        wait_for(lambda: client.health()["without_handler"] == 3)
        wait_for(lambda: [one["ready"] for one in client.health()["workers"]] == [True, True])  # with the older code
        (tmp_path / "handlers.py").write_text("raise OSError('no such host')\n" + VERSION_1)
        served.signal(signal.SIGHUP)
        wait_for(lambda: client.health()["reload_error"])
        since = client.health()["uptime_s"]
        wait_for(lambda: client.health()["uptime_s"] > since + 3)
        assert [client.query.task(one).status for one in ids] == [ringq.Status.PENDING] * 3
        (tmp_path / "handlers.py").write_text(VERSION_2 + "\n")
        served.signal(signal.SIGHUP)
        assert {end.reason for end in client.wait_many(ids, timeout=20)} == {ringq.Reason.UNKNOWN_KIND}


def test_a_worker_that_dies_and_cannot_come_back_gives_up_nothing(serve: Serve, tmp_path: Path) -> None:
    """The newest code cannot be imported: nobody knows whether it has the kind."""
    ids = stored(serve, 3)
    served = serve(VERSION_2, "--unknown-kind-wait", "2s")
    with served.client() as client:
        wait_for(lambda: client.health()["without_handler"] == 3)
        wait_for(lambda: [one["ready"] for one in client.health()["workers"]] == [True, True])  # with the older code
        (tmp_path / "handlers.py").write_text("raise OSError('no such host')\n" + VERSION_1)
        os.kill(client.health()["workers"][0]["pid"], signal.SIGKILL)
        wait_for(lambda: "no such host" in served.stderr)
        wait_for(lambda: client.health()["uptime_s"] > 5)
        assert client.submit("photos::note", {"number": 3}).result(timeout=20) == 3
        assert [client.query.task(one).status for one in ids] == [ringq.Status.PENDING] * 3


def test_who_waits_is_told_and_the_key_is_free(serve: Serve) -> None:
    served = serve(VERSION_1)
    assert served.stop() == 0
    with served.client() as client:
        first = client.submit("photos::shrink", {"size": 1}, key="one")
        served = serve(VERSION_2, *AT_ONCE)
        assert first.wait(timeout=20).status is ringq.Status.DEAD_LETTER
        assert served.stop() == 0
        served = serve(RENAMED, *AT_ONCE)
        again = client.submit("photos::shrink", {"size": 1}, key="one")
        assert (again.outcome, again.id == first.id) == (ringq.Outcome.INSERTED, False)

"""Events of a real server: an iterator, a callback, the command, and the hooks of the app in their own process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Served, wait_for

import ringq

HANDLERS = """
import ringq

app = ringq.App("a")

@app.task
def fine(n: int = 0) -> int:
    return n

@app.task
def wrong() -> None:
    raise ValueError("no")
"""
FAMILY = """
import ringq

app = ringq.App("a")

@app.task
def child() -> int:
    return 1

@app.task
def parent(ctx: ringq.Context) -> str:
    ctx.spawn_many([child.submission(), child.submission()])
    return "memo"

@parent.finalize
def done(memo: str, results: list[int]) -> int:
    return sum(results)
"""
HOOKS = (
    HANDLERS
    + """
@app.on("completed")
def broken(event: ringq.Event) -> None:
    raise KeyError("oops")

@app.on("completed", "failed", kind=fine)
def seen(event: ringq.Event) -> None:
    print("seen", event.word, event.task)

@app.on("failed")
def again(event: ringq.Event) -> None:
    fine.submit(n=7)
"""
)


def test_an_iterator_and_a_callback_get_what_fits(serve: Callable[..., Served]) -> None:
    served = serve(HANDLERS)
    heard: list[ringq.Event] = []
    with served.client() as client, client.events(kind="a::fine", timeout=20) as stream:
        thread = client.on_event(heard.append, "failed")
        client.submit("a::wrong")
        task = client.submit("a::fine", {"n": 1}, group="g", tags={"team": "x"})
        found = [next(stream) for _ in range(3)]
        assert [(event.word, event.task) for event in found] == [
            ("submitted", task.id), ("dispatched", task.id), ("completed", task.id),
        ]  # fmt: skip
        assert {(event.group, event.tags["team"]) for event in found} == {("g", "x")}
        wait_for(lambda: heard)
        assert (heard[0].kind, heard[0].error) == ("a::wrong", "ValueError: no")
        assert client.health()["readers"] == 2
        thread.stop()
        assert (thread.is_running, thread.error) == (False, None)
        stream.close()
        assert list(stream) == []
        wait_for(lambda: client.health()["readers"] == 0)


def test_a_family_is_told_of_from_spawn_to_finalize(serve: Callable[..., Served]) -> None:
    served = serve(FAMILY)
    with served.client() as client, client.events(timeout=20) as stream:
        parent = client.submit("a::parent")
        after = client.submit("a::child", depends_on=parent)
        found: list[ringq.Event] = []
        while ("completed", after.id) not in {(event.word, event.task) for event in found}:
            found.append(next(stream))
    own = [event for event in found if event.task == parent.id]
    assert [event.word for event in own] == [
        *("submitted", "dispatched", "waiting", "finalizing", "dispatched", "completed"),
    ]  # fmt: skip
    assert own[2].children == 2
    children = [event for event in found if event.word == "spawned"]
    assert [event.parent for event in children] == [parent.id] * 2
    assert not {event.task for event in children} & {parent.id, after.id, None}
    assert [event.task for event in found if event.word == "unblocked"] == [after.id]


def test_a_stream_that_is_closed_by_another_thread_ends(serve: Callable[..., Served]) -> None:
    with serve(HANDLERS).client() as client:
        stream = client.events()
        threading.Timer(0.1, stream.close).start()
        assert list(stream) == []


def test_wrong_questions_are_refused_at_once(serve: Callable[..., Served], tmp_path: Path) -> None:
    with serve(HANDLERS).client() as client:
        with pytest.raises(ringq.InvalidOption, match="there is no event 'complete'; did you mean"):
            client.events("complete")
        with pytest.raises(ringq.InvalidOption, match="task: expected a handle or the id of a task, got 0"):
            client.events(task=0)
        with pytest.raises(ringq.InvalidOption, match="on_event: there is no option 'kinds'; did you mean"):
            client.on_event(print, kinds="a::fine")
        with client.events(timeout=0.05) as stream, pytest.raises(ringq.WaitTimeout, match=r"within 0\.05 s"):
            next(stream)
    with ringq.connect(tmp_path / "nobody.db") as alone, pytest.raises(ringq.ServerUnavailable):
        alone.events()


def test_a_stream_goes_on_after_a_restart_and_says_so(serve: Callable[..., Served]) -> None:
    served = serve(HANDLERS)
    with served.client() as client, client.events("completed", timeout=20) as stream:
        client.submit("a::fine")
        assert next(stream).word == "completed"
        served.kill()
        serve()
        note = next(stream)
        assert (note.word, note.count) == ("lost", None)
        task = client.submit("a::fine")
        assert next(stream).task == task.id


def test_the_command_follows_and_prints_the_timeline(serve: Callable[..., Served], tmp_path: Path) -> None:
    served = serve(HANDLERS)
    ringq_events = [sys.executable, "-m", "ringq", "events", "--db", str(served.database)]
    command = [*ringq_events, "--follow", "--json", "--word", "failed", "--domain", "a"]
    with served.client() as client, subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        wait_for(lambda: client.health()["readers"])
        client.submit("a::wrong")
        assert process.stdout is not None
        line: dict[str, Any] = json.loads(process.stdout.readline())
        assert (line["word"], line["task"], line["error"]) == ("failed", 1, "ValueError: no")
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    assert served.stop() == 0  # which writes what is gathered
    printed = subprocess.run([*ringq_events, "--json"], capture_output=True, check=True, text=True).stdout
    (kept,) = map(json.loads, printed.splitlines())
    assert {**line, "id": 1} == kept
    shown = subprocess.run(ringq_events, capture_output=True, check=True, text=True).stdout
    assert "failed\ttask 1\ta::wrong\treason handler_error, error ValueError: no" in shown
    wrong = subprocess.run([*ringq_events, "--word", "fail"], capture_output=True, check=False, text=True)
    assert (wrong.returncode, "there is no event 'fail'" in wrong.stderr) == (2, True)


def test_hooks_run_in_a_process_beside_the_server_also_after_it_was_killed(serve: Callable[..., Served]) -> None:
    served = serve(HOOKS)
    with served.client() as client:
        wait_for(lambda: client.health()["readers"])
        client.submit("a::wrong")
        wait_for(lambda: "seen completed 2" in served.stderr)  # which a hook has submitted
        assert "hook broken failed on completed of task 2: KeyError: 'oops'" in served.stderr
        (pid,) = beside(served)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: beside(served) - {pid} and client.health()["readers"])
        assert "the process for hooks has ended with code -9: it is started again" in served.stderr
        task = client.submit("a::fine")
        wait_for(lambda: f"seen completed {task.id}" in served.stderr)
        (pid,) = beside(served)
    served.kill()
    wait_for(lambda: not alive(pid))


def test_a_reload_gives_hooks_the_code_of_then(serve: Callable[..., Served]) -> None:
    served = serve(HOOKS)
    with served.client() as client:
        (before,) = wait_for(lambda: client.health()["readers"] and beside(served))
        (served.folder / "handlers.py").write_text(HOOKS.replace('print("seen"', 'print("seen anew"'))
        served.signal(signal.SIGHUP)
        wait_for(lambda: beside(served) - {before} and client.health()["readers"])
        task = client.submit("a::fine")
        wait_for(lambda: f"seen anew completed {task.id}" in served.stderr)


def test_hooks_see_the_last_events_of_a_server_that_stops(serve: Callable[..., Served]) -> None:
    served = serve(HOOKS)
    with served.client() as client:
        wait_for(lambda: client.health()["readers"])
        tasks = client.submit_many([ringq.Submission("a::fine") for _ in range(20)])
        client.wait_many(tasks)
        served.signal(signal.SIGTERM)
        assert served.wait() == 0
        assert all(f"seen completed {task.id}\n" in served.stderr for task in tasks)


def test_an_app_without_hooks_has_no_process_for_them(serve: Callable[..., Served]) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        assert client.health()["readers"] == 0
    assert beside(served) == set()


def beside(served: Served) -> set[int]:
    """The processes of the server that run hooks."""
    children = Path(f"/proc/{served.pid}/task/{served.pid}/children").read_text().split()
    return {int(pid) for pid in children if alive(int(pid))}


def alive(pid: int) -> bool:
    """Whether it is a process for hooks that runs."""
    try:
        return b"ringq.hooks" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return False

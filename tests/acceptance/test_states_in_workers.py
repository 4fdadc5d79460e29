"""States and `async def` handlers in real workers: made before the first attempt, torn down when a worker leaves."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for

import ringq

Serve = Callable[..., Any]

HANDLERS = """
import asyncio, os, signal, time
from collections.abc import Iterator
import ringq

app = ringq.App("photos", queue="bulk", workers=1)

def note(text: str) -> None:
    with open("notes", "a") as file:
        file.write(f"{text} {os.getpid()}\\n")

class Model:
    def __init__(self) -> None:
        self.calls = 0

class Pool: ...

@app.state
def model() -> Iterator[Model]:
    note("made model")
    yield Model()
    note("closed model")

@app.state
def pool() -> Iterator[Pool]:
    note("made pool")
    yield Pool()
    note("closed pool")
    raise ValueError("broken pipe")

@app.task
def classify(ctx: ringq.Context, number: int) -> list[int]:
    model = ctx.state(Model)
    model.calls += 1
    return [os.getpid(), model.calls]

@app.task
async def classify_async(ctx: ringq.Context) -> int:
    await asyncio.sleep(0)
    ctx.state(Model).calls += 1
    return ctx.state(Model).calls

@app.task
def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)

@app.task
def unknown(ctx: ringq.Context) -> None:
    ctx.state(int)

@app.task
def breaks_its_process() -> int:
    os.closerange(3, 1000)
    return os.getpid()

@app.task(run_timeout=0.3)
async def waits(path: str) -> None:
    try:
        await asyncio.sleep(60)
    finally:
        with open(path, "w") as file:
            file.write("clean")

@app.task(run_timeout=0.3)
async def spins() -> None:
    while True:
        pass

@app.task(run_timeout=0.3)
async def nests() -> None:
    async def spin() -> None:
        while True:
            pass
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(60))
        group.create_task(spin())

@app.task
async def fails() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(60))
        raise ValueError("no such file")
"""


def notes(folder: Path) -> list[str]:
    path = folder / "notes"
    return path.read_text().splitlines() if path.exists() else []


def of(folder: Path, pid: int) -> list[str]:
    """What one process noted, without its id."""
    return [line.rpartition(" ")[0] for line in notes(folder) if line.endswith(f" {pid}")]


def test_each_worker_makes_its_states_once_before_it_is_ready_and_closes_them_in_reverse_order(
    serve: Serve, tmp_path: Path
) -> None:
    served = serve(HANDLERS, "--workers", "2")
    wait_for(lambda: len(notes(tmp_path)) == 4)
    with served.client() as client:
        handles = [client.submit("photos::classify", {"number": n}) for n in range(40)]
        results = [handle.result(timeout=20) for handle in handles]
    pids = {pid for pid, _ in results}
    for pid in pids:
        assert sorted(calls for owner, calls in results if owner == pid) == list(
            range(1, 1 + sum(owner == pid for owner, _ in results))
        )
    assert served.stop() == 0
    for pid in pids:
        assert of(tmp_path, pid) == ["made model", "made pool", "closed pool", "closed model"]
    assert "state pool: its teardown raised ValueError: broken pipe" in served.stderr


def test_async_and_plain_handlers_of_a_worker_share_its_states(serve: Serve) -> None:
    served = serve(HANDLERS, "--workers", "1")
    with served.client() as client:
        assert client.submit("photos::classify", {"number": 1}).result(timeout=20)[1] == 1
        assert client.submit("photos::classify_async").result(timeout=20) == 2
        with pytest.raises(ringq.TaskFailed, match=r"no state of type int; declare it with @app.state .there is Model"):
            client.submit("photos::unknown").result(timeout=20)


def test_a_worker_that_takes_the_place_of_another_is_warm(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS, "--workers", "1")
    with served.client() as client:
        first, _ = client.submit("photos::classify", {"number": 1}).result(timeout=20)
        left = client.submit("photos::breaks_its_process").result(timeout=20)
        second, calls = client.submit("photos::classify", {"number": 1}).result(timeout=20)
    assert (left == first != second, calls) == (True, 1)
    assert of(tmp_path, second) == ["made model", "made pool"]
    wait_for(lambda: "closed model" in of(tmp_path, first))


def test_a_worker_that_is_killed_closes_nothing(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS, "--workers", "1")
    with served.client() as client:
        pid, _ = client.submit("photos::classify", {"number": 1}).result(timeout=20)
        os.kill(pid, signal.SIGKILL)
        assert client.submit("photos::classify", {"number": 1}).result(timeout=20)[0] != pid
    assert of(tmp_path, pid) == ["made model", "made pool"]


BROKEN = """
import ringq
from collections.abc import Iterator

app = ringq.App("photos")

class First: ...
class Model: ...

@app.state
def first() -> Iterator[First]:
    yield First()

@app.state
def model() -> Model:
    raise {error}

@app.task
def nothing() -> None: ...
"""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ('ValueError("no GPU")', "handlers:app: state model: ValueError: no GPU"),
        ('SystemExit("no GPU")', "handlers:app: state model: SystemExit: no GPU"),
    ],
)
def test_a_state_that_cannot_be_made_stops_the_start_with_its_place(serve: Serve, error: str, line: str) -> None:
    served = serve(BROKEN.format(error=error), ready=False)
    assert served.wait() == 2
    assert line in served.stderr
    assert f'handlers.py", line {BROKEN.splitlines().index("    raise {error}") + 1}, in model' in served.stderr
    assert "ringq/kinds" not in served.stderr


SLOW_END = """
import time
from collections.abc import Iterator
import ringq

app = ringq.App("photos")

class Model: ...

@app.state
def model() -> Iterator[Model]:
    yield Model()
    time.sleep(600)

@app.task
def nothing() -> None: ...
"""


def test_a_teardown_without_end_holds_up_the_stop_for_seconds_only(serve: Serve) -> None:
    served = serve(SLOW_END, "--workers", "1")
    started = time.monotonic()
    assert served.stop() == 0
    assert 4 < time.monotonic() - started < 12


# -- async ----------------------------------------------------------------------------------------


def test_a_limit_ends_an_async_handler_wherever_it_is_and_spares_the_worker(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS, "--workers", "1")
    with served.client() as client:
        for kind, payload in (("waits", {"path": str(tmp_path / "note")}), ("spins", {}), ("nests", {})):
            started = time.monotonic()
            with pytest.raises(ringq.TaskTimedOut) as caught:
                client.submit(f"photos::{kind}", payload).result(timeout=30)
            assert caught.value.error["type"] == "ringq.errors.RunTimeout"
            assert time.monotonic() - started < 4
        assert client.submit("photos::classify_async").result(timeout=20) == 1
    assert (tmp_path / "note").read_text() == "clean"
    assert served.health()["worker_deaths"] == 0


def test_an_exception_group_is_told_with_the_exceptions_in_it(serve: Serve) -> None:
    served = serve(HANDLERS, "--workers", "1")
    with served.client() as client, pytest.raises(ringq.TaskFailed) as caught:
        client.submit("photos::fails").result(timeout=20)
    assert caught.value.error["type"] == "ExceptionGroup"
    assert "ValueError: no such file" in caught.value.error["traceback"]
    assert "asyncio/runners.py" not in caught.value.error["traceback"]


def test_a_kind_in_a_question_may_be_the_task_itself(serve: Serve) -> None:
    app = ringq.App("photos")

    @app.task
    def classify(ctx: ringq.Context, number: int) -> list[int]: ...

    served = serve(HANDLERS, "--workers", "1")
    with served.client() as client:
        assert client.submit_many([ringq.Submission(classify, {"number": 1})])[0].result(timeout=20)[1] == 1
        client.submit("photos::classify_async").result(timeout=20)
        for kind in (classify, "photos::classify"):
            assert [task.kind for task in client.query.tasks(kind=kind)] == ["photos::classify"]
            assert [attempt.kind for attempt in client.query.history(kind=kind)] == ["photos::classify"]
            assert [one.kind for one in client.query.statistics(kind)] == ["photos::classify"]
        for ask in (client.query.tasks, client.query.history, client.query.statistics):
            with pytest.raises(ringq.InvalidOption, match=r"kind: expected domain::name, .* or the task itself, got 5"):
                ask(kind=5)
        assert client.query.tasks(kind=classify)[0].queue == "bulk"

"""Running tasks are stopped for a pause or for more urgent work, and begin anew later, at no cost.

Who asks is a stand-in: a server that reads from a file whom to stop. All else is real.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import Served, remove_segments, wait_for

import ringq
from ringq import PauseReason, Reason, Status

GRACE_S = 1.5

SERVER = """
import json, os, sys
from pathlib import Path
from ringq import serving, supervisor
from ringq.config import Config
from ringq.model import Reason
from ringq.preempted import Preempted

class Told(supervisor.Supervisor):
    def _turn(self):
        self._traffic.make_room = lambda workers: None  # whom to stop for more urgent work is decided below
        super()._turn()
        note = Path("word.json")
        if note.exists() and not self._writer.is_under_way:
            verb, ids, reason = json.loads(note.read_text())
            if verb == "ask":
                returned = self._writer.stops.ask(ids, Reason(reason))
                self._dispatcher.ended(returned)
                self._dispatcher.came_back(returned)
                self._feed.give_back(self._writer.give_back(returned))
            elif verb == "withdraw":
                self._writer.stops.withdraw(ids, Reason(reason))
            else:
                preempted = Preempted(self._store, self._writer, 0)
                preempted.resume(preempted.may_resume(None))
            note.unlink()

serving.Supervisor = Told
raise SystemExit(serving.serve(Config(
    database=Path(sys.argv[1]), app="handlers:app", workers=int(sys.argv[2]), preempt_grace_s=GRACE_S, kill_grace_s=0.5,
)))
""".replace("GRACE_S", str(GRACE_S), 1)

HANDLERS = """
import itertools, os, signal, time
import ringq

app = ringq.App("stop")

def begun(path):
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\\n")

def is_let(path):
    return os.path.exists(path + ".go")

def stay(path):
    while not is_let(path):
        time.sleep(0.01)

@app.task
def loop(path: str) -> str:
    begun(path)
    stay(path)
    return "done"

@app.task
async def waits(path: str) -> str:
    import asyncio
    begun(path)
    while not is_let(path):
        await asyncio.sleep(0.01)
    return "done"

@app.task
def polls(ctx: ringq.Context, path: str) -> str:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    begun(path)
    try:
        while not is_let(path):
            ctx.check_cancelled()
            time.sleep(0.005)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
    return "done"

@app.task
def fails_to_tidy_up(path: str) -> str:
    begun(path)
    try:
        stay(path)
    except ringq.AttemptStopped:
        raise ValueError("while tidying up") from None
    return "done"

@app.task
def tidies(path: str) -> str:
    begun(path)
    try:
        stay(path)
    except ringq.AttemptStopped:
        open(path + ".tidying", "w").close()
        stay(path)
        raise
    return "done"

@app.task
def says_why(path: str) -> str:
    begun(path)
    try:
        stay(path)
    except ringq.AttemptStopped as error:
        return f"{type(error).__name__}: {error}"

@app.task
def swallows(path: str) -> str:
    begun(path)
    try:
        stay(path)
    except ringq.AttemptStopped:
        open(path + ".swallowed", "w").close()
    stay(path)

@app.task
def deaf(path: str) -> str:
    begun(path)
    if is_let(path):
        return "done"
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
    0 in itertools.repeat(1)

@app.task
def reads(path: str) -> str:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    begun(path)
    with open(path + ".pipe") as pipe:
        word = pipe.read()
    signal.sigtimedwait([signal.SIGUSR2], 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
    return word

@app.task
def call(path: str, number: int) -> int:
    begun(f"{path}.{number}")
    while number == 2 and not is_let(path):
        time.sleep(0.01)
    return number * 10

@app.task
def quick() -> int:
    return 1
"""


class Place:
    """A server that does as told, and the files of its handlers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "handlers.py").write_text(HANDLERS)
        self.server: Any = None

    def start(self, workers: int = 1) -> Any:
        self.server = Served.__new__(Served)
        served: Any = self.server
        served.folder, served.database = self.folder, self.folder / "tasks.db"
        served.stderr_path = self.folder / "serve.stderr"
        with served.stderr_path.open("ab") as stderr:
            served.process = subprocess.Popen(
                [sys.executable, "-c", SERVER, str(served.database), str(workers)],
                cwd=self.folder, stdin=subprocess.DEVNULL, stderr=stderr,
            )  # fmt: skip
        return served.wait_ready().client()

    def begin(self, client: Any, kind: str, **options: Any) -> Any:
        task = client.submit(f"stop::{kind}", {"path": str(self.folder / kind)}, **options)
        wait_for(lambda: self.begins(kind) == 1)
        return task

    def begins(self, kind: str) -> int:
        path = self.folder / kind
        return len(path.read_text().splitlines()) if path.exists() else 0

    def let(self, kind: str) -> None:
        (self.folder / f"{kind}.go").touch()

    def tell(self, client: Any, verb: str, *tasks: Any, reason: Reason = Reason.PAUSED) -> None:
        word = self.folder / "word.json"
        word.with_suffix(".new").write_text(json.dumps([verb, [task.id for task in tasks], str(reason)]))
        word.with_suffix(".new").rename(word)
        client.resume_group("nobody")  # a turn of the loop
        wait_for(lambda: not word.exists())


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    if place.server is not None and place.server.process.poll() is None:
        place.server.kill()
    remove_segments(tmp_path / "tasks.db")


def attempts(client: Any, task: Any) -> list[Reason]:
    return [attempt.reason for attempt in client.query.task(task.id).attempts]


def status(client: Any, task: Any) -> Status:
    found: Status = client.query.task(task.id).status
    return found


@pytest.mark.parametrize("kind", ["loop", "waits", "polls", "fails_to_tidy_up"])
def test_a_cooperative_handler_is_stopped_for_a_pause_and_starts_again_at_no_cost(place: Place, kind: str) -> None:
    with place.start() as client:
        task = place.begin(client, kind, retry=0, tags={"a": "b"}, key="k")
        client.pause_queue("default")
        wait_for(lambda: attempts(client, task))
        record = client.query.task(task.id)
        assert (attempts(client, task), record.attempt_count) == ([Reason.PAUSED], 0)
        assert (record.pause_reasons, record.tags, record.key) == (PauseReason.QUEUE, {"a": "b"}, "k")
        assert place.begins(kind) == 1
        place.let(kind)
        client.resume_queue("default")
        assert task.result(timeout=20) == "done"
        assert attempts(client, task) == [Reason.PAUSED, Reason.NONE]
        record = client.query.task(task.id)
        assert (record.attempt_count, record.attempts[1].attempt) == (1, 1)
        assert client.health()["worker_deaths"] == 0


def test_the_exception_says_why_and_a_handler_that_returns_has_completed(place: Place) -> None:
    with place.start() as client:
        task = place.begin(client, "says_why")
        place.tell(client, "ask", task)
        assert task.result(timeout=20) == "AttemptPaused: the task was paused; it begins anew later"


def test_c_code_that_does_not_see_a_pause_is_left_alone_and_finishes(place: Place) -> None:
    with place.start() as client:
        os.mkfifo(place.folder / "reads.pipe")
        task = place.begin(client, "reads")
        client.pause_queue("default")
        with pytest.raises(ringq.WaitTimeout):
            task.result(timeout=GRACE_S + 1.5)  # a preempted one would be dead by then
        (place.folder / "reads.pipe").write_text("read")
        assert task.result(timeout=20) == "read"
        assert attempts(client, task) == [Reason.NONE]
        assert client.health()["worker_deaths"] == 0


def test_a_preempted_handler_that_does_not_listen_is_killed_thrice_and_charged_nothing(place: Place) -> None:
    with place.start() as client:
        task = place.begin(client, "deaf")
        for times in (1, 2, 3):
            place.tell(client, "ask", task, reason=Reason.PREEMPTED)
            wait_for(lambda expected=times: len(attempts(client, task)) == expected)
            record = client.query.task(task.id)
            assert (record.pause_reasons, record.attempt_count) == (PauseReason.PREEMPTION, 0)
            assert attempts(client, task) == [Reason.PREEMPTED] * times
            assert client.submit("stop::quick").result(timeout=20) == 1  # the place is free
            if times == 3:
                place.let("deaf")
            place.tell(client, "resume")
            wait_for(lambda expected=times + 1: place.begins("deaf") == expected)
        assert task.result(timeout=20) == "done"
        assert client.query.task(task.id).attempt_count == 1


def test_a_preempted_handler_that_listens_has_its_worker_live(place: Place) -> None:
    with place.start() as client:
        task = place.begin(client, "loop")
        place.tell(client, "ask", task, reason=Reason.PREEMPTED)
        wait_for(lambda: status(client, task) is Status.PAUSED)
        assert client.health()["worker_deaths"] == 0
        place.let("loop")
        place.tell(client, "resume")
        assert task.result(timeout=20) == "done"
        assert attempts(client, task) == [Reason.PREEMPTED, Reason.NONE]


def test_who_stops_when_there_is_no_reason_to_any_more_begins_anew_at_once(place: Place) -> None:
    with place.start() as client:
        task = place.begin(client, "tidies")
        place.tell(client, "ask", task, reason=Reason.PREEMPTED)
        wait_for((place.folder / "tidies.tidying").exists)
        place.tell(client, "withdraw", task, reason=Reason.PREEMPTED)
        place.let("tidies")
        assert task.result(timeout=20) == "done"
        assert attempts(client, task) == [Reason.PREEMPTED, Reason.NONE]
        assert client.health()["worker_deaths"] == 0


@pytest.mark.parametrize("reason", [Reason.PAUSED, Reason.PREEMPTED])
def test_a_cancel_wins_also_over_a_stop_that_the_handler_has_swallowed(place: Place, reason: Reason) -> None:
    with place.start() as client:
        task = place.begin(client, "swallows")
        place.tell(client, "ask", task, reason=reason)
        wait_for((place.folder / "swallows.swallowed").exists)
        began = time.monotonic()
        task.cancel()
        with pytest.raises(ringq.TaskCancelled):
            task.result(timeout=20)
        if reason is Reason.PAUSED:
            assert time.monotonic() - began < 4  # by the soft exception, before any grace time is over
            assert client.health()["worker_deaths"] == 0
        assert client.submit("stop::quick").result(timeout=20) == 1


def test_a_run_time_limit_goes_on_to_count(place: Place) -> None:
    with place.start() as client:
        task = place.begin(client, "swallows", run_timeout=1)
        place.tell(client, "ask", task)
        with pytest.raises(ringq.TaskTimedOut):
            task.result(timeout=20)
        assert client.health()["worker_deaths"] == 0


@pytest.mark.parametrize("reason", [Reason.PAUSED, Reason.PREEMPTED])
def test_calls_of_a_map_that_are_done_stay_done(place: Place, reason: Reason) -> None:
    with place.start() as client:
        path = str(place.folder / "call")
        results = client.starmap("stop::call", [(path, number) for number in range(5)], chunk=5)
        with ThreadPoolExecutor(1) as pool:
            numbers = pool.submit(list, results)
            wait_for((place.folder / "call.2").exists)
            (task,) = client.query.tasks()
            place.tell(client, "ask", task, reason=reason)
            wait_for(lambda: status(client, task) is Status.SUPERSEDED)
            assert client.query.task(task.id).error["cause"]["type"].lower() == f"attempt{reason}"
            place.let("call")
            assert numbers.result(20) == [0, 10, 20, 30, 40]
        begun = [len((place.folder / f"call.{number}").read_text().splitlines()) for number in range(5)]
        assert begun == [1, 1, 2, 1, 1]
        assert [one.status for one in client.query.tasks()] == [Status.COMPLETED, Status.SUPERSEDED]


def test_what_was_published_and_nobody_had_is_taken_back(place: Place) -> None:
    with place.start() as client:
        first = place.begin(client, "loop")
        second = client.submit("stop::quick")
        client.pause_queue("default")
        wait_for(lambda: attempts(client, first))
        assert attempts(client, second) == []
        place.let("loop")
        client.resume_queue("default")
        assert (first.result(timeout=20), second.result(timeout=20)) == ("done", 1)


def test_a_kill_of_the_server_between_the_asking_and_the_receipt(place: Place) -> None:
    with place.start() as client:
        task = place.begin(client, "deaf")
        place.tell(client, "ask", task, reason=Reason.PREEMPTED)
        place.server.kill()
    place.let("deaf")
    with place.start() as client:
        assert client.handle(task.id).result(timeout=20) == "done"
        assert attempts(client, task) == [Reason.LOST, Reason.NONE]


def test_a_preempted_task_waits_on_after_a_kill_of_the_server(place: Place) -> None:
    with place.start() as client:
        task = place.begin(client, "loop")
        place.tell(client, "ask", task, reason=Reason.PREEMPTED)
        wait_for(lambda: status(client, task) is Status.PAUSED)
        place.server.kill()
    with place.start() as client:
        assert client.submit("stop::quick").result(timeout=20) == 1
        assert (status(client, task), place.begins("loop")) == (Status.PAUSED, 1)
        place.let("loop")
        place.tell(client, "resume")
        wait_for(lambda: status(client, task) is Status.COMPLETED)

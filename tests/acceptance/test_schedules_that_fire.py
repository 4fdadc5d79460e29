"""Schedules of a real server: they fire in time, go on after any death, and are never doubled by one."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for
from test_parent_deaths import lines

import ringq
from ringq.query import Query

Serve = Callable[..., Any]

HANDLERS = """
import os, time
import ringq

app = ringq.App("life")
NOTES = {notes!r}

def note(name, text):
    descriptor = os.open(os.path.join(NOTES, name), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, (text + "\\n").encode())
    os.close(descriptor)

{decorators}
@app.task
def beat(ctx: ringq.Context, name: str) -> None:
    note(name, str(ctx.task_id))

@app.task
def nap(name: str, seconds: float) -> None:
    note(name, str(time.monotonic()))
    time.sleep(seconds)
    note(name, str(time.monotonic()))

@app.task
def wrong() -> None:
    raise ValueError("no")
"""


@pytest.fixture
def source(tmp_path: Path) -> Callable[..., str]:
    """The module of handlers, with these lines above `beat`."""
    return lambda *decorators: HANDLERS.format(notes=str(tmp_path), decorators="\n".join(decorators))


def scheduled(query: Query, name: str) -> ringq.ScheduleRecord:
    return next(record for record in query.schedules() if record.name == name)


def test_an_interval_and_a_cron_line_fire_in_time_and_a_deleted_schedule_no_more(
    serve: Serve, source: Callable[..., str], tmp_path: Path
) -> None:
    served = serve(source())
    query = Query(served.database)
    with served.client() as client:
        began = time.monotonic()
        client.schedule("quick", "life::beat", {"name": "quick"}, every=0.2)
        client.schedule("cron", "life::beat", {"name": "cron"}, cron="* * * * * *")
        wait_for(lambda: len(lines(tmp_path / "quick")) >= 11 and len(lines(tmp_path / "cron")) >= 2)
        assert time.monotonic() - began >= 2.0, "ten intervals take two seconds"
        first = scheduled(query, "quick")
        assert (first.state, first.error, first.every_s) == ("active", None, 0.2)
        assert [after - before for before, after in pairwise(first.next_fires)] == [
            (first.next_fires[1] - first.next_fires[0])
        ] * 2
        client.unschedule("quick")
        client.unschedule("cron")
        made = query.counts()
        assert query.schedules() == []
    assert served.stop() == 0
    counts = query.counts()
    assert sum(counts.values()) == sum(made.values())
    assert counts == {**counts, ringq.Status.COMPLETED: sum(counts.values())}


@pytest.mark.parametrize(
    "point", ["writer.after_slice", "writer.before_commit", "writer.after_commit", "writer.after_free"]
)
def test_killed_at_any_step_around_a_fire_nothing_is_lost_and_nothing_doubled(
    serve: Serve, source: Callable[..., str], tmp_path: Path, point: str
) -> None:
    """Each life of the parent ends within some commits, and those are fires or their receipts.

    On a busy machine each start takes two seconds, and what was missed meanwhile fires as one slice: there must be
    fires left for the last life.
    """
    served = serve(source())
    with served.client() as client:
        client.schedule(
            "s", "life::beat", {"name": "beats"}, every=0.2, max_occurrences=60, catch_up="all", skip_if_running=False
        )
    served.kill()
    for commits in (2, 3, 4, 5):
        dying = serve(ready=False, env={"RINGQ_FAILPOINT": f"{point}=kill:{commits}"})
        wait_for(lambda dying=dying: dying.process.poll() is not None)
    served = serve()
    query = Query(served.database)
    wait_for(lambda: scheduled(query, "s").state == "ended")
    wait_for(lambda: query.counts().get(ringq.Status.COMPLETED, 0) == 60)
    assert served.stop() == 0
    runs = Counter(lines(tmp_path / "beats"))
    assert len(runs) == 60, "each fire made one task"
    assert sum(runs.values()) - 60 <= 8  # two workers, four deaths of a parent
    assert scheduled(query, "s").occurrences == len(query.tasks()) == 60
    with contextlib.closing(sqlite3.connect(served.database)) as db:
        fires = [at for (at,) in db.execute("SELECT occurrence_us FROM scheduled_task ORDER BY task_id")]
    assert {after - before for before, after in pairwise(fires)} == {200_000}, (
        "an occurrence is missing, or twice there"
    )


@pytest.mark.parametrize("point", ["writer.before_commit", "writer.after_commit"])
def test_killed_at_a_cron_fire_each_second_has_one_task(
    serve: Serve, source: Callable[..., str], tmp_path: Path, point: str
) -> None:
    served = serve(source())
    with served.client() as client:
        client.schedule(
            "s", "life::beat", {"name": "beats"}, cron="* * * * * *", max_occurrences=6, catch_up="all",
            skip_if_running=False,
        )  # fmt: skip
    served.kill()
    for commits in (1, 2, 3):
        dying = serve(ready=False, env={"RINGQ_FAILPOINT": f"{point}=kill:{commits}"})
        wait_for(lambda dying=dying: dying.process.poll() is not None)
    served = serve()
    query = Query(served.database)
    wait_for(lambda: query.counts().get(ringq.Status.COMPLETED, 0) == 6)
    assert scheduled(query, "s").state == "ended"
    assert served.stop() == 0
    assert len(query.tasks()) == len(set(lines(tmp_path / "beats"))) == 6
    with contextlib.closing(sqlite3.connect(served.database)) as db:
        fires = [at for (at,) in db.execute("SELECT occurrence_us FROM scheduled_task ORDER BY task_id")]
    assert [at - fires[0] for at in fires] == [second * 1_000_000 for second in range(6)]


@pytest.mark.parametrize("point", ["writer.before_commit", "writer.after_commit", "writer.after_free"])
def test_killed_at_any_step_around_a_successor_from_completion_there_is_one_at_a_time(
    serve: Serve, source: Callable[..., str], tmp_path: Path, point: str
) -> None:
    served = serve(source())
    with served.client() as client:
        client.schedule(
            "s", "life::beat", {"name": "beats"}, every=0.1, from_completion=True, max_occurrences=8, catch_up="one"
        )
    served.kill()
    for commits in (2, 3, 4):
        dying = serve(ready=False, env={"RINGQ_FAILPOINT": f"{point}=kill:{commits}"})
        wait_for(lambda dying=dying: dying.process.poll() is not None)
    served = serve()
    query = Query(served.database)
    wait_for(lambda: query.counts().get(ringq.Status.COMPLETED, 0) == 8)
    assert scheduled(query, "s").state == "ended"
    times = sorted((record.started_at, record.ended_at) for record in query.history())
    assert all((after[0] - before[1]).total_seconds() >= 0.1 for before, after in pairwise(times))


def test_a_schedule_does_not_pile_up_behind_a_slow_task_and_a_pause_holds_while_it_runs(
    serve: Serve, source: Callable[..., str], tmp_path: Path
) -> None:
    served = serve(source())
    query = Query(served.database)
    with served.client() as client:
        client.schedule("slow", "life::nap", {"name": "naps", "seconds": 0.7}, every=0.2)
        wait_for(lambda: len(lines(tmp_path / "naps")) >= 3)
        client.pause_schedule("slow")  # the second one sleeps
        wait_for(lambda: len(lines(tmp_path / "naps")) == 4)
        paused = scheduled(query, "slow")
        assert (paused.state, paused.occurrences, paused.next_fires) == ("paused", 2, ())
        assert paused.skipped >= 3
        client.run_schedule("slow").result(timeout=20)
        assert scheduled(query, "slow").occurrences == 2
        client.resume_schedule("slow")
        wait_for(lambda: scheduled(query, "slow").occurrences == 3)
    marks = list(map(float, lines(tmp_path / "naps")))
    assert marks == sorted(marks)


def test_a_failing_task_ends_the_schedule_that_asked_for_it(serve: Serve, source: Callable[..., str]) -> None:
    served = serve(source())
    query = Query(served.database)
    with served.client() as client:
        client.schedule("hardy", "life::wrong", every=0.1, retry=0)
        client.schedule("frail", "life::wrong", every=0.1, end_on_failure=True)
        wait_for(lambda: scheduled(query, "hardy").occurrences >= 4)
        frail = wait_for(lambda: (one := scheduled(query, "frail")).state == "ended" and one)
    assert frail.occurrences <= 2
    assert "ended because task" in str(frail.error)


def test_what_stands_in_the_code_fires_follows_a_reload_and_keeps_its_pause(
    serve: Serve, source: Callable[..., str], tmp_path: Path
) -> None:
    cron = '@app.cron("0 3 * * *", zone="Europe/Berlin", name="nightly", payload={"name": "nightly"})'
    served = serve(source(cron, '@app.every(0.2, payload={"name": "beats"})'))
    query = Query(served.database)
    wait_for(lambda: len(lines(tmp_path / "beats")) >= 3)
    with served.client() as client:
        client.pause_schedule("nightly")
        with pytest.raises(ringq.InvalidSchedule, match="stands in the code of the App"):
            client.schedule("nightly", "life::beat", {"name": "x"}, every=1)
        (tmp_path / "handlers.py").write_text(source(cron.replace("0 3", "30 4")))
        served.signal(1)
        wait_for(lambda: scheduled(query, "nightly").cron == "30 4 * * *")
        assert scheduled(query, "nightly").state == "paused"
        wait_for(lambda: scheduled(query, "life::beat").state == "undeclared")
        client.resume_schedule("nightly")
    (fire, *_) = scheduled(query, "nightly").next_fires
    assert (fire.minute, fire.hour in (2, 3)) == (30, True)
    assert served.stop() == 0


def test_what_is_scheduled_while_no_server_runs_fires_when_one_starts(
    serve: Serve, source: Callable[..., str], tmp_path: Path
) -> None:
    database = tmp_path / "tasks.db"
    with ringq.connect(database) as client:
        client.schedule("s", "life::beat", {"name": "beats"}, every=3600)
        client.pause_schedule("s")
        client.resume_schedule("s")
        waiting = client.run_schedule("s")
        assert scheduled(client.query, "s").state == "active"
        with pytest.raises(ringq.UnknownSchedule):
            client.unschedule("t")
    served = serve(source())
    with served.client() as client:
        client.wait_many([waiting], timeout=20)
    assert lines(tmp_path / "beats")[0] == str(waiting.id)
    assert served.stop() == 0


@pytest.mark.parametrize(
    ("decorator", "words"),
    [
        ('@app.cron("0 0 30 2 *", payload={"name": "x"})', "never fires: none of its months has that day"),
        ('@app.every(0, payload={"name": "x"})', "every: expected seconds"),
        ("@app.every(60)", "missing"),
        ('@app.every(60, payload={"name": "x"})\n@app.every(30, payload={"name": "x"})', "there is a schedule"),
        ('@app.cron("0 3 * * *", zone="Mars", payload={"name": "x"})', "zone: expected the IANA name"),
    ],
)
def test_a_schedule_in_the_code_that_makes_no_sense_is_told_when_the_code_is_imported(
    serve: Serve, source: Callable[..., str], decorator: str, words: str
) -> None:
    served = serve(source(decorator), ready=False)
    assert served.wait() == 2
    assert words in served.stderr

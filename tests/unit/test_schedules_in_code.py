"""Schedules above tasks, and as they are given to a client: what they come to, and what is told at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import ringq
from ringq.errors import RingqError
from ringq.protocol import ScheduleFields, SpecFields, schedule_of


@pytest.fixture
def app() -> ringq.App:
    return ringq.App("mail")


def send(to: str) -> str:
    return to


def test_a_decorator_gives_the_task_back_and_the_app_reports_its_schedules(app: ringq.App) -> None:
    task = app.task(send)
    assert app.cron("0 3 * * *", zone="Europe/Berlin", payload={"to": "a"}, retry=2, jitter=60)(task) is task
    app.every(timedelta(minutes=5), name="often", payload={"to": "b"}, from_completion=True)(task)
    (report,) = json.loads(json.dumps(app.reports()))
    assert [schedule_of(plain) for plain in report["schedules"]] == [
        ScheduleFields(
            "mail::send", SpecFields("mail::send", retry=task.options(retry=2).spec.retry), '{"to":"a"}', "0 3 * * *",
            zone="Europe/Berlin", jitter_us=60_000_000,
        ),
        ScheduleFields(
            "often", SpecFields("mail::send"), '{"to":"b"}', every_us=300_000_000, from_completion=True
        ),
    ]  # fmt: skip
    assert task("c") == "c"


def test_an_app_without_schedules_reports_none(app: ringq.App) -> None:
    app.task(send)
    assert "schedules" not in app.reports()[0]


def test_a_domain_declares_in_the_app(app: ringq.App) -> None:
    domain = app.domain("post")
    domain.every(60, payload={"to": "a"})(domain.task(send))
    assert list(app.schedules()) == ["post::send"]


@pytest.mark.parametrize(
    ("declare", "error", "words"),
    [
        (lambda app, task: app.every(0)(task), ringq.InvalidOption, "every: expected seconds"),
        (lambda app, task: app.every(-1)(task), ringq.InvalidOption, "every: expected seconds"),
        (lambda app, task: app.every(1e300)(task), ringq.InvalidOption, "every: expected at most 366 days"),
        (lambda app, task: app.every("1h")(task), ringq.InvalidOption, "every: expected seconds"),
        (lambda app, task: app.cron("0 0 31 4 *")(task), ringq.InvalidOption, "none of its months has that day"),
        (lambda app, task: app.cron(5)(task), ringq.InvalidOption, "cron: expected a line"),
        (lambda app, task: app.cron("* " * 200)(task), ringq.InvalidOption, "cron: expected a line of at most"),
        (lambda app, task: app.cron("* * * * *", zone=3)(task), ringq.InvalidOption, "zone: expected"),
        (lambda app, task: app.every(1, jitter=-1)(task), ringq.InvalidOption, "jitter: expected"),
        (lambda app, task: app.every(1, catch_up="most")(task), ringq.InvalidOption, "catch_up: expected"),
        (lambda app, task: app.every(1, catch_up=2)(task), ringq.InvalidOption, "takes skip_if_running=False"),
        (lambda app, task: app.every(1, max_occurrences=0)(task), ringq.InvalidOption, "max_occurrences"),
        (lambda app, task: app.every(1, priority=999)(task), ringq.InvalidOption, "priority: expected"),
        (lambda app, task: app.every(1, jiter=3)(task), ringq.InvalidOption, "did you mean jitter"),
        (lambda app, task: app.every(1)(task), ringq.InvalidPayload, "missing"),
        (lambda app, task: app.every(1, name="a\nb", payload={"to": "a"})(task), ringq.InvalidOption, "name: expected"),
        (lambda app, task: app.every(1, name="", payload={"to": "a"})(task), ringq.InvalidOption, "name: expected"),
        (lambda app, task: app.every(1, payload={"from": "a"})(task), ringq.InvalidPayload, "from"),
        (lambda app, task: app.every(1)(send), ringq.InvalidKind, "belongs above a task"),
        (lambda app, task: ringq.App("b").every(1, payload={"to": "a"})(task), ringq.InvalidKind, "is no task of"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_told_where_it_stands(
    app: ringq.App, declare: Callable[..., Any], error: type[RingqError], words: str
) -> None:
    task = app.task(send)
    with pytest.raises(error) as caught:
        declare(app, task)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert app.schedules() == {}


def test_two_schedules_of_one_name_are_told(app: ringq.App) -> None:
    task = app.every(1, payload={"to": "a"})(app.task(send))
    with pytest.raises(ringq.InvalidKind, match="give one of them another name="):
        app.every(2, payload={"to": "a"})(task)


def test_a_kind_that_only_the_client_knows_is_scheduled_while_no_server_runs(app: ringq.App, tmp_path: Path) -> None:
    task = app.task(send)
    with ringq.connect(tmp_path / "t.db") as client:
        client.schedule("s", task, {"to": "a"}, every=60, initial_delay=60)
        (record,) = client.query.schedules()
        assert (record.payload, record.every_s, record.state, len(record.next_fires)) == ('{"to":"a"}', 60, "active", 3)
        with pytest.raises(ringq.InvalidPayload):
            client.schedule("s", task, {"to": 5}, every=60)
        with pytest.raises(ringq.InvalidOption, match="kind: expected"):
            client.schedule("s", "send", every=60)


def test_verbs_of_schedules_make_no_database(tmp_path: Path) -> None:
    with ringq.connect(tmp_path / "t.db") as client, pytest.raises(ringq.StoreError, match="no such database"):
        client.unschedule("s")
    assert not (tmp_path / "t.db").exists()

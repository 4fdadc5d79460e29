"""`ringq schedule`: every verb, for people and for programs; what is wrong is one line and an exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from subprocess import CompletedProcess
from typing import Any

import pytest

Cli = Callable[..., CompletedProcess[str]]
Serve = Callable[..., Any]

HANDLERS = """
import ringq

app = ringq.App("mail")

@app.every(3600, name="digest", initial_delay=3600, payload={"to": "all"})
@app.task
def send(to: str) -> str:
    return to
"""


def test_a_schedule_is_added_seen_paused_resumed_run_and_deleted(serve: Serve, cli: Cli) -> None:
    serve(HANDLERS)
    added = cli(
        *("schedule", "add", "nightly", "mail::send", "--payload", '{"to": "me"}', "--cron", "0 3 * * *"),
        *("--zone", "Europe/Berlin", "--jitter", "5m", "--catch-up", "3", "--overlap", "--queue", "bulk", "--json"),
    )
    record = json.loads(added.stdout)
    assert (record["cron"], record["zone"], record["jitter_s"], record["catch_up"]) == (
        "0 3 * * *", "Europe/Berlin", 300.0, 3,
    )  # fmt: skip
    assert (record["payload"], record["options"], record["state"]) == ({"to": "me"}, {"queue": "bulk"}, "active")
    listed = [json.loads(line) for line in cli("schedule", "list", "--json").stdout.splitlines()]
    assert [one["name"] for one in listed] == ["digest", "nightly"]
    assert "0 3 * * * Europe/Berlin" in cli("schedule", "list").stdout
    assert "stands in the code\tyes" in cli("schedule", "show", "digest").stdout
    assert json.loads(cli("schedule", "show", "nightly", "--json").stdout)["kind"] == "mail::send"
    assert cli("schedule", "pause", "nightly").stdout == "nightly is paused\n"
    task_id = json.loads(cli("schedule", "run", "nightly", "--json").stdout)["id"]
    assert cli("wait", str(task_id)).returncode == 0
    assert cli("schedule", "run", "nightly").stdout.strip().isdecimal()
    assert cli("schedule", "resume", "nightly").stdout.startswith("nightly is active, next ")
    assert json.loads(cli("schedule", "resume", "nightly", "--json").stdout)["state"] == "active"
    assert json.loads(cli("schedule", "pause", "digest", "--json").stdout)["state"] == "paused"
    assert cli("schedule", "delete", "nightly").stdout == "nightly is deleted\n"
    refused = cli("schedule", "delete", "digest")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "stands in the code of the App: pause it" in refused.stderr


def test_schedules_are_kept_without_a_server(cli: Cli) -> None:
    assert cli("schedule", "add", "s", "mail::send", "--every", "90s").stdout.startswith("s is active, next ")
    assert "every 90.0 s" in cli("schedule", "show", "s").stdout
    assert json.loads(cli("schedule", "delete", "s", "--json").stdout) == {"name": "s", "deleted": True}
    assert cli("schedule", "list").stdout.count("\n") == 1


def test_the_next_fires_of_a_line_are_shown_without_a_database(cli: Cli) -> None:
    shown = json.loads(
        cli("schedule", "next", "30 2 * * *", "--zone", "Europe/Berlin", "--count", "400", "--json").stdout
    )
    fires = [datetime.fromisoformat(text) for text in shown["next"]]
    assert len(fires) == 400
    assert {(at.hour, at.minute) for at in fires} == {(2, 30), (3, 0)}  # once a year there is no half past two
    assert cli("schedule", "next", "* * * * *").stdout.count(":00+00:00\n") == 5


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["next", "0 0 30 2 *"], 2, "never fires: none of its months has that day"),
        (["next", "0 0 * *"], 2, "wrong number of fields"),
        (["next", "* * * * *", "--zone", "Mars"], 2, "zone: expected the IANA name"),
        (["add", "s", "mail::send"], 2, "either cron or every"),
        (["add", "s", "mail::send", "--every", "0"], 2, "every: expected seconds"),
        (["add", "s", "mail::send", "--every", "60", "--cron", "* * * * *"], 2, "either cron or every"),
        (["add", "s", "mail", "--every", "60"], 2, "kind: expected domain::name"),
        (["add", "s", "mail::send", "--every", "60", "--payload", "[1]"], 2, "payload"),
        (["add", "s", "mail::send", "--every", "60", "--catch-up", "some"], 2, "catch_up: expected"),
        (["add", "s", "mail::send", "--every", "60", "--catch-up", "all"], 2, "--overlap"),
        (["show", "s"], 1, "there is no schedule 's'"),
        (["pause", "s"], 1, "there is no schedule 's'"),
        (["run", "s"], 1, "there is no schedule 's'"),
        (["delete", "s"], 1, "there is no schedule 's'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_and_an_exit_code(cli: Cli, args: list[str], code: int, words: str) -> None:
    cli("schedule", "add", "other", "mail::send", "--every", "60")
    ran = cli("schedule", *args)
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (code, "", 1)
    assert words in ran.stderr

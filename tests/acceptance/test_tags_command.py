"""Tags, labels and filters on the command line, with a server and without one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for

import ringq

Serve = Callable[..., Any]
Cli = Callable[..., Any]

HANDLERS = """
import os, time
import ringq

app = ringq.App("t", tags={"team": "sales"})

@app.task(tags={"level": "kind"})
def add(a: int, b: int) -> int:
    return a + b

@app.task(retry=1)
def fails() -> None:
    raise ValueError("no")

@app.task
def hold(gate: str) -> int:
    while not os.path.exists(gate):
        time.sleep(0.005)
    return 1
"""


def test_a_served_task_has_its_tags_and_its_label_wherever_it_is_shown(serve: Serve, cli: Cli) -> None:
    serve(HANDLERS)
    given = ["submit", "t::add", "--payload", '{"a": 1, "b": 2}', "--tag", "level=call", "--tag", "order=a=b"]
    assert cli(*given, "--label", "one and two", "--wait").stdout == "3\n"
    shown = cli("task", "show", "1").stdout
    for line in ("label\tone and two", "tag\tlevel=call", "tag\torder=a=b", "tag\tteam=sales"):
        assert line in shown
    record = json.loads(cli("task", "show", "1", "--json").stdout)
    assert (record["label"], record["tags"]) == ("one and two", {"level": "call", "order": "a=b", "team": "sales"})
    assert "t::add\tone and two" in cli("task", "list").stdout
    assert "t::add\tone and two" in cli("history").stdout


def test_lines_may_have_tags_and_labels_of_their_own(cli: Cli) -> None:
    lines = [{"kind": "t::add", "tags": {"n": str(n)}, "label": f"sum {n}"} for n in range(3)]
    text = "\n".join(map(json.dumps, lines))
    assert cli("submit", "--from", "-", "--tag", "from=file", stdin=text).returncode == 0
    assert cli("submit", "t::add", "--tag", "from=here").returncode == 0
    listed = [json.loads(line) for line in cli("task", "list", "--tag", "n", "--json").stdout.splitlines()]
    assert [(one["label"], one["tags"]) for one in listed] == [(f"sum {n}", {"n": str(n)}) for n in (2, 1, 0)]
    assert len(cli("task", "list", "--tag", "from", "--json").stdout.splitlines()) == 1


def test_a_filter_cancels_what_waits_and_what_runs(serve: Serve, cli: Cli, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        hold = {"gate": str(tmp_path / "gate")}
        running = client.submit("t::hold", hold, tags={"customer": "acme", "n": "1"})
        wait_for(lambda: client.query.task(running.id).status is ringq.Status.RUNNING)
        waiting = client.submit("t::hold", hold, tags={"customer": "acme"}, run_after=3600)
        client.submit("t::add", {"a": 1, "b": 2}, run_after=3600)
        left_alone = cli("task", "cancel", "--tag", "customer=acme", "--status", "pending", "--json")
        assert json.loads(left_alone.stdout) == {"cancelled": 1, "cancelling": 0}
        assert client.query.task(waiting.id).status is ringq.Status.CANCELLED
        asked = cli("task", "cancel", "--tag-prefix", "cust", "--prefix", "t::h", "--status", "running", "--json")
        assert json.loads(asked.stdout) == {"cancelled": 0, "cancelling": 1}
        assert running.wait(timeout=20).status is ringq.Status.CANCELLED
        assert cli("task", "cancel", "--tag", "customer").returncode == 1
        assert client.cancel_all(submitted_after=client.query.task(waiting.id).submitted_at, domain="t") == (1, 0)


def test_a_filter_gives_dead_letters_another_chance_or_none(serve: Serve, cli: Cli) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        for n in range(4):
            task = client.submit("t::fails", {}, tags={"n": str(n % 2)}, key=f"k{n}", label=f"failure {n}")
            assert task.wait(timeout=20).status is ringq.Status.DEAD_LETTER
        assert cli("dead", "list", "--tag", "n=1").stdout.count("t::fails\tfailure ") == 2
        assert json.loads(cli("dead", "retry", "--tag", "n=1", "--json").stdout) == {"retried": 2}
        wait_for(lambda: len(client.query.tasks(ringq.Filter(status="dead_letter"))) == 4)
        assert json.loads(cli("dead", "purge", "--kind", "t::fails", "--key", "k3", "--json").stdout) == {"purged": 1}
        assert json.loads(cli("dead", "purge", "--tag", "n=0", "--json").stdout) == {"purged": 2}
        assert [one.label for one in client.query.tasks()] == ["failure 1"]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["submit", "t::add", "--tag", "customer"], "'customer' is no tag; write e.g. customer=acme"),
        (["submit", "t::add", "--tag", "=acme"], "'=acme' is no tag"),
        (["submit", "t::add", "--tag", "a=1", "--tag", "a=2"], "a key has one value"),
        (["submit", "t::add", "--tag", f"{'k' * 65}=1"], "tags: expected a key of 1 to 64 bytes"),
        (["submit", "t::add", "--label", ""], "label: expected 1 to 256 bytes"),
        (["task", "cancel", "--tag", "=a"], "write each key once, e.g. customer=acme"),
        (["task", "cancel", "--key", "k"], "key: it goes with a kind"),
        (["task", "cancel", "--status", "completed"], "'completed' is not one of 'pending', 'running'"),
        (["task", "cancel"], "name ids, or filters"),
        (["task", "list", "--submitted-before", "yesterday"], "'yesterday' is no time"),
        (["task", "list", "--kind", "add"], "kind: expected domain::name"),
    ],
)
def test_what_makes_no_sense_gets_one_line(cli: Cli, args: list[str], told: str) -> None:
    ran = cli(*args)
    assert ran.returncode == 2
    assert told in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_a_map_in_a_pipe_has_tags_and_goes_on_under_others(serve: Serve, cli: Cli) -> None:
    served = serve(HANDLERS + "\n@app.task\ndef double(n: int) -> int:\n    return n + n\n")
    for tag in ("first", "second"):
        ran = cli("map", "handlers:double", "--tag", f"by={tag}", "--label", "doubles", "--key", "m", stdin="1\n2\n")
        assert ran.stdout.split() == ["2", "4"]
    with served.client() as client:
        assert {(one.label, one.tags["by"]) for one in client.query.tasks()} == {("doubles", "first")}


def test_active_tasks_are_found_by_their_tags_without_a_server(cli: Cli) -> None:
    rows = [("a::one", {"order.id": "7", "100%": "x"}), ("a::one", {"order.id": "7", "by": "me"}), ("b::one", {})]
    text = "\n".join(json.dumps({"kind": kind, "tags": tags}) for kind, tags in rows)
    assert cli("submit", "--from", "-", stdin=text).returncode == 0
    assert cli("tag", "keys").stdout == "key\n100%\nby\norder.id\n"
    assert cli("tag", "values", "order.id").stdout == "value\ttasks\n7\t2\n"
    assert cli("tag", "tasks", "--tag", "order.id=7", "--tag", "by", "--prefix", "b", "--domain", "a").stdout == "2\n"
    assert cli("tag", "count", "--prefix", "100_", "--status", "pending", "--json").stdout == '{"tasks": 0}\n'
    refused = cli("tag", "count")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "--tag KEY=VALUE or --prefix TEXT, or --domain" in refused.stderr

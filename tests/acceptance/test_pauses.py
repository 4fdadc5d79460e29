"""Groups, domains and everything as their operator handles them: paused, limited, asked about, over deaths."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for

import ringq

Serve = Callable[..., Any]
Cli = Callable[..., Any]

HANDLERS = """
import ringq

app = ringq.App("shop", max_concurrency=7)
media = app.domain("media")

@app.task(queue="mail")
def quick(number: int) -> int:
    return number

@media.task(max_concurrency=2)
def shrink(number: int) -> int:
    return number
"""

REASONS = [
    (("pause_group", "resume_group", "acme"), ringq.PauseReason.GROUP),
    (("pause_queue", "resume_queue", "mail"), ringq.PauseReason.QUEUE),
    (("pause_domain", "resume_domain", "shop"), ringq.PauseReason.DOMAIN),
    (("pause_all", "resume_all"), ringq.PauseReason.GLOBAL),
]


@pytest.mark.parametrize("first", range(4))
def test_a_task_that_three_things_hold_is_paused_until_the_last_lets_go_over_kills(serve: Serve, first: int) -> None:
    served = serve(HANDLERS)
    chosen = [REASONS[(first + step) % 4] for step in range(3)]
    expected = ringq.PauseReason(0)
    with served.client() as client:
        held = client.submit("shop::quick", {"number": 1}, group="acme", run_after=3600)
        for (pause, _, *name), reason in chosen:
            assert getattr(client, pause)(*name) is True
            expected |= reason
            assert client.query.task(held.id).pause_reasons == expected
            assert getattr(client, pause)(*name) is False
    for clear in (1, 0, 2):
        served.kill()
        served = serve()
        (_, resume, *name), reason = chosen[clear]
        with served.client() as client:
            assert client.query.task(held.id).pause_reasons == expected
            assert client.query.counts()[ringq.Status.PAUSED] == 1
            assert getattr(client, resume)(*name) is True
            expected ^= reason
            record = client.query.task(held.id)
            assert record.pause_reasons == expected
            assert record.status is (ringq.Status.PAUSED if expected else ringq.Status.PENDING)
            assert getattr(client, resume)(*name) is False


def test_a_group_that_is_paused_for_a_time_goes_on_by_itself(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        until = datetime.now(UTC) + timedelta(seconds=1.5)
        assert client.pause_group("acme", until)
        assert client.pause_queue("mail", timedelta(seconds=1.5))
        task = client.submit("shop::quick", {"number": 1}, group="acme")
        assert task.group_paused
        (record,) = client.paused_groups()
        assert (record.name, record.paused_until, record.pending) == ("acme", until, 1)
        assert not client.pause_group("acme")
        assert client.paused_groups()[0].paused_until == until
        wait_for(lambda: not client.is_group_paused("acme"))
        assert timedelta(0) <= datetime.now(UTC) - until < timedelta(seconds=1)
        assert task.result(timeout=20) == 1  # its queue goes on too


def test_what_is_said_while_no_server_runs_holds_for_the_next(serve: Serve) -> None:
    served = serve(HANDLERS)
    assert served.stop() == 0
    with served.client() as client:
        domain = client.domain("media")
        assert domain.pause()
        assert domain.is_paused()
        assert domain.pause_group("acme")
        assert [record.name for record in domain.paused_groups()] == ["acme"]
        later = {"run_after": 3600.0}  # what is asked is what is on record
        outcome = client.submit_many(
            [
                ringq.Submission("media::shrink", {"number": 1}, group="acme", **later),
                ringq.Submission("media::shrink", {"number": 2}, **later),
                ringq.Submission("media::shrink", {"number": 3}, group="acme", key="one", **later),
                ringq.Submission("media::shrink", {"number": 4}, group="acme", key="one", **later),
            ]
        )
        assert [handle.group_paused for handle in outcome] == [True, False, False, True]
        assert outcome.group_paused == [outcome[0], outcome[3]]
        client.set_group("acme", max_concurrency=4, weight=2.5, min_slots=1)
        client.set_domain("media", max_concurrency=5)
        client.set_kind("media::shrink", max_concurrency=0)
        client.set_server(max_concurrency=9)
        with pytest.raises(ringq.UnknownDomain, match="did you mean 'media'"):
            client.pause_domain("medya")
        with pytest.raises(ringq.UnknownKind, match="did you mean 'media::shrink'"):
            client.set_kind("media::shrank", max_concurrency=1)
    served = serve()
    with served.client() as client:
        group = client.query.control("group", "acme")
        assert (group.max_concurrency, group.weight, group.min_slots, group.paused) == (4, 2.5, 1, True)
        assert (group.pending, group.running) == (2, 0)
        kind = client.query.control("kind", "media::shrink")
        assert (kind.max_concurrency, kind.declared, kind.pending) == (0, 2, 3)
        assert client.query.control("server").max_concurrency == 9
        shop, media = sorted(client.query.controls("domain"), key=lambda one: one.name, reverse=True)
        assert (media.name, media.max_concurrency, media.declared, media.paused) == ("media", 5, None, True)
        assert (shop.name, shop.max_concurrency, shop.declared, shop.paused) == ("shop", None, 7, False)
        assert client.domain("media").resume()
        assert not client.domain("media").resume()


def test_every_noun_of_the_command_line_tells_the_same(serve: Serve, cli: Cli) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        client.submit("media::shrink", {"number": 1}, group="acme", run_after=3600)
    said = json.loads(cli("group", "pause", "acme", "--until", "2100-01-01T00:00:00Z", "--json").stdout)
    assert (said["name"], said["paused"], said["paused_until"]) == ("acme", True, "2100-01-01T00:00:00+00:00")
    again = cli("group", "pause", "acme", "--running", "finish")
    assert (again.returncode, again.stderr) == (0, "group acme is paused already, and stays as it was\n")
    assert cli("group", "set", "acme", "--weight", "2.5", "--min-slots", "1", "--max-concurrency", "3").stdout == ""
    heading, row = cli("group", "list").stdout.splitlines()
    assert heading == "group\tstate\tsince\tuntil\tmax concurrency\tweight\tmin slots\tpending\trunning"
    cells = row.split("\t")
    assert (cells[:2], cells[4:]) == (["acme", "paused"], ["3", "2.5", "1", "1", "0"])
    (line,) = cli("group", "list", "--json").stdout.splitlines()
    assert json.loads(line)["weight"] == 2.5
    assert cli("group", "resume", "acme").stdout == ""
    assert cli("group", "resume", "acme").stderr == "group acme was not paused\n"
    assert json.loads(cli("group", "set", "acme", "--weight", "none", "--json").stdout)["weight"] is None
    assert "max concurrency\t3" in cli("group", "show", "acme").stdout
    assert json.loads(cli("domain", "pause", "media", "--json").stdout)["paused"] is True
    assert json.loads(cli("domain", "set", "media", "--max-concurrency", "0", "--json").stdout)["max_concurrency"] == 0
    assert [json.loads(one)["name"] for one in cli("domain", "list", "--json").stdout.splitlines()] == ["media", "shop"]
    assert json.loads(cli("domain", "resume", "media", "--json").stdout)["paused"] is False
    assert json.loads(cli("domain", "show", "media", "--json").stdout)["pending"] == 1
    (kind,) = map(json.loads, cli("kind", "list", "--json").stdout.splitlines())
    assert (kind["name"], kind["declared"], kind["max_concurrency"]) == ("media::shrink", 2, None)
    assert cli("kind", "set", "media::shrink", "--max-concurrency", "1").returncode == 0
    assert "max concurrency\t1" in cli("kind", "show", "media::shrink").stdout
    assert json.loads(cli("server", "pause", "--json").stdout)["paused"] is True
    assert "paused by\tglobal" in cli("task", "show", "1").stdout
    assert cli("server", "resume").returncode == 0
    assert cli("server", "resume").stderr == "everything was not paused\n"
    assert json.loads(cli("server", "set", "--max-concurrency", "8", "--json").stdout)["max_concurrency"] == 8
    assert "max concurrency\t8" in cli("server", "show").stdout
    assert cli("queue", "pause", "mail", "--until", "+1h").returncode == 0
    assert "paused until" in cli("queue", "list").stdout
    assert cli("queue", "resume", "other").stderr == "queue other was not paused\n"
    assert json.loads(cli("queue", "resume", "other", "--json").stdout)["paused"] is False


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["group", "pause", "acme", "--until", "2020-01-01T00:00:00Z"], "is over already"),
        (["group", "pause", "acme", "--until", "tomorrow"], "'tomorrow' is no time"),
        (["group", "pause", "acme", "--running", "kill"], "'kill' is not one of"),
        (["group", "pause", ""], "group: expected 1 to 200 printable characters"),
        (["group", "set", "acme"], "say at least one of --max-concurrency, --weight, --min-slots"),
        (["group", "set", "acme", "--weight", "0"], "weight: expected a number from 0.001 to 1,000,000"),
        (["group", "set", "acme", "--weight", "-1"], "weight: expected a number"),
        (["group", "set", "acme", "--weight", "nan"], "weight: expected a number"),
        (["group", "set", "acme", "--weight", "much"], "'much' is neither none nor a number"),
        (["group", "set", "acme", "--min-slots", "-1"], "min_slots: expected 0 to 1,000,000"),
        (["group", "set", "acme", "--max-concurrency", "1.5"], "'1.5' is neither none nor a number"),
        (["domain", "set", "shop"], "say --max-concurrency"),
        (["domain", "set", "shpo", "--max-concurrency", "1"], "there is no domain 'shpo'; did you mean 'shop'?"),
        (["kind", "set", "quick", "--max-concurrency", "1"], "kind: expected domain::name"),
        (["kind", "set", "shop::quik", "--max-concurrency", "1"], "did you mean 'shop::quick'?"),
        (["server", "set", "--max-concurrency", "-1"], "max_concurrency: expected 0 to"),
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_told_in_one_line_and_changes_nothing(
    tmp_path: Path, cli: Cli, arguments: list[str], complaint: str
) -> None:
    (tmp_path / "handlers.py").write_text(HANDLERS)
    with ringq.connect(tmp_path / "tasks.db") as client:
        client.submit("shop::quick", {"number": 1})
    from ringq.store import Store

    with Store.open(tmp_path / "tasks.db") as store, store.transaction():
        store.set_registry({"shop::quick": '{"name":"shop::quick"}'})
    said = cli(*arguments)
    assert said.returncode == 2
    assert complaint in said.stderr
    assert said.stderr.count("\n") == 1
    with Store.open(tmp_path / "tasks.db") as store:
        assert (store.pauses(), store.controls()) == ({}, {})


@pytest.mark.parametrize(
    ("verb", "arguments", "complaint"),
    [
        ("pause_group", ("acme", datetime(2100, 1, 1)), "until: expected a datetime with a time zone"),
        ("pause_group", ("acme", 60), "until: expected a datetime with a time zone"),
        ("pause_group", ("acme", timedelta(0)), "is over already"),
        ("pause_all", (datetime.now(UTC) - timedelta(days=1),), "is over already"),
        ("pause_group", (7,), "group: expected 1 to 200 printable characters"),
        ("is_group_paused", ("",), "group: expected 1 to 200 printable characters"),
        ("pause_queue", ("a,b",), "queue: expected a name without comma or colon"),
        ("domain", ("a\nb",), "domain: expected 1 to 200 printable characters"),
        ("set_group", ("acme",), "set_group: say at least one of max_concurrency, weight, min_slots"),
        ("set_server", (), "set_server: say at least one of max_concurrency"),
    ],
)
def test_what_makes_no_sense_in_python_is_an_invalid_option(
    tmp_path: Path, verb: str, arguments: tuple[Any, ...], complaint: str
) -> None:
    client = ringq.connect(tmp_path / "a.db")
    with pytest.raises(ringq.InvalidOption, match=complaint):
        getattr(client, verb)(*arguments)
    assert not (tmp_path / "a.db").exists()

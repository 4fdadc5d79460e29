"""`ringq dead` and the retry policy on the command line: what is listed, who gets another chance, what is refused."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for

import ringq

Serve = Callable[..., Any]
Cli = Callable[..., subprocess.CompletedProcess[str]]

HANDLERS = """
import os
from pathlib import Path
import ringq

app = ringq.App("shop")

@app.task(retry=1)
def charge(mended: str) -> str:
    if not Path(mended).exists():
        raise ConnectionError("the bank\\ndoes not answer \\x1b[31m")
    return "charged"

@app.task(retry=1, queue="bulk")
def mail(mended: str) -> str:
    return charge(mended)

@app.task
def die(n: int) -> None:
    os.abort()
"""


@pytest.fixture
def shop(serve: Serve, tmp_path: Path) -> tuple[Any, list[int]]:
    """A server, and the ids of dead letters: charge, mail, charge, mail; and of a task that has merely failed."""
    served = serve(HANDLERS)
    payload = {"mended": str(tmp_path / "mended")}
    with served.client() as client:
        kinds = ["shop::charge", "shop::mail"] * 2
        tasks = [client.submit(kind, payload) for kind in kinds]
        tasks.append(client.submit("shop::charge", {"mended": 5}))
        client.wait_many(tasks, timeout=30)
    return served, [task.id for task in tasks]


def test_dead_letters_are_listed_the_newest_first_and_nothing_else_is(shop: tuple[Any, list[int]], cli: Cli) -> None:
    _, (first, second, third, fourth, failed) = shop
    ran = cli("dead", "list")
    assert (ran.returncode, ran.stderr) == (0, "")
    heading, *rows = [line.split("\t") for line in ran.stdout.splitlines()]
    assert heading == ["id", "kind", "label", "queue", "attempts", "ended", "reason", "error"]
    assert [int(row[0]) for row in rows] == [fourth, third, second, first]
    assert rows[0][1:5] == ["shop::mail", "", "bulk", "2"]
    assert rows[0][6] == "retry_limit"
    assert rows[0][7].startswith("ConnectionError: the bank")
    assert "\x1b" not in ran.stdout
    assert str(failed) not in [row[0] for row in rows]


def test_dead_letters_are_listed_by_kind_and_queue_and_as_json(shop: tuple[Any, list[int]], cli: Cli) -> None:
    _, (first, second, third, fourth, _) = shop

    def listed(*args: str) -> list[int]:
        return [json.loads(line)["id"] for line in cli("dead", "list", "--json", *args).stdout.splitlines()]

    assert listed() == [fourth, third, second, first]
    assert listed("--kind", "shop::charge") == [third, first]
    assert listed("--queue", "bulk") == [fourth, second]
    assert listed("--queue", "bulk", "--kind", "shop::charge") == []
    assert listed("--limit", "3") == [fourth, third, second]
    one = json.loads(cli("dead", "list", "--json", "--limit", "1").stdout)
    assert set(one) == {"id", "kind", "queue", "attempts", "ended_at", "reason", "error", "label", "tags"}
    assert (one["attempts"], one["reason"], one["error"]["type"]) == (2, "retry_limit", "ConnectionError")


def test_dead_letters_are_retried_by_id_kind_queue_or_all(
    shop: tuple[Any, list[int]], cli: Cli, tmp_path: Path
) -> None:
    served, (first, second, third, fourth, _) = shop
    (tmp_path / "mended").touch()
    ran = cli("dead", "retry", f"{first}..{first}", str(first))
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "1 dead letter retried\n", "")
    ran = cli("dead", "retry", "--queue", "bulk", "--kind", "shop::mail", "--json")
    assert json.loads(ran.stdout) == {"retried": 2}
    assert json.loads(cli("dead", "retry", "--kind", "no::such", "--json").stdout) == {"retried": 0}
    assert cli("dead", "retry", "--all").stdout == "1 dead letter retried\n"
    assert cli("dead", "retry", "--all").stdout == "0 dead letters retried\n"
    assert cli("wait", *map(str, (first, second, third, fourth))).returncode == 0
    shown = json.loads(cli("task", "show", str(second), "--json").stdout)
    assert [(one["attempt"], one["status"], one["reason"]) for one in shown["attempts"]] == [
        (1, None, "handler_error"), (2, "dead_letter", "retry_limit"), (3, "completed", ""),
    ]  # fmt: skip
    assert (shown["queue"], shown["retry"], shown["attempt_count"]) == ("bulk", "1", 3)
    assert served.stop() == 0


def test_dead_letters_are_purged_with_all_that_is_known_of_them(shop: tuple[Any, list[int]], cli: Cli) -> None:
    _, (first, _, third, _, failed) = shop
    assert json.loads(cli("dead", "purge", str(first), "--json").stdout) == {"purged": 1}
    ran = cli("task", "show", str(first))
    assert (ran.returncode, ran.stderr) == (1, f"ringq: there is no task {first}\n")
    assert cli("dead", "purge", "--queue", "bulk").stdout == "2 dead letters purged\n"
    assert [json.loads(line)["id"] for line in cli("dead", "list", "--json").stdout.splitlines()] == [third]
    assert cli("dead", "purge", "--all").stdout == "1 dead letter purged\n"
    left = [json.loads(line)["id"] for line in cli("task", "list", "--json").stdout.splitlines()]
    assert left == [failed]


@pytest.mark.parametrize("verb", ["retry", "purge"])
def test_either_all_that_are_named_are_dead_letters_or_nothing_happens(
    shop: tuple[Any, list[int]], cli: Cli, verb: str
) -> None:
    _, ids = shop
    failed = ids[-1]
    ran = cli("dead", verb, f"{ids[0]}..{failed}")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == f"ringq: task {failed} is failed: only a dead letter can be retried or purged\n"
    ran = cli("dead", verb, str(ids[0]), "99")
    assert (ran.returncode, ran.stderr) == (1, "ringq: there is no task 99\n")
    assert len(cli("dead", "list", "--json").stdout.splitlines()) == 4


@pytest.mark.parametrize("verb", ["retry", "purge"])
@pytest.mark.parametrize(
    ("args", "told"),
    [
        ([], "name dead letters by their ids"),
        (["7", "--all"], "name dead letters by their ids"),
        (["7", "--kind", "a::b"], "name dead letters by their ids"),
        (["--queue", "a", "--all"], "name dead letters by their ids"),
        (["x"], "'x' is no id; write e.g. 209 or 209..300"),
        (["0"], "ids from 1 on"),
        (["9..3"], "the lowest first"),
        (["1..1001"], "at most 1,000 ids at a time; filters and --all take any number"),
        (["1..1000", "2000"], "at most 1,000 ids at a time"),
        (["--kind", "nonsense"], "kind: expected domain::name"),
        (["--queue", ""], "queue: expected 1 to 200 printable characters"),
        (["--al"], "No such option"),
    ],
)
def test_what_makes_no_sense_gets_one_line_and_touches_nothing(
    cli: Cli, tmp_path: Path, verb: str, args: list[str], told: str
) -> None:
    ran = cli("dead", verb, *args)
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (2, "", 1), ran.stderr
    assert told in ran.stderr
    assert not (tmp_path / "tasks.db").exists()


@pytest.mark.parametrize("verb", [["list"], ["retry", "--all"], ["purge", "7"]])
def test_a_database_that_is_not_there_is_not_made(cli: Cli, tmp_path: Path, verb: list[str]) -> None:
    ran = cli("dead", *verb)
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (74, "", 1), ran.stderr
    assert not (tmp_path / "tasks.db").exists()


def test_without_a_server_dead_letters_are_given_to_the_next_one(
    shop: tuple[Any, list[int]], cli: Cli, serve: Serve, tmp_path: Path
) -> None:
    served, (first, second, third, fourth, _) = shop
    assert served.stop() == 0
    assert len(cli("dead", "list", "--json").stdout.splitlines()) == 4
    assert cli("dead", "retry", str(first), str(second)).stdout == "2 dead letters retried\n"
    assert cli("dead", "purge", str(third)).stdout == "1 dead letter purged\n"
    (tmp_path / "mended").touch()
    again = serve()
    with again.client() as client:
        assert [client.handle(task_id).result(timeout=20) for task_id in (first, second)] == ["charged"] * 2
        assert client.query.task(fourth).status == "dead_letter"
    assert cli("task", "show", str(third)).returncode == 1


def test_a_purged_chunk_of_a_map_that_may_be_continued_stays(serve: Serve, cli: Cli) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        (result,) = client.map("shop::die", [1], key="k", chunk=1, errors="return")
        assert isinstance(result, ringq.TaskDead)
    (task_id,) = [json.loads(line)["id"] for line in cli("dead", "list", "--json").stdout.splitlines()]
    ran = cli("dead", "purge", str(task_id))
    assert (ran.returncode, ran.stdout) == (1, "0 dead letters purged\n")
    assert ran.stderr == "ringq: 1 stays: it carries calls of a map that may be continued\n"
    assert cli("dead", "purge", "--all").returncode == 0
    assert cli("task", "show", str(task_id)).returncode == 0


def test_nothing_is_asked_back_on_a_terminal_either(shop: tuple[Any, list[int]], tmp_path: Path) -> None:
    terminal, other = pty.openpty()
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "ringq", "dead", "purge", "--all", "--db", str(tmp_path / "tasks.db")],
            stdin=other, stdout=other, stderr=other, timeout=60, check=False,
        )  # fmt: skip
        assert ran.returncode == 0
        assert os.read(terminal, 1000).decode().strip() == "4 dead letters purged"
    finally:
        os.close(terminal)
        os.close(other)


# -- ringq submit --retry ---------------------------------------------------------------------------------


def test_a_policy_is_given_with_the_submission_and_shown_with_the_task(serve: Serve, cli: Cli, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    payload = json.dumps({"mended": str(tmp_path / "mended")})
    task_id = cli("submit", "shop::charge", "--payload", payload, "--retry", "5 exponential 60m..2h").stdout.strip()
    with served.client() as client:
        wait_for(lambda: client.query.task(int(task_id)).attempts)
    shown = dict(line.split("\t", 1) for line in cli("task", "show", task_id).stdout.splitlines() if "\t" in line)
    assert (shown["status"], shown["retry"], shown["attempts"]) == ("pending", "5 exponential 1h..2h", "1")
    document = json.loads(cli("task", "show", task_id, "--json").stdout)
    assert (document["retry"], document["attempt_count"]) == ("5 exponential 1h..2h", 1)
    assert shown["next attempt"][:16] == ringq.Query(served.database).task(int(task_id)).run_at.astimezone().strftime(  # type: ignore[union-attr]
        "%Y-%m-%d %H:%M"
    )


def test_a_policy_may_stand_in_each_line_and_the_option_is_for_the_others(
    serve: Serve, cli: Cli, tmp_path: Path
) -> None:
    serve(HANDLERS)
    payload = {"mended": str(tmp_path / "mended")}
    tasks = [{"retry": 0}, {"retry": "2"}, {}, {"retry": 3}]
    text = "\n".join(json.dumps({"kind": "shop::charge", "payload": payload, **task}) for task in tasks)
    ran = cli("submit", "--from", "-", "--retry", "4", "--wait", "--json", stdin=text)
    assert [json.loads(line)["status"] for line in ran.stdout.splitlines()] == ["failed", *["dead_letter"] * 3]
    records = [json.loads(line) for line in cli("task", "list", "--json").stdout.splitlines()][::-1]
    assert [(one["retry"], one["attempt_count"]) for one in records] == [("0", 1), ("2", 3), ("4", 5), ("3", 4)]


@pytest.mark.parametrize("written", ["often", "-1", "1001", "3 constant 1y", "3 exponential 1s..2sx9.9.9", ""])
def test_a_policy_that_is_none_is_refused_with_its_place(cli: Cli, tmp_path: Path, written: str) -> None:
    ran = cli("submit", "shop::charge", f"--retry={written}")
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (2, "", 1), ran.stderr
    assert "'--retry'" in ran.stderr
    lines = "\n".join(json.dumps({"kind": "shop::charge", "retry": retry}) for retry in ("1", written))
    ran = cli("submit", "--from", "-", stdin=lines)
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (2, "", 1), ran.stderr
    assert ran.stderr.startswith("ringq: <stdin>:2: ")
    for retry in (True, 1.5, None, [1]):
        ran = cli("submit", "shop::charge", "--from", "-", stdin=json.dumps({"retry": retry}))
        assert ran.returncode == 2
        assert "<stdin>:1: retry must be a string or an integer" in ran.stderr
    assert not (tmp_path / "tasks.db").exists()

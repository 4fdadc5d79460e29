"""The verbs against a real server, and against its database after it has gone."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for

import ringq
from ringq.cli.task import _own_frames

Cli = Callable[..., subprocess.CompletedProcess[str]]

HANDLERS = """
import ctypes, os, sys, time
import ringq

with open("importers", "a") as file:
    file.write(f"{os.getpid()}\\n")

app = ringq.App("t")

@app.task
def add(a: int, b: int = 1) -> int:
    return a + b

@app.task
def fail(text: str) -> None:
    raise ValueError(text)

@app.task
def sleep(seconds: float) -> None:
    time.sleep(seconds)

@app.task
def crash() -> None:
    print("on the way\\tto\\x1b[31m\\na crash", flush=True)
    ctypes.string_at(0)

@app.task
def progress(context: ringq.Context) -> None:
    context.progress(0.4, "half\\x1b[31m done")
    time.sleep(60)

@app.task
def loaded() -> list[str]:
    return sorted(sys.modules)
"""


@pytest.fixture
def served(serve: Callable[..., Any]) -> Any:
    return serve(HANDLERS)


def ok(answer: subprocess.CompletedProcess[str]) -> str:
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def documents(answer: subprocess.CompletedProcess[str]) -> list[Any]:
    return [json.loads(line) for line in ok(answer).splitlines()]


@pytest.mark.usefixtures("served")
def test_submit_one_and_wait(cli: Cli) -> None:
    assert ok(cli("submit", "t::add", "--payload", '{"a": 2}')) == "1\n"
    assert ok(cli("submit", "t::add", "--payload", '{"a": 2, "b": 3}', "--wait")) == "5\n"
    assert ok(cli("submit", "t::add", "--payload-file", "-", "--wait", stdin='{"a": 40, "b": 2}')) == "42\n"
    assert documents(cli("submit", "t::add", "--payload", '{"a": 1}', "--json")) == [{"ids": [4]}]
    told = documents(cli("wait", "1", "2", "--json"))
    assert [(one["id"], one["status"], one["result"]) for one in told] == [(1, "completed", 3), (2, "completed", 5)]


@pytest.mark.usefixtures("served")
def test_a_failed_task_is_exit_code_1_and_its_error_cannot_steer_the_terminal(cli: Cli) -> None:
    answer = cli("submit", "t::fail", "--payload", json.dumps({"text": "no\x1b[31m\u202ered\nline"}), "--wait")
    assert answer.returncode == 1
    assert re.fullmatch(r"ringq: task 1 \(t::fail\) failed: ValueError: no[^\n]+line\n", answer.stderr)
    waited = cli("wait", "1")
    assert waited.returncode == 1
    assert re.fullmatch(
        r"id\tstatus\treason\tresult or error\n1\tfailed\thandler_error\tValueError: no[^\n]+line\n", waited.stdout
    )
    assert not {"\x1b", "\u202e"} & set(answer.stderr + waited.stdout)
    shown = ok(cli("task", "show", "1"))
    assert "Traceback" in shown
    for verb in (("history",), ("task", "list"), ("task", "show", "1")):
        for extra in ((), ("--json",)):
            assert not {"\x1b", "\u202e"} & set(ok(cli(*verb, *extra)))


@pytest.mark.usefixtures("served")
def test_waiting_has_an_end(cli: Cli) -> None:
    cli("submit", "t::sleep", "--payload", '{"seconds": 30}')
    cli("submit", "t::add", "--payload", '{"a": 1}', "--wait")
    answer = cli("wait", "1", "2", "--timeout", "200ms")
    assert answer.returncode == 124
    assert answer.stdout == "id\tstatus\treason\tresult or error\n2\tcompleted\t\t2\n"
    assert answer.stderr.count("\n") == 1


def _waiting(folder: Path, *args: str, stdin: str = "", env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """A verb that goes on waiting, once the server has what it submits."""
    settings = {"RINGQ_DB": str(folder / "tasks.db")} if env is None else env
    process = subprocess.Popen(
        [sys.executable, "-m", "ringq", *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, **settings},
    )
    assert process.stdin
    process.stdin.write(stdin)
    process.stdin.close()
    process.stdin = None
    return process


def _until_stored(cli: Cli, count: int) -> None:
    deadline = time.monotonic() + 20
    while len(ok(cli("task", "list")).splitlines()) != count + 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.3)  # the answer reaches the one who waits


def test_ctrl_c_ends_the_waiting_and_says_where_the_task_is(served: Any, cli: Cli) -> None:
    one = _waiting(served.folder, "submit", "t::sleep", "--payload", '{"seconds": 30}', "--wait")
    _until_stored(cli, 1)
    one.send_signal(signal.SIGINT)
    assert one.communicate(timeout=20)[1] == "ringq: interrupted; task 1 is stored and goes on: ringq wait 1\n"
    assert one.returncode == 130
    lines = '{"kind": "t::sleep", "payload": {"seconds": 30}}\n' * 3
    database = str(served.database)
    many = _waiting(served.folder, "submit", "--from", "-", "--wait", "--db", database, stdin=lines, env={})
    _until_stored(cli, 4)
    many.send_signal(signal.SIGINT)
    told = many.communicate(timeout=20)[1].splitlines()[-1]
    assert told == f"ringq: interrupted; tasks 2..4 are stored and go on: ringq wait 2..4 --db {database}"
    assert many.returncode == 130


def test_a_server_that_goes_away_leaves_the_ids(served: Any, cli: Cli) -> None:
    one = _waiting(served.folder, "submit", "t::sleep", "--payload", '{"seconds": 30}', "--wait")
    _until_stored(cli, 1)
    served.kill()
    told = one.communicate(timeout=40)[1]
    assert one.returncode == 69
    says = "ringq: the server went away; task 1 is stored and goes on when one serves again: ringq wait 1\n"
    assert told == says


@pytest.mark.usefixtures("served")
def test_submit_and_wait_has_an_end(cli: Cli) -> None:
    answer = cli("submit", "t::sleep", "--payload", '{"seconds": 30}', "--wait", "--timeout", "200ms")
    assert answer.returncode == 124
    assert answer.stderr == ("ringq: task 1 did not end within 0.2 s; it is still on its way: ringq wait 1\n")
    lines = '{"kind": "t::add", "payload": {"a": 1}}\n{"kind": "t::sleep", "payload": {"seconds": 30}}'
    answer = cli("submit", "--from", "-", "--wait", "--timeout", "1s", stdin=lines)
    assert answer.returncode == 124
    assert answer.stdout == "1 completed\n"
    assert answer.stderr.endswith("they go on: ringq wait 2..3\n")
    assert cli("wait", "2..3", "1", "--timeout", "100ms").returncode == 124


@pytest.mark.usefixtures("served")
def test_a_byte_order_mark_is_no_fault(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "tasks.ndjson").write_text('{"kind": "t::add", "payload": {"a": 1}}\r\n', encoding="utf-8-sig")
    assert ok(cli("submit", "--from", "tasks.ndjson", "--wait")) == "1 completed\n"
    (tmp_path / "payload.json").write_text('{\n"a": 1}', encoding="utf-8-sig")
    assert ok(cli("submit", "t::add", "--payload-file", "payload.json", "--wait")) == "2\n"


@pytest.mark.usefixtures("served")
def test_a_second_server_is_told_what_to_do(cli: Cli) -> None:
    answer = cli("serve", "handlers:app")
    assert answer.returncode == 75
    assert answer.stderr.splitlines()[-1].endswith(
        "use that server, or stop it (kill -TERM its pid) before starting another"
    )


@pytest.mark.usefixtures("served")
def test_bulk(cli: Cli, tmp_path: Path) -> None:
    lines = [json.dumps({"kind": "t::add", "payload": {"a": n}, "priority": n % 256}) for n in range(5000)]
    (tmp_path / "tasks.ndjson").write_text("\n".join(lines))
    answer = cli("submit", "--from", "tasks.ndjson", "--wait")
    assert ok(answer) == "5,000 completed\n"
    assert answer.stderr == "submitted 5,000 tasks in 1 batch, ids 1 to 5000\n"
    assert "2 tasks in 1 batch" in ok(cli("submit", "t::add", "--from", "-", stdin='{"payload": {"a": 1}}\n' * 2))
    answer = cli("submit", "--from", "-", "--wait", stdin='{"kind": "t::fail", "payload": {"text": "x"}}')
    assert answer.returncode == 1
    assert answer.stdout == "1 failed; the first: task 5003, ValueError: x\n"
    assert ok(cli("submit", "--from", "-", stdin="")) == "0 tasks in 0 batches\n"


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"kind": "t::ad"}', "t::ad"),
        ('{"kind": "t::add", "priority": 300}', "priority"),
        ('{"kind": "t::add", "run_timeout": -1}', "run_timeout"),
        ('{"kind": "", "payload": {}}', "kind"),
    ],
)
def test_a_refused_line_refuses_the_batch(cli: Cli, line: str, says: str) -> None:
    answer = cli("submit", "--from", "-", stdin='{"kind": "t::add", "payload": {"a": 1}}\n' + line)
    assert answer.returncode == 2
    assert says in answer.stderr
    assert answer.stderr.count("\n") == 1
    assert answer.stderr.startswith("ringq: <stdin>:2: ")
    assert len(ok(cli("task", "list")).splitlines()) == 1


def test_questions_need_no_server(served: Any, cli: Cli) -> None:
    cli("submit", "t::add", "--payload", '{"a": 2}', "--group", "g", "--run-timeout", "5s", "--wait")
    cli("submit", "t::fail", "--payload", '{"text": "x"}', "--wait")
    cli("submit", "t::add", "--payload", '{"a": 3}', "--run-at", "+1h")
    assert served.stop() == 0
    assert documents(cli("task", "list", "--status", "pending", "--json"))[0]["id"] == 3
    assert [line.split("\t")[0] for line in ok(cli("task", "list")).splitlines()] == ["id", "3", "2", "1"]
    assert [one["task_id"] for one in documents(cli("history", "--json"))] == [2, 1]
    assert [one["task_id"] for one in documents(cli("history", "--status", "failed", "--json"))] == [2]
    record = documents(cli("task", "show", "1", "--json"))[0]
    assert (record["payload"], record["result"], record["group"], record["run_timeout_s"]) == ({"a": 2}, 3, "g", 5.0)
    counts = {(one["kind"], one["status"]): one["count"] for one in documents(cli("stats", "--json"))}
    assert counts == {("t::add", "completed"): 1, ("t::fail", "failed"): 1}
    assert ok(cli("stats", "--kind", "t::add")).startswith(
        "kind\tstatus\tcount\tmean\tlongest\tin all\nt::add\tcompleted\t1\t"
    )


def test_health(served: Any, cli: Cli) -> None:
    health = documents(cli("health", "--json"))[0]
    assert health["pid"] == served.pid
    assert all(worker["ready"] for worker in health["workers"])
    assert f"pid\t{served.pid}\n" in ok(cli("health"))
    served.kill()
    answer = cli("health")
    assert answer.returncode == 69
    assert answer.stderr.count("\n") == 1


def test_health_is_a_page_of_facts_and_a_table_of_workers(served: Any, cli: Cli) -> None:
    cli("submit", "t::progress")
    wait_for(lambda: any(worker["progress"] for worker in served.health()["workers"]))
    facts, workers = ok(cli("health")).split("\n\n")
    told = dict(line.split("\t") for line in facts.splitlines())
    assert (told["stopping"], told["in flight"], told["refusals"]) == ("no", "1", "none")
    assert told["kinds"] == "t::add, t::crash, t::fail, t::loaded, t::progress, t::sleep"
    assert told["writer"].endswith(" commits, 1 submitted")  # one, or two when the task's lease was stored meanwhile
    assert re.fullmatch(r"[0-9.]+ (ms|s|min)", told["uptime"])
    assert not set("{}[]\x1b") & set(facts)
    heading, *rows = (line.split("\t") for line in workers.splitlines())
    assert heading == ["worker", "pid", "state", "task", "running for", "progress"]
    pids = [str(worker["pid"]) for worker in served.health()["workers"]]
    assert [row[:3] for row in rows] == [["0", pids[0], "ready"], ["1", pids[1], "ready"]]
    (busy,) = (row for row in rows if row[3])
    assert (busy[3], busy[5]) == ("1", "40% half\\x1b[31m done")


@pytest.mark.usefixtures("served")
def test_a_crash_is_shown_attempt_by_attempt_with_the_users_frames_alone(cli: Cli) -> None:
    assert cli("submit", "t::crash", "--wait").returncode == 1
    shown = ok(cli("task", "show", "1"))
    _, *attempts = shown.split("\n\n")
    assert [attempt.splitlines()[0] for attempt in attempts] == ["attempt\t1", "attempt\t2", "attempt\t3"]
    for attempt in attempts:
        facts, _, stack = attempt.partition("\nstack\n")
        assert "signal\tSIGSEGV" in facts
        stack, _, output = stack.partition("\noutput\n")
        assert all(line.startswith("    ") for line in stack.splitlines())
        frames = [line.strip() for line in stack.splitlines() if line.strip().startswith("File")]
        assert [frame.rpartition(" in ")[2] for frame in frames] == ["string_at", "crash"]
        assert output.splitlines() == ["    on the way      to\\x1b[31m", "    a crash"]
    record = documents(cli("task", "show", "1", "--json"))[0]
    assert "ringq" in record["attempts"][0]["error"]["stack"]


def test_frames_of_ringq_are_left_out_below_the_handler_and_nowhere_else() -> None:
    ours = f'  File "{Path(ringq.__file__).parent}/runner.py", line 1 in run'
    theirs, runpy = '  File "/app/handlers.py", line 2 in crash', '  File "<frozen runpy>", line 88 in _run_code'
    first, second = "Thread 0x1 (most recent call first):", "Current thread 0x2 (most recent call first):"
    assert _own_frames([first, ours, runpy, "", second, ours, theirs, ours, runpy]) == [
        *(first, ours, runpy),  # nothing else would be left of it
        *(second, ours, theirs),
    ]
    assert _own_frames(["no stack at all"]) == ["no stack at all"]


@pytest.mark.usefixtures("served")
def test_a_traceback_stands_with_its_attempt_in_lines(cli: Cli) -> None:
    cli("submit", "t::fail", "--payload", '{"text": "x"}', "--wait")
    shown = ok(cli("task", "show", "1")).splitlines()
    at = shown.index("traceback")
    assert shown.index("attempt\t1") < at
    assert shown[at + 1] == "    Traceback (most recent call last):"
    assert shown[-1] == "    ValueError: x"


@pytest.mark.usefixtures("served")
def test_health_loads_nothing_that_it_does_not_need(served: Any) -> None:
    """A probe may ask every second."""
    source = (
        "import sys\nfrom ringq.cli.command import run\n"
        f"assert run(['health', '--json', '--db', {str(served.database)!r}]) == 0\n"
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert not {"sqlalchemy", "sqlite3", "alembic", "rich", "asyncio", "multiprocessing"} & set(done.stderr.split())


def test_health_loads_no_database(served: Any) -> None:
    code = (
        "import sys; from ringq.cli.command import run; run(['health']); "
        "print(sorted({'sqlalchemy', 'rich', 'psutil', 'alembic'} & set(sys.modules)))"
    )
    env = {**os.environ, "RINGQ_DB": str(served.database)}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"


def test_workers_load_no_database_and_the_parent_no_handlers(served: Any, cli: Cli) -> None:
    loaded = json.loads(ok(cli("submit", "t::loaded", "--wait")))
    assert "handlers" in loaded
    assert not {"sqlalchemy", "alembic", "sqlite3", "click", "rich", "ringq.store", "ringq.client"} & set(loaded)
    importers = {int(pid) for pid in (served.folder / "importers").read_text().split()}
    assert served.pid not in importers
    assert importers == {worker["pid"] for worker in served.health()["workers"]}


@pytest.mark.parametrize("verb", [["stats"], ["history"], ["task", "list"], ["task", "show", "1"]])
def test_no_database_and_no_database_at_all(cli: Cli, tmp_path: Path, verb: list[str]) -> None:
    missing = cli(*verb)
    assert missing.returncode == 74
    assert missing.stdout == ""
    assert missing.stderr.count("\n") == 1
    (tmp_path / "tasks.db").write_text("Dear diary, today I was mistaken for a database. " * 100)
    other = cli(*verb)
    assert other.returncode == 2
    assert other.stderr.count("\n") == 1


def test_nobody_there(cli: Cli) -> None:
    for verb in (["wait", "1"], ["health"], ["reload"]):
        answer = cli(*verb)
        assert answer.returncode == 69
        assert answer.stderr.count("\n") == 1

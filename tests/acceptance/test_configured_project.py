"""A configured project: `ringq serve` without arguments, every verb without --db, and the log in JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Served, remove_segments, wait_for

HANDLERS = """
import ringq
app = ringq.App("photos")

@app.task
def add(a: int, b: int) -> int:
    return a + b
"""

NOISY = """
import os, sys, ringq
app = ringq.App("photos")

@app.task
def noise(n: int) -> int:
    print('{"quoted": "\\\\u0000 \\\\', "\\x1b[2J\\x00\\x07\\x9b\\u202e\\u2028 line", n)
    sys.stdout.flush()
    os.write(1, b"\\xff\\xfe\\r\\xed\\xa0\\x80 bytes\\n\\n")
    sys.stderr.write("half a line")
    sys.stderr.flush()
    return n
"""


class Plain(Served):
    """A server started by the command line given, wherever that is."""

    def __init__(self, folder: Path, database: Path, *args: str, **env: str) -> None:
        self.folder, self.database = folder, database
        self.stderr_path = database.with_name("serve.stderr")
        command = [sys.executable, "-m", "ringq", *args]
        with self.stderr_path.open("wb") as stderr:
            self.process = subprocess.Popen(
                command, cwd=folder, env={**os.environ, **env}, stdin=subprocess.DEVNULL, stderr=stderr
            )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with an app and settings, and one below it."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "handlers.py").write_text(HANDLERS)
    (tmp_path / "shop" / "below").mkdir()
    return tmp_path / "shop"


@pytest.fixture
def plain(project: Path) -> Iterator[Callable[..., Plain]]:
    """Start `ringq serve` with exactly these arguments, in a directory of the project."""
    started: list[Plain] = []

    def start(folder: Path, *args: str, **env: str) -> Plain:
        started.append(Plain(folder, project / "tasks.db", "serve", *args, **env))
        return started[-1].wait_ready()

    yield start
    for served in started:
        if served.process.poll() is None:
            served.kill()
        remove_segments(served.database)


def verb(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """One verb, with no setting but those of the project."""
    return subprocess.run(
        [sys.executable, "-m", "ringq", *args], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("below", ["", "below"])
@pytest.mark.parametrize("name", ["ringq.toml", "pyproject.toml"])
def test_a_configured_project_is_served_without_arguments(
    project: Path, plain: Callable[..., Plain], name: str, below: str
) -> None:
    header = "[tool.ringq]\n" if name == "pyproject.toml" else ""
    (project / name).write_text(f'{header}app = "handlers:app"\ndb = "tasks.db"\nworkers = 1\nqueues = "default"\n')
    served = plain(project / below)
    answer = verb(project / below, "submit", "photos::add", "--payload", '{"a": 1, "b": 2}', "--wait")
    assert (answer.returncode, answer.stdout) == (0, "3\n")
    assert "photos::add\tcompleted\t1\t" in verb(project / below, "stats").stdout
    assert json.loads(verb(project / below, "task", "show", "1", "--json").stdout)["result"] == 3
    assert len(served.health()["workers"]) == 1
    assert f"serves {project / 'tasks.db'} with 1 workers: 1 kinds" in served.stderr
    assert "app handlers:app, queues default, durability full" in served.stderr
    assert served.stop() == 0


def test_flags_and_variables_decide_before_the_file_in_a_server_that_runs(
    project: Path, plain: Callable[..., Plain]
) -> None:
    (project / "ringq.toml").write_text('app = "missing:app"\ndb = "tasks.db"\nworkers = 1\ndurability = "full"\n')
    served = plain(
        project, "handlers:app", "--workers", "2", RINGQ_DURABILITY="normal", RINGQ_WORKERS="9", RINGQ_DURABILTY="x"
    )
    assert len(served.health()["workers"]) == 2
    assert "app handlers:app, queues all, durability normal" in served.stderr
    assert "RINGQ_DURABILTY is no setting of ringq; did you mean RINGQ_DURABILITY?" in served.stderr


def test_the_app_decides_what_nobody_else_does(project: Path, plain: Callable[..., Plain]) -> None:
    decides = HANDLERS.replace('App("photos")', 'App("photos", workers=3, durability="normal", drain_timeout=7)')
    (project / "handlers.py").write_text(decides)
    (project / "ringq.toml").write_text('app = "handlers:app"\ndb = "tasks.db"\nworkers = 1\n')
    shown = json.loads(verb(project, "config", "show", "--origin", "--json").stdout)
    assert shown["durability"] == {"value": "normal", "origin": "app handlers:app"}
    assert shown["workers"] == {"value": 1, "origin": f"{project / 'ringq.toml'}:3"}
    plain(project, RINGQ_DRAIN_TIMEOUT="9")
    health = json.loads(verb(project, "health", "--json").stdout)
    assert (len(health["workers"]), health["durability"], health["drain_timeout_s"]) == (1, "normal", 9.0)
    done = verb(project, "submit", "photos::add", "--payload", '{"a": 2, "b": 3}', "--wait")
    assert done.stdout == "5\n"


def test_an_app_that_cannot_be_imported_hides_only_its_own_settings(project: Path) -> None:
    shown = verb(project, "config", "show", "nowhere:app", "--workers", "2")
    assert (shown.returncode, "workers\t2" in shown.stdout) == (0, True)
    assert shown.stderr.startswith(
        "ringq: the settings that the app itself decides are not shown: nowhere is not found"
    )


def test_the_log_in_json_is_json_whatever_handlers_print(project: Path, plain: Callable[..., Plain]) -> None:
    (project / "handlers.py").write_text(NOISY)
    (project / "ringq.toml").write_text('app = "handlers:app"\ndb = "tasks.db"\nworkers = 2\nlog_format = "json"\n')
    served = plain(project)
    with served.client() as client:
        handles = [client.submit("photos::noise", {"n": number}) for number in range(20)]
        client.wait_many(handles, 30)
    worker = served.health()["workers"][0]["pid"]
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: "was killed by SIGKILL" in served.stderr)
    assert served.stop() == 0
    lines = [read_line(line) for line in served.stderr_path.read_bytes().splitlines()]
    assert all({"time", "level", "message"} <= line.keys() for line in lines)
    assert all(str(line["message"]).replace("\t", "").isprintable() for line in lines)
    opening = next(line for line in lines if "workers" in line)
    assert (opening["app"], opening["workers"], opening["pid"]) == ("handlers:app", 2, served.pid)
    assert sum("quoted" in line["message"] for line in lines) == 20
    assert any("half a line" in line["message"] for line in lines)


def test_what_ends_a_server_is_json_too(project: Path, plain: Callable[..., Plain]) -> None:
    (project / "ringq.toml").write_text('app = "handlers:app"\ndb = "tasks.db"\nworkers = 1\nlog_format = "json"\n')
    plain(project)
    second = verb(project, "serve")
    assert second.returncode == 75
    assert read_line(second.stderr.splitlines()[-1].encode())["level"] == "error"


def test_quiet_says_nothing_about_a_good_day(project: Path, plain: Callable[..., Plain]) -> None:
    (project / "handlers.py").write_text(NOISY)
    (project / "ringq.toml").write_text('app = "handlers:app"\ndb = "tasks.db"\nworkers = 1\nquiet = true\n')
    served = plain(project)
    assert verb(project, "submit", "photos::noise", "--payload", '{"n": 3}', "--wait").returncode == 0
    wait_for(lambda: "half a line" in served.stderr or "bytes" in served.stderr)
    assert "serves" not in served.stderr
    (worker,) = served.health()["workers"]
    os.kill(worker["pid"], signal.SIGKILL)
    wait_for(lambda: "was killed by SIGKILL" in served.stderr)
    assert served.stop() == 0
    assert "stopped" not in served.stderr


def read_line(line: bytes) -> dict[str, Any]:
    """One line of the log; a constant like NaN is no JSON."""
    found: dict[str, Any] = json.loads(line.decode("ascii"), parse_constant=pytest.fail)
    return found

"""Signals, exit codes, and everything that can be wrong at the start."""

from __future__ import annotations

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
from conftest import segments, wait_for

import ringq
from ringq.query import Query

Serve = Callable[..., Any]

HANDLERS = """
import time
import ringq

app = ringq.App("nap")

@app.task
def nap(seconds: float) -> str:
    time.sleep(seconds)
    return "rested"
"""


def traces(folder: Path) -> list[Path]:
    """What a stopped server may not leave behind."""
    runtime = folder / "tasks.db-ringq"
    return [path for path in runtime.rglob("*") if not path.is_dir()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_running_tasks_end_and_keeps_the_rest(serve: Serve, number: int, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        first = client.submit_many([ringq.Submission("nap::nap", '{"seconds":0.7}') for _ in range(6)])
        wait_for(lambda: sum(w["task_id"] is not None for w in served.health()["workers"]) == 2)
        served.signal(number)
        assert served.wait() == 0
    query = Query(served.database)
    counts = query.counts()
    assert counts[ringq.Status.COMPLETED] >= 2
    assert counts[ringq.Status.COMPLETED] + counts[ringq.Status.PENDING] == 6
    assert traces(tmp_path) == []
    again = serve()
    with again.client() as client:
        client.wait_many([task.id for task in first], timeout=20)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_second_signal_stops_at_once_and_loses_nothing(serve: Serve, number: int, code: int) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        task = client.submit("nap::nap", {"seconds": 30})
        wait_for(lambda: any(w["task_id"] for w in served.health()["workers"]))
        served.signal(number)
        wait_for(lambda: "draining" in served.stderr)
        time.sleep(0.3)  # within 0.2 s it would count as the same request
        served.signal(number)
        started = time.monotonic()
        assert served.wait() == code
        assert time.monotonic() - started < 3
    query = Query(served.database)
    record = query.task(task.id)
    assert record.status is ringq.Status.PENDING
    assert [attempt.reason for attempt in record.attempts] == ["stopped"]


def test_the_drain_time_bounds_the_wait(serve: Serve) -> None:
    served = serve(HANDLERS, "--drain-timeout", "0.5")
    with served.client() as client:
        client.submit("nap::nap", {"seconds": 30})
        wait_for(lambda: any(w["task_id"] for w in served.health()["workers"]))
    served.signal(signal.SIGTERM)
    assert served.wait() == 143


def test_a_stopping_server_takes_no_submission_and_says_so(serve: Serve) -> None:
    served = serve(HANDLERS)
    with ringq.connect(served.database, reconnect=0) as client:
        running = client.submit("nap::nap", {"seconds": 1.5})
        wait_for(lambda: any(w["task_id"] for w in served.health()["workers"]))
        served.signal(signal.SIGTERM)
        wait_for(lambda: "draining" in served.stderr)
        with pytest.raises(ringq.ServerStopping):
            client.submit("nap::nap", {"seconds": 0})
        assert running.result(timeout=10) == "rested"
    assert served.wait() == 0


def test_a_storm_of_signals_ends_it_once(serve: Serve) -> None:
    served = serve(HANDLERS)
    for _ in range(200):
        if served.process.poll() is None:
            served.signal(signal.SIGTERM)
    assert served.wait() in (0, 143)
    assert "Traceback" not in served.stderr


def test_usr1_shows_what_the_workers_do(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        client.submit("nap::nap", {"seconds": 3})
        wait_for(lambda: any(w["task_id"] for w in served.health()["workers"]))
        served.signal(signal.SIGUSR1)
        wait_for(lambda: "in nap" in served.stderr)


def test_a_second_server_is_refused_and_names_the_first(serve: Serve) -> None:
    served = serve(HANDLERS)
    second = serve(ready=False)
    assert second.wait() == 75
    assert f"pid {served.pid}" in second.stderr
    assert served.health()["pid"] == served.pid


def test_another_path_to_the_same_database_is_refused_as_well(serve: Serve, tmp_path: Path) -> None:
    serve(HANDLERS)
    (tmp_path / "link.db").symlink_to(tmp_path / "tasks.db")
    code, stderr = run_serve(tmp_path, "handlers:app", "link.db")
    assert code == 75, stderr
    os.link(tmp_path / "tasks.db", tmp_path / "hard.db")
    code, stderr = run_serve(tmp_path, "handlers:app", "hard.db")
    assert code != 0
    assert "hard links" in stderr


def run_serve(folder: Path, app: str, database: str, *options: str, **env: str) -> tuple[int, str]:
    """A `ringq serve` that is expected to end by itself."""
    done = subprocess.run(
        [sys.executable, "-m", "ringq", "serve", app, "--db", database, "--workers", "1", *options],
        cwd=folder, env={**os.environ, **env}, capture_output=True, text=True, timeout=60,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert "Traceback (most recent call last)" not in done.stderr.replace("worker 0| Traceback", "")
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("source", "app", "says"),
    [
        ("import nonsense_that_is_not_there\n", "broken:app", "No module named 'nonsense_that_is_not_there'"),
        ("app = 1 +\n", "broken:app", "SyntaxError"),
        ("app = 1\n", "broken:app", "not a ringq.App"),
        ("import ringq\n", "broken:app", "has no attribute 'app'"),
        ("raise SystemExit(3)\n", "broken:app", "SystemExit"),
    ],
)
def test_an_app_that_fails_to_import_ends_the_start_with_its_reason(
    tmp_path: Path, source: str, app: str, says: str
) -> None:
    (tmp_path / "broken.py").write_text(source)
    code, stderr = run_serve(tmp_path, app, "t.db")
    assert code == 2
    assert says in stderr


def test_workers_that_die_while_starting_make_the_server_give_up(tmp_path: Path) -> None:
    (tmp_path / "dying.py").write_text("import os\nos._exit(9)\n")
    started = time.monotonic()
    code, stderr = run_serve(tmp_path, "dying:app", "t.db")
    assert code == 70
    assert "given up" in stderr
    assert time.monotonic() - started < 30


def test_a_file_that_is_no_database_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(HANDLERS)
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"this is no database at all" * 100)
    code, stderr = run_serve(tmp_path, "app:app", "garbage.db")
    assert code == 2
    assert "garbage.db" in stderr
    assert garbage.read_bytes() == b"this is no database at all" * 100


def test_a_socket_path_that_is_too_long_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(HANDLERS)
    folder = tmp_path / ("d" * 60) / ("e" * 60)
    folder.mkdir(parents=True)
    code, stderr = run_serve(tmp_path, "app:app", str(folder / "t.db"))
    assert code == 73
    assert "107" in stderr


def test_a_full_shared_memory_is_an_error_and_no_signal(tmp_path: Path) -> None:
    """A private mount namespace with a /dev/shm of one megabyte."""
    (tmp_path / "app.py").write_text(HANDLERS)
    command = (
        "mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "
        f"{sys.executable} -m ringq serve app:app --db t.db --workers 1"
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 73, done.stderr
    assert "/dev/shm" in done.stderr


def test_a_runtime_directory_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(HANDLERS)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "t.db-ringq").symlink_to(tmp_path / "elsewhere")
    code, _ = run_serve(tmp_path, "app:app", "t.db")
    assert code == 73
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_start_that_fails_leaves_nothing_that_looks_like_a_crash(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise RuntimeError('no')\n")
    code, stderr = run_serve(tmp_path, "broken:app", "tasks.db")
    assert code == 2
    assert stderr.rstrip().endswith("broken:app: RuntimeError: no")
    assert 'broken.py", line 1' in stderr
    assert "importlib" not in stderr
    assert segments(tmp_path / "tasks.db") == []
    assert traces(tmp_path) == []
    served = serve(HANDLERS)
    assert "cleanly" not in served.stderr
    assert served.stop() == 0


def test_tasks_of_a_kind_that_this_app_does_not_have_wait_for_one_that_has(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        waiting = client.submit_many([ringq.Submission("nap::nap", '{"seconds":0.01}', run_after=2) for _ in range(50)])
    assert served.stop() == 0
    other = serve("import ringq\napp = ringq.App('other')\n@app.task\ndef quick() -> int:\n    return 1\n")
    assert "no handler here for nap::nap" in other.stderr
    with other.client() as client:
        wait_for(lambda: client.health()["without_handler"] == 50)
        assert client.submit("other::quick").result(timeout=10) == 1
    assert other.stop() == 0
    again = serve(HANDLERS)
    with again.client() as client:
        assert {end.status for end in client.wait_many(waiting, timeout=20)} == {ringq.Status.COMPLETED}


def test_workers_have_the_labels_that_their_environment_says(serve: Serve, cli: Any) -> None:
    named = {"RINGQ_WORKER_PREFIX": " nap ", "RINGQ_WORKER_VERSION": "1.2"}
    served = serve(HANDLERS, env=named)
    workers = wait_for(lambda: all_labelled(served))
    labels = [worker["label"] for worker in workers]
    assert len(set(labels)) == 2
    assert all(re.fullmatch(r"nap-worker-1\.2-[0-9a-f]{4}", label) for label in labels)
    assert labels[0].encode() in Path(f"/proc/{workers[0]['pid']}/cmdline").read_bytes()
    assert labels[0] in cli("health").stdout
    os.kill(workers[0]["pid"], signal.SIGKILL)
    wait_for(lambda: f"worker 0 ({labels[0]}) (pid {workers[0]['pid']}) was killed" in served.stderr)
    wait_for(lambda: [worker["label"] for worker in all_labelled(served)] == labels)
    assert "no setting" not in served.stderr
    assert served.stop() == 0
    served = serve(env=named)
    assert [worker["label"] for worker in wait_for(lambda: all_labelled(served))] == labels
    assert served.stop() == 0
    served = serve()
    assert {worker["label"] for worker in served.health()["workers"]} == {None}


def all_labelled(served: Any) -> list[Any]:
    workers: list[Any] = served.health()["workers"]
    return workers if all(worker["label"] and worker["pid"] for worker in workers) else []

"""What keeps a server going for a long time: starts that hang, databases held by others, memory, idleness."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import wait_for

import ringq
from ringq.config import Config
from ringq.query import Query

Serve = Callable[..., Any]

HANDLERS = """
import os, signal, threading, time
import ringq

app = ringq.App("keep")

@app.task
def count(path: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, b"x\\n")
    os.close(descriptor)

@app.task
def size(text: str) -> int:
    return len(text)

@app.task
def nap(seconds: float) -> None:
    time.sleep(seconds)

@app.task
def leaves_a_child(path: str) -> int:
    if os.fork() == 0:
        os.setsid()
        with open(path, "w") as file:
            file.write(str(os.getpid()))
        time.sleep(1000)
        os._exit(0)
    return os.getpid()

@app.task
def leaves_a_thread() -> None:
    threading.Thread(target=time.sleep, args=(1000,)).start()

@app.task
def umask() -> int:
    old = os.umask(0)
    os.umask(old)
    return old
"""


def run_supervisor(folder: Path, app: str, timeout: float, **settings: float) -> tuple[int, str]:
    """A server with settings that the command line does not have; it is expected to end by itself."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    source = (
        "import sys; from pathlib import Path; from ringq.config import Config; from ringq.serving import serve\n"
        f"sys.exit(serve(Config(Path('t.db').absolute(), {app!r}, 1, {arguments})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=folder, capture_output=True, text=True, timeout=timeout, check=False
    )
    return done.returncode, done.stderr


def test_an_import_that_hangs_is_ended_and_given_up(tmp_path: Path) -> None:
    (tmp_path / "hangs.py").write_text("import time\ntime.sleep(1000)\n")
    code, stderr = run_supervisor(tmp_path, "hangs:app", 60, boot_timeout_s=0.3, boot_deaths_max=3)
    assert code == 70
    assert stderr.count("was not ready after 0.3 s; killed") == 3


def test_workers_that_die_right_after_they_are_ready_make_the_server_give_up(tmp_path: Path) -> None:
    source = "import os, threading, ringq\napp = ringq.App('a')\nthreading.Timer(0.3, os._exit, [5]).start()\n"
    (tmp_path / "dies.py").write_text(source)
    code, stderr = run_supervisor(tmp_path, "dies:app", 60)
    assert code == 70
    assert "given up" in stderr


def test_receipts_of_a_dead_parent_wait_for_a_database_that_somebody_else_holds(serve: Serve, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    served = serve(HANDLERS)
    with served.client() as client:
        first = client.submit("keep::nap", {"seconds": 0})
        first.wait(timeout=20)
        served.signal(signal.SIGSTOP)
        served.kill()
        served = serve()
        tasks = client.submit_many([ringq.Submission("keep::count", f'{{"path":"{ledger}"}}') for _ in range(2000)])
        wait_for(ledger.exists)
        served.kill()
    with sqlite3.connect(served.database, isolation_level=None) as stranger:
        stranger.execute("BEGIN IMMEDIATE")
        blocked = serve(ready=False)
        assert blocked.wait() in (73, 74)
        assert "Traceback" not in blocked.stderr
        stranger.execute("ROLLBACK")
    again = serve()
    with again.client() as client:
        client.wait_many([task.id for task in tasks], timeout=60)
    assert 2000 <= ledger.read_text().count("x") <= 2000 + 2 * 2  # two workers, and two parents that died or gave up


def test_what_a_handler_forked_does_not_keep_the_next_server_from_starting(serve: Serve, tmp_path: Path) -> None:
    note = tmp_path / "child"
    served = serve(HANDLERS)
    with served.client() as client:
        client.submit("keep::leaves_a_child", {"path": str(note)}).result(timeout=20)
    pid = int(wait_for(lambda: note.exists() and note.read_text()))
    served.kill()
    again = serve()
    wait_for(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    assert again.stop() == 0


def test_a_thread_that_a_handler_left_does_not_hold_up_the_stop(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        client.submit("keep::leaves_a_thread").result(timeout=20)
    started = time.monotonic()
    assert served.stop() == 0
    assert time.monotonic() - started < 10


def test_large_payloads_do_not_pile_up_in_the_parent(serve: Serve) -> None:
    """400 MB of pending payloads, of a queue that is not served, before and after a restart."""
    served = serve(HANDLERS, "--queues", "default")
    text = "x" * 200_000
    with served.client() as client:
        for _ in range(100):
            batch = [ringq.Submission("keep::size", {"text": text}, queue="later") for _ in range(20)]
            client.submit_many(batch)
        assert psutil.Process(served.pid).memory_info().rss < 200 << 20
    assert served.stop() == 0
    again = serve(None, "--queues", "later,default")
    with again.client() as client:
        wait_for(lambda: client.health()["pending"] + client.health()["in_flight"] == 0, seconds=60)
        assert psutil.Process(again.pid).memory_info().rss < 200 << 20
    assert Query(again.database).counts()[ringq.Status.COMPLETED] == 2000


def test_an_idle_server_writes_nothing_and_sleeps(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        client.submit("keep::nap", {"seconds": 0}).result(timeout=20)
        wait_for(lambda: all(w["ready"] for w in client.health()["workers"]))
    parent = psutil.Process(served.pid)

    def activity() -> tuple[int, int]:
        switches = parent.num_ctx_switches()
        return parent.io_counters().write_count, switches.voluntary + switches.involuntary

    time.sleep(1.0)  # let the connection's end be noticed
    before = activity()
    time.sleep(3.0)
    after = activity()
    assert after[0] == before[0]
    assert after[1] - before[1] <= 1


def test_tasks_for_later_start_at_their_time_and_survive_a_death_before_it(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        soon = client.submit("keep::nap", {"seconds": 0}, run_after=2.5)
        far = client.submit("keep::nap", {"seconds": 0}, run_after=400 * 24 * 3600)
        now = client.submit("keep::nap", {"seconds": 0})
        now.result(timeout=20)
        assert client.query.task(soon.id).status is ringq.Status.PENDING
    served.kill()
    again = serve()
    with again.client() as client:
        client.handle(soon.id).wait(timeout=20)
        record = client.query.task(soon.id)
        assert record.run_at is not None
        assert record.started_at is not None
        assert record.started_at >= record.run_at
        assert client.query.task(far.id).status is ringq.Status.PENDING
    assert again.stop() == 0


def test_many_tasks_due_in_a_queue_that_nobody_serves_hold_up_no_other(serve: Serve) -> None:
    served = serve(HANDLERS, "--queues", "default")
    with served.client() as client:
        at = time.time() + 0.5
        later = [ringq.Submission("keep::nap", '{"seconds":0}', queue="bulk", run_after=0.5) for _ in range(3000)]
        client.submit_many(later)
        task = client.submit("keep::nap", {"seconds": 0}, run_after=max(0.0, at - time.time()) + 0.2)
        task.wait(timeout=20)
        cpu = psutil.Process(served.pid).cpu_times().user
        time.sleep(1.0)
        assert psutil.Process(served.pid).cpu_times().user - cpu < 0.3


def test_files_that_handlers_make_have_the_users_own_umask(serve: Serve) -> None:
    old = os.umask(0o027)
    try:
        served = serve(HANDLERS)
    finally:
        os.umask(old)
    with served.client() as client:
        assert client.submit("keep::umask").result(timeout=20) == 0o027


@pytest.mark.parametrize("number", [signal.SIGTERM])
def test_a_closed_log_stops_nothing(tmp_path: Path, number: int) -> None:
    (tmp_path / "handlers.py").write_text(HANDLERS)
    read_end, write_end = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "ringq", "serve", "handlers:app", "--db", "t.db", "--workers", "1"],
        cwd=tmp_path, stderr=write_end,
    )  # fmt: skip
    os.close(write_end)
    try:
        config = Config(tmp_path / "t.db")
        client = ringq.connect(config.database, reconnect=20)
        pid = client.health()["workers"][0]["pid"]
        os.close(read_end)
        os.kill(pid, signal.SIGKILL)  # worth a line in the log
        wait_for(lambda: client.health()["workers"][0]["pid"] not in (pid, None))
        assert client.submit("keep::umask").wait(timeout=20).status is ringq.Status.COMPLETED
        client.close()
        process.send_signal(number)
        assert process.wait(20) == 0
    finally:
        if process.poll() is None:
            process.kill()

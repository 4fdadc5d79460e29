"""A disk that is full, fails or goes away under the server: refused or stopped, said, nothing acknowledged lost."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Served, remove_segments, segments, wait_for

import ringq
from ringq import config
from ringq.query import Query

Serve = Callable[..., Any]

HANDLERS = """
import os, time
import ringq

app = ringq.App("disk")

@app.task
def echo(number: int) -> int:
    return number

@app.task
def fill(size: int) -> str:
    return "x" * size

@app.task
def until(path: str) -> str:
    while not os.path.exists(path):
        time.sleep(0.005)
    return "seen"
"""


def all_ready(client: Any) -> bool:
    return all(worker["ready"] for worker in client.health()["workers"])


def submit_until_refused(client: Any, number: int = 0) -> tuple[list[Any], ringq.RingqError]:
    """Submit one by one until it is refused: what was acknowledged, and the refusal."""
    acknowledged = []
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            acknowledged.append(client.submit("disk::echo", {"number": number + len(acknowledged)}))
        except ringq.RingqError as error:
            return acknowledged, error
    raise AssertionError("nothing was refused")


# -- a full disk ----------------------------------------------------------------------------------


def in_small_disk(scenario: Callable[[Path], None], folder: Path) -> None:
    """Run a function of this module in a process of its own, with a disk of 12 MB at `folder`."""
    code = (
        f"import sys; from pathlib import Path; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"import test_storage_faults as module; module.{scenario.__name__}(Path(sys.argv[1]))"
    )
    mounting = 'mount -t tmpfs -o size=12m tmpfs "$0" && exec "$@"'
    for options in (["-m"], ["-rm"]):
        prefix = ["unshare", *options, "sh", "-c", mounting, str(folder)]
        if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
            done = subprocess.run(
                [*prefix, sys.executable, "-c", code, str(folder)],
                capture_output=True, text=True, timeout=90, check=False, stdin=subprocess.DEVNULL,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
            return
    pytest.skip("no private mounts here")


def fill_up(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while True:
            os.write(descriptor, bytes(4096))
    os.close(descriptor)


@contextlib.contextmanager
def served_on(folder: Path) -> Any:
    (folder / "handlers.py").write_text(HANDLERS)
    started = []

    def start() -> Served:
        started.append(Served(folder, folder / "tasks.db", "handlers:app", ("--workers", "2"), {}))
        return started[-1].wait_ready()

    try:
        yield start
    finally:
        for served in started:
            if served.process.poll() is None:
                served.kill()
        remove_segments(folder / "tasks.db")


def full_and_free_again(folder: Path) -> None:
    with served_on(folder) as start:
        served = start()
        client = ringq.connect(served.database, reconnect=0)
        wait_for(lambda: all_ready(client))
        gates = [folder / "gate 1", folder / "gate 2"]
        running = [client.submit("disk::until", {"path": str(gate)}) for gate in gates]
        large = [client.submit("disk::fill", {"size": 1_100_000}) for _ in range(3)]  # their results want files
        wait_for(lambda: all(worker["task_id"] for worker in client.health()["workers"]))
        fill_up(folder / "ballast")
        acknowledged, refusal = submit_until_refused(client)
        assert isinstance(refusal, ringq.errors.StorageFull), refusal
        started = time.monotonic()
        with contextlib.suppress(ringq.errors.StorageFull):
            acknowledged.append(client.submit("disk::echo", {"number": len(acknowledged)}))
        assert time.monotonic() - started < 5, "a refusal must not take long"
        for gate in gates:
            gate.symlink_to("/")  # needs no block
        wait_for(lambda: client.health()["in_flight"] >= 3)  # the two are done, and others have begun
        wait_for(lambda: all(w["task_id"] in {task.id for task in large} for w in client.health()["workers"]))
        assert served.process.poll() is None
        assert client.health()["worker_deaths"] == 0
        (folder / "ballast").unlink()
        ends = client.wait_many([*running, *large, *acknowledged], timeout=20)
        assert {end.status for end in ends} == {ringq.Status.COMPLETED}
        assert all(client.query.task(task.id).attempts[0].attempt == 1 for task in [*running, *large])
        assert [task.result() for task in acknowledged] == list(range(len(acknowledged)))
        assert client.submit("disk::echo", {"number": 5}).result(timeout=10) == 5
        assert "the disk is full" in served.stderr
        assert "can be written again" in served.stderr
        assert served.stop() == 0
        assert sum(Query(served.database).counts().values()) == 5 + len(acknowledged) + 1


def full_while_it_stops(folder: Path) -> None:
    with served_on(folder) as start:
        served = start()
        client = ringq.connect(served.database, reconnect=0)
        wait_for(lambda: all_ready(client))
        gate = folder / "gate"
        task = client.submit("disk::until", {"path": str(gate)})
        wait_for(lambda: any(worker["task_id"] for worker in client.health()["workers"]))
        fill_up(folder / "ballast")
        submit_until_refused(client)
        gate.symlink_to("/")
        wait_for(lambda: not any(worker["task_id"] for worker in client.health()["workers"]))
        lease = Query(served.database).task(task.id).attempts
        served.signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            raise AssertionError(f"it ended with {served.wait(0.5)}, and the receipt is not recorded")
        served.signal(signal.SIGTERM)
        assert served.wait(10) == 143
        (folder / "ballast").unlink()
        again = start()
        with again.client() as client:
            assert client.handle(task.id).result(timeout=10) == "seen"
            assert len(client.query.task(task.id).attempts) == len(lease) + 1, "a published receipt was not adopted"
        assert "1 receipts adopted" in again.stderr


def full_without_a_server(folder: Path) -> None:
    large = ringq.Submission("disk::echo", {"number": 1, "text": "x" * 500_000})
    with ringq.connect(folder / "tasks.db") as client:
        first = client.submit("disk::echo", {"number": 1})
        fill_up(folder / "ballast")
        with pytest.raises(ringq.errors.StorageFull, match="the disk is full"):
            client.submit_many([large])
        (folder / "ballast").unlink()
        assert client.submit("disk::echo", {"number": 2}).id == first.id + 1
    with served_on(folder) as start, start().client() as client:
        assert [end.result for end in client.wait_many([1, 2], timeout=10)] == ["1", "2"]


def full_between_two_steps(folder: Path) -> None:
    with served_on(folder) as start:
        served = start()
        with ringq.connect(served.database, reconnect=0) as client:
            wait_for(lambda: all_ready(client))
            small = [ringq.Submission("disk::echo", {"number": number}) for number in range(3_000)]
            first = client.submit_many(small)
            fill_up(folder / "ballast")
            os.truncate(folder / "ballast", (folder / "ballast").stat().st_size - 4_000_000)
            gate = folder / "gate"
            running = client.submit("disk::until", {"path": str(gate)})
            large = [ringq.Submission("disk::echo", {"number": n, "text": "x" * 1_000_000}) for n in range(40)]
            with pytest.raises(ringq.errors.StorageFull, match="the disk is full"):
                client.submit_many(large)
            gate.symlink_to("/")
            assert running.result(timeout=10) == "seen"
            again = wait_for(lambda: submitted(client, small))
            assert again[0].id == running.id + 1, "what was refused left ids behind"
            assert [end.status for end in client.wait_many([*first, *again], timeout=20)] == [
                ringq.Status.COMPLETED
            ] * 6_000
            assert client.health()["worker_deaths"] == 0
        assert served.stop() == 0
        assert Query(served.database).counts()[ringq.Status.COMPLETED] == 6_001


def submitted(client: Any, tasks: list[Any]) -> Any:
    with contextlib.suppress(ringq.errors.StorageFull):
        return client.submit_many(tasks)


@pytest.mark.parametrize(
    "scenario", [full_and_free_again, full_while_it_stops, full_without_a_server, full_between_two_steps]
)
def test_a_full_disk(scenario: Callable[[Path], None], tmp_path: Path) -> None:
    in_small_disk(scenario, tmp_path)


# -- a failing disk -------------------------------------------------------------------------------


def tracing() -> bool:
    command = ["strace", "-o", os.devnull, "true"]
    return bool(shutil.which("strace")) and subprocess.run(command, check=False).returncode == 0


@contextlib.contextmanager
def failing(served: Any, how: str) -> Any:
    """From now on the disk fails for the server: by strace as said, else no file may grow."""
    if how == "a file that may not grow" or not tracing():
        size = (served.folder / "tasks.db-wal").stat().st_size
        resource.prlimit(served.pid, resource.RLIMIT_FSIZE, (size + 20_000, resource.RLIM_INFINITY))
        yield
        return
    call, when = how.split()
    inject = f"inject={call}:error=EIO:when={when}"
    command = ["strace", "-o", os.devnull, "-e", f"trace={call}", "-e", inject, "-p", str(served.pid)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as tracer:
        status = Path(f"/proc/{served.pid}/status")
        wait_for(lambda: f"TracerPid:\t{tracer.pid}\n" in status.read_text())
        try:
            yield
        finally:
            tracer.terminate()


@pytest.mark.parametrize("how", ["fdatasync 3", "pwrite64 20", "pwrite64 7+", "a file that may not grow"])
def test_a_failing_disk_stops_the_server_and_loses_nothing_it_acknowledged(serve: Serve, how: str) -> None:
    served = serve(HANDLERS)
    with ringq.connect(served.database, reconnect=0) as client:
        wait_for(lambda: all_ready(client))
        first = client.submit_many([ringq.Submission("disk::echo", {"number": n}) for n in range(20)])
        client.wait_many(first, timeout=10)
        with failing(served, how):
            acknowledged, refusal = submit_until_refused(client, 20)
            assert isinstance(refusal, (ringq.ServerUnavailable, ringq.errors.StorageFailed))
            assert served.wait(10) == 74
    assert "stopping: " in served.stderr
    again = serve()
    assert "was not closed cleanly" in again.stderr
    with again.client() as client:
        ids = [task.id for task in [*first, *acknowledged]]
        ends = client.wait_many(ids, timeout=20)
        assert [end.result for end in ends] == [str(n) for n in range(len(ids))]
        wait_for(lambda: client.query.counts()[ringq.Status.PENDING] == 0)
        # What was refused by a broken connection may be there; never more than that one.
        assert len(ids) <= client.query.counts()[ringq.Status.COMPLETED] <= len(ids) + 1


# -- strangers ------------------------------------------------------------------------------------


def test_a_stranger_who_locks_the_database_delays_and_breaks_nothing(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    with served.client() as client, contextlib.closing(sqlite3.connect(served.database, isolation_level=None)) as db:
        wait_for(lambda: all_ready(client))
        running = client.submit("disk::until", {"path": str(tmp_path / "gate")})
        wait_for(lambda: any(worker["task_id"] for worker in client.health()["workers"]))
        db.execute("BEGIN IMMEDIATE")
        for _ in range(3):
            started = time.monotonic()
            with pytest.raises(ringq.errors.StoreBusy, match="keeps the database locked"):
                client.submit("disk::echo", {"number": 1})
            assert time.monotonic() - started < 3
        (tmp_path / "gate").touch()
        idle = wait_for(lambda: [w for w in client.health()["workers"] if w["task_id"] is None])
        os.kill(idle[0]["pid"], signal.SIGKILL)  # a new worker must be able to join all the same
        wait_for(lambda: client.health()["worker_deaths"] == 1 and all_ready(client))
        assert served.process.poll() is None
        db.execute("ROLLBACK")
        assert running.result(timeout=10) == "seen"
        assert client.submit("disk::echo", {"number": 1}).result(timeout=10) == 1
        assert client.query.counts() == {ringq.Status.COMPLETED: 2, ringq.Status.PENDING: 0, ringq.Status.RUNNING: 0}
    assert "can be written again" in served.stderr


@pytest.mark.parametrize("how", ["deleted", "replaced", "moved"])
def test_a_database_that_loses_its_name_takes_nothing_more(serve: Serve, tmp_path: Path, how: str) -> None:
    served = serve(HANDLERS)
    database = served.database
    with ringq.connect(database, reconnect=0) as client:
        task = client.submit("disk::echo", {"number": 1})
        assert task.result(timeout=10) == 1
        left = segments(database)
        for suffix in ("", "-wal", "-shm"):
            path = database.with_name(database.name + suffix)
            if how == "moved":
                path.rename(tmp_path / f"other.db{suffix}")
            else:
                path.unlink()
        if how == "replaced":
            database.write_bytes(b"")
        second = serve(ready=False)
        assert second.wait() == 75
        assert f"pid {served.pid}" in second.stderr
        with pytest.raises(ringq.ServerUnavailable):
            client.submit("disk::echo", {"number": 2})
    assert served.wait() == 74
    assert "deleted or replaced" in served.stderr
    if how == "moved":
        assert Query(tmp_path / "other.db").task(task.id).result == "1"
    for segment in left:
        segment.unlink()
    again = serve()
    with again.client() as client:
        assert client.submit("disk::echo", {"number": 3}).result(timeout=10) == 3


def test_a_whole_folder_deleted_is_noticed_too(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    served = serve(HANDLERS, database=tmp_path / "folder" / "tasks.db")
    with ringq.connect(served.database, reconnect=0) as client:
        client.health()
        remove_segments(served.database)
        shutil.rmtree(tmp_path / "folder")
        with pytest.raises(ringq.ServerUnavailable):
            client.submit("disk::echo", {"number": 2})
    assert served.wait() == 74


# -- places where nothing may be written ------------------------------------------------------------


SERVE_AS = """
import os, sys
import ringq.cli.serve, ringq.serving, ringq.store.migrate, ringq.cli
user = int(sys.argv.pop(1))
if user:
    os.setgroups([]); os.setgid(user); os.setuid(user)
sys.exit(ringq.cli.main())
"""


def serve_as(user: int, folder: Path, database: Path, *before: str) -> tuple[int, str]:
    """A `ringq serve` of another user, expected to end by itself."""
    options = ["serve", "handlers:app", "--db", str(database), "--workers", "1"]
    done = subprocess.run(
        [*before, sys.executable, "-c", SERVE_AS, str(user), *options],
        cwd=folder, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr


def test_a_directory_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "read-only"
    folder.mkdir()
    read_only = 'mount -t tmpfs -o ro tmpfs "$0" && exec "$@"'
    before = ("unshare", "-m", "sh", "-c", read_only, str(folder))
    if subprocess.run([*before, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no private mounts here")
    (tmp_path / "handlers.py").write_text(HANDLERS)
    code, stderr = serve_as(0, tmp_path, folder / "tasks.db", *before)
    assert code == 73
    assert "Read-only file system" in stderr
    assert stderr.count("\n") == 1


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_the_database_of_somebody_else_is_refused(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    served.stop()
    home = Path("/")
    code, stderr = serve_as(65534, home, served.database)  # behind a directory that is closed to others
    assert code == 73
    assert "Permission denied" in stderr
    code, stderr = serve_as(65534, home, Path("/tasks.db"))  # a directory in which others may not create
    assert code == 73
    assert "Permission denied" in stderr
    assert not Path("/tasks.db").exists()
    assert not config.runtime_dir(Path("/tasks.db")).exists()


def test_ten_servers_at_once_on_a_database_that_is_new(tmp_path: Path) -> None:
    """One wins; the others say who it is, and leave it alone."""
    (tmp_path / "handlers.py").write_text(HANDLERS)
    started: list[Served] = []
    for number in range(10):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "handlers.py").write_text(HANDLERS)
        started.append(Served(folder, tmp_path / "tasks.db", "handlers:app", ("--workers", "1"), {}))
    try:
        wait_for(lambda: sum(served.process.poll() == 75 for served in started) == 9)
        winner = next(served for served in started if served.process.poll() is None)
        winner.wait_ready()
        assert winner.health()["pid"] == winner.pid
        stop = threading.Timer(0, winner.signal, [signal.SIGTERM])
        stop.start()
        assert winner.wait() == 0
    finally:
        for served in started:
            if served.process.poll() is None:
                served.kill()
        remove_segments(tmp_path / "tasks.db")

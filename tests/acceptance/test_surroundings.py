"""A server inside something else: a host program, a container in which it is PID 1, a service manager."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import segments, wait_for

import ringq

Serve = Callable[..., Any]

HANDLERS = """
import os, time
import ringq

app = ringq.App("inner")

@app.task
def environment(name: str) -> str | None:
    return os.environ.get(name)

@app.task
def until(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.01)

@app.task
def orphans(count: int) -> None:
    '''Each grandchild loses its parent, leaves this worker's group, and ends soon.'''
    for _ in range(count):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(0.05)
            os._exit(0)
        os.wait()

@app.task
def die() -> None:
    os._exit(3)
"""


def zombies(pid: int) -> list[int]:
    found = []
    for process in psutil.Process(pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() == psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


# -- a host program ------------------------------------------------------------------------------

HOST = """
import os, subprocess, sys
pidfd = os.pidfd_open(os.getpid())
source = (
    "import sys; from pathlib import Path; from ringq.config import Config; from ringq.serving import serve; "
    "sys.exit(serve(Config(Path('tasks.db'), 'handlers:app', 2, drain_timeout_s=float(sys.argv[1]), "
    f"host_pidfd={pidfd})))"
)
server = subprocess.Popen([sys.executable, "-c", source, sys.argv[1]], pass_fds=(pidfd,))
print(server.pid, flush=True)
server.wait()
"""


@contextlib.contextmanager
def hosted(folder: Path, drain_timeout: float) -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    (folder / "handlers.py").write_text(HANDLERS)
    with open(folder / "log", "ab") as log:
        host = subprocess.Popen(
            [sys.executable, "-c", HOST, str(drain_timeout)], cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True
        )
    assert host.stdout is not None
    server = psutil.Process(int(host.stdout.readline()))
    try:
        wait_for(lambda: "serves" in (folder / "log").read_text())
        yield host, server
    finally:
        host.kill()
        host.wait()
        host.stdout.close()
        with contextlib.suppress(psutil.NoSuchProcess):
            server.kill()


def test_a_server_ends_with_its_host_and_lets_running_tasks_end(tmp_path: Path) -> None:
    with hosted(tmp_path, 30) as (host, server):
        with ringq.connect(tmp_path / "tasks.db") as client:
            task = client.submit("inner::until", {"path": str(tmp_path / "over")})
            wait_for(lambda: any(worker["task_id"] for worker in client.health()["workers"]))
            processes = [server, *server.children()]
            host.kill()
            host.wait()
            wait_for(
                lambda: "the program that started this server has ended: draining" in (tmp_path / "log").read_text()
            )
        cpu = server.cpu_times()
        time.sleep(0.5)
        assert sum(server.cpu_times()[:2]) - sum(cpu[:2]) < 0.2  # the dead host's descriptor stays readable
        (tmp_path / "over").touch()
        psutil.wait_procs(processes, timeout=20)
        assert not [process for process in processes if process.is_running()]
    from ringq.query import Query

    assert Query(tmp_path / "tasks.db").task(task.id).status is ringq.Status.COMPLETED
    assert segments(tmp_path / "tasks.db") == []


def test_a_server_whose_host_is_dead_ends_after_the_drain_time(tmp_path: Path) -> None:
    with hosted(tmp_path, 0.5) as (host, server):
        with ringq.connect(tmp_path / "tasks.db") as client:
            client.submit("inner::until", {"path": str(tmp_path / "never")})
            wait_for(lambda: any(worker["task_id"] for worker in client.health()["workers"]))
        processes = [server, *server.children()]
        host.kill()
        host.wait()
        psutil.wait_procs(processes, timeout=20)
        assert not [process for process in processes if process.is_running()]


# -- orphans -------------------------------------------------------------------------------------


def test_a_subreaper_buries_the_orphans_of_handlers_and_knows_its_own_dead(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "handlers.py").write_text(HANDLERS)
    source = (
        "import ctypes, os, sys; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'ringq', 'serve', 'handlers:app', '--db', 'tasks.db',"
        " '--workers', '2'])"
    )
    with open(tmp_path / "log", "ab") as log:
        server = subprocess.Popen([sys.executable, "-c", source], cwd=tmp_path, stderr=log)
    try:
        with ringq.connect(tmp_path / "tasks.db", reconnect=20) as client:
            # the attribute is not inherited: exec keeps it, and so the server has it
            tasks = [client.submit("inner::orphans", {"count": 20}) for _ in range(5)]
            dead = client.submit("inner::die")
            for task in tasks:
                task.result(timeout=30)
            assert dead.wait(timeout=30).status is ringq.Status.DEAD_LETTER
            wait_for(lambda: not zombies(server.pid))
            assert {attempt.error["exit_code"] for attempt in client.query.task(dead.id).attempts} == {3}
            assert client.health()["worker_deaths"] == 3
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0
    finally:
        server.kill()
        server.wait()


def test_a_server_as_pid_1_reaps_serves_and_stops(tmp_path: Path) -> None:
    (tmp_path / "handlers.py").write_text(HANDLERS)
    command = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child"]
    if os.getuid() != 0:
        command[1:1] = ["--user", "--map-root-user"]
    if subprocess.run([*command, "true"], check=False, capture_output=True).returncode:
        command = []  # this machine gives nobody a namespace: as a plain process it must do the same
    with open(tmp_path / "log", "ab") as log:
        outer = subprocess.Popen(
            [*command, sys.executable, "-m", "ringq", "serve", "handlers:app", "--db", "tasks.db", "--workers", "2"],
            cwd=tmp_path, stderr=log,
        )  # fmt: skip
    try:
        with ringq.connect(tmp_path / "tasks.db", reconnect=20) as client:
            assert client.health()["pid"] == (1 if command else outer.pid)
            inside = psutil.Process(outer.pid).children()[0] if command else psutil.Process(outer.pid)
            client.submit("inner::orphans", {"count": 20}).result(timeout=30)
            wait_for(lambda: not zombies(inside.pid))
            first = client.health()["workers"][0]["pid"]
            inside.send_signal(signal.SIGHUP)
            wait_for(lambda: client.health()["reloads"] == 1)
            assert first not in [worker["pid"] for worker in client.health()["workers"]]
            client.submit("inner::orphans", {"count": 1}).result(timeout=30)
        inside.send_signal(signal.SIGTERM)
        assert outer.wait(20) == 0
        assert (tmp_path / "log").read_text().rstrip().endswith("stopped")
    finally:
        outer.kill()
        outer.wait()


# -- a service manager ---------------------------------------------------------------------------


@pytest.mark.parametrize("is_abstract", [False, True])
def test_a_service_manager_is_told_what_the_server_does(serve: Serve, tmp_path: Path, is_abstract: bool) -> None:
    name = f"ringq-test-{os.getpid()}" if is_abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name if is_abstract else name)
        manager.settimeout(20)
        told: list[dict[str, str]] = []

        def listen() -> dict[str, str]:
            told.append(dict(line.split("=", 1) for line in manager.recv(4096).decode().splitlines()))
            return told[-1]

        served = serve(HANDLERS, env={"NOTIFY_SOCKET": f"@{name}" if is_abstract else name})
        assert listen()["READY"] == "1"
        assert served.client().submit("inner::environment", {"name": "NOTIFY_SOCKET"}).result(timeout=20) is None
        before = time.monotonic_ns() // 1000
        served.signal(signal.SIGHUP)
        reloading = listen()
        assert reloading["RELOADING"] == "1"
        assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        assert listen()["READY"] == "1"
        (tmp_path / "handlers.py").write_text("def broken(:\n")
        served.signal(signal.SIGHUP)
        assert listen()["RELOADING"] == "1"
        assert listen()["READY"] == "1"
        assert "reload failed" in served.stderr
        served.signal(signal.SIGTERM)
        assert listen()["STOPPING"] == "1"
        assert served.wait() == 0
        assert all("STATUS" in state for state in told)


@pytest.mark.parametrize("address", ["/nowhere/notify", "@", "x" * 200, "vsock:1:2"])
def test_a_service_manager_that_is_not_there_stops_nothing(serve: Serve, address: str) -> None:
    served = serve(HANDLERS, env={"NOTIFY_SOCKET": address})
    served.signal(signal.SIGHUP)
    wait_for(lambda: served.health()["reloads"] == 1)
    assert served.stop() == 0

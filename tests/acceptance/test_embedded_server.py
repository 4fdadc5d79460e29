"""`ringq.Server`: a server inside somebody's program, as real programs in processes of their own."""

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

import pytest
from conftest import remove_segments, wait_for

import ringq
from ringq.query import Query

PYTHON = sys.executable

APP = """
import os, sys, time
import ringq

app = ringq.App("photos")

@app.task
def double(n: int) -> int:
    print("doubling", n)
    return 2 * n

@app.task
def nap(seconds: float) -> int:
    here = os.path.dirname(os.path.abspath(__file__))
    open(f"{here}/napping", "w").close()
    time.sleep(seconds)
    open(f"{here}/rested", "w").close()
    return os.getpid()
"""

MAIN = """
if __name__ == "__main__":
    with ringq.Server(app, "t.db", workers=2) as server:
        print(server.app, double.submit(21).result(timeout=20), flush=True)
"""


class Program:
    """A host program that runs, in a process group of its own as a shell would start it."""

    def __init__(self, folder: Path, *command: str) -> None:
        self.stdout_path, self.stderr_path = folder / "host.stdout", folder / "host.stderr"
        with self.stdout_path.open("wb") as stdout, self.stderr_path.open("wb") as stderr:
            self.process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, process_group=0
            )

    @property
    def stdout(self) -> str:
        return self.stdout_path.read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return self.stderr_path.read_text(errors="replace")

    def wait(self, timeout: float = 30) -> int:
        return self.process.wait(timeout)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "photos.py").write_text(APP)
    yield tmp_path
    remove_segments(tmp_path / "t.db")


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., Program]]:
    """Start a host program: `start(source)` runs it as a script; `start(None, *command)` a command."""
    started: list[Program] = []

    def call(source: str | None, *command: str) -> Program:
        if source is not None:
            (folder / "host.py").write_text(source)
            command = (PYTHON, "host.py")
        started.append(Program(folder, *command))
        return started[-1]

    yield call
    for program in started:
        if program.process.poll() is None:
            program.process.kill()
            program.process.wait(10)


def run(folder: Path, *command: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, input=stdin, env={**os.environ, **environment}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """The last line of a program that ended with an error of ringq."""
    assert done.returncode == 1, done.stderr
    return done.stderr.rstrip().splitlines()[-1]


def family(pid: int) -> set[int]:
    """A process and all its descendants that live."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            number, _, rest = stat.read_text().partition(" (")
            children.setdefault(int(rest.rpartition(")")[2].split()[1]), []).append(int(number))
    found, todo = set(), [pid]
    while todo:
        found.add(todo[-1])
        todo += children.get(todo.pop(), [])
    return found


def alive(pids: set[int]) -> set[int]:
    """Those that have not ended; one that waits to be collected has."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                found.add(pid)
    return found


# -- how the App is handed over -------------------------------------------------------------------


def test_a_guarded_script_serves_its_own_app_and_what_handlers_print_is_seen(folder: Path) -> None:
    (folder / "script.py").write_text(APP + MAIN)
    done = run(folder, PYTHON, "script.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [f"{folder}/script.py:app", "42"]
    assert "doubling 21" in done.stderr
    assert len(done.stderr.splitlines()) == 1, "quiet: nothing else is worth a line"


def test_a_package_run_by_its_name_serves_its_own_app(folder: Path) -> None:
    (folder / "gallery").mkdir()
    (folder / "gallery" / "__init__.py").write_text("")
    (folder / "gallery" / "names.py").write_text("database = 't.db'\n")
    (folder / "gallery" / "__main__.py").write_text(APP + "from .names import database\n" + MAIN)
    done = run(folder, PYTHON, "-m", "gallery")
    assert (done.returncode, done.stdout.split()) == (0, ["gallery.__main__:app", "42"]), done.stderr


def test_a_module_beside_the_script_is_found_from_another_directory(folder: Path) -> None:
    away = folder / "away"
    away.mkdir()
    (away / "photos.py").write_text("raise RuntimeError('not this one')\n")
    (away / "email.py").write_text("raise RuntimeError('not this one either')\n")
    (folder / "script.py").write_text("import ringq\nfrom photos import app, double\n" + MAIN)
    done = run(away, PYTHON, str(folder / "script.py"))
    assert (done.returncode, done.stdout.split()) == (0, ["photos:app", "42"]), done.stderr
    assert (away / "t.db").exists()


def test_a_task_or_a_text_stands_for_the_app(folder: Path) -> None:
    for named in ("photos.double", "'photos:app'", "'photos.py:app'"):
        done = run(
            folder,
            PYTHON,
            "-c",
            "import photos, ringq\nfrom photos import double\n" + MAIN.replace("(app,", f"({named},"),
        )
        assert (done.returncode, done.stdout.split()[1:]) == (0, ["42"]), done.stderr


def test_an_unguarded_script_ends_with_one_line_that_says_what_to_do(folder: Path) -> None:
    (folder / "script.py").write_text(APP + MAIN.replace('__name__ == "__main__"', "True"))
    done = run(folder, PYTHON, "script.py")
    assert last_line(done) == (
        f"ringq.errors.AppImportError: {folder}/script.py starts a server when it is imported, and workers import it: "
        'put `if __name__ == "__main__":` around that'
    )
    assert done.stderr.count("Traceback (most recent call last)") == 1
    assert done.stderr.count("starts a server") == 1
    assert len(done.stderr.splitlines()) < 20, done.stderr


@pytest.mark.parametrize("how", ["stdin", "-c"])
def test_a_program_that_is_no_file_says_where_to_put_the_app(folder: Path, how: str) -> None:
    done = run(folder, PYTHON, *(["-"] if how == "stdin" else ["-c", APP + MAIN]), stdin=APP + MAIN)
    assert last_line(done).startswith("ringq.errors.AppImportError: workers cannot import <app photos: 2 kinds>")
    assert last_line(done).endswith("put it at the top level of a file, and import it from there")
    assert not (folder / "t.db").exists()


# -- what keeps it from starting ------------------------------------------------------------------


def test_an_app_that_fails_to_import_is_raised_in_the_host_with_the_place(folder: Path) -> None:
    (folder / "broken.py").write_text("import ringq\nimport nonsense_that_is_not_there\n")
    (folder / "script.py").write_text(APP + MAIN.replace("(app,", '("broken:app",'))
    done = run(folder, PYTHON, "script.py")
    assert last_line(done) == (
        "ringq.errors.AppImportError: broken:app: ModuleNotFoundError: No module named 'nonsense_that_is_not_there'"
    )
    assert f'File "{folder}/broken.py", line 2' in done.stderr


@pytest.mark.parametrize(
    ("database", "says"),
    [
        ("photos.py", "ringq.errors.NotADatabase: "),
        (
            "nowhere/t.db",
            "ringq.errors.CannotCreate: {folder}/nowhere/t.db: the directory {folder}/nowhere does not exist",
        ),
    ],
)
def test_a_database_that_cannot_be_is_raised_in_the_host(folder: Path, database: str, says: str) -> None:
    (folder / "script.py").write_text(APP + MAIN.replace("t.db", database))
    done = run(folder, PYTHON, "script.py")
    assert last_line(done).startswith(says.format(folder=folder))


def test_workers_that_import_for_too_long_end_the_start(folder: Path) -> None:
    (folder / "slow.py").write_text("import time\ntime.sleep(60)\n")
    started = time.monotonic()
    with pytest.raises(ringq.CannotStart, match="took no tasks within 1 s: its workers still import slow:app"):
        in_folder(folder, "slow:app", start_timeout=1).start()
    assert time.monotonic() - started < 20


def test_a_second_server_is_refused_and_the_first_goes_on(folder: Path) -> None:
    with in_folder(folder) as server:
        with pytest.raises(ringq.AlreadyServed, match=rf"pid {server.pid}.*use `ringq.connect\('{folder}/t.db'\)`"):
            in_folder(folder).start()
        assert server.client.submit("photos::double", {"n": 4}).result(timeout=20) == 8
        with pytest.raises(ringq.CannotStart, match="was started before"):
            server.start()
    with pytest.raises(ringq.CannotStart, match=r"was started before: make a new ringq\.Server"):
        server.start()


def test_a_daemonic_process_is_told_what_to_do(folder: Path) -> None:
    tail = """
import multiprocessing
def work():
    with ringq.Server(app, "t.db", workers=1): pass
if __name__ == "__main__":
    process = multiprocessing.Process(target=work, daemon=True)
    process.start()
    process.join()
    raise SystemExit(process.exitcode)
"""
    (folder / "script.py").write_text(APP + tail)
    assert last_line(run(folder, PYTHON, "script.py")).startswith(
        "ringq.errors.CannotStart: a daemonic process may have no children: start the server in the main program"
    )


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_plain_child_process_may_have_a_server(folder: Path, method: str) -> None:
    tail = f"""
import multiprocessing
def work():
    with ringq.Server(app, "t.db", workers=1) as server:
        print(server.app, double.submit(21).result(timeout=20), flush=True)
if __name__ == "__main__":
    process = multiprocessing.get_context({method!r}).Process(target=work)
    process.start()
    process.join()
    raise SystemExit(process.exitcode)
"""
    (folder / "script.py").write_text(APP + tail)
    done = run(folder, PYTHON, "script.py")
    assert (done.returncode, done.stdout.split()) == (0, [f"{folder}/script.py:app", "42"]), done.stderr


def test_a_handler_cannot_start_a_server_but_a_program_it_starts_can(folder: Path) -> None:
    (folder / "script.py").write_text(APP + MAIN.replace("t.db", "other.db"))
    (folder / "nested.py").write_text(
        APP
        + """
import subprocess

@app.task
def inside() -> str:
    try:
        ringq.Server("photos:app", "other.db").start()
    except ringq.CannotStart as error:
        return str(error)

@app.task
def outside() -> str:
    here = os.path.dirname(__file__)
    return subprocess.run([sys.executable, "script.py"], cwd=here, capture_output=True, text=True).stdout
"""
    )
    with in_folder(folder, "nested:app") as server:
        told = server.client.submit("photos::inside").result(timeout=20)
        assert told.startswith("a handler cannot start a server inside its worker")
        assert server.client.submit("photos::outside").result(timeout=40).split()[1:] == ["42"]
    remove_segments(folder / "other.db")


def in_folder(folder: Path, app: str = "photos:app", **options: Any) -> ringq.Server:
    """A Server of this process whose workers import from `folder`: by the path that this process has."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    return ringq.Server(app, folder / "t.db", **{"workers": 1, **options})


@pytest.fixture(autouse=True)
def _path_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])


# -- how it ends ----------------------------------------------------------------------------------


def test_the_end_of_the_block_waits_for_running_tasks_and_keeps_the_rest(folder: Path) -> None:
    with in_folder(folder, drain_timeout=20) as server:
        tasks = server.client.submit_many([ringq.Submission("photos::nap", {"seconds": 0.7}) for _ in range(4)])
        wait_for(lambda: any(worker["task_id"] for worker in server.client.health()["workers"]))
    assert server.stop() == 0
    assert repr(server).endswith("ended with exit code 0>")
    counts = Query(folder / "t.db").counts()
    assert counts[ringq.Status.COMPLETED] >= 1
    assert counts[ringq.Status.COMPLETED] + counts[ringq.Status.PENDING] == 4
    with in_folder(folder, drain_timeout=20) as second:
        second.client.wait_many([task.id for task in tasks], timeout=20)


def test_the_drain_time_bounds_the_end_of_the_block(folder: Path) -> None:
    with in_folder(folder, drain_timeout=0.3) as server:
        task = server.client.submit("photos::nap", {"seconds": 60})
        wait_for(lambda: any(worker["task_id"] for worker in server.client.health()["workers"]))
        started = time.monotonic()
    assert time.monotonic() - started < 10
    assert server.stop() == 143
    assert Query(folder / "t.db").task(task.id).status is ringq.Status.PENDING


def test_a_server_that_hangs_is_killed_in_the_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringq.server.CLOSE_S", 0.5)
    with in_folder(folder, drain_timeout=0) as server:
        pids = family(server.pid or 0)
        os.kill(server.pid or 0, signal.SIGSTOP)
    assert server.stop() == -signal.SIGKILL
    wait_for(lambda: not alive(pids))


def test_a_program_that_ends_without_stopping_it_stops_it(start: Callable[..., Program]) -> None:
    tail = 'if __name__ == "__main__":\n    server = ringq.Server(app, "t.db", workers=1)\n    server.start()\n'
    tail += "    print(server.pid, server.client.submit(double, {'n': 3}).result(timeout=20))\n"
    program = start(APP + tail)
    assert program.wait() == 0, program.stderr
    pid, result = map(int, program.stdout.split())
    assert result == 6
    assert not alive({pid})


@pytest.mark.parametrize("method", ["os", "multiprocessing"])
def test_a_forked_copy_of_the_host_leaves_the_server_alone(folder: Path, method: str) -> None:
    fork = {
        "os": "        pid = os.fork()\n        if not pid: sys.exit(0)\n        os.waitpid(pid, 0)\n",
        "multiprocessing": (
            "        import multiprocessing\n"
            "        child = multiprocessing.get_context('fork').Process(target=leave, args=(server,))\n"
            "        child.start()\n        child.join()\n        assert child.exitcode == 0\n"
        ),
    }[method]
    leave = (
        "def leave(server):\n    assert double.submit(1).result(timeout=20) == 2\n    assert server.stop() is None\n"
    )
    body = MAIN.replace("        print(", fork + "        print(")
    (folder / "script.py").write_text(APP + leave + body)
    done = run(folder, PYTHON, "script.py")
    assert (done.returncode, done.stdout.split()[1:]) == (0, ["42"]), done.stderr


def test_a_host_killed_under_load_leaves_no_process_and_loses_nothing(
    start: Callable[..., Program], folder: Path
) -> None:
    tail = """
if __name__ == "__main__":
    with ringq.Server(app, "t.db", workers=2, drain_timeout=2):
        while True:
            for task in ringq.connect("t.db").submit_many([double.submission(n) for n in range(100)]):
                print(task.id, flush=True)
"""
    program = start(APP + tail)
    wait_for(lambda: len(program.stdout.split()) > 2000)
    pids = family(program.process.pid)
    assert len(pids) >= 4, "the host, its server, two workers"
    program.process.kill()
    program.wait()
    wait_for(lambda: not alive(pids), seconds=6)
    acknowledged = [int(line) for line in program.stdout.splitlines(keepends=True) if line.endswith("\n")]
    with in_folder(folder, workers=2) as server:
        ends = server.client.wait_many(acknowledged, timeout=60)
    assert {end.status for end in ends} == {ringq.Status.COMPLETED}


NAPPING = """
if __name__ == "__main__":
    with ringq.Server(app, "t.db", workers=1, drain_timeout=30) as server:
        print(server.pid, flush=True)
        nap.submit(%s).result()
"""


def test_ctrl_c_ends_the_host_after_the_tasks_that_run(start: Callable[..., Program], folder: Path) -> None:
    program = start(APP + NAPPING % 2)
    wait_for((folder / "napping").exists)
    pids = family(program.process.pid)
    os.killpg(program.process.pid, signal.SIGINT)
    program.wait()
    assert (folder / "rested").exists()
    assert program.stderr.rstrip().endswith("KeyboardInterrupt")
    assert not alive(pids)
    assert Query(folder / "t.db").counts()[ringq.Status.COMPLETED] == 1


def test_ctrl_c_again_cuts_them_off(start: Callable[..., Program], folder: Path) -> None:
    program = start(APP + NAPPING % 60)
    wait_for((folder / "napping").exists)
    pids = family(program.process.pid)
    os.killpg(program.process.pid, signal.SIGINT)
    wait_for(lambda: is_draining(folder / "t.db"))
    os.killpg(program.process.pid, signal.SIGINT)
    program.wait()
    assert not alive(pids)
    assert Query(folder / "t.db").counts()[ringq.Status.PENDING] == 1


def is_draining(database: Path) -> bool:
    try:
        with contextlib.closing(ringq.connect(database, reconnect=0)) as client:
            return bool(client.health()["stopping"])
    except ringq.RingqError:
        return False


def test_a_server_that_was_killed_is_not_waited_for(folder: Path) -> None:
    with in_folder(folder) as server:
        os.kill(server.pid or 0, signal.SIGKILL)
        wait_for(lambda: server.pid is None)
        assert repr(server).endswith("ended with exit code -9>")
        started = time.monotonic()
    assert time.monotonic() - started < 5
    assert server.stop() == -signal.SIGKILL


def test_systemd_is_told_nothing_in_the_name_of_the_host(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(folder / "notify"))
        systemd.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(folder / "notify"))
        with in_folder(folder):
            pass
        with pytest.raises(BlockingIOError):
            systemd.recv(1000)


def test_the_innermost_block_gets_what_is_submitted(folder: Path, tmp_path: Path) -> None:
    (folder / "script.py").write_text(
        APP
        + """
if __name__ == "__main__":
    with ringq.Server(app, "t.db", workers=1) as outer:
        with ringq.Server(app, "inner.db", workers=1) as inner:
            inner_task = double.submit(1)
            inner_task.result(timeout=20)
        outer_tasks = double.submit(2), double.submit(3)
        print(inner_task.result(timeout=20), *(task.result(timeout=20) for task in outer_tasks))
    try:
        double.submit(4)
    except ringq.NotBound:
        print("unbound")
"""
    )
    done = run(folder, PYTHON, "script.py")
    assert (done.returncode, done.stdout.split()) == (0, ["2", "4", "6", "unbound"]), done.stderr
    assert Query(folder / "inner.db").counts()[ringq.Status.COMPLETED] == 1
    assert Query(folder / "t.db").counts()[ringq.Status.COMPLETED] == 2

"""New code in a running server: HUP and `--reload` replace the workers, and nothing that runs is lost."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from conftest import wait_for

import ringq
from ringq.config import runtime_dir

Serve = Callable[..., Any]
Cli = Callable[..., subprocess.CompletedProcess[str]]

OLD = """
import os, time
import ringq

app = ringq.App("shop")

@app.task
def version() -> str:
    return "old"

@app.task
def note(path: str, number: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{number}\\n".encode())
    os.close(descriptor)

@app.task
def until(path: str) -> str:
    while not os.path.exists(path):
        time.sleep(0.01)
    return version()
"""
NEW = OLD.replace('"old"', '"rather new"')
BROKEN = OLD + "\ndef broken(:\n"


def change(folder: Path, source: str, mtime: float | None = None) -> None:
    """As an editor does it: the file is the old one or the new one, never half of it."""
    (folder / "handlers.py.tmp").write_text(source)
    if mtime is not None:
        os.utime(folder / "handlers.py.tmp", (mtime, mtime))
    (folder / "handlers.py.tmp").replace(folder / "handlers.py")


def reload(served: Any, source: str) -> None:
    change(served.folder, source)
    served.signal(signal.SIGHUP)


def pids(served: Any) -> set[int]:
    return {worker["pid"] for worker in served.health()["workers"]}


def all_ready(served: Any) -> bool:
    health = served.health()
    return len(health["workers"]) == 2 and all(worker["ready"] for worker in health["workers"])


def children(served: Any) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(served.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "ringq.worker" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


class Load:
    """Keeps submitting tasks that write their numbers, until the `with` ends; then all of them are waited for."""

    def __init__(self, served: Any, path: Path) -> None:
        self.path = path
        self.count = 0
        self._served = served
        self._over = threading.Event()
        self._tasks: list[int] = []
        self._thread = threading.Thread(target=self._submit)

    def __enter__(self) -> Load:
        self._thread.start()
        wait_for(self.path.exists)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        with self._served.client() as client:
            ends = client.wait_many(self._tasks, timeout=60)
            assert {end.status for end in ends} == {ringq.Status.COMPLETED}

    def numbers(self) -> list[int]:
        return sorted(int(line) for line in self.path.read_text().split())

    def _submit(self) -> None:
        with self._served.client() as client:
            while not self._over.is_set():
                numbers = range(self.count, self.count + 50)
                batch = [ringq.Submission("shop::note", {"path": str(self.path), "number": n}) for n in numbers]
                self._tasks += [task.id for task in client.submit_many(batch)]
                self.count += 50
                time.sleep(0.005)


def test_new_code_runs_within_two_seconds_under_load_and_no_attempt_is_lost(serve: Serve, tmp_path: Path) -> None:
    served = serve(OLD)
    wait_for(lambda: all_ready(served))
    before = pids(served)
    with served.client() as client, Load(served, tmp_path / "ledger") as load:
        assert client.submit("shop::version").result(timeout=20) == "old"
        started = time.monotonic()
        reload(served, NEW)
        wait_for(lambda: client.submit("shop::version").result(timeout=20) == "rather new", 10)
        assert time.monotonic() - started < 2.0
        wait_for(lambda: client.health()["reloads"] == 1)
        assert {client.submit("shop::version").result(timeout=20) for _ in range(20)} == {"rather new"}
        wait_for(lambda: all_ready(served))
        assert not pids(served) & before
    assert load.numbers() == list(range(load.count))
    health = served.health()
    assert health["worker_deaths"] == 0
    assert "reloaded 2 workers in " in served.stderr
    assert " died" not in served.stderr
    assert "exited with" not in served.stderr
    assert served.stop() == 0


def test_a_syntax_error_keeps_the_old_code_and_the_next_reload_repairs_it(serve: Serve, tmp_path: Path) -> None:
    served = serve(OLD)
    wait_for(lambda: all_ready(served))
    before = pids(served)
    with served.client() as client, Load(served, tmp_path / "ledger") as load:
        reload(served, BROKEN)
        line = wait_for(lambda: next((li for li in served.stderr.splitlines() if "reload failed" in li), None))
        assert "handlers:app: SyntaxError" in line
        assert "(handlers.py, line " in line
        assert pids(served) == before
        assert client.submit("shop::version").result(timeout=20) == "old"
        reload(served, NEW)
        wait_for(lambda: client.health()["reloads"] == 1)
        assert client.submit("shop::version").result(timeout=20) == "rather new"
    assert load.numbers() == list(range(load.count))
    assert "Traceback" not in served.stderr
    assert served.health()["worker_deaths"] == 0


def test_an_import_that_raises_is_shown_with_the_users_own_lines(serve: Serve) -> None:
    served = serve(OLD)
    wait_for(lambda: all_ready(served))  # else one may still be about to import what is changed here
    reload(served, OLD + "\ndef connect():\n    raise OSError('no such host')\nconnect()\n")
    wait_for(lambda: "reload failed: handlers:app: OSError: no such host" in served.stderr)
    assert 'handlers.py", line' in served.stderr
    assert "importlib" not in served.stderr
    assert served.client().submit("shop::version").result(timeout=20) == "old"


def test_an_import_that_hangs_is_ended_and_the_old_workers_stay(serve: Serve) -> None:
    served = serve(OLD, settings={"boot_timeout_s": 1.0})
    wait_for(lambda: all_ready(served))
    before = pids(served)
    reload(served, "import time\ntime.sleep(1000)\n")
    wait_for(lambda: "reload failed: the fresh worker ended before it was ready" in served.stderr)
    assert pids(served) == before


def test_a_fresh_worker_killed_while_it_imports_ends_the_reload_and_nothing_else(serve: Serve, tmp_path: Path) -> None:
    served = serve(OLD)
    wait_for(lambda: all_ready(served))
    before = pids(served)
    with Load(served, tmp_path / "ledger") as load:
        reload(served, f"import time, pathlib\nwhile not pathlib.Path('go').exists():\n    time.sleep(0.01)\n{NEW}")
        fresh = wait_for(lambda: [process for process in children(served) if process.pid not in before])
        assert len(fresh) == 1
        fresh[0].kill()
        wait_for(lambda: "reload failed" in served.stderr)
        assert pids(served) == before
        (tmp_path / "go").touch()
        served.signal(signal.SIGHUP)
        wait_for(lambda: served.health()["reloads"] == 1)
    assert load.numbers() == list(range(load.count))


def test_the_verb_reloads_and_ends_when_the_new_code_runs(serve: Serve, cli: Cli) -> None:
    served = serve(OLD)
    wait_for(lambda: all_ready(served))
    before = pids(served)
    change(served.folder, NEW)
    done = cli("reload")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"reloaded 2 workers in \d+\.\d s\n", done.stdout)
    assert not before & {worker["pid"] for worker in served.health()["workers"] if worker["ready"]}
    assert cli("submit", "shop::version", "--wait").stdout == "rather new\n"
    told = json.loads(cli("reload", "--json").stdout)
    assert (told["reloaded"], told["workers"], told["error"]) == (True, 2, None)
    assert served.health()["reloads"] == 2


def test_the_verb_says_why_the_new_code_cannot_be_imported(serve: Serve, cli: Cli) -> None:
    served = serve(OLD)
    wait_for(lambda: all_ready(served))
    change(served.folder, BROKEN)
    done = cli("reload")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("ringq: reload failed: handlers:app: SyntaxError: ")
    assert done.stderr.endswith("; the workers stay as they are\n")
    assert done.stderr.removeprefix("ringq: ") in served.stderr
    asked = cli("reload", "--json")
    assert (asked.returncode, asked.stderr) == (1, "")
    told = json.loads(asked.stdout)
    assert (told["reloaded"], told["error"]) == (False, served.health()["reload_error"])
    change(served.folder, NEW)
    assert cli("reload").returncode == 0
    assert served.health()["reload_error"] is None


def test_the_verb_waits_for_long_tasks_as_long_as_it_may(serve: Serve, cli: Cli, tmp_path: Path) -> None:
    served = serve(OLD)
    wait_for(lambda: all_ready(served))
    with served.client() as client:
        long = [client.submit("shop::until", {"path": str(tmp_path / "over")}) for _ in range(2)]
        wait_for(lambda: all(worker["task_id"] for worker in client.health()["workers"]))
        late = cli("reload", "--timeout", "1.5s")
        assert (late.returncode, late.stdout) == (124, "")
        says = r"ringq: the reload is not over after 1\.5 s; it goes on: worker \d leaves when task ([12]) has ended\n"
        assert re.fullmatch(says, late.stderr)
        (tmp_path / "over").touch()
        assert [task.result(timeout=20) for task in long] == ["old", "old"]
        wait_for(lambda: served.health()["reloads"] == 1)


def test_the_verb_ends_with_a_server_that_stops_meanwhile(serve: Serve, cli: Cli, tmp_path: Path) -> None:
    served = serve(OLD)
    wait_for(lambda: all_ready(served))
    with served.client() as client:
        for _ in range(2):
            client.submit("shop::until", {"path": str(tmp_path / "over")})
        wait_for(lambda: all(worker["task_id"] for worker in client.health()["workers"]))
    asking = subprocess.Popen(
        [sys.executable, "-m", "ringq", "reload", "--db", str(served.database)], stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: served.health()["reloading"])
    served.signal(signal.SIGTERM)
    assert asking.communicate(timeout=20)[1].startswith("ringq: the server stops before the reload is over")
    assert asking.returncode == 69
    again = cli("reload")
    assert again.returncode == 69
    assert again.stderr.startswith("ringq: the server is stopping (pid ")
    (tmp_path / "over").touch()
    assert served.wait() == 0


def test_a_process_that_only_has_the_servers_number_gets_no_signal(serve: Serve, cli: Cli, tmp_path: Path) -> None:
    """As seen from another container: there, the number that the server has for itself is another's."""
    served = serve(OLD)
    wait_for(lambda: all_ready(served))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        known = runtime_dir(served.database) / "server.json"
        known.write_text(json.dumps({**json.loads(known.read_text()), "pid": other.pid}))
        refused = cli("reload")
        assert refused.returncode == 69
        assert refused.stderr.count("\n") == 1
        assert "run `ringq reload` where the server runs" in refused.stderr
        assert other.poll() is None
        other.kill()
    assert served.health()["reloads_begun"] == 0


def test_a_worker_that_dies_while_another_is_replaced_is_replaced_too(serve: Serve, tmp_path: Path) -> None:
    served = serve(OLD)
    wait_for(lambda: all_ready(served))
    before = pids(served)
    reload(served, f"import time, pathlib\nwhile not pathlib.Path('go').exists():\n    time.sleep(0.01)\n{NEW}")
    wait_for(lambda: len(children(served)) == 3)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not [process for process in children(served) if process.pid in before])
    (tmp_path / "go").touch()
    wait_for(lambda: served.health()["reloads"] == 1)
    wait_for(lambda: all_ready(served))
    with served.client() as client:
        assert {client.submit("shop::version").result(timeout=20) for _ in range(20)} == {"rather new"}
    wait_for(lambda: len(children(served)) == 2)


def test_a_reload_lets_long_tasks_end_and_serves_new_ones_meanwhile(serve: Serve, tmp_path: Path) -> None:
    served = serve(OLD)
    wait_for(lambda: all_ready(served))
    with served.client() as client:
        long = [client.submit("shop::until", {"path": str(tmp_path / "over")}) for _ in range(2)]
        wait_for(lambda: all(worker["task_id"] for worker in client.health()["workers"]))
        reload(served, NEW)
        assert client.submit("shop::version").result(timeout=10) == "rather new"
        wait_for(lambda: "leaves when task" in served.stderr)
        health = client.health()
        assert health["reloading"]
        assert [worker["leaving"] for worker in health["workers"]].count(True) == 1
        (tmp_path / "over").touch()
        assert [task.result(timeout=20) for task in long] == ["old", "old"]
        wait_for(lambda: client.health()["reloads"] == 1)
        assert {client.submit("shop::version").result(timeout=20) for _ in range(20)} == {"rather new"}


def test_a_long_task_that_leaves_with_its_worker_does_not_idle_another(serve: Serve, tmp_path: Path) -> None:
    """Tasks that are known to be long are published to idle workers only: each must be counted as one."""
    served = serve(OLD)
    wait_for(lambda: all_ready(served))
    with served.client() as client:
        first = client.submit("shop::until", {"path": str(tmp_path / "first")})
        time.sleep(0.5)  # so long it takes, from now on, as far as the server knows
        (tmp_path / "first").touch()
        first.wait(timeout=20)
        old = client.submit("shop::until", {"path": str(tmp_path / "over")})
        wait_for(lambda: any(worker["task_id"] for worker in client.health()["workers"]))
        reload(served, NEW)
        wait_for(lambda: client.health()["reloads"] == 1)
        for _ in range(2):
            client.submit("shop::until", {"path": str(tmp_path / "over")})
        wait_for(lambda: [worker["task_id"] is not None for worker in client.health()["workers"]] == [True] * 3)
        (tmp_path / "over").touch()
        assert old.result(timeout=20) == "old"


def test_many_hups_are_one_reload_after_the_other_and_the_last_code_runs(serve: Serve, tmp_path: Path) -> None:
    served = serve(OLD)
    wait_for(lambda: all_ready(served))
    with served.client() as client, Load(served, tmp_path / "ledger") as load:
        for number in range(10):
            reload(served, OLD.replace('"old"', f'"{"x" * number}"'))
            time.sleep(0.05)
        reload(served, NEW)
        wait_for(lambda: not client.health()["reloading"] and client.health()["reloads"] > 0)
        assert {client.submit("shop::version").result(timeout=20) for _ in range(20)} == {"rather new"}
        wait_for(lambda: len(children(served)) == 2)
        assert client.health()["reloads"] <= 3
    assert load.numbers() == list(range(load.count))


def test_hup_while_draining_changes_nothing(serve: Serve, tmp_path: Path) -> None:
    served = serve(OLD)
    with served.client() as client:
        task = client.submit("shop::until", {"path": str(tmp_path / "over")})
        wait_for(lambda: any(worker["task_id"] for worker in client.health()["workers"]))
    served.signal(signal.SIGTERM)
    wait_for(lambda: "draining" in served.stderr)
    time.sleep(0.3)  # later than an echo of the same signal
    served.signal(signal.SIGHUP)
    time.sleep(0.3)
    assert served.process.poll() is None
    (tmp_path / "over").touch()
    assert served.wait() == 0
    again = serve()
    assert again.client().handle(task.id).result(timeout=20) == "old"


def test_term_while_reloading_drains(serve: Serve, tmp_path: Path) -> None:
    served = serve(OLD)
    wait_for(lambda: all_ready(served))
    reload(served, f"import time\ntime.sleep(1000)\n{NEW}")
    wait_for(lambda: len(children(served)) == 3)
    assert served.stop() == 0


def test_damaged_shared_memory_while_reloading_keeps_the_number_of_workers(serve: Serve, tmp_path: Path) -> None:
    served = serve(OLD)
    wait_for(lambda: all_ready(served))
    reload(served, f"import time, pathlib\nwhile not pathlib.Path('go').exists():\n    time.sleep(0.01)\n{NEW}")
    wait_for(lambda: len(children(served)) == 3)
    (tmp_path / "go").touch()
    segment = next(Path(f"/proc/{served.pid}/fd").iterdir())
    for descriptor in Path(f"/proc/{served.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if "/dev/shm/ringq." in os.readlink(descriptor):
                segment = descriptor
    with open(segment, "r+b") as file:
        file.write(b"\xff" * 64)
    with served.client() as client:
        assert client.submit("shop::version").result(timeout=30) in ("old", "rather new")
        wait_for(lambda: "the segment are replaced" in served.stderr)
        wait_for(lambda: all_ready(served) and not client.health()["reloading"])
        assert {client.submit("shop::version").result(timeout=20) for _ in range(20)} == {"rather new"}
    assert len(children(served)) == 2


def test_kinds_that_come_and_go_by_a_reload_under_load(serve: Serve, tmp_path: Path) -> None:
    """Neither is a task run by a worker that has no handler for it, nor one lost that nobody has any more."""
    served = serve(OLD)
    wait_for(lambda: all_ready(served))
    ledger, noted = tmp_path / "ledger", []

    def submit_until_refused() -> None:
        with served.client() as client, contextlib.suppress(ringq.UnknownKind):
            while True:
                numbers = range(len(noted), len(noted) + 2000)
                batch = [ringq.Submission("shop::note", f'{{"path":"{ledger}","number":{n}}}') for n in numbers]
                noted.extend(task.id for task in client.submit_many(batch))

    thread = threading.Thread(target=submit_until_refused)
    thread.start()
    wait_for(ledger.exists)
    with served.client() as client:
        reload(served, NEW.replace("def note(", "def write("))
        thread.join(20)
        assert not thread.is_alive()
        assert client.health()["reloads"] == 1
        assert client.submit("shop::write", {"path": str(tmp_path / "other"), "number": 1}).result(timeout=20) is None
        wait_for(lambda: "no handler here for shop::note" in served.stderr)
        assert "not every worker" not in served.stderr
        reload(served, NEW)
        wait_for(lambda: client.health()["reloads"] == 2)
        assert {end.status for end in client.wait_many(noted, timeout=60)} == {ringq.Status.COMPLETED}
    assert sorted(int(line) for line in ledger.read_text().split()) == list(range(len(noted)))


def test_a_worker_that_was_given_up_comes_back_with_a_reload(serve: Serve) -> None:
    served = serve(OLD, settings={"boot_deaths_max": 2})
    wait_for(lambda: all_ready(served))
    victim = served.health()["workers"][0]["pid"]
    change(served.folder, BROKEN)
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: "given up" in served.stderr)
    assert served.client().submit("shop::version").result(timeout=20) == "old"
    reload(served, NEW)
    wait_for(lambda: all_ready(served))
    wait_for(lambda: served.client().submit("shop::version").result(timeout=20) == "rather new")


def test_a_reload_that_fails_half_way_serves_what_both_versions_have(serve: Serve, tmp_path: Path) -> None:
    once = "import os\ntry:\n    os.mkdir('once')\nexcept FileExistsError:\n    raise OSError('the second time')\n"
    served = serve(OLD)
    wait_for(lambda: all_ready(served))
    with served.client() as client:
        reload(served, once + NEW.replace("def note(", "def write("))
        wait_for(lambda: "reload failed half way: handlers:app: OSError: the second time" in served.stderr)
        assert {client.submit("shop::version").result(timeout=20) for _ in range(50)} <= {"old", "rather new"}
        arguments = {"path": str(tmp_path / "ledger"), "number": 1}
        waiting = [client.submit(kind, arguments) for kind in ("shop::note", "shop::write")]
        wait_for(lambda: client.health()["without_handler"] == 2)
        assert "not every worker has a handler for shop::note, shop::write" in served.stderr
        reload(served, NEW + "\n@app.task\ndef write(path: str, number: int) -> None:\n    note(path, number)\n")
        wait_for(lambda: client.health()["reloads"] == 1)
        assert {task.wait(timeout=20).status for task in waiting} == {ringq.Status.COMPLETED}


@contextlib.contextmanager
def in_a_terminal(folder: Path, *prefix: str) -> Iterator[tuple[int, int, Path]]:
    """A server whose controlling terminal is ours: its pid, and the descriptor that closes the terminal."""
    (folder / "handlers.py").write_text(OLD)
    log = folder / "serve.stderr"
    command = [*prefix, sys.executable, "-m", "ringq", "serve", "handlers:app", "--db", "tasks.db", "--workers", "2"]
    pid, master = pty.fork()
    if pid == 0:
        os.chdir(folder)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.execvp(command[0], command)
    try:
        wait_for(lambda: log.exists() and " serves " in log.read_text())
        yield pid, master, log
    finally:
        with contextlib.suppress(OSError):
            os.close(master)
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def ended(pid: int) -> int:
    """The exit code of a child that we started by `fork`."""
    status = wait_for(lambda: (found := os.waitpid(pid, os.WNOHANG))[0] and found)[1]
    return os.waitstatus_to_exitcode(status)


def test_hup_reloads_in_a_terminal_and_stops_when_the_terminal_is_closed(tmp_path: Path) -> None:
    with in_a_terminal(tmp_path) as (pid, master, log):
        os.kill(pid, signal.SIGHUP)
        wait_for(lambda: "reloaded 2 workers" in log.read_text())
        os.close(master)
        assert ended(pid) == 0
    assert "the terminal was closed: draining" in log.read_text()
    assert log.read_text().rstrip().endswith("stopped")


def test_under_nohup_the_server_survives_its_terminal(tmp_path: Path) -> None:
    with in_a_terminal(tmp_path, "nohup") as (pid, master, log):
        os.close(master)
        with ringq.connect(tmp_path / "tasks.db") as client:
            time.sleep(0.3)  # in which a server that stops would close its socket
            assert client.submit("shop::version").result(timeout=20) == "old"
            os.kill(pid, signal.SIGHUP)
            wait_for(lambda: client.health()["reloads"] == 1)
        os.kill(pid, signal.SIGTERM)
        assert ended(pid) == 0
    assert "the terminal was closed" not in log.read_text()


def watches(pid: int) -> bool:
    """Whether the kernel tells this process about changes of files."""
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(OSError):  # it has just closed it
            if "inotify wd:" in path.read_text():
                return True
    return False


def test_a_changed_file_is_reloaded_and_the_watcher_ends_with_the_server(serve: Serve) -> None:
    mtime = time.time()
    served = serve(OLD, settings={"reload": True}, env={"PYTHONDONTWRITEBYTECODE": ""})
    watcher = wait_for(
        lambda: [p for p in psutil.Process(served.pid).children() if "ringq.reload" in " ".join(p.cmdline())]
    )[0]
    with served.client() as client:
        assert client.submit("shop::version").result(timeout=20) == "old"
        wait_for(lambda: watches(watcher.pid))
        for version in ("one", "two", "six"):  # as long as each other: what Python takes for the same within a second
            change(served.folder, OLD.replace('"old"', f'"{version}"'), mtime)
            wait_for(lambda v=version: client.submit("shop::version").result(timeout=20) == v, 10)
    served.kill()
    wait_for(lambda: not watcher.is_running() or watcher.status() == psutil.STATUS_ZOMBIE)


def test_reload_without_the_library_names_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "handlers.py").write_text(OLD)
    source = (
        "import sys; sys.modules['watchfiles'] = None\n"
        "import importlib.util; found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'watchfiles' else found(name, *a)\n"
        "from pathlib import Path; from ringq.config import Config; from ringq.errors import RingqError\n"
        "from ringq.cli.exit_codes import exit_code; from ringq.serving import serve\n"
        "try:\n    serve(Config(Path('t.db'), 'handlers:app', 1, reload=True))\n"
        "except RingqError as error:\n    sys.exit(f'{exit_code(error)} {error}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == "2 --reload needs watchfiles: pip install 'ringq[dev]'\n"

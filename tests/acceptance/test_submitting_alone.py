"""Submitting while no server runs: stored at once, run by the next server, never doubled, whatever is killed."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for

import ringq
from ringq import protocol
from ringq.client import core
from ringq.query import Query
from ringq.store import OwnerLock, Store

Serve = Callable[..., Any]
Cli = Callable[..., subprocess.CompletedProcess[str]]

HANDLERS = """
import os, time
import ringq

app = ringq.App("shop")
bulk = app.domain("bulk", queue="slow", priority=200)

@app.task
def add(left: int, right: int = 0) -> int:
    return left + right

@bulk.task(group="nightly", run_timeout=30)
def sweep() -> None:
    pass

@app.task
def note(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, (text + "\\n").encode())
    os.close(descriptor)

@app.task
def until(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.005)
"""

app = ringq.App("shop")


@app.task(queue="late", priority=7)
def add(left: int, right: int = 0) -> int:
    return left + right


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


def meta(database: Path) -> tuple[Any, ...]:
    with sqlite3.connect(database) as connection:
        row: tuple[Any, ...] = connection.execute("SELECT uuid, epoch, nonce, clean, low_water FROM meta").fetchone()
    connection.close()
    return row


def python(code: str, *arguments: object, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **env},
    )  # fmt: skip


# -- what is stored -------------------------------------------------------------------------------


def test_a_task_stored_before_any_server_ran_is_run_by_the_first(serve: Serve, database: Path) -> None:
    with ringq.connect(database) as client:
        handle = add.submit(2, right=3)
        many = client.submit_many([add.submission(n) for n in range(100)])
        named = client.submit("shop::add", {"left": 1})
        assert [one.id for one in (handle, many[0], many[-1], named)] == [1, 2, 101, 102]
        assert client.stored_alone
        own, text = client.query.task(1), client.query.task(102)
        assert (own.queue, own.priority) == ("late", 7), "a task object brings its own defaults"
        assert (text.queue, text.priority) == ("default", 128)
        serve(HANDLERS)
        assert handle.result(timeout=10) == 5
        assert [one.result(timeout=10) for one in many] == list(range(100))
        assert named.result(timeout=10) == 1
        add.submit(1)
        assert not client.stored_alone


def test_each_thread_is_told_whether_it_stored_alone(database: Path) -> None:
    with ringq.connect(database) as client:
        thread = threading.Thread(target=client.submit, args=("shop::add", {"left": 1}))
        thread.start()
        thread.join(10)
        assert not client.stored_alone
        client.submit("shop::add", {"left": 1})
        assert client.stored_alone


def test_after_a_server_kinds_have_the_defaults_it_gave_them(serve: Serve, database: Path) -> None:
    assert serve(HANDLERS).stop() == 0
    with ringq.connect(database) as client:
        client.submit("bulk::sweep")
        add.submit(1)
        with pytest.raises(ringq.UnknownKind, match="did you mean 'bulk::sweep'"):
            client.submit("bulk::swep")
        tasks = client.query.tasks()
    assert [(one.kind, one.queue, one.priority, one.group, one.run_timeout_s) for one in tasks] == [
        ("shop::add", "default", 128, None, None),
        ("bulk::sweep", "slow", 200, "nightly", 30.0),
    ]


def test_a_kind_newer_than_the_last_server_is_taken_from_its_object(serve: Serve, database: Path) -> None:
    assert serve(HANDLERS).stop() == 0
    newer = ringq.App("newer")

    @newer.task(queue="fresh")
    def kind() -> None: ...

    with ringq.connect(database) as client:
        assert client.query.task(kind.submit().id).queue == "fresh"
        with pytest.raises(ringq.UnknownKind):
            client.submit("newer::kind")


def test_a_delayed_task_stored_alone_keeps_its_time(serve: Serve, database: Path) -> None:
    with ringq.connect(database) as client:
        later = client.submit("shop::add", {"left": 1}, run_after=3600)
        soon = client.submit("shop::add", {"left": 2}, run_after=0.5)
        serve(HANDLERS)
        assert soon.result(timeout=10) == 2
        assert client.query.task(later.id).status is ringq.Status.PENDING
        assert client.query.delayed() == 1


def test_what_has_ended_is_told_without_a_server_and_what_has_not_is_stored(serve: Serve, database: Path) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        ended = client.submit_many([ringq.Submission("shop::add", {"left": n}) for n in range(1500)])
        client.wait_many(ended, timeout=20)
    assert served.stop() == 0
    with ringq.connect(database) as client:
        again = [client.handle(one.id) for one in ended]
        assert [one.result() for one in again] == list(range(1500))
        waiting = client.submit("shop::add", {"left": 1})
        seen = []
        some = client.as_completed([client.handle(ended[0].id), waiting, client.handle(ended[9].id)])
        seen = [next(some).id, next(some).id]
        with pytest.raises(ringq.ServerUnavailable, match="1 of 3 tasks are stored"):
            next(some)
        assert sorted(seen) == [ended[0].id, ended[9].id]
        with pytest.raises(ringq.ServerUnavailable, match=f"task {waiting.id} is stored.*"):
            waiting.result()
        with pytest.raises(ringq.UnknownTask, match="9999"):
            client.handle(9999).result()


def test_the_command_line_stores_it_and_says_how_it_will_run(serve: Serve, cli: Cli) -> None:
    one = cli("submit", "shop::add", "--payload", '{"left": 4}')
    assert (one.returncode, one.stdout) == (0, "1\n")
    assert (
        one.stderr == "ringq: no server runs; the task is stored and runs when one is started: ringq serve module:app\n"
    )
    waiting = cli("submit", "shop::add", "--payload", '{"left": 5}', "--wait")
    assert waiting.returncode == 69
    assert waiting.stderr.endswith("ringq: nobody to wait for; once one serves: ringq wait 2\n")
    serve(HANDLERS)
    assert cli("wait", "1", "2").returncode == 0
    assert cli("submit", "shop::add", "--payload", '{"left": 4}').stderr == ""


def test_ended_tasks_are_printed_without_a_server(serve: Serve, cli: Cli) -> None:
    served = serve(HANDLERS)
    assert cli("submit", "shop::add", "--payload", '{"left": 4}', "--wait").returncode == 0
    served.kill()
    assert cli("submit", "shop::add", "--payload", '{"left": 4}').stdout == "2\n"
    one, both = cli("wait", "1", "--json"), cli("wait", "1..2", "--json")
    assert (one.returncode, both.returncode) == (0, 69)
    assert [json.loads(line)["id"] for line in both.stdout.splitlines()] == [1]
    assert both.stderr.count("\n") == 1


# -- who owns the database ------------------------------------------------------------------------


def test_receipts_that_a_killed_server_left_survive_a_submission(serve: Serve, database: Path, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    served = serve(HANDLERS, env={"RINGQ_FAILPOINT": "writer.before_commit=kill:3"})
    with ringq.connect(database) as client:
        before = client.submit_many(
            [ringq.Submission("shop::note", {"path": str(ledger), "text": str(n)}) for n in range(50)]
        )
        served.wait()
        assert served.process.returncode == -signal.SIGKILL
        left = meta(database)
        assert left[3] == 0, "not closed cleanly"
        after = [client.submit("shop::note", {"path": str(ledger), "text": f"after {n}"}) for n in range(5)]
        assert client.stored_alone
        assert meta(database) == left
    again = serve()
    with again.client() as client:
        client.wait_many([*before, *after], timeout=20)
        adopted = int(again.stderr.partition(" receipts adopted")[0].rpartition(" ")[2])
        lost = sum(attempt.reason == "lost" for one in before for attempt in client.query.task(one.id).attempts)
    runs = Counter(ledger.read_text().splitlines())
    assert adopted > 0
    assert runs.keys() == {str(n) for n in range(50)} | {f"after {n}" for n in range(5)}
    assert sum(runs.values()) - len(runs) <= lost, "only what was cut off ran again"


COMMIT_AND_DIE = """
import os, sys
import ringq
from ringq import failpoint
client = ringq.connect(sys.argv[1])
client.submit("shop::add", {"left": 1})
print("stored", flush=True)
failpoint.arm(sys.argv[2])
client.submit("shop::add", {"left": 2})
"""


@pytest.mark.parametrize(
    ("point", "stored"),
    [("writer.before_commit", 1), ("writer.after_commit", 2), ("writer.after_free", 2), ("writer.after_reply", 2)],
)
def test_a_client_killed_while_it_owns_the_database(serve: Serve, database: Path, point: str, stored: int) -> None:
    client = python(COMMIT_AND_DIE, database, f"{point}=kill")
    assert client.communicate(timeout=20)[0] == "stored\n"
    assert client.returncode == -signal.SIGKILL
    with serve(HANDLERS).client() as client:
        ends = client.wait_many(range(1, stored + 1), timeout=10)
        assert [end.result for end in ends] == ["1", "2"][:stored]
        assert sum(client.query.counts().values()) == stored


def test_a_server_waits_for_a_client_that_owns_the_database_for_a_moment(serve: Serve, database: Path) -> None:
    with OwnerLock(database):
        served = serve(HANDLERS, ready=False)
        wait_for(lambda: opens(served.pid, database))
        assert served.process.poll() is None
    served.wait_ready()


def opens(pid: int, path: Path) -> bool:
    links = Path(f"/proc/{pid}/fd").iterdir()
    try:
        return any(os.path.realpath(link) == str(path) for link in links)
    except OSError:
        return False


def test_of_several_servers_that_start_at_once_one_serves(serve: Serve, database: Path) -> None:
    busy = "import sys, ringq\nc = ringq.connect(sys.argv[1])\nwhile 1: c.submit('shop::add', {'left': 1})"
    client = python(busy, database)
    wait_for(database.exists)
    servers = [serve(HANDLERS, ready=False) for _ in range(4)]
    try:
        wait_for(lambda: sum(one.process.poll() is not None for one in servers) == 3)
    finally:
        client.kill()
        client.communicate()
    assert sorted(one.process.poll() or 0 for one in servers) == [0, 75, 75, 75]
    assert next(one for one in servers if one.process.poll() is None).wait_ready()


def test_a_live_server_is_told_of_at_once(serve: Serve) -> None:
    served = serve(HANDLERS)
    started = time.monotonic()
    second = serve(ready=False)
    assert second.wait() == 75
    assert time.monotonic() - started < 5
    assert f"pid {served.pid}" in second.stderr


HOLD = """
import sys
from pathlib import Path
from ringq.store import OwnerLock
lock = OwnerLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_who_owns_the_database_for_too_long_is_named(database: Path) -> None:
    holder = python(HOLD, database)
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    with ringq.connect(database, reconnect=0.3) as client:
        with pytest.raises(ringq.ServerUnavailable, match=rf"another process \(pid {holder.pid}\) owns .* not answer"):
            client.submit("shop::add", {"left": 1})
        holder.communicate(timeout=10)
        assert client.submit("shop::add", {"left": 1}).id == 1


def test_a_server_that_hangs_is_not_gone(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    served = serve(HANDLERS)
    monkeypatch.setattr(core, "REPLY_TIMEOUT_S", 0.5)
    with ringq.connect(served.database, reconnect=0.5) as client:
        served.signal(signal.SIGSTOP)
        try:
            with pytest.raises(ringq.ServerUnavailable, match=r"is there and does not answer.*not known"):
                client.submit("shop::add", {"left": 1})
            assert not client.stored_alone
        finally:
            served.signal(signal.SIGCONT)
        wait_for(lambda: client.query.counts().get(ringq.Status.COMPLETED) == 1)


def test_a_submission_to_a_stopping_server_is_stored_when_it_is_gone(serve: Serve, tmp_path: Path) -> None:
    served, gate = serve(HANDLERS), tmp_path / "gate"
    with served.client() as client:
        long = client.submit("shop::until", {"path": str(gate)})
        wait_for(lambda: any(worker["task_id"] for worker in client.health()["workers"]))
        served.signal(signal.SIGTERM)
        wait_for(lambda: client.health()["stopping"])
        threading.Timer(0.3, gate.touch).start()
        late = client.submit("shop::add", {"left": 3})
        assert client.stored_alone
        assert served.wait() == 0
        serve()
        assert late.result(timeout=10) == 3
        assert long.wait().status is ringq.Status.COMPLETED
        assert sum(client.query.counts().values()) == 2


@pytest.mark.parametrize("through", ["the server", "the database"])
def test_a_repeated_submission_is_answered_and_not_doubled(serve: Serve, database: Path, through: str) -> None:
    from ringq.client import alone

    message = protocol.Submit(protocol.submission_id(), [protocol.SpecFields("shop::add")], None, ['{"left":1}'], None)
    if through == "the server":
        served = serve(HANDLERS)
        with served.client() as client:
            assert client._ask(message, protocol.Submitted).first_id == 1
        served.kill()
    else:
        assert alone.commit(database, message, ()) == protocol.Submitted(1, 1, False)
    assert alone.commit(database, message, ()) == protocol.Submitted(1, 1, True)
    assert sum(Query(database).counts().values()) == 1


# -- what can be wrong ----------------------------------------------------------------------------

AS_NOBODY = """
import os, sys
import ringq
from ringq.client import alone  # before the rights to read it are gone
os.setgid(65534); os.setuid(65534)
try:
    ringq.connect(sys.argv[1]).submit("shop::add", {"left": 1})
except ringq.RingqError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="becoming another user takes root")
@pytest.mark.parametrize("what", ["file", "directory"])
def test_who_may_not_write_is_told_what(open_folder: Path, what: str) -> None:
    database = open_folder / "tasks.db"
    Store.open(database).close()
    database.chmod(0o600 if what == "file" else 0o666)
    open_folder.chmod(0o777 if what == "file" else 0o755)
    said = python(AS_NOBODY, database).communicate(timeout=20)[0]
    path = database if what == "file" else open_folder
    assert said == f"CannotCreate {path}: you may not write to it, which storing a task takes while no server runs\n"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that another user can reach."""
    with tempfile.TemporaryDirectory(prefix="rq") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def test_what_is_no_database_is_told_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "diary").write_text("Dear diary, " * 100)
    sqlite3.connect(tmp_path / "other").execute("CREATE TABLE a (b)").connection.close()
    told = {
        "nowhere/a.db": (ringq.errors.CannotCreate, "does not exist"),
        "directory": (ringq.errors.NotADatabase, "not a regular file"),
        "diary": (ringq.errors.NotADatabase, "not a database"),
        "other": (ringq.errors.NotADatabase, "not one of ringq"),
    }
    for name, (error, text) in told.items():
        with ringq.connect(tmp_path / name) as client, pytest.raises(error, match=text) as caught:
            client.submit("shop::add", {"left": 1})
        assert "\n" not in str(caught.value)
    assert (tmp_path / "diary").read_text() == "Dear diary, " * 100


@pytest.mark.parametrize(("revision", "text"), [("0001", "start a server once"), ("9999", "upgrade ringq")])
def test_another_schema_is_not_touched(database: Path, revision: str, text: str) -> None:
    Store.open(database).close()
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    connection.close()
    before = database.read_bytes()
    with ringq.connect(database) as client, pytest.raises(ringq.errors.StoreError, match=text):
        client.submit("shop::add", {"left": 1})
    assert database.read_bytes() == before


# -- crowds ---------------------------------------------------------------------------------------


def test_threads_and_forked_children_store_without_a_server(database: Path) -> None:
    with ringq.connect(database) as client:
        client.submit("shop::add", {"left": 0})
        children = []
        for _ in range(8):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    code = 0 if all(client.submit("shop::add", {"left": 1}).id for _ in range(10)) else 1
                finally:
                    os._exit(code)
            children.append(pid)
        ids: list[int] = []
        threads = [
            threading.Thread(target=lambda: ids.extend(client.submit("shop::add", {"left": 1}).id for _ in range(5)))
            for _ in range(32)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 8
    assert len(set(ids)) == 160
    assert sum(Query(database).counts().values()) == 1 + 80 + 160


def test_a_fork_during_a_commit_waits_for_it(database: Path) -> None:
    done = threading.Event()
    failed = []
    with ringq.connect(database) as client:

        def work() -> None:
            while not done.is_set():
                client.submit("shop::add", {"left": 1})

        thread = threading.Thread(target=work)
        thread.start()
        for _ in range(30):
            pid = os.fork()
            if pid == 0:
                held = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
                os._exit(1 if any(str(database) in path for path in held) else 0)
            failed.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        done.set()
        thread.join(20)
    assert not any(failed), "the child holds nothing of the database"


FORK_THEN_DIE = """
import os, signal, sys
from pathlib import Path
from ringq.store import OwnerLock
OwnerLock(Path(sys.argv[1])).release()
child = os.fork()
if child == 0:
    signal.pause()
lock = OwnerLock(Path(sys.argv[1]))
print(child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_child_does_not_keep_the_lock_of_a_killed_client(database: Path) -> None:
    parent = python(FORK_THEN_DIE, database)
    assert parent.stdout
    child = int(parent.stdout.readline())
    try:
        parent.wait(10)
        with ringq.connect(database, reconnect=0) as client:
            assert client.submit("shop::add", {"left": 1}).id == 1
    finally:
        os.kill(child, signal.SIGKILL)
        parent.communicate(timeout=10)


def test_a_child_that_never_submits_keeps_no_connection_of_its_parent(serve: Serve) -> None:
    served = serve(HANDLERS)
    read, write = os.pipe()
    client = served.client()
    client.submit("shop::add", {"left": 1})
    pid = os.fork()
    if pid == 0:
        os.read(read, 1)
        os._exit(0)
    client.close()
    wait_for(lambda: served.health()["clients"] == 1)
    os.write(write, b"x")
    os.waitpid(pid, 0)
    os.close(read)
    os.close(write)


CROWD = """
import os, sys, threading
import ringq
client = ringq.connect(sys.argv[1], reconnect=60)
threads, children, stop, acknowledged = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]

def member(number):
    with open(f"{acknowledged}/{number}", "ab", buffering=0) as written:
        left = number * 1_000_000
        while not os.path.exists(stop):
            handles = client.submit_many([ringq.Submission("shop::add", {"left": left + n}) for n in range(3)])
            written.write(b"".join(b"%d %d\\n" % (handle.id, left + n) for n, handle in enumerate(handles)))
            left += 3

member_of = {}
for number in range(children):
    pid = os.fork()
    if pid == 0:
        member(threads + number)
        os._exit(0)
    member_of[pid] = number
crowd = [threading.Thread(target=member, args=(number,)) for number in range(threads)]
for thread in crowd: thread.start()
for thread in crowd: thread.join()
assert not any(os.waitpid(pid, 0)[1] for pid in member_of)
"""


@pytest.mark.timeout(300)
def test_32_threads_and_8_processes_submit_while_the_server_is_killed_ten_times(serve: Serve, tmp_path: Path) -> None:
    """All acknowledged tasks are completed once, and there are no others."""
    threads, children, kills = 32, 8, 10
    stop, folder = tmp_path / "stop", tmp_path / "acknowledged"
    folder.mkdir()
    crowd = python(CROWD, tmp_path / "tasks.db", threads, children, stop, folder)
    members = threads + children
    try:
        wait_for(lambda: len(acknowledged(folder)) > members)
        for _ in range(kills):
            served = serve(HANDLERS)
            more(folder, 20 * members)
            served.kill()
            more(folder, members)
        served = serve()
        stop.touch()
        said = crowd.communicate(timeout=100)
    finally:
        crowd.kill()
    assert (crowd.returncode, said) == (0, ("", ""))
    told = acknowledged(folder)
    with served.client() as client:
        ends = client.wait_many(told, timeout=100)
        assert [end.result for end in ends] == list(told.values())
        assert client.query.counts() == {
            ringq.Status.PENDING: 0, ringq.Status.RUNNING: 0, ringq.Status.COMPLETED: len(told),
        }  # fmt: skip


def more(folder: Path, count: int) -> None:
    before = len(acknowledged(folder))
    wait_for(lambda: len(acknowledged(folder)) >= before + count, 60)


def acknowledged(folder: Path) -> dict[int, str]:
    """What each id should result in; a line that is not complete was not acknowledged yet."""
    found: dict[int, str] = {}
    for path in folder.iterdir():
        for line in path.read_text().split("\n")[:-1]:
            task_id, _, left = line.partition(" ")
            assert int(task_id) not in found
            found[int(task_id)] = left
    return found

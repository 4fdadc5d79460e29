"""Who owns a database: one process, whatever names the file has and whatever happens to that process."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from pathlib import Path

import pytest
from store_rows import opened, output_of, spawn

from ringq.config import runtime_dir
from ringq.errors import AlreadyServed, CannotCreate, NotADatabase, StoreError
from ringq.store import OwnerLock, Store

HOLD = """
from ringq.store import OwnerLock
lock = OwnerLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""

TRY = """
from ringq.errors import AlreadyServed
from ringq.store import OwnerLock
try:
    OwnerLock(Path(sys.argv[1]))
    print("got it")
except AlreadyServed as error:
    print(error)
"""


def test_a_second_process_is_refused_and_told_who_owns_it(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with OwnerLock(path):
        assert output_of(spawn(TRY, path)).strip() == f"{path} is owned by another process"
        runtime_dir(path).mkdir()
        (runtime_dir(path) / "server.json").write_text(json.dumps({"pid": os.getpid()}))
        assert f"(pid {os.getpid()})" in output_of(spawn(TRY, path))
        (runtime_dir(path) / "server.json").write_text('{"pid": "x"}')
        assert "pid" not in output_of(spawn(TRY, path))
    assert output_of(spawn(TRY, path)).strip() == "got it"


def test_the_lock_of_a_killed_owner_is_free(tmp_path: Path) -> None:
    holder = spawn(HOLD, tmp_path / "a.db")
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(AlreadyServed):
        OwnerLock(tmp_path / "a.db")
    holder.kill()
    holder.communicate()
    OwnerLock(tmp_path / "a.db").release()


def test_a_child_that_outlives_a_killed_owner_does_not_keep_the_lock(tmp_path: Path) -> None:
    code = """
import subprocess
from ringq.store import OwnerLock
lock = OwnerLock(Path(sys.argv[1]))
child = subprocess.Popen(["sleep", "60"], close_fds=False, stdin=-3, stdout=-3, stderr=-3)
print(child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    owner = spawn(code, tmp_path / "a.db")
    orphan = int(owner.communicate(timeout=60)[0])
    try:
        OwnerLock(tmp_path / "a.db").release()
    finally:
        os.kill(orphan, signal.SIGKILL)


def test_one_process_cannot_own_or_open_it_twice(tmp_path: Path) -> None:
    with OwnerLock(tmp_path / "a.db"), Store.open(tmp_path / "a.db"):
        with pytest.raises(AlreadyServed):
            OwnerLock(tmp_path / "a.db")
        with pytest.raises(AlreadyServed):
            Store.open(tmp_path / "a.db")
    Store.open(tmp_path / "a.db").close()


def test_a_store_takes_the_lock_itself_and_lets_go_of_it(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "a.db")
    assert "owned by another" in output_of(spawn(TRY, tmp_path / "a.db"))
    store.close()
    store.close()
    assert "got it" in output_of(spawn(TRY, tmp_path / "a.db"))


def test_a_store_leaves_the_lock_to_who_had_it_before(tmp_path: Path) -> None:
    with OwnerLock(tmp_path / "a.db"):
        Store.open(tmp_path / "a.db").close()
        assert "owned by another" in output_of(spawn(TRY, tmp_path / "a.db"))


def test_a_failed_open_lets_go_of_the_lock(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_text("a diary, not a database " * 20)
    with pytest.raises(NotADatabase):
        Store.open(tmp_path / "a.db")
    assert "got it" in output_of(spawn(TRY, tmp_path / "a.db"))


def test_a_link_is_another_name_of_the_same_database(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "a.db")  # dangling: the target is created
    with OwnerLock(tmp_path / "link.db") as lock:
        assert lock.path == tmp_path / "a.db"
        with pytest.raises(AlreadyServed):
            OwnerLock(tmp_path / "a.db")
    opened(tmp_path / "link.db").close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.db", "link.db"]


def test_a_hard_linked_database_is_refused_because_its_log_has_only_one_name(tmp_path: Path) -> None:
    Store.open(tmp_path / "a.db").close()
    os.link(tmp_path / "a.db", tmp_path / "b.db")
    for name in ("a.db", "b.db"):
        with pytest.raises(StoreError, match="hard links"):
            OwnerLock(tmp_path / name)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("fifo", "directory", "loop"):
        with pytest.raises(NotADatabase, match=name):
            OwnerLock(tmp_path / name)
    with pytest.raises(CannotCreate, match="nowhere does not exist"):
        OwnerLock(tmp_path / "nowhere" / "a.db")


def test_a_forbidden_directory_is_one_clear_line(tmp_path: Path) -> None:
    code = """
from ringq.errors import CannotCreate
from ringq.store import OwnerLock
if os.getuid() == 0:
    os.setgid(65534); os.setuid(65534)
try:
    OwnerLock(Path(sys.argv[1]))
except CannotCreate as error:
    print(error)
"""
    (tmp_path / "closed").mkdir(mode=0o555)
    said = output_of(spawn(code, tmp_path / "closed" / "a.db"))
    assert said == f"{tmp_path}/closed/a.db: Permission denied\n"


def test_only_the_owner_may_read_the_files(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = opened(tmp_path / "a.db")
    finally:
        os.umask(before)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()}
    store.close()
    assert modes == {"a.db": "0o600", "a.db-wal": "0o600", "a.db-shm": "0o600"}


def test_a_forked_child_cannot_let_go_of_its_parents_lock(tmp_path: Path) -> None:
    code = """
from ringq.errors import AlreadyServed
from ringq.store import OwnerLock
lock = OwnerLock(Path(sys.argv[1]))
if os.fork() == 0:
    lock.release()
    try:
        OwnerLock(Path(sys.argv[1]))
    except AlreadyServed:
        os._exit(7)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 7
print("held", flush=True)
sys.stdin.read()
"""
    parent = spawn(code, tmp_path / "a.db")
    assert parent.stdout is not None
    assert parent.stdout.readline() == "held\n"
    with pytest.raises(AlreadyServed):
        OwnerLock(tmp_path / "a.db")
    output_of(parent)


def test_taking_the_lock_for_a_moment_keeps_the_locks_of_open_connections(tmp_path: Path) -> None:
    """Closing any descriptor of a file drops all POSIX locks of the process on it: readers would lose the log."""
    path = tmp_path / "a.db"
    Store.open(path).close()
    reader = sqlite3.connect(path)
    reader.execute("SELECT * FROM meta").fetchall()
    assert posix_locks(path)
    OwnerLock(path).release()
    opened(path).close()
    assert posix_locks(path)
    reader.close()
    assert not posix_locks(path)


def posix_locks(path: Path) -> list[str]:
    lines = Path("/proc/locks").read_text().splitlines()
    return [s for s in lines if " POSIX " in s and f" {os.getpid()} " in s and f":{path.stat().st_ino} " in s]

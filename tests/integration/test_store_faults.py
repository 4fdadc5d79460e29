"""Full and failing disks: what was committed stays, what was not is as if it had never been asked."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from pathlib import Path

import pytest
from store_rows import active, opened, output_of, spawn, submit

from ringq.store import Store

FILL = """
from store_rows import *
from ringq.errors import StorageFull, StorageFailed
directory = Path(sys.argv[1])
ballast = directory / "ballast"
ballast.write_bytes(bytes(1 << 20))
store = opened(directory / "a.db", durability="full")
committed, refused = 0, 0
store.begin_epoch(1)
while not refused:
    try:
        with store.transaction():
            ids = submit(store, 500)
            store.insert_receipts([receipt(i) for i in ids])
        committed += 500
    except StorageFull as error:
        assert str(error) == f"{directory}/a.db: the disk is full; nothing was written", error
        refused += 1
for _ in range(3):
    try:
        with store.transaction():
            ids = submit(store, 500)
            store.insert_receipts([receipt(i) for i in ids])
        committed += 500
    except StorageFull:
        refused += 1
assert (store.next_task_id, store.count_active()) == (committed + 1, 0), (store.next_task_id, committed)
ballast.unlink()
submit(store, 500)
assert store.next_task_id == committed + 501
store.mark_clean()
store.close()
store = Store.open(directory / "a.db")
assert (store.next_task_id, len(active(store))) == (committed + 501, 500)
assert store._driver.execute("PRAGMA integrity_check").fetchone() == ("ok",)
store.close()
print(committed, refused)
"""

NO_ROOM = """
from store_rows import *
from ringq.errors import StorageFull
directory = Path(sys.argv[1])
(directory / "ballast").write_bytes(bytes(os.statvfs(directory).f_bavail * os.statvfs(directory).f_frsize - 20_000))
try:
    Store.open(directory / "a.db")
except StorageFull as error:
    print(error)
(directory / "ballast").unlink()
Store.open(directory / "a.db").close()
"""


def small_disk(directory: Path, size: str) -> list[str] | None:
    """A command prefix that mounts a small file system there, for that command alone; None if this host forbids it."""
    for options in (["-m"], ["-rm"]):
        mounting = f'mount -t tmpfs -o size={size} tmpfs "$0" && exec "$@"'
        prefix = ["unshare", *options, "sh", "-c", mounting, str(directory)]
        if (
            shutil.which("unshare")
            and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
        ):
            return prefix
    return None


def test_a_full_disk_refuses_and_goes_on_when_there_is_room_again(tmp_path: Path) -> None:
    prefix = small_disk(tmp_path, "4m")
    if prefix is None:
        pytest.skip("no private mounts here; the next test covers what a limit on the file's size can")
    committed, refused = map(int, output_of(spawn(FILL, tmp_path, before=prefix)).split())
    assert committed >= 500
    assert refused >= 1


def test_a_file_that_may_not_grow_loses_nothing_that_was_committed(tmp_path: Path) -> None:
    code = """
from store_rows import *
from ringq.errors import StorageFull, StorageFailed
import resource
store = opened(Path(sys.argv[1]), durability="full")
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
committed = 0
try:
    while True:
        submit(store, 500)
        committed += 500
except (StorageFull, StorageFailed):
    print(committed)
"""
    committed = int(output_of(spawn(code, tmp_path / "a.db")))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    with Store.open(tmp_path / "a.db") as store:
        assert len(active(store)) == committed > 0


def test_a_database_that_has_no_room_to_begin_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    prefix = small_disk(tmp_path, "1m")
    if prefix is None:
        pytest.skip("no private mounts here")
    assert output_of(spawn(NO_ROOM, tmp_path, before=prefix)).strip().endswith("the disk is full; nothing was written")


def traceable() -> bool:
    tracer = shutil.which("strace")
    return bool(tracer) and subprocess.run([str(tracer), "-o", os.devnull, "true"], check=False).returncode == 0


WORK = """
from store_rows import *
from ringq.errors import RingqError
store = opened(Path(sys.argv[1]), durability="full")
committed = 0
failures = []
for _ in range(6):
    try:
        submit(store, 50)
        committed += 50
    except RingqError as error:
        failures.append(type(error).__name__)
print(committed, *sorted(set(failures)))
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.skipif(not traceable(), reason="strace cannot trace here")
@pytest.mark.parametrize("when", ["2", "3+", "5"])
@pytest.mark.parametrize("call", ["fdatasync", "pwrite64"])
def test_after_an_error_of_the_disk_nothing_is_taken_any_more_and_nothing_taken_is_lost(
    tmp_path: Path, call: str, when: str
) -> None:
    opened(tmp_path / "a.db").close()
    inject = [
        "strace",
        "-f",
        "-o",
        os.devnull,
        "-P",
        str(tmp_path / "a.db-wal"),
        "-e",
        f"inject={call}:error=EIO:when={when}",
    ]
    committed, *failures = output_of(spawn(WORK, tmp_path / "a.db", before=inject)).split()
    assert failures == ["StorageFailed"]
    with Store.open(tmp_path / "a.db") as store:
        found = len(active(store))
    # The transaction whose sync failed was answered with an error and may be there nevertheless: it was written.
    assert int(committed) <= found <= int(committed) + 50


@pytest.mark.skipif(not traceable(), reason="strace cannot trace here")
@pytest.mark.parametrize("when", range(1, 20, 3))
def test_a_process_killed_at_any_write_leaves_whole_transactions(tmp_path: Path, when: int) -> None:
    opened(tmp_path / "a.db").close()
    inject = [
        "strace",
        "-f",
        "-o",
        os.devnull,
        "-P",
        str(tmp_path / "a.db-wal"),
        "-e",
        f"inject=pwrite64:signal=KILL:when={when}",
    ]
    process = spawn(WORK, tmp_path / "a.db", before=inject)
    process.communicate(timeout=60)
    with opened(tmp_path / "a.db") as store:
        assert len(active(store)) % 50 == 0
        assert store._driver.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert submit(store, 1)[0] == len(active(store))

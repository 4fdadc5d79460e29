"""The log while a reader holds it back: it grows ahead of what is written, and what lies there means nothing."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from store_rows import opened, receipt, submit

from ringq.errors import StoreBusy
from ringq.store import Store
from ringq.store.store import LOG_FRAME_BYTES, LOG_HEADER_BYTES, LOG_PAGES_AHEAD


@contextmanager
def held_back(store: Store) -> Iterator[None]:
    """A stranger's transaction that reads what is committed now."""
    reader = sqlite3.connect(f"file:{store.path}?mode=ro", uri=True, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT COUNT(*) FROM task").fetchone()
    yield
    reader.execute("ROLLBACK")
    reader.close()


def write(store: Store, tasks: int) -> None:
    with store.transaction():
        ids = submit(store, tasks)
        store.insert_receipts([receipt(task_id) for task_id in ids])


def log_bytes(store: Store) -> int:
    return Path(f"{store.path}-wal").stat().st_size


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened(tmp_path / "a.db") as store:
        submit(store, 1)
        yield store


def test_the_log_is_lengthened_only_while_a_reader_holds_it_back(store: Store) -> None:
    write(store, 500)
    assert store.checkpoint() == 0
    usual = log_bytes(store)
    with held_back(store):
        write(store, 500)
        held = store.checkpoint()
        assert held > 0
        assert log_bytes(store) >= LOG_HEADER_BYTES + (held + LOG_PAGES_AHEAD) * LOG_FRAME_BYTES
        longer = log_bytes(store)
        write(store, 500)
        assert log_bytes(store) == longer > usual  # there was room
    assert store.checkpoint() == 0


def test_what_lies_behind_the_logs_last_frame_is_not_read_after_a_crash(store: Store, tmp_path: Path) -> None:
    with held_back(store):
        for _ in range(3):
            write(store, 400)
            store.checkpoint()
        write(store, 300)
        (tmp_path / "crashed").mkdir()
        for name in ("a.db", "a.db-wal"):  # without the index in shared memory: it is made anew from the log
            shutil.copy(tmp_path / name, tmp_path / "crashed" / name)
    with opened(tmp_path / "crashed" / "a.db") as again:
        assert again.next_task_id == 1502
        assert again._read_one("SELECT COUNT(*), MAX(task_id) FROM receipt") == (1500, 1501)
        assert again._read_one("PRAGMA integrity_check") == ("ok",)
        write(again, 10)


def test_a_log_that_cannot_be_lengthened_is_used_as_it_is(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with held_back(store):
        write(store, 100)
        with monkeypatch.context() as disk:
            disk.setattr("os.pwrite", full)
            assert store.checkpoint() > 0
        write(store, 100)
    assert store.count_active() == 1


def test_the_log_is_not_touched_while_a_stranger_writes_to_the_database(store: Store) -> None:
    with held_back(store), closing(sqlite3.connect(store.path, isolation_level=None)) as stranger:
        write(store, 100)
        stranger.execute("BEGIN IMMEDIATE")
        before = log_bytes(store)
        with pytest.raises(StoreBusy):
            store.checkpoint()
        assert log_bytes(store) == before
        stranger.execute("ROLLBACK")
        assert store.checkpoint() > 0
        assert log_bytes(store) > before

"""Opening a database: new, odd, foreign, damaged, from another version, and after a death."""

from __future__ import annotations

import hashlib
import os
import random
import sqlite3
from pathlib import Path

import pytest
from store_rows import active, end, opened, output_of, receipt, spawn, submit

from ringq.errors import CannotCreate, NewerSchema, NotADatabase, RingqError, StorageFailed, StoreError
from ringq.model import Status
from ringq.query import Query
from ringq.store import Store


def contents(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


@pytest.mark.parametrize(
    "name", ["a b.db", "a?mode=memory.db", "a#b.db", "100%.db", "%41.db", "ü☃.db", "a&b.db", "-x", "'\";"]
)
def test_a_database_may_have_any_name(tmp_path: Path, name: str) -> None:
    store = opened(tmp_path / name)
    submit(store, 2)
    assert Query(tmp_path / name).task(2).kind == "media::thumbnail"
    store.close()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_new_database_knows_itself_and_nothing_else(tmp_path: Path) -> None:
    said: list[str] = []
    with Store.open(tmp_path / "a.db", say=said.append) as store:
        assert store.previous == (0, 0, True)
        assert (store.next_task_id, store.low_water, len(store.uuid)) == (1, 0, 16)
        assert (dict(store.kinds()), dict(store.specs()), active(store)) == ({}, {}, [])
    assert said == [f"{tmp_path}/a.db: SQLite {sqlite3.sqlite_version}, durability full"]
    with Store.open(tmp_path / "b.db") as other:
        assert other.uuid != store.uuid


def test_the_pragmas_are_what_the_design_says(tmp_path: Path) -> None:
    for durability, synchronous in (("full", 2), ("normal", 1)):
        with Store.open(tmp_path / "a.db", durability=durability) as store:
            store.begin_epoch(5)
            pragmas = {
                name: store._driver.execute(f"PRAGMA {name}").fetchone()[0]
                for name in (
                    "journal_mode",
                    "synchronous",
                    "secure_delete",
                    "foreign_keys",
                    "mmap_size",
                    "application_id",
                )
            }
        assert pragmas == {
            "journal_mode": "wal", "synchronous": synchronous, "secure_delete": 0, "foreign_keys": 0, "mmap_size": 0,
            "application_id": 0x72696E67,
        }  # fmt: skip


def test_an_unknown_durability_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="durability"):
        Store.open(tmp_path / "a.db", durability="perhaps")


def test_each_life_has_a_higher_epoch_and_leaves_its_traces(tmp_path: Path) -> None:
    with Store.open(tmp_path / "a.db") as store:
        assert store.begin_epoch(2**63 - 1) == 1
        assert store.previous == (0, 0, True)
        store.mark_clean()
    with Store.open(tmp_path / "a.db") as store:
        assert store.previous == (1, 2**63 - 1, True)
        assert (store.begin_epoch(8), store.begin_epoch(9)) == (2, 3)  # the ring was replaced
    said: list[str] = []
    with Store.open(tmp_path / "a.db", say=said.append) as store:
        assert store.previous == (3, 9, False)
    assert "not closed cleanly" in said[0]


def test_ids_go_on_after_the_highest_ever_issued(tmp_path: Path) -> None:
    with opened(tmp_path / "a.db") as store:
        submit(store, 7)
        store.mark_clean()
    with sqlite3.connect(tmp_path / "a.db") as shell:  # retention took the newest ones
        shell.execute("DELETE FROM task WHERE id > 3")
    shell.close()
    with Store.open(tmp_path / "a.db") as store:
        assert store.next_task_id == 8


def test_a_process_killed_in_a_transaction_leaves_the_one_before(tmp_path: Path) -> None:
    code = """
from store_rows import *
store = opened(Path(sys.argv[1]), durability="full")
store.begin_epoch(77)
submit(store, 500)
with store.transaction():
    submit(store, 5000)
    store.insert_receipts([receipt(i) for i in range(1, 400)])
    store.intern_kind("never::seen")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert spawn(code, tmp_path / "a.db").wait(60) == -9
    assert Query(tmp_path / "a.db").counts()[Status.PENDING] == 500  # no server runs
    said: list[str] = []
    with Store.open(tmp_path / "a.db", say=said.append) as store:
        assert "checking" in said[0]
        assert store.previous == (1, 77, False)
        assert store.next_task_id == 501
        assert active(store) == list(range(1, 501))
        assert "never::seen" not in store.kinds().values()


@pytest.mark.parametrize("statement", [1, 4, 9, 16, 23, 24])
def test_a_process_killed_while_it_creates_the_database_leaves_none(tmp_path: Path, statement: int) -> None:
    code = """
from ringq.store import Store, prepare
left = int(sys.argv[2])
def trace(_):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
real = prepare.open_private
def traced(*arguments):
    connection = real(*arguments)
    connection.set_trace_callback(trace)
    return connection
prepare.open_private = traced
Store.open(Path(sys.argv[1]))
"""
    assert spawn(code, tmp_path / "a.db", statement).wait(60) == -9
    with opened(tmp_path / "a.db") as store:
        assert list(submit(store, 3)) == [1, 2, 3]


def test_a_creation_that_was_cut_while_it_wrote_the_file_is_begun_again(tmp_path: Path) -> None:
    """What a power loss may leave: pages of the new database in the file, and the journal that undoes them."""
    Store.open(tmp_path / "whole.db").close()
    pages = (tmp_path / "whole.db").read_bytes()
    code = """
import sqlite3
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN")
for n in range(40):
    connection.execute(f"CREATE TABLE t{n} (x)")
connection.execute("INSERT INTO t1 VALUES (zeroblob(200000))")
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert spawn(code, tmp_path / "a.db").wait(60) == -9
    assert (tmp_path / "a.db-journal").stat().st_size > 0
    for torn in (pages[: len(pages) // 2], bytes(4096) + pages[4096:]):
        (tmp_path / "b.db").write_bytes(torn)
        (tmp_path / "b.db-journal").write_bytes((tmp_path / "a.db-journal").read_bytes())
        with Store.open(tmp_path / "b.db") as store:
            assert store.previous == (0, 0, True)
        (tmp_path / "b.db").unlink()


def garbage() -> dict[str, bytes]:
    noise = random.Random(1).randbytes(20_000)
    return {
        "text": b"Dear diary, " * 500,
        "noise": noise,
        "one byte": b"x",
        "magic only": b"SQLite format 3\0",
        "magic and noise": b"SQLite format 3\0" + noise,
        "zeros": bytes(8192),
    }


@pytest.mark.parametrize("name", sorted(garbage()))
def test_a_file_that_is_no_database_is_refused_and_untouched(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.db").write_bytes(garbage()[name])
    before = contents(tmp_path)
    with pytest.raises(NotADatabase, match=r"a\.db"):
        Store.open(tmp_path / "a.db")
    assert contents(tmp_path) == before
    with pytest.raises(NotADatabase, match=r"a\.db"):
        Query(tmp_path / "a.db").counts()
    assert (tmp_path / "a.db").read_bytes() == garbage()[name]


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_another_programs_database_is_refused_and_untouched_even_in_the_middle_of_its_work(
    tmp_path: Path, mode: str
) -> None:
    code = """
import sqlite3
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute(f"PRAGMA journal_mode = {sys.argv[2]}")
connection.execute("PRAGMA cache_size = 1")
connection.execute("CREATE TABLE bookmarks (url TEXT)")
connection.execute("INSERT INTO bookmarks VALUES ('https://example.org')")
connection.execute("BEGIN")
connection.execute("INSERT INTO bookmarks VALUES (zeroblob(200000))")
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert spawn(code, tmp_path / "a.db", mode).wait(60) == -9
    before = contents(tmp_path)
    assert len(before) >= 2  # there is something to be recovered, by its owner
    with pytest.raises(NotADatabase, match="not one of ringq"):
        Store.open(tmp_path / "a.db")
    assert contents(tmp_path) == before


def test_a_newer_schema_is_refused_and_untouched(tmp_path: Path) -> None:
    opened(tmp_path / "a.db").close()
    with sqlite3.connect(tmp_path / "a.db") as shell:
        shell.execute("UPDATE alembic_version SET version_num = '9999'")
    shell.close()
    before = (tmp_path / "a.db").read_bytes()
    with pytest.raises(NewerSchema, match="9999"):
        Store.open(tmp_path / "a.db")
    with pytest.raises(NewerSchema, match="9999"):
        Query(tmp_path / "a.db").counts()
    assert (tmp_path / "a.db").read_bytes() == before


@pytest.mark.parametrize("statement", ["DELETE FROM alembic_version", "DROP TABLE alembic_version", "DROP TABLE meta"])
def test_a_database_without_its_own_books_is_refused(tmp_path: Path, statement: str) -> None:
    opened(tmp_path / "a.db").close()
    with sqlite3.connect(tmp_path / "a.db") as shell:
        shell.execute(statement)
    shell.close()
    with pytest.raises(StoreError, match=r"a\.db"):
        Store.open(tmp_path / "a.db")


def filled(path: Path, *, clean: bool) -> None:
    with opened(path) as store:
        store.begin_epoch(1)
        for _ in range(20):
            ids = submit(store, 200)
            end(store, *(receipt(i) for i in ids))
        if clean:
            store.mark_clean()


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_database_is_refused_and_untouched(tmp_path: Path, share: float, clean: bool) -> None:
    filled(tmp_path / "a.db", clean=clean)
    size = (tmp_path / "a.db").stat().st_size
    os.truncate(tmp_path / "a.db", int(size * share) // 4096 * 4096)
    before = (tmp_path / "a.db").read_bytes()
    with pytest.raises(StorageFailed, match=r"a\.db"):
        Store.open(tmp_path / "a.db")
    assert (tmp_path / "a.db").read_bytes() == before


def test_after_an_unclean_stop_damage_is_found_and_what_to_do_is_said(tmp_path: Path) -> None:
    filled(tmp_path / "a.db", clean=False)
    with (tmp_path / "a.db").open("r+b") as file:
        file.seek(60 * 4096)  # behind the pages of the schema itself
        file.write(random.Random(2).randbytes(4096))
    with pytest.raises(StorageFailed, match="restore a backup"):
        Store.open(tmp_path / "a.db")
    Store.open(tmp_path / "a.db", check=False).close()


def test_flipped_bits_never_crash_and_never_pass_for_something_else(tmp_path: Path) -> None:
    filled(tmp_path / "whole.db", clean=False)
    whole = (tmp_path / "whole.db").read_bytes()
    chance = random.Random(3)
    messages: list[tuple[str, str]] = []
    for n in range(150):
        damaged = bytearray(whole)
        for _ in range(chance.choice([1, 3, 50])):
            damaged[chance.randrange(chance.choice([100, len(whole)]))] ^= 1 << chance.randrange(8)
        path = tmp_path / f"{n}.db"
        path.write_bytes(damaged)
        try:
            with Store.open(path) as store:
                sum(len(rows) for rows in store.active_ids())
        except RingqError as error:
            messages.append((path.name, str(error)))
        path.unlink()
    assert len(messages) > 30
    assert all(name in text for name, text in messages)


def test_the_log_of_a_deleted_database_is_not_replayed_into_its_successor(tmp_path: Path) -> None:
    with opened(tmp_path / "a.db") as store:
        submit(store, 50)
        log = (tmp_path / "a.db-wal").read_bytes()
    (tmp_path / "new.db-wal").write_bytes(log)
    with Store.open(tmp_path / "new.db") as fresh:
        assert fresh.next_task_id == 1


def test_a_missing_place_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(CannotCreate, match="does not exist"):
        Store.open(tmp_path / "no" / "such" / "a.db")


def test_the_server_does_not_load_alembic(tmp_path: Path) -> None:
    code = """
from ringq.store import Store
Store.open(Path(sys.argv[1])).close()
print(sorted(name for name in sys.modules if name.split(".")[0] in ("alembic", "mako")))
"""
    assert output_of(spawn(code, tmp_path / "a.db")) == "[]\n"


def test_a_shell_shows_words_and_times(tmp_path: Path) -> None:
    with opened(tmp_path / "a.db") as store:
        submit(store, 2, spec=2)
        end(store, receipt(1, kind=2))
    with sqlite3.connect(f"file:{tmp_path}/a.db?mode=ro", uri=True) as shell:
        rows = shell.execute(
            'SELECT id, kind, queue, "group", status, reason, submitted, ended FROM task_v ORDER BY id'
        )
        instant = "2027-01-15T08:00:00"
        assert rows.fetchall() == [
            (1, "mail::send", "bulk", "customer", "completed", "", f"{instant}.000Z", f"{instant}.001Z"),
            (2, "mail::send", "bulk", "customer", "pending", None, f"{instant}.000Z", None),
        ]
        history = shell.execute("SELECT task_id, kind, status, ended, duration_s FROM history_v").fetchall()
        assert history == [(1, "mail::send", "completed", f"{instant}.001Z", 0.00025)]
    shell.close()

"""Schemas of other releases: what is older is upgraded behind a backup, or stays exactly as it was."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from store_rows import active, opened, receipt, submit

import ringq
from ringq.errors import AlreadyServed, NewerSchema
from ringq.model import Reason, Status
from ringq.query import Query
from ringq.store import OwnerLock, Store
from ringq.store.migrate import main, migrate
from ringq.store.queues import QueueRow
from ringq.store.schema import REVISION, REVISIONS

FOLLOWING = f"{int(REVISION) + 1:04}"
DATABASES = Path(__file__).parent.parent / "fixtures" / "databases"

NEXT_REVISION = """
from alembic import op

revision = "{next}"
down_revision = "{last}"


def upgrade() -> None:
    op.execute("CREATE TABLE mark (task_id INTEGER NOT NULL, name TEXT NOT NULL)")
    op.execute("INSERT INTO mark SELECT id, 'old' FROM task")
    {more}
"""

OPEN = """
import sys
from pathlib import Path
from ringq.errors import RingqError
from ringq.store import Store
try:
    with Store.open(Path(sys.argv[1]), say=print) as store:
        print("next id", store.next_task_id)
except RingqError as error:
    print(type(error).__name__, error)
"""


def schema_of(path: Path) -> set[tuple[str, str, str | None]]:
    connection = sqlite3.connect(path)
    try:
        return set(connection.execute("SELECT type, name, sql FROM sqlite_master"))
    finally:
        connection.close()


def test_a_new_database_is_what_the_migrations_make(tmp_path: Path) -> None:
    Store.open(tmp_path / "new.db").close()
    with OwnerLock(tmp_path / "migrated.db") as lock:
        migrate(lock.path)
    assert schema_of(tmp_path / "new.db") == schema_of(tmp_path / "migrated.db")
    for path in tmp_path.glob("*.db"):
        connection = sqlite3.connect(path)
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(REVISION,)]
        assert connection.execute("PRAGMA application_id").fetchone() == (0x72696E67,)
        connection.close()


def test_the_server_knows_the_same_revisions_as_the_migrations() -> None:
    config = Config()
    config.set_main_option("script_location", "ringq.store:migrations")
    scripts = ScriptDirectory.from_config(config)
    assert tuple(script.revision for script in scripts.walk_revisions())[::-1] == REVISIONS


def test_every_released_schema_has_its_database() -> None:
    assert {path.stem for path in DATABASES.glob("*.db")} == set(REVISIONS)


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_database_of_each_release_is_opened_and_read(tmp_path: Path, revision: str) -> None:
    path = tmp_path / "photos.db"
    shutil.copy(DATABASES / f"{revision}.db", path)
    with Store.open(path) as store:
        assert store.previous == (1, 42, True)
        preempted = [4] if revision >= "0004" else []
        assert (store.next_task_id, store.low_water) == (8, 3)
        assert sorted([*active(store), *store.preempted]) == [4, 5, 6]
        assert sorted(store.preempted) == preempted
        assert store.attempts_summary() == {4: (1, 0, 1, 0)}
        assert store.find_submission(bytes(range(16))) == (1, 7)
        assert [row[0] for row in store.leases()] == [5]
        assert store.begin_epoch(1) == 2
        if revision >= "0002":
            assert store.registry() == ['{"name":"media::thumbnail"}']
            found = store.find_map("media::thumbnail", "album")
            assert found
            assert (store.map_chunks(found, 0, 9), store.map_end(found)) == ([(0, 1, 1, bytes(range(16)))], 1)
        if revision >= "0003":
            assert ("queue", "bulk") in store.pauses()
            defaults = '{"priority": 200, "tags": {"team": "sales"}}' if revision >= "0004" else None
            assert store.queue("bulk") == QueueRow("bulk", 2, "3", "constant 60s", retention="7d", defaults=defaults)
        if revision >= "0004":
            assert store.control("group", "customer")[2:] == (1, 2.5, 1)
            assert set(store.pauses()) == {("queue", "bulk"), ("group", "customer")}
            assert len(store.pause_spans()["domain", "audio"]) == 1
        rate = store.rate("github")
        assert (rate and rate[1:5]) == ((10.0, 1_000_000, 20.0, 2.5) if revision >= "0004" else None)
        submit(store, 1)
    query = Query(path)
    held = Status.WAITING if revision >= "0005" else Status.PAUSED if revision >= "0004" else Status.PENDING
    bulk = Status.PAUSED if revision >= "0003" else Status.PENDING  # earlier ones could pause no queue
    assert [record.status for record in query.tasks()][::-1] == [
        *(Status.COMPLETED, Status.FAILED, Status.DEAD_LETTER, held, Status.RUNNING, bulk, bulk),
        Status.PENDING,
    ]  # fmt: skip
    assert [a.reason for a in query.task(3).attempts] == [Reason.CRASH, Reason.CRASH, Reason.CRASH_LIMIT]
    assert query.task(1).result == '{"bytes":9876}'
    assert [record.head for record in query.output(1)] == ([b"resizing\n"] if revision >= "0002" else [])
    assert query.task(7).run_at is not None
    assert query.task(1).serial_key == ("disk 1" if revision >= "0004" else None)
    waiting = query.task(4)
    assert (waiting.child_count, waiting.memo) == ((1, '{"folder":"a"}') if revision >= "0005" else (0, None))
    assert query.task(5).parent == (4 if revision >= "0005" else None)
    assert query.task(5).dependencies == ((1,) if revision >= "0005" else ())
    assert sum(row.count for row in query.statistics()) == 3


# -- the release after this one -------------------------------------------------------------------


@pytest.fixture
def later(tmp_path: Path) -> Path:
    return release(tmp_path, "pass")


def release(tmp_path: Path, more: str) -> Path:
    """A copy of the package with one more revision, as the next release will have."""
    directory = tmp_path / "a release" / "50%"
    package = Path(ringq.__file__).parent
    shutil.copytree(package, directory / "ringq", ignore=shutil.ignore_patterns("__pycache__", "native", "demo"))
    store = directory / "ringq" / "store"
    text = NEXT_REVISION.format(next=FOLLOWING, last=REVISION, more=more)
    (store / "migrations" / "versions" / f"{FOLLOWING}_tags.py").write_text(text)
    schema = (store / "schema.py").read_text()
    (store / "schema.py").write_text(re.sub(r"(REVISIONS: Final = \([^)]*)\)", rf'\1, "{FOLLOWING}")', schema))
    return directory


def open_with(directory: Path, path: Path, code: str = OPEN) -> subprocess.CompletedProcess[str]:
    """Run a script in the copy; its directory is the working one, and so comes before the installed package."""
    return subprocess.run(
        [sys.executable, "-c", code, str(path)], env=os.environ | {"PYTHONPATH": str(directory)}, cwd=directory,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def fill(path: Path) -> None:
    with opened(path) as store:
        submit(store, 3)
        with store.transaction():
            store.insert_receipts([receipt(1)])


def test_an_older_database_is_copied_said_so_and_upgraded(tmp_path: Path, later: Path) -> None:
    path = tmp_path / "my photos?.db"
    fill(path)
    before = schema_of(path)
    lines = open_with(later, path).stdout.splitlines()
    backup = tmp_path / f"my photos?.db.bak-{REVISION}"
    assert lines[0] == f"{path} has schema {REVISION}; copied to {backup.name} before the upgrade to {FOLLOWING}"
    assert lines[1] == f"{path} now has schema {FOLLOWING}"
    assert lines[-1] == "next id 4"
    assert schema_of(path) > before
    shell = sqlite3.connect(path)
    assert shell.execute("SELECT COUNT(*) FROM mark").fetchone() == (3,)
    shell.close()
    assert oct(backup.stat().st_mode & 0o777) == "0o600"
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("my")) == [path.name, backup.name]
    assert schema_of(backup) == before
    with Store.open(backup) as store:  # the way back
        assert (store.next_task_id, active(store)) == (4, [2, 3])
    contents = hashlib.sha256(path.read_bytes()).digest()
    with pytest.raises(NewerSchema, match=FOLLOWING):
        Store.open(path)
    assert hashlib.sha256(path.read_bytes()).digest() == contents
    assert open_with(later, path).stdout.splitlines()[0].endswith("durability full")  # nothing to do the next time


def test_an_earlier_backup_is_never_overwritten(tmp_path: Path, later: Path) -> None:
    fill(tmp_path / "a.db")
    (tmp_path / f"a.db.bak-{REVISION}").write_text("mine")
    open_with(later, tmp_path / "a.db")
    assert (tmp_path / f"a.db.bak-{REVISION}").read_text() == "mine"
    assert (tmp_path / f"a.db.bak-{REVISION}-2").stat().st_size > 4096


@pytest.mark.parametrize(
    "more", ["raise RuntimeError('no luck')", f"__import__('os').kill(__import__('os').getpid(), {signal.SIGKILL:d})"]
)
def test_an_upgrade_that_fails_or_is_killed_leaves_the_old_schema(tmp_path: Path, more: str) -> None:
    fill(tmp_path / "a.db")
    before = schema_of(tmp_path / "a.db")
    said = open_with(release(tmp_path, more), tmp_path / "a.db").stdout
    assert "StoreError" in said
    assert "failed and was undone" in said
    assert ("no luck" in said) == ("luck" in more)
    assert schema_of(tmp_path / "a.db") == before
    with Store.open(tmp_path / "a.db") as store:
        assert active(store) == [2, 3]


def test_a_reader_of_the_next_release_waits_for_its_server(tmp_path: Path, later: Path) -> None:
    fill(tmp_path / "a.db")
    code = OPEN.replace(
        "Store.open(Path(sys.argv[1]), say=print)", "__import__('ringq.query').query.Query(sys.argv[1])"
    )
    code = code.replace('print("next id", store.next_task_id)', "store.counts()")
    said = open_with(later, tmp_path / "a.db", code).stdout
    assert said.startswith("StoreError")
    assert "older ringq" in said


def test_by_hand_it_needs_the_database_for_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path / "a.db")
    assert main([str(tmp_path / "a.db")]) == 0
    with OwnerLock(tmp_path / "a.db"):
        with pytest.raises(AlreadyServed):
            OwnerLock(tmp_path / "a.db")
        assert main([str(tmp_path / "a.db")]) == 1
    assert "a.db is already open" in capsys.readouterr().err

"""The words of the store: what errors become, how paths become URIs, and that SQL says what the model says."""

from __future__ import annotations

import errno
import re
import sqlite3
from pathlib import Path

import pytest

from ringq import errors
from ringq.model import Reason, Status
from ringq.store import schema
from ringq.store.engine import open_private
from ringq.store.failures import store_error

PATH = Path("/var/lib/photos.db")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("SQLITE_FULL", errors.StorageFull),
        ("SQLITE_IOERR_FSYNC", errors.StorageFailed),
        ("SQLITE_IOERR_SHMSIZE", errors.StorageFailed),  # the disk of PATH has room
        ("SQLITE_CORRUPT_VTAB", errors.StorageFailed),
        ("SQLITE_NOTADB", errors.NotADatabase),
        ("SQLITE_CANTOPEN_ISDIR", errors.CannotCreate),
        ("SQLITE_READONLY_DIRECTORY", errors.StoreError),
        ("SQLITE_BUSY_SNAPSHOT", errors.StoreBusy),
        ("SQLITE_INTERRUPT", errors.StoreError),
        ("SQLITE_CONSTRAINT_CHECK", errors.StoreError),
        ("", errors.StoreError),
    ],
)
def test_an_error_of_sqlite_becomes_one_of_ours_that_names_the_file(name: str, kind: type[Exception]) -> None:
    error = sqlite3.OperationalError("something happened")
    error.sqlite_errorname = name
    ours = store_error(error, PATH)
    assert type(ours) is kind
    assert str(ours).startswith(str(PATH))
    assert "\n" not in str(ours)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, errors.StorageFull),
        (errno.EDQUOT, errors.StorageFull),
        (errno.EIO, errors.StorageFailed),
        (errno.EACCES, errors.CannotCreate),
    ],
)
def test_an_error_of_the_file_system_becomes_one_of_ours(number: int, kind: type[Exception]) -> None:
    assert type(store_error(OSError(number, "text"), PATH)) is kind


def test_our_own_errors_pass_unchanged() -> None:
    error = errors.AlreadyServed("mine")
    assert store_error(error, PATH) is error


@pytest.mark.parametrize(
    "name", ["a b.db", "a?mode=ro.db", "a#b.db", "100%.db", "%41.db", "ü.db", "a&b=c.db", "a\nb.db"]
)
def test_a_path_is_opened_as_it_is_written(tmp_path: Path, name: str) -> None:
    open_private(tmp_path / name, "rwc").execute("CREATE TABLE t (x)").connection.close()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_path_with_two_leading_slashes_is_no_host(tmp_path: Path) -> None:
    (tmp_path / "x.db").touch()
    open_private(Path("/" + str(tmp_path / "x.db")), "rw").close()


def test_the_views_call_statuses_and_reasons_what_the_model_calls_them() -> None:
    for view in (schema.TASK_VIEW, schema.HISTORY_VIEW):
        statuses = view[view.index("receipt.status") :]
        said = dict(re.findall(r"WHEN (\d+) THEN '(\w*)'", statuses[: statuses.index("END")]))
        assert said == {str(status.code): str(status) for status in Status if status.is_terminal}
        reasons = view[view.index("CASE receipt.reason") :]
        said = dict(re.findall(r"WHEN (\d+) THEN '(\w*)'", reasons[: reasons.index("END")]))
        assert said == {str(reason.code): str(reason) for reason in Reason}


def test_every_index_says_what_it_is_for() -> None:
    lines = Path(schema.__file__).read_text().splitlines()
    for number, line in enumerate(lines):
        if re.search(r"^[A-Z_]+ = .*CREATE (UNIQUE )?INDEX|^CREATE (UNIQUE )?INDEX", line):
            start = next(n for n in range(number, 0, -1) if re.match(r"[A-Z_]+ = ", lines[n]))
            comment = next(n for n in range(start - 1, 0, -1) if not lines[n - 1].startswith("#"))
            assert re.match(r"# (Prevents|Serves) ", lines[comment]), line

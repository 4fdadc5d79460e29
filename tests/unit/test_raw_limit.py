"""The raw limit writes what ringq stored: the same rows, however many go to a statement."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from perf import raw_limit
from ringq.store.engine import open_private

TASKS = [(number, 1, 1_000 + number // 300, None, f'{{"number":{number}}}') for number in range(1, 601)]
RECEIPTS = [
    (number, number << 8, 1, 1, 10, 0, 5_000 + number * 7 % 11, number % 5, number % 2, 3, None, str(number), None)
    for number in range(1, 601)
]


def stored(path: Path, question: str) -> list[tuple[object, ...]]:
    with contextlib.closing(open_private(path, "ro")) as connection:
        return connection.execute(question).fetchall()


@pytest.mark.parametrize("width", raw_limit.WIDTHS)
def test_every_width_writes_the_same_rows(tmp_path: Path, width: int) -> None:
    path = tmp_path / "raw.db"
    with contextlib.closing(raw_limit.RawFile(path, "normal")) as file:
        file.write(raw_limit.submissions(TASKS, 300, width))
        file.write(raw_limit.receipts(RECEIPTS, 70, width))
        assert stored(path, "SELECT * FROM task ORDER BY id") == TASKS
        assert stored(path, "SELECT * FROM receipt ORDER BY task_id") == RECEIPTS
        assert stored(path, "SELECT first_id, count FROM submission ORDER BY first_id") == [(1, 300), (301, 300)]
        sums = (1, 10, 600, sum(row[7] for row in RECEIPTS), 4)
        assert stored(path, "SELECT * FROM statistic") == [sums]


def test_it_syncs_as_often_as_ringq_did(tmp_path: Path) -> None:
    path = tmp_path / "ringq.db"
    with contextlib.closing(raw_limit.RawFile(path, "normal")) as file:
        file.write(raw_limit.submissions(TASKS, 300, 1))
        file.write(raw_limit.receipts(RECEIPTS, 70, 1))
        plans: list[raw_limit.Plan] = []
        with contextlib.closing(raw_limit.RawLimit(tmp_path, "normal", {"task": 16, "receipt": 16})) as raw:
            raw._file.write = plans.append  # type: ignore[method-assign]
            assert raw.rate(path, first_id=1, tasks=600, batch=300, commits=11) > 0
    assert [len(plan) for plan in plans] == [11]


def test_the_fastest_of_the_widths_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "ringq.db"
    with contextlib.closing(raw_limit.RawFile(path, "normal")) as file:
        file.write(raw_limit.submissions(TASKS, 300, 1))
        file.write(raw_limit.receipts(RECEIPTS, 70, 1))
        with contextlib.closing(raw_limit.RawLimit(tmp_path, "normal")) as raw:
            raw.rate(path, first_id=1, tasks=600, batch=300, commits=11)
            assert raw.widths.keys() == {"task", "receipt"}
            assert set(raw.widths.values()) <= set(raw_limit.WIDTHS)
            assert stored(tmp_path / "raw.db", "SELECT COUNT(*) FROM receipt") == [(600,)]
    assert not (tmp_path / "trial.db").exists()

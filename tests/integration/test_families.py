"""To whom a task belongs, as its worker asks the parent."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringq.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    with Store.open(tmp_path / "t.db", durability="normal", check=False) as store:
        yield store


def test_a_worker_is_told_parent_dependencies_children_and_memo_in_order(store: Store) -> None:
    pass

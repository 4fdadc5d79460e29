"""To whom a task belongs, as its worker asks the parent."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringq import protocol
from ringq.errors import UnknownTask
from ringq.families import family
from ringq.model import CHILD, Status
from ringq.store.schema_graph import CHILDREN
from ringq.store.waiting import WaitingRow
from tests.integration.store_rows import end, opened, receipt, submit


def test_a_worker_is_told_parent_dependencies_children_and_memo_in_order(tmp_path: Path) -> None:
    with opened(tmp_path / "t.db") as store:
        submit(store, 6)
        with store.transaction():
            store.insert_edges([(3, 2, 0, 0), (1, 2, 0, 1), (5, 2, CHILD, 0), (4, 2, CHILD, 1), (2, 6, CHILD, 0)])
            store.insert_waiting(WaitingRow(2, CHILDREN, 1, 1, 1, 1), '{"n":1}')
        assert family(store, protocol.Family(2)) == protocol.FamilyReply(6, [3, 1], [5, 4], '{"n":1}', [0, 1])
        assert family(store, protocol.Family(1)) == protocol.FamilyReply(None, [], [], None)
        for unknown in (-1, 0, 7, 1 << 62):
            with pytest.raises(UnknownTask, match=f"no task {unknown}"):
                family(store, protocol.Family(unknown))


def test_what_dependencies_have_come_to_is_told_at_once_if_it_is_little(tmp_path: Path) -> None:
    with opened(tmp_path / "t.db") as store:
        submit(store, 4)
        with store.transaction():
            store.insert_edges([], [(3, 4, 2, 0), (1, 4, 2, 1)])
        end(store, receipt(1), receipt(3, status=Status.FAILED))
        asked = protocol.Family(4, results=True)
        assert family(store, asked).ends == [(Status.FAILED.code, None), (Status.COMPLETED.code, '{"n":1}')]
        assert family(store, protocol.Family(4)).ends is None
        with store.transaction():
            store.insert_edges([(2, 4, 2, 2)])
        assert family(store, asked).ends is None  # one has not ended

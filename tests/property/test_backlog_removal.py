"""Tasks that are taken out of a lane again: none is given, all others are, in order."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from ringq.backlog import Backlog
from ringq.entries import Admitted, Row
from ringq.lane import Lane
from ringq.places import Place


def row(task_id: int) -> Row:
    return (task_id, 1, 1, 0, "{}")


def load(runs: Sequence[tuple[int, int]]) -> tuple[list[Row], int]:
    """At most seven rows at a time, as if their payloads were large; what ends in 9 has ended meanwhile."""
    ids = [task_id for first, last in runs for task_id in range(first, last + 1)]
    rows = [row(task_id) for task_id in ids[:7] if task_id % 10 != 9]
    return rows, ids[:7][-1] if len(ids) > 7 else runs[-1][1]


def append(lane: Lane, ids: list[int], room: int) -> None:
    lane.append(Admitted(Place(128, "default"), ids, [1] * len(ids), [0] * len(ids), ["{}"] * len(ids)), room, 1 << 20)


@given(
    st.lists(st.integers(1, 300), unique=True, min_size=1, max_size=100).map(sorted),
    st.integers(0, 60),
    st.lists(st.sampled_from(["remove", "put back", "take", "come back"]), max_size=60),
    st.data(),
)
def test_a_lane_gives_all_but_those_that_were_removed(
    ids: list[int], room: int, steps: list[str], data: st.DataObject
) -> None:
    back = data.draw(st.sets(st.sampled_from(ids), max_size=10))
    lane = Lane(Place(128, "default"), load)
    append(lane, [i for i in ids if i not in back], room)
    lane.give_back(back)
    left, removed, given_out = set(ids), set[int](), set[int]()
    for step in steps:
        if step == "remove" and (active := sorted(i for i in left if i % 10 != 9)):
            chosen = data.draw(st.sampled_from(active))
            lane.remove(chosen)
            left.discard(chosen)
            removed.add(chosen)
        elif step == "put back" and removed:
            chosen = data.draw(st.sampled_from(sorted(removed)))
            lane.give_back([chosen])
            removed.discard(chosen)
            left.add(chosen)
        elif step == "come back" and given_out:
            chosen = data.draw(st.sampled_from(sorted(given_out)))
            lane.give_back([chosen])
            given_out.discard(chosen)
            left.add(chosen)
        elif step == "take":
            limit = data.draw(st.integers(1, 20))
            rows = [r[0] for r in lane.take(limit, None)]
            assert rows == sorted(rows)
            assert set(rows) <= left
            assert not [i for i in left if i % 10 != 9 and rows and i < rows[-1] and i not in rows]
            left.difference_update(rows)
            given_out.update(i for i in rows if i % 10 != 9)
    assert {r[0] for r in lane.take(1000, None)} >= {i for i in left if i % 10 != 9}
    assert (len(lane), lane.held_bytes, lane.take(1, None)) == (0, 0, [])


def test_a_lane_of_nothing_but_removed_tasks_is_forgotten() -> None:
    backlog = Backlog(load, 100, 1 << 20)
    backlog.append(Admitted(Place(128, "default"), [1, 2], [1, 1], [0, 0], ["{}", "{}"]))
    backlog.remove(Place(128, "default"), 1)
    assert (len(backlog), [lane.place.queue for lane in backlog.lanes()]) == (1, ["default"])
    backlog.remove(Place(128, "default"), 2)
    assert (len(backlog), list(backlog.lanes())) == (0, [])
    backlog.remove(Place(128, "default"), 3)  # whose lane nobody knows any more


def test_a_task_that_left_its_lane_for_a_more_urgent_one_is_given_once() -> None:
    backlog = Backlog(load, 1, 1 << 20)
    backlog.append(Admitted(Place(128, "default"), [1, 2, 3], [1] * 3, [0] * 3, ["{}"] * 3))
    for task_id in (1, 3):  # the one as a row, the other as an id
        backlog.remove(Place(128, "default"), task_id)
        backlog.lane(Place(64, "default")).give_back([task_id])
    assert [r[0] for lane in backlog.lanes() for r in lane.take(9, None)] == [2, 1, 3]

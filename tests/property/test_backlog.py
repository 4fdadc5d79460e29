"""The backlog against a sorted list: whatever is added, in order comes out, once each."""

from itertools import accumulate, pairwise

from hypothesis import given
from hypothesis import strategies as st

from ringq.backlog import Backlog
from ringq.entries import Admitted, Row
from ringq.lane import Lane
from ringq.places import Place
from ringq.runs import Runs, consecutive


def row(task_id: int) -> Row:
    return (task_id, 1, 1, 0, "{}")


def admitted(priority: int, queue: str, rows: list[Row]) -> Admitted:
    """As the writer hands them on: contiguous ids, which most are, as a range."""
    ids, kinds, _, limits, payloads = zip(*rows, strict=True) if rows else ([], [], [], [], [])
    if rows and ids[-1] - ids[0] == len(ids) - 1:
        ids = range(ids[0], ids[-1] + 1)
    return Admitted(Place(priority, queue), ids, kinds, limits, payloads)


def load(runs: list[tuple[int, int]]) -> tuple[list[Row], int]:
    """At most seven rows at a time, as if their payloads were large."""
    ids = [task_id for first, last in runs for task_id in range(first, last + 1)]
    return [row(task_id) for task_id in ids[:7]], ids[:7][-1] if len(ids) > 7 else runs[-1][1]


ascending = st.lists(st.integers(1, 400), unique=True, max_size=120).map(sorted)
contiguous = st.builds(lambda first, count: list(range(first, first + count)), st.integers(1, 300), st.integers(1, 120))


@given(ascending)
def test_consecutive_runs_hold_exactly_the_ids(ids: list[int]) -> None:
    runs = list(consecutive(ids))
    assert [i for first, last in runs for i in range(first, last + 1)] == ids
    assert all(a[1] + 1 < b[0] for a, b in pairwise(runs))


@given(ascending, st.integers(0, 120), st.integers(0, 401))
def test_runs_count_what_is_not_above_an_id_also_after_some_were_taken(ids: list[int], taken: int, upto: int) -> None:
    runs = Runs()
    for first, last in consecutive(ids):
        runs.append(first, last)
    runs.take(taken)
    assert runs.count_upto(upto) == sum(task_id <= upto for task_id in ids[taken:])


@given(ascending, st.integers(0, 60), st.lists(st.integers(1, 400), unique=True, max_size=20), st.integers(0, 401))
def test_a_lane_counts_and_knows_what_waits_in_it(ids: list[int], room: int, gone: list[int], upto: int) -> None:
    lane = Lane(Place(128, "bulk"), load)
    rows = [row(task_id) for task_id in ids]
    lane.append(admitted(128, "bulk", rows), room, 1 << 20)
    back = sorted(set(range(1, 401)) - set(ids))[::7]
    lane.give_back(back)
    here = {*ids, *back}
    for task_id in here.intersection(gone):
        lane.remove(task_id)
    left = here.difference(gone)
    assert lane.count_upto(upto) == sum(task_id <= upto for task_id in left)
    assert [task_id for task_id in range(1, 401) if task_id in lane] == sorted(left)


@given(ascending, st.lists(st.integers(1, 40), max_size=40))
def test_runs_are_taken_from_the_front_in_any_portions(ids: list[int], portions: list[int]) -> None:
    runs = Runs()
    for first, last in consecutive(ids):
        runs.append(first, last)
    taken: list[int] = []
    for portion in [*portions, 1000]:
        if runs.count:
            assert runs.head == ids[len(taken)]
        taken += [i for first, last in runs.take(portion) for i in range(first, last + 1)]
        assert runs.count == len(ids) - len(taken)
    assert taken == ids


@given(
    ascending | contiguous,
    st.integers(0, 50),
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 500)), max_size=30),
    st.data(),
)
def test_a_lane_gives_its_tasks_in_order_of_id(
    ids: list[int], room: int, portions: list[tuple[int, int]], data: st.DataObject
) -> None:
    lane = Lane(Place(128, "default"), load)
    back = data.draw(st.sets(st.sampled_from(ids), max_size=10)) if ids else set()
    lane.append(admitted(0, "q", [row(i) for i in ids if i not in back]), room, 1000)
    lane.give_back(back)
    left = list(ids)
    for limit, before in portions:
        expected = [i for i in left if i < before]
        rows = lane.take(limit, before)
        taken = [r[0] for r in rows]
        assert taken == expected[:limit]
        kept = data.draw(st.integers(0, len(taken)))
        lane.put_back(rows[kept:])
        taken = taken[:kept]
        left = left[len(taken) :]
        assert len(lane) == len(left)
        assert lane.held_bytes == 2 * lane.held
        if left:
            assert lane.head == left[0]


@given(
    st.lists(
        st.tuples(st.sampled_from([0, 128, 255]), st.sampled_from(["a", "b"]), st.integers(1, 20)),
        max_size=20,
    )
)
def test_the_window_bounds_the_rows_held_and_nothing_is_forgotten(
    batches: list[tuple[int, str, int]],
) -> None:
    backlog = Backlog(load, window_rows_max=25, window_bytes_max=40)
    next_id = 1
    for priority, queue, count in batches:
        backlog.append(admitted(priority, queue, [row(i) for i in range(next_id, next_id + count)]))
        next_id += count
    assert len(backlog) == next_id - 1
    assert sum(lane.held for lane in backlog.lanes()) <= 20  # two bytes each
    assert backlog.min_task_id() == (1 if batches else None)
    for lane in backlog.lanes():
        firsts = accumulate((count for _, _, count in batches), initial=1)
        own = [
            task_id
            for first, (priority, queue, count) in zip(firsts, batches, strict=False)
            if (priority, queue) == lane.place[:2]
            for task_id in range(first, first + count)
        ]
        assert [taken[0] for taken in lane.take(next_id, None)] == own


def test_large_payloads_are_refilled_a_few_at_a_time() -> None:
    loaded: list[int] = []

    def load_large(runs: list[tuple[int, int]]) -> tuple[list[Row], int]:
        rows = [(i, 1, 1, 0, "x" * 400_000) for first, last in runs for i in range(first, last + 1)]
        loaded.append(len(rows))
        return rows, runs[-1][1]

    lane = Lane(Place(128, "default"), load_large)
    lane.append_ids(range(1, 101))
    assert [lane.take(1, None)[0][0] for _ in range(100)] == list(range(1, 101))
    assert max(loaded[1:]) <= 2

"""A submission against a list of its tasks: each comes out of its lane with its own kind, limit and payload, once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringq import intake
from ringq.config import Config
from ringq.entries import Batch, Row, Spec
from ringq.errors import RingqError
from ringq.feed import Feed
from ringq.store import OwnerLock, Store

NOW = 1_800_000_000_000_000

specs = st.builds(
    Spec,
    kind=st.sampled_from(["a::one", "a::two", "b::three"]),
    queue=st.sampled_from(["default", "vip"]),
    priority=st.sampled_from([0, 128]),
    group=st.none() | st.sampled_from(["x", "y"]),
    run_timeout_ms=st.none() | st.integers(1, 3),
)
instants = st.none() | st.sampled_from([0, NOW, NOW + 1, NOW + 1000])
Lanes = dict[tuple[int, str], list[Row]]


@dataclass
class Mixture:
    """What is submitted, task by task."""

    tasks: list[tuple[Spec, str, int | None]]

    def batch(self, *, is_mixed: bool, is_timed: bool, reply: Callable[[int, bool], None]) -> Batch:
        own = list(dict.fromkeys(spec for spec, _, _ in self.tasks))
        return Batch(
            os.urandom(16), own, [own.index(spec) for spec, _, _ in self.tasks] if is_mixed else None,
            [payload for _, payload, _ in self.tasks], [at for _, _, at in self.tasks] if is_timed else None,
            reply, _refuse,
        )  # fmt: skip

    def lanes(self, store: Store, first_id: int, now_us: int) -> Lanes:
        """The model: who may start now, in order."""
        lanes: Lanes = {}
        for task_id, (spec, payload, at) in enumerate(self.tasks, first_id):
            if at is None or at <= now_us:
                row = (task_id, store.intern_kind(spec.kind), 1, spec.run_timeout_ms or 0, payload)
                lanes.setdefault((spec.priority, spec.queue), []).append(row)
        return lanes


def mixtures(of_specs: st.SearchStrategy[Spec], at: st.SearchStrategy[int | None]) -> st.SearchStrategy[Mixture]:
    payloads = st.integers(0, 99).map(lambda n: f'{{"n":{n}}}')
    return st.builds(Mixture, st.lists(st.tuples(of_specs, payloads, at), min_size=1, max_size=40))


def _refuse(error: RingqError) -> None:
    raise error


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    database: Path = tmp_path_factory.mktemp("intake") / "t.db"
    with OwnerLock(database), Store.open(database, durability="normal") as store:
        yield store


class Undone(Exception):
    """What was written is not kept: no example meets what another one has left."""


def check(store: Store, mixture: Mixture, slice_rows: int, window: int, *, is_mixed: bool, is_timed: bool) -> None:
    with contextlib.suppress(Undone), store.transaction():
        store.next_task_id += 1000
        check_lanes(store, mixture, slice_rows, window, is_mixed=is_mixed, is_timed=is_timed)
        raise Undone


def check_lanes(
    store: Store, mixture: Mixture, slice_rows: int, window: int, *, is_mixed: bool, is_timed: bool
) -> None:
    """Write it in slices, and take it from a backlog that holds only a window of rows: the others come from disk."""
    answers: list[tuple[int, bool]] = []
    batch = mixture.batch(is_mixed=is_mixed, is_timed=is_timed, reply=lambda *answer: answers.append(answer))
    feed = Feed(store, Config(Path("unused"), window_tasks_max=window), {})
    first_id = store.next_task_id
    with mock.patch.object(intake, "SLICE_ROWS", slice_rows):
        steps, count = intake.insert(store, batch, NOW), 0
        while True:
            try:
                next(steps)
                count += 1
            except StopIteration as end:
                taken: intake.Taken = end.value
                break
            assert store.next_task_id == first_id
    for tasks in taken.admitted:
        feed.backlog.append(tasks)
    late = [(task_id, at) for task_id, (_, _, at) in enumerate(mixture.tasks, first_id) if at and at > NOW]
    expected = mixture.lanes(store, first_id, NOW)
    assert count >= len(mixture.tasks) / slice_rows
    assert (taken.count, taken.has_delayed, store.next_task_id) == (
        len(mixture.tasks),
        bool(late),
        first_id + taken.count,
    )
    assert len(feed.backlog) == taken.count - len(late)
    found = {lane.place[:2]: lane.take(1000, None) for lane in feed.backlog.lanes()}
    assert found == expected
    taken.answer()
    assert answers == [(first_id, False)]
    check_delayed(store, feed, mixture, first_id, late)


def check_delayed(store: Store, feed: Feed, mixture: Mixture, first_id: int, late: list[tuple[int, int]]) -> None:
    """They come due, all of them and no others, and find their lanes."""
    feed.look_for_delayed()
    due = feed.due(NOW + 1000)
    assert due == [task_id for task_id, _ in sorted(late, key=lambda one: (one[1], one[0]))]
    store.delete_delayed(due)
    feed.give_back(due)
    found = {lane.place[:2]: lane.take(1000, None) for lane in feed.backlog.lanes()}
    everything = mixture.lanes(store, first_id, NOW + 1000)
    came = {lane: [row for row in rows if row[0] in due] for lane, rows in everything.items()}
    assert found == {lane: rows for lane, rows in came.items() if rows}


@given(mixtures(specs, instants), st.integers(1, 50), st.integers(0, 50), st.booleans())
def test_a_mixed_submission_gives_each_lane_its_tasks(
    store: Store, mixture: Mixture, slice_rows: int, window: int, is_timed: bool
) -> None:
    if not is_timed:
        mixture = Mixture([(spec, payload, None) for spec, payload, _ in mixture.tasks])
    check(store, mixture, slice_rows, window, is_mixed=True, is_timed=is_timed)


@given(mixtures(st.shared(specs), instants), st.integers(1, 50), st.integers(0, 50), st.booleans())
def test_tasks_of_one_spec_go_to_one_lane(
    store: Store, mixture: Mixture, slice_rows: int, window: int, is_timed: bool
) -> None:
    if not is_timed:
        mixture = Mixture([(spec, payload, None) for spec, payload, _ in mixture.tasks])
    check(store, mixture, slice_rows, window, is_mixed=False, is_timed=is_timed)

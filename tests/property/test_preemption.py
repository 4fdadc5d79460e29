"""Who makes room: never more than is needed, never one who is as urgent, the least urgent and youngest first."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from ringq.preemption import Running, choose

PRIORITIES = st.integers(0, 6)


@st.composite
def workers(draw: st.DrawFn) -> list[Running]:
    count = draw(st.integers(0, 8))
    ids = draw(st.permutations(range(1, count + 1)))
    return [
        Running(i, draw(PRIORITIES), draw(st.integers(0, 3)), draw(st.booleans()), draw(st.booleans())) for i in ids
    ]


WAITING = st.lists(PRIORITIES, max_size=12).map(sorted)


def most(urgent: list[int], victims: list[int]) -> int:
    """How many of the urgent ones can each have the place of a less urgent one: tried out, from the most on."""
    for count in range(min(len(urgent), len(victims)), 0, -1):
        worst = sorted(victims, reverse=True)[:count]
        if all(u < v for u, v in zip(urgent[:count], worst, strict=True)):
            return count
    return 0


@given(WAITING, PRIORITIES, workers(), st.integers(0, 4))
@example([0, 0], 0, [Running(1, 5, 1), Running(2, 5, 2), Running(3, 5, 2)], 0)
def test_as_few_as_the_urgent_ones_need(waiting: list[int], threshold: int, running: list[Running], free: int) -> None:
    chosen = choose(waiting, threshold, running, free)
    by_id = {one.task_id: one for one in running}
    urgent = [priority for priority in waiting if priority <= threshold]
    served = free + sum(one.asked for one in running)
    victims = [one for one in running if one.preemptible and not one.asked]
    assert len(chosen) == len(set(chosen)) <= max(0, len(urgent) - served)
    assert all(by_id[task_id] in victims for task_id in chosen)
    for priority, task_id in zip(urgent[served:], chosen, strict=False):
        assert by_id[task_id].priority > priority
    spared = [one for one in victims if one.task_id not in chosen]
    for one in spared:
        for task_id in chosen:
            assert (one.priority, one.started_ns) <= (by_id[task_id].priority, by_id[task_id].started_ns)
    assert len(chosen) == most(urgent[served:], [one.priority for one in victims])


@given(WAITING, PRIORITIES, workers(), st.integers(0, 4), st.randoms())
def test_it_does_not_matter_in_which_order_the_workers_are(
    waiting: list[int], threshold: int, running: list[Running], free: int, random: object
) -> None:
    mixed = list(running)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert choose(waiting, threshold, mixed, free) == choose(waiting, threshold, running, free)


@given(WAITING, PRIORITIES, workers(), st.integers(0, 4))
def test_who_was_asked_is_not_asked_for_again(
    waiting: list[int], threshold: int, running: list[Running], free: int
) -> None:
    chosen = choose(waiting, threshold, running, free)
    asked = [one._replace(asked=one.asked or one.task_id in chosen) for one in running]
    assert choose(waiting, threshold, asked, free) == []


def test_least_urgent_and_youngest_first() -> None:
    running = [Running(1, 128, 10), Running(2, 192, 10), Running(3, 192, 20), Running(4, 64, 99)]
    assert choose([0], 0, running, 0) == [3]
    assert choose([0, 0, 0], 0, running, 0) == [3, 2, 1]
    assert choose([0, 0, 0], 0, running, 2) == [3]
    assert choose([1], 0, running, 0) == []
    assert choose([], 0, running, 0) == []

"""What is said of queues: who may start, who was counted, and how long a throttled queue cools down."""

from __future__ import annotations

import pytest

from ringq.gate import UNSERVED_MAX, Gate, Refusal
from ringq.places import Place
from ringq.queues import QUIET_US, cooldown
from ringq.store.queues import QueueRow

NOW = 1_800_000_000_000_000
SECOND = 1_000_000
BULK = Place(128, "bulk")


def test_a_paused_queue_starts_nothing_until_it_is_resumed() -> None:
    gate = Gate(())
    gate.pause("queue", "bulk", True)
    assert (gate.admit(Place(128, "bulk"), 5), gate.admit(Place(128, "other"), 5)) == (0, 5)
    assert gate.refusals == {Refusal.QUEUE_PAUSED: 1}
    assert gate.closed == {"bulk": "queue_paused"}
    gate.pause("queue", "bulk", False)
    assert (gate.admit(Place(128, "bulk"), 5), gate.closed) == (5, {})


def test_a_queue_is_open_again_when_neither_its_operator_nor_its_cooldown_holds_it() -> None:
    gate = Gate(())
    gate.pause("queue", "net", True)
    gate.cool("net", True)
    gate.pause("queue", "net", False)
    assert (gate.admit(Place(128, "net"), 1), gate.closed) == (0, {"net": "queue_cooling"})
    gate.cool("net", False)
    assert gate.admit(Place(128, "net"), 1) == 1


def test_a_limit_that_is_set_while_tasks_run_counts_them() -> None:
    gate = Gate(())
    assert gate.admit(BULK, 3) == 3
    gate.started(BULK, [1, 2, 3])  # nobody counts them yet
    gate.limit("queue", "bulk", 2)
    gate.recount([(task_id, BULK) for task_id in (1, 2, 3)])
    assert gate.admit(BULK, 1) == 0
    gate.ended([1])
    assert gate.admit(BULK, 1) == 0
    gate.ended([2])
    assert gate.admit(BULK, 5) == 1


def test_a_limit_that_is_changed_does_not_count_anybody_twice() -> None:
    gate = Gate([("bulk", 4)])
    assert gate.admit(BULK, 2) == 2
    gate.started(BULK, [1, 2])
    gate.limit("queue", "bulk", 3)
    gate.recount([(1, BULK), (2, BULK)])
    assert gate.admit(BULK, 5) == 1
    gate.release(BULK, 1)
    gate.limit("queue", "bulk", None)
    gate.recount([(1, BULK), (2, BULK)])
    gate.started(BULK, [3])
    gate.limit("queue", "bulk", 4)
    gate.recount([(1, BULK), (2, BULK), (3, BULK)])
    assert gate.admit(BULK, 5) == 1
    gate.release(BULK, 1)
    gate.ended([1, 2, 3])
    assert gate.admit(BULK, 5) == 4


def test_no_more_than_a_thousand_queues_that_nobody_serves_are_remembered() -> None:
    gate = Gate([("default", None)])
    for number in range(UNSERVED_MAX + 50):
        assert gate.admit(Place(128, f"queue-{number}"), 1) == 0
    assert len(gate.unserved) == UNSERVED_MAX


def test_a_queue_of_another_server_stays_unserved_whatever_is_said_of_it() -> None:
    gate = Gate([("default", None)])
    gate.limit("queue", "bulk", 3)
    assert (gate.admit(Place(128, "bulk"), 1), gate.admit(Place(128, "default"), 1)) == (0, 1)
    assert gate.unserved == {"bulk"}


def test_a_throttled_queue_cools_down_for_a_minute_if_nobody_has_said_how_long() -> None:
    assert cooldown(QueueRow("net"), NOW, None) == (1, NOW + 60 * SECOND)


def test_the_cooldown_doubles_with_each_window_up_to_its_longest() -> None:
    row, now = QueueRow("net", cooldown="exponential 60s..30m"), NOW
    spans = []
    for _ in range(8):
        throttles, until = cooldown(row, now, None)
        spans.append((until - now) // SECOND)
        row, now = row._replace(throttles=throttles, throttled_until_us=until), until + SECOND
    assert spans == [60, 120, 240, 480, 960, 1800, 1800, 1800]


def test_workers_that_run_into_the_same_window_are_counted_once() -> None:
    row = QueueRow("net", cooldown="exponential 60s..30m", throttles=2, throttled_until_us=NOW + 50 * SECOND)
    assert cooldown(row, NOW, None) == (2, NOW + 50 * SECOND)
    assert cooldown(row, NOW, 10.0) == (2, NOW + 50 * SECOND)
    assert cooldown(row, NOW, 90.0) == (2, NOW + 90 * SECOND)  # but who knows of a longer one is believed


@pytest.mark.parametrize(("quiet_us", "expected_s"), [(QUIET_US, 480), (QUIET_US + 1, 60)])
def test_after_two_quiet_minutes_the_shortest_cooldown_comes_first_again(quiet_us: int, expected_s: int) -> None:
    row = QueueRow("net", cooldown="exponential 60s..30m", throttles=3, throttled_until_us=NOW - quiet_us)
    assert cooldown(row, NOW, None)[1] == NOW + expected_s * SECOND


def test_what_the_handler_asks_for_is_the_least() -> None:
    assert cooldown(QueueRow("net", cooldown="constant 5s"), NOW, 7.5) == (1, NOW + 7_500_000)
    assert cooldown(QueueRow("net", cooldown="constant 5s"), NOW, 2.0) == (1, NOW + 5 * SECOND)

"""How large chunks are and how far a map reads ahead, from what the calls were like."""

from __future__ import annotations

import pytest

from ringq.client.pacing import (
    AHEAD_BYTES_MAX,
    AHEAD_CALLS_MAX,
    AHEAD_CHUNKS_MIN,
    CHUNK_BYTES_MAX,
    CHUNK_S,
    GROWTH,
    MEASURED_CALLS_MAX,
    Pacing,
)


def taught(call_s: float, bytes_: float = 10, *, workers: int = 2, times: int = 20) -> Pacing:
    pacing = Pacing(workers, None)
    for _ in range(times):
        calls = pacing.size(None)
        pacing.learn(calls, calls * call_s, round(calls * bytes_))
    return pacing


def test_a_map_begins_with_single_calls_and_grows_in_bounded_steps() -> None:
    pacing = Pacing(2, None)
    sizes = [pacing.size(None)]
    for _ in range(6):
        pacing.learn(sizes[-1], 0.0, sizes[-1])
        sizes.append(pacing.size(None))
    assert sizes == [1, GROWTH, GROWTH**2, *[MEASURED_CALLS_MAX] * 4]


@pytest.mark.parametrize(("call_s", "size"), [(0.000_05, 100), (0.001, 5), (0.004, 1), (10.0, 1)])
def test_a_chunk_takes_about_as_long_as_wanted(call_s: float, size: int) -> None:
    assert taught(call_s).size(None) == pytest.approx(size, abs=1)
    assert CHUNK_S / 0.001 == 5


def test_large_arguments_or_results_make_chunks_smaller() -> None:
    assert taught(0.000_001, 64 * 1024).size(None) == CHUNK_BYTES_MAX // (64 * 1024)
    assert taught(0.000_001, 100 * CHUNK_BYTES_MAX).size(None) == 1


def test_one_slow_call_is_felt_and_forgotten() -> None:
    pacing = taught(0.000_05)
    pacing.learn(1, 5.0, 10)
    assert pacing.size(None) == 1
    for _ in range(60):
        calls = pacing.size(None)
        pacing.learn(calls, calls * 0.000_05, calls)
    assert pacing.size(None) > 50


def test_chunks_shrink_towards_a_known_end() -> None:
    pacing = taught(0.000_05, workers=2)
    assert pacing.size(10_000) == pacing.size(None)
    assert pacing.size(80) == 10
    assert pacing.size(1) == 1
    assert pacing.size(0) == pacing.size(None)  # the iterable said it would be over by now


def test_a_size_the_caller_decided_stays() -> None:
    pacing = Pacing(2, 64)
    pacing.learn(64, 100.0, 1 << 24)
    assert (pacing.size(None), pacing.size(3)) == (64, 64)


def test_enough_is_under_way_to_keep_workers_busy_and_not_more() -> None:
    slow = taught(1.0, workers=3)
    assert slow.has_room(3 * AHEAD_CHUNKS_MIN - 1, 11, 0)
    assert not slow.has_room(3 * AHEAD_CHUNKS_MIN, 12, 0)
    fast = taught(0.000_001, workers=3)
    assert fast.has_room(20, 20 * fast.size(None) // 100, 0)


def test_large_results_that_are_still_to_come_count_too() -> None:
    pacing = taught(0.000_1, AHEAD_BYTES_MAX / 10)
    assert pacing.has_room(9, 9, 0)
    assert not pacing.has_room(10, 10, 0)


def test_reading_goes_on_when_half_is_used_up() -> None:
    slow = taught(1.0, workers=2)
    assert [slow.is_low(chunks, chunks, 0) for chunks in (0, 3, 4, 8)] == [True, True, False, False]
    assert not slow.is_low(1, AHEAD_CALLS_MAX // 2, 0)
    assert slow.is_low(0, AHEAD_CALLS_MAX, AHEAD_BYTES_MAX)


@pytest.mark.parametrize(("calls", "bytes_"), [(AHEAD_CALLS_MAX, 0), (1, AHEAD_BYTES_MAX)])
def test_too_much_ahead_stops_the_reading_but_never_altogether(calls: int, bytes_: int) -> None:
    pacing = taught(0.000_001)
    assert not pacing.has_room(1, calls, bytes_)
    assert pacing.has_room(0, calls, bytes_)

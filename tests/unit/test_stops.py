"""Stops for a pause or for more urgent work: what is asked, how far the ladder goes, and what a handler makes of it."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import ringq
from ringq import limits
from ringq.berth import Berth
from ringq.calls import Aside, reason_of, run_calls
from ringq.clock import ManualClock
from ringq.config import Config
from ringq.errors import AttemptPaused, AttemptPreempted, AttemptStopped, InvalidConfig, Permanent
from ringq.lifecycle import NO_FAILURE, STOPS, Interruptions, Verdict, after_failure, after_interruption
from ringq.model import GIVEN_BACK, Reason, Status
from ringq.process import Exit
from ringq.retry import Retry
from ringq.stops import Stop, Stops

SECOND_NS = 1_000_000_000
CONFIG = Config(Path("x.db"), term_grace_s=5, kill_grace_s=1, preempt_grace_s=10)
PAUSED, PREEMPTED = Reason.PAUSED, Reason.PREEMPTED
TASK, LEASE = 11, 500


# -- what is asked --------------------------------------------------------------------------------


class Ring:
    """Task 1 is published, a worker has 2 and 3."""

    def __init__(self) -> None:
        self.held: dict[int, bool] = {1: True, 2: False, 3: False}

    def revoke(self, task_id: int) -> bool | None:
        found = self.held.get(task_id)
        if found:
            del self.held[task_id]
        return found


@pytest.fixture
def stops() -> Stops:
    stops = Stops(ManualClock())
    stops.ring = Ring()
    return stops


def test_what_nobody_has_is_taken_back_and_what_is_not_there_is_not_asked(stops: Stops) -> None:
    assert stops.ask([1, 2, 77], PAUSED) == [1]
    assert [task_id for task_id in (1, 2, 3, 77) if task_id in stops] == [2]
    assert len(stops) == 1


def test_a_task_is_asked_since_it_was_first(stops: Stops) -> None:
    clock: Any = stops._clock
    first_ns = clock.monotonic_ns()
    stops.ask([2], PAUSED)
    clock.advance(5)
    stops.ask([2], PAUSED)
    assert stops.get(2) == Stop(first_ns, PAUSED)
    stops.ask([2], PREEMPTED)
    assert stops.get(2) == Stop(clock.monotonic_ns(), PREEMPTED)


def test_each_reason_is_withdrawn_for_itself(stops: Stops) -> None:
    stops.ask([2, 3], PAUSED)
    stops.ask([2], PREEMPTED)
    stops.withdraw([2, 3, 77], PREEMPTED)
    assert [stop and stop.reason for stop in map(stops.get, (2, 3))] == [PAUSED, PAUSED]
    stops.withdraw([2, 3], PAUSED)
    assert (stops.get(2), len(stops)) == (None, 0)


def test_an_attempt_that_is_over_is_not_asked_any_more(stops: Stops) -> None:
    stops.ask([2, 3], PAUSED)
    stops.ended([3, 77])
    assert (2 in stops, 3 in stops) == (True, False)


def test_before_there_is_a_ring_nothing_runs(stops: Stops) -> None:
    stops.ring = None
    assert stops.ask([1, 2], PAUSED) == []
    assert not stops


# -- how far it goes ------------------------------------------------------------------------------


class Ladder:
    """A ring in which one call runs, and what was done to its worker."""

    def __init__(self, *, limit_ms: int = 0, call: int = 0) -> None:
        self.row = (0, TASK, LEASE, 1, 1, limit_ms, SECOND_NS, call)
        self.reasons: list[int] = []
        self.signals: list[Any] = []
        self.berth = Berth(0)
        self.asked: dict[int, Stop] = {}
        process: Any = SimpleNamespace(label="", signal=self.signals.append, kill=lambda: self.signals.append("kill"))
        self.berth.fill(process, 0)

    def running(self) -> list[tuple[int, int, int, int, int, int, int, int]]:
        return [self.row]

    def request_cancel(self, worker: int, lease: int, reason: int, call: int = 0) -> bool:
        self.reasons.append(reason)
        return True

    def ask(self, at_ms: int, reason: Reason) -> None:
        self.asked[TASK] = Stop(SECOND_NS + at_ms * 1_000_000, reason)

    def enforce(self, at_ms: int, cancelled_ms: int | None = None) -> int | None:
        """`at_ms` after the task began; the milliseconds until the next step."""
        cancelled = {} if cancelled_ms is None else {TASK: SECOND_NS + cancelled_ms * 1_000_000}
        stops: Any = self.asked
        now_ns = SECOND_NS + at_ms * 1_000_000
        wait_ns = limits.enforce(self, [self.berth], CONFIG, now_ns, cancelled, None, stops)
        return None if wait_ns is None else wait_ns // 1_000_000

    @property
    def blame(self) -> Reason:
        return self.berth.blame(LEASE, self.row[7], Exit(1, -9, 0, "", ""), None)


def test_a_pause_goes_no_further_than_the_soft_exception() -> None:
    ladder = Ladder()
    ladder.ask(100, PAUSED)
    assert ladder.enforce(100) is None
    assert ladder.enforce(10_000_000) is None
    assert (ladder.reasons, ladder.signals) == ([PAUSED.code], [signal.SIGUSR2])
    assert ladder.blame is Reason.CRASH  # nobody has killed it


def test_a_preempted_one_is_killed_after_the_graces_and_not_blamed() -> None:
    ladder = Ladder()
    ladder.ask(100, PREEMPTED)
    assert ladder.enforce(100) == 10_000
    assert ladder.blame is Reason.CRASH
    assert ladder.enforce(10_100) == 1000
    assert ladder.blame is PREEMPTED
    assert ladder.enforce(11_100) is None
    assert ladder.signals == [signal.SIGUSR2, signal.SIGTERM, "kill"]
    assert ladder.blame is PREEMPTED


def test_one_that_begins_after_the_asking_has_the_whole_grace() -> None:
    ladder = Ladder()
    ladder.ask(-60_000, PREEMPTED)
    assert ladder.enforce(0) == 10_000


def test_a_preemption_after_a_pause_has_a_grace_of_its_own() -> None:
    ladder = Ladder()
    ladder.ask(0, PAUSED)
    ladder.enforce(0)
    ladder.ask(50_000, PREEMPTED)
    assert ladder.enforce(50_000) == 10_000
    ladder.enforce(60_000)
    assert ladder.signals == [signal.SIGUSR2, signal.SIGTERM]


@pytest.mark.parametrize("reason", [PAUSED, PREEMPTED])
def test_a_cancel_after_a_stop_is_told_anew_and_has_its_own_graces(reason: Reason) -> None:
    ladder = Ladder()
    ladder.ask(0, reason)
    ladder.enforce(0)
    assert ladder.enforce(2000, cancelled_ms=2000) == 5000
    assert ladder.reasons == [reason.code, Reason.CANCELLED.code]
    ladder.enforce(7000, cancelled_ms=2000)
    ladder.enforce(8000, cancelled_ms=2000)
    assert ladder.signals == [signal.SIGUSR2, signal.SIGUSR2, signal.SIGTERM, "kill"]
    assert ladder.blame is Reason.CANCELLED


def test_a_run_time_limit_goes_on_to_count_and_is_told_after_a_stop() -> None:
    ladder = Ladder(limit_ms=3000)
    ladder.ask(1000, PAUSED)
    assert ladder.enforce(1000) == 2000
    assert ladder.enforce(3000) == 5000
    assert ladder.reasons == [PAUSED.code, Reason.RUN_TIMEOUT.code]
    ladder.enforce(8000)
    assert ladder.blame is Reason.RUN_TIMEOUT


def test_what_is_over_its_limit_already_is_not_asked_to_stop() -> None:
    ladder = Ladder(limit_ms=1000)
    ladder.enforce(1000)
    ladder.ask(1500, PREEMPTED)
    assert ladder.enforce(1500) == 4500
    assert ladder.reasons == [Reason.RUN_TIMEOUT.code]


def test_a_limit_that_is_over_while_it_is_being_killed_for_another_is_not_blamed() -> None:
    ladder = Ladder(limit_ms=10_500)
    ladder.ask(0, PREEMPTED)
    ladder.enforce(0)
    ladder.enforce(10_000)
    assert ladder.enforce(10_600) == 400
    ladder.enforce(11_000)
    assert ladder.signals == [signal.SIGUSR2, signal.SIGTERM, "kill"]
    assert ladder.blame is PREEMPTED


def test_a_chunk_that_goes_on_to_its_next_call_is_asked_again() -> None:
    ladder = Ladder(call=3)
    ladder.ask(0, PAUSED)
    assert ladder.enforce(0) == limits.LOOK_AGAIN_NS // 1_000_000
    ladder.row = (*ladder.row[:6], SECOND_NS + 10_000_000, 4)
    ladder.enforce(20)
    assert ladder.signals == [signal.SIGUSR2] * 2


# -- what a handler makes of it -------------------------------------------------------------------


def raised(error: BaseException, while_handling: BaseException | None) -> BaseException:
    error.__context__ = while_handling
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (AttemptPaused(), PAUSED),
        (AttemptPreempted(), PREEMPTED),
        (AttemptStopped(), PAUSED),
        (raised(ValueError(), AttemptPreempted()), PREEMPTED),
        (raised(KeyError(), raised(ValueError(), AttemptPaused())), PAUSED),
        (raised(Permanent("no"), AttemptPaused()), Reason.PERMANENT),  # it says so itself
        (raised(ringq.RunTimeout(), AttemptPaused()), Reason.RUN_TIMEOUT),
        (raised(ringq.AttemptCancelled(), AttemptPaused()), Reason.CANCELLED),
        (ValueError(), Reason.HANDLER_ERROR),
    ],
)
def test_what_goes_wrong_while_it_tidies_up_is_no_failure(error: BaseException, reason: Reason) -> None:
    assert reason_of(error) is reason


def test_neither_is_what_its_kind_calls_permanent() -> None:
    assert reason_of(raised(ValueError(), AttemptPaused()), (ValueError,)) is PAUSED
    assert reason_of(ValueError(), (ValueError,)) is Reason.PERMANENT


def test_contexts_that_were_tied_into_a_ring_have_an_end() -> None:
    first, second = ValueError(), ValueError()
    first.__context__, second.__context__ = second, first
    assert reason_of(first) is Reason.HANDLER_ERROR


@pytest.mark.parametrize("reason", sorted(STOPS, key=str))
def test_a_stop_costs_nothing_whatever_came_before(reason: Reason) -> None:
    so_far = Interruptions(9, 2, 1, 4)
    assert so_far.plus(reason) == so_far
    again = Verdict(Status.PENDING, reason)
    for crashes_max in (1, 3):
        assert after_interruption(reason, so_far, crashes_max=crashes_max, lost_max=3) == again
    assert after_failure(reason, so_far, Retry.constant(60), 5.0, 1.0) == again
    assert after_interruption(reason, Interruptions(3, 0, 3, 0), crashes_max=3, lost_max=3).alone


def test_what_is_given_back_is_what_is_no_failure() -> None:
    assert set(GIVEN_BACK) == NO_FAILURE
    assert STOPS < NO_FAILURE


class Calls:
    """A ring in which a chunk runs."""

    def call(self, index: int) -> None: ...
    def leave(self) -> None: ...


@pytest.mark.parametrize("error", [AttemptPaused(), AttemptPreempted(), raised(OSError(), AttemptPaused())])
def test_a_chunk_ends_before_the_call_that_was_stopped(tmp_path: Path, error: BaseException) -> None:
    app = ringq.App("stop")
    stop_at = [2]

    @app.task
    def call(number: int) -> int:
        if number == stop_at[0]:
            raise error
        return number

    def run() -> tuple[bytes, Reason]:
        return run_calls(Calls(), call, ringq.Context, b"[[0],[1],[2],[3]]", Aside(tmp_path, 1))

    body, left = run()
    assert left is reason_of(error)
    assert b'"results":[0,1]' in body
    stop_at[0] = 3
    assert run()[1] is reason_of(error)  # also before the last
    stop_at[0] = 0
    with pytest.raises(type(error)):
        run()


@pytest.mark.parametrize(
    ("field", "value"), [("preempt_priority", 256), ("preempt_priority", -1), ("preempt_grace_s", -1)]
)
def test_what_is_out_of_range_is_told(field: str, value: int) -> None:
    with pytest.raises(InvalidConfig, match=field):
        Config(Path("x.db"), **{field: value})


@pytest.mark.parametrize("make", [lambda **given: ringq.App("shop", **given), ringq.App("shop").task])
def test_preemptible_is_true_or_false(make: Any) -> None:
    with pytest.raises(ringq.InvalidOption, match="preemptible: expected True or False, got 'no'"):
        make(preemptible="no")

"""A cancel in the transition table, on the ladder, and in a worker."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ringq import limits
from ringq.berth import Berth
from ringq.calls import reason_of
from ringq.config import CANCEL_HOOK_CALL, Config
from ringq.errors import AttemptCancelled, RunTimeout
from ringq.lifecycle import TRANSITIONS, Interruptions, Verdict, after_failure, after_interruption, is_legal
from ringq.model import CancelOutcome, Reason, Status
from ringq.process import Exit
from ringq.retry import Retry

SECOND_NS = 1_000_000_000
CONFIG = Config(Path("x.db"), term_grace_s=5, kill_grace_s=1)


@pytest.mark.parametrize("status", [status for status in Status if not status.is_terminal])
def test_an_active_task_is_cancelled_for_no_other_reason(status: Status) -> None:
    assert TRANSITIONS[status, Status.CANCELLED] == (Reason.CANCELLED,)
    assert [reason for reason in Reason if is_legal(status, Status.CANCELLED, reason)] == [Reason.CANCELLED]


def test_nothing_becomes_of_a_cancelled_task() -> None:
    assert not [pair for pair in TRANSITIONS if pair[0] is Status.CANCELLED]


@pytest.mark.parametrize("so_far", [Interruptions(1), Interruptions(9, 2, 3, 4)])
def test_a_cancel_is_final_whatever_came_before_and_whatever_the_policy(so_far: Interruptions) -> None:
    final = Verdict(Status.CANCELLED, Reason.CANCELLED)
    retry = Retry.constant(60)
    so_far = so_far.plus(Reason.CANCELLED)
    assert after_interruption(Reason.CANCELLED, so_far, crashes_max=1, lost_max=1, retry=retry) == final
    assert after_failure(Reason.CANCELLED, so_far, retry, 5.0, 1.0) == final


def test_a_cancel_is_no_crash_and_no_failure() -> None:
    assert Interruptions(1, 1, 1, 1).plus(Reason.CANCELLED) == Interruptions(2, 1, 1, 1)


def test_the_soft_exceptions_have_reasons_of_their_own() -> None:
    assert reason_of(AttemptCancelled()) is Reason.CANCELLED
    assert reason_of(RunTimeout()) is Reason.RUN_TIMEOUT
    assert reason_of(AttemptCancelled(), (BaseException,)) is Reason.CANCELLED


@pytest.mark.parametrize("outcome", CancelOutcome)
def test_outcomes_travel_as_numbers(outcome: CancelOutcome) -> None:
    assert CancelOutcome.of(outcome.code) is outcome


class Ladder:
    """A ring in which one call runs, and what was done to its worker."""

    def __init__(self, *, limit_ms: int = 0, call: int = 0) -> None:
        self.row = (0, 11, 500, 1, 1, limit_ms, SECOND_NS, call)
        self.reasons: list[int] = []
        self.signals: list[Any] = []
        self.berth = Berth(0)
        process: Any = SimpleNamespace(label="", signal=self.signals.append, kill=lambda: self.signals.append("kill"))
        self.berth.fill(process, 0)

    def running(self) -> list[tuple[int, int, int, int, int, int, int, int]]:
        return [self.row]

    def request_cancel(self, worker: int, lease: int, reason: int, call: int = 0) -> bool:
        assert (worker, lease, call) == (0, 500, self.row[7])
        self.reasons.append(reason)
        return True

    def enforce(self, at_ms: int, cancelled_ms: int | None = None) -> int | None:
        """`at_ms` after the task began, which was cancelled so many milliseconds after that."""
        asked = {} if cancelled_ms is None else {11: SECOND_NS + cancelled_ms * 1_000_000}
        return limits.enforce(self, [self.berth], CONFIG, SECOND_NS + at_ms * 1_000_000, asked)

    @property
    def blame(self) -> Reason:
        return self.berth.blame(500, self.row[7], Exit(1, -9, 0, "", ""), None)


def test_a_cancelled_attempt_is_asked_at_once_and_killed_after_the_graces() -> None:
    ladder = Ladder()
    assert ladder.enforce(50) is None
    assert ladder.enforce(100, cancelled_ms=100) == 5 * SECOND_NS
    assert (ladder.reasons, ladder.signals) == ([Reason.CANCELLED.code], [signal.SIGUSR2])
    assert ladder.enforce(5100, cancelled_ms=100) == SECOND_NS
    assert ladder.enforce(6100, cancelled_ms=100) is None
    assert ladder.signals == [signal.SIGUSR2, signal.SIGTERM, "kill"]
    assert ladder.blame is Reason.CANCELLED


def test_an_attempt_that_begins_after_the_request_has_the_whole_grace() -> None:
    ladder = Ladder()
    assert ladder.enforce(0, cancelled_ms=-60_000) == 5 * SECOND_NS
    assert ladder.signals == [signal.SIGUSR2]


def test_the_run_time_limit_still_counts_for_what_was_cancelled() -> None:
    ladder = Ladder(limit_ms=1000)
    assert ladder.enforce(1000) == 5 * SECOND_NS
    assert ladder.enforce(2000, cancelled_ms=2000) == 4 * SECOND_NS  # on the ladder already
    assert ladder.enforce(6000, cancelled_ms=2000) == SECOND_NS
    assert ladder.reasons == [Reason.RUN_TIMEOUT.code]
    assert ladder.blame is Reason.CANCELLED


def test_what_answers_to_the_cancel_has_a_limit_of_its_own() -> None:
    ladder = Ladder(limit_ms=1000)
    assert ladder.enforce(500, cancelled_ms=500) is not None
    ladder.row = (*ladder.row[:6], 2 * SECOND_NS, CANCEL_HOOK_CALL)  # the handler has ended after a second
    assert ladder.enforce(1000, cancelled_ms=500) == 30 * SECOND_NS
    assert ladder.enforce(30_999, cancelled_ms=500) == 1_000_000
    assert ladder.enforce(31_000, cancelled_ms=500) == 5 * SECOND_NS
    assert ladder.reasons == [Reason.CANCELLED.code, Reason.RUN_TIMEOUT.code]  # what is raised there


def test_a_chunk_that_goes_on_to_its_next_call_is_asked_again() -> None:
    ladder = Ladder(call=3)
    assert ladder.enforce(100, cancelled_ms=100) == limits.LOOK_AGAIN_NS
    ladder.row = (*ladder.row[:6], SECOND_NS + 110_000_000, 4)
    assert ladder.enforce(120, cancelled_ms=100) == limits.LOOK_AGAIN_NS
    assert ladder.enforce(140, cancelled_ms=100) == limits.LOOK_AGAIN_NS
    assert ladder.signals == [signal.SIGUSR2] * 2
    ladder.row = (*ladder.row[:6], SECOND_NS + 7000_000_000, 5)
    ladder.enforce(7100, cancelled_ms=100)  # it does not listen in any of them
    assert ladder.signals[2:] == [signal.SIGUSR2, signal.SIGTERM, "kill"]

"""Every pair of statuses is either in the table or illegal; interruptions lead where the promises say."""

import itertools

import pytest

from ringq.lifecycle import TRANSITIONS, Interruptions, after_interruption, is_legal
from ringq.model import PauseReason, Reason, Status
from ringq.retry import Retry

LIMITS = {"crashes_max": 3, "lost_max": 3}


# from: where to; spelled out once more, so that a line that slips into the table is noticed
LEGAL = {
    None: "pending paused blocked",
    Status.PENDING: "running paused cancelled expired superseded dead_letter",
    Status.PAUSED: "pending cancelled expired superseded",
    Status.BLOCKED: "pending paused cancelled expired superseded dependency_failed",
    Status.RUNNING: "completed failed cancelled pending paused dead_letter superseded waiting",
    Status.WAITING: "pending paused completed failed dead_letter cancelled",
    Status.DEAD_LETTER: "pending paused",
}


@pytest.mark.parametrize(("source", "target"), list(itertools.product([None, *Status], Status)))
def test_a_pair_of_statuses_is_legal_exactly_if_it_is_listed(source: Status | None, target: Status) -> None:
    is_listed = target.value in LEGAL.get(source, "").split()
    assert any(is_legal(source, target, reason) for reason in Reason) == is_listed


def test_pause_reasons_are_a_mask_with_a_bit_each() -> None:
    assert [(reason.name, reason.value) for reason in PauseReason] == [
        ("PREEMPTION", 1), ("DOMAIN", 2), ("GLOBAL", 4), ("GROUP", 8), ("QUEUE", 16),
    ]  # fmt: skip
    assert (PauseReason.QUEUE | PauseReason.GROUP).words == ["group", "queue"]
    assert PauseReason(0).words == []


@pytest.mark.parametrize(("source", "target"), list(itertools.product([None, *Status], Status)))
def test_a_move_is_legal_exactly_for_the_reasons_in_the_table(source: Status | None, target: Status) -> None:
    listed = TRANSITIONS.get((source, target), ())
    assert {reason for reason in Reason if is_legal(source, target, reason)} == set(listed)


def test_nothing_leaves_a_terminal_status_but_a_dead_letter_that_gets_another_chance() -> None:
    leaving = [pair for pair in TRANSITIONS if pair[0] is not None and pair[0].is_terminal]
    assert leaving == [(Status.DEAD_LETTER, Status.PENDING), (Status.DEAD_LETTER, Status.PAUSED)]


def test_the_third_death_of_a_worker_makes_a_dead_letter() -> None:
    reason = Reason.CRASH
    so_far = Interruptions()
    statuses = []
    for _ in range(3):
        so_far = so_far.plus(reason)
        verdict = after_interruption(reason, so_far, **LIMITS)
        statuses.append((verdict.status, verdict.reason))
    assert statuses == [
        (Status.PENDING, reason),
        (Status.PENDING, reason),
        (Status.DEAD_LETTER, Reason.CRASH_LIMIT),
    ]


@pytest.mark.parametrize("reason", [Reason.LOST, Reason.DAMAGED_RECEIPT])
def test_a_task_lost_three_times_runs_alone_and_the_fourth_loss_is_final(reason: Reason) -> None:
    so_far = Interruptions()
    seen = []
    for _ in range(4):
        so_far = so_far.plus(reason)
        verdict = after_interruption(reason, so_far, **LIMITS)
        seen.append((verdict.status, verdict.alone))
    assert seen == [
        (Status.PENDING, False),
        (Status.PENDING, False),
        (Status.PENDING, True),
        (Status.DEAD_LETTER, False),
    ]


def test_a_forced_stop_is_charged_to_nobody() -> None:
    so_far = Interruptions()
    for _ in range(50):
        so_far = so_far.plus(Reason.STOPPED)
    assert so_far == Interruptions(attempts=50)
    assert after_interruption(Reason.STOPPED, so_far, **LIMITS).status is Status.PENDING


def test_a_worker_killed_for_its_run_time_limit_ends_the_task() -> None:
    verdict = after_interruption(Reason.RUN_TIMEOUT, Interruptions(1), **LIMITS)
    assert (verdict.status, verdict.reason) == (Status.FAILED, Reason.RUN_TIMEOUT)


@pytest.mark.parametrize("enumeration", [Status, Reason])
def test_stored_codes_are_distinct_and_read_back(enumeration: type[Status] | type[Reason]) -> None:
    codes = [member.code for member in enumeration]
    assert len(set(codes)) == len(codes)
    assert [enumeration.of(code) for code in codes] == list(enumeration)


def test_what_has_taken_too_much_memory_is_a_failure_that_its_policy_decides_about() -> None:
    once = Interruptions().plus(Reason.MEMORY_LIMIT)
    verdict = after_interruption(Reason.MEMORY_LIMIT, once, **LIMITS)
    assert (verdict.status, verdict.reason) == (Status.FAILED, Reason.MEMORY_LIMIT)
    policy = Retry.constant(2, max_retries=1)
    verdict = after_interruption(Reason.MEMORY_LIMIT, once, **LIMITS, retry=policy)
    assert (verdict.status, verdict.delay_s) == (Status.PENDING, 2)
    verdict = after_interruption(Reason.MEMORY_LIMIT, once.plus(Reason.MEMORY_LIMIT), **LIMITS, retry=policy)
    assert (verdict.status, verdict.reason) == (Status.DEAD_LETTER, Reason.RETRY_LIMIT)


def test_what_runs_when_all_of_its_time_is_over_is_not_tried_again_whatever_its_policy() -> None:
    once = Interruptions().plus(Reason.TOTAL_TIMEOUT)
    verdict = after_interruption(Reason.TOTAL_TIMEOUT, once, **LIMITS, retry=Retry.constant(0, max_retries=5))
    assert (verdict.status, verdict.reason) == (Status.FAILED, Reason.TOTAL_TIMEOUT)

"""Where a task goes after an attempt that failed or was cut off: every reason with every policy."""

from __future__ import annotations

import itertools

import pytest

from ringq.lifecycle import NO_FAILURE, RETRYABLE, Interruptions, Verdict, after_failure, after_interruption, is_legal
from ringq.model import Reason, Status
from ringq.retry import Retry

LIMITS = {"crashes_max": 3, "lost_max": 3}
POLICIES = {
    "none": None,
    "never": Retry.none(),
    "at once": Retry.constant(max_retries=2),
    "constant": Retry.constant(7, max_retries=2),
    "linear": Retry.linear(1, 2, max_retries=2),
    "exponential": Retry.exponential(1, 60, max_retries=2),
    "jitter": Retry.exponential(1, 60, max_retries=2, jitter=True),
}
FINAL_FAILURES = (Reason.PERMANENT, Reason.INVALID_PAYLOAD, Reason.INVALID_RESULT, Reason.UNKNOWN_KIND)
CUT_OFF = (Reason.CRASH, Reason.LOST, Reason.DAMAGED_RECEIPT, Reason.STOPPED)


def failed(reason: Reason, policy: Retry | None, times: int, after_s: float | None = None) -> Verdict:
    so_far = Interruptions()
    for _ in range(times):
        so_far = so_far.plus(reason)
    verdict = after_failure(reason, so_far, policy, after_s, 0.5)
    assert is_legal(Status.RUNNING, verdict.status, verdict.reason)
    return verdict


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("reason", FINAL_FAILURES)
def test_what_no_retry_would_help_fails_at_once_whatever_the_policy(reason: Reason, name: str) -> None:
    assert failed(reason, POLICIES[name], 1) == Verdict(Status.FAILED, reason)
    assert failed(reason, POLICIES[name], 1, after_s=5.0) == Verdict(Status.FAILED, reason)


@pytest.mark.parametrize("reason", [Reason.HANDLER_ERROR, Reason.RUN_TIMEOUT])
@pytest.mark.parametrize("name", ["none", "never"])
def test_without_retries_the_first_failure_is_the_last(reason: Reason, name: str) -> None:
    assert failed(reason, POLICIES[name], 1) == Verdict(Status.FAILED, reason)


def test_who_asks_to_be_called_again_without_a_policy_is_three_times_waiting_longer_each_time() -> None:
    again = [failed(Reason.RETRY_LATER, None, times) for times in range(1, 5)]
    assert [(one.status, one.delay_s) for one in again[:3]] == [(Status.PENDING, s) for s in (1.0, 2.0, 4.0)]
    assert again[3] == Verdict(Status.DEAD_LETTER, Reason.RETRY_LIMIT)


def test_who_asks_to_be_called_again_under_a_policy_of_none_has_failed() -> None:
    assert failed(Reason.RETRY_LATER, Retry.none(), 1, after_s=1.0) == Verdict(Status.FAILED, Reason.HANDLER_ERROR)


@pytest.mark.parametrize(
    ("name", "delays"),
    [
        ("at once", [0, 0]), ("constant", [7, 7]), ("linear", [1, 3]), ("exponential", [1, 2]), ("jitter", [0.5, 1]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("reason", sorted(RETRYABLE))
def test_a_failure_is_retried_as_the_policy_says_and_then_the_task_is_a_dead_letter(
    reason: Reason, name: str, delays: list[float]
) -> None:
    verdicts = [failed(reason, POLICIES[name], times) for times in (1, 2, 3)]
    assert verdicts[:2] == [Verdict(Status.PENDING, reason, delay_s=delay) for delay in delays]
    assert verdicts[2] == Verdict(Status.DEAD_LETTER, Reason.RETRY_LIMIT)


@pytest.mark.parametrize("after_s", [0.0, 0.5, 9000.0])
@pytest.mark.parametrize("name", ["none", "at once", "exponential", "jitter"])
def test_the_delay_that_the_handler_asks_for_takes_the_place_of_the_policys(name: str, after_s: float) -> None:
    assert failed(Reason.RETRY_LATER, POLICIES[name], 1, after_s) == Verdict(
        Status.PENDING, Reason.RETRY_LATER, delay_s=after_s
    )


def test_asking_for_a_delay_makes_no_further_retry() -> None:
    assert failed(Reason.RETRY_LATER, POLICIES["at once"], 3, 1.0).status is Status.DEAD_LETTER


@pytest.mark.parametrize("name", POLICIES)
def test_snoozing_has_no_limit_and_is_no_attempt(name: str) -> None:
    assert Interruptions(5, 1, 1, 2).plus(Reason.SNOOZED) == Interruptions(5, 1, 1, 2)
    assert failed(Reason.SNOOZED, POLICIES[name], 1000, 3.0) == Verdict(Status.PENDING, Reason.SNOOZED, delay_s=3.0)


@pytest.mark.parametrize("name", POLICIES)
def test_a_throttled_attempt_is_given_back_and_waits_with_its_queue(name: str) -> None:
    assert Interruptions(5, 1, 1, 2).plus(Reason.THROTTLED) == Interruptions(5, 1, 1, 2)
    assert failed(Reason.THROTTLED, POLICIES[name], 1000, 3.0) == Verdict(Status.PENDING, Reason.THROTTLED)


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason not in NO_FAILURE])
def test_every_attempt_counts_once_and_in_at_most_one_budget(reason: Reason) -> None:
    one = Interruptions().plus(reason)
    assert one.attempts == 1
    assert one.crashes + one.lost + one.failures == (reason in {*RETRYABLE, *CUT_OFF} - {Reason.STOPPED})


@pytest.mark.parametrize("reason", CUT_OFF)
@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_changes_nothing_for_attempts_that_nobodys_handler_ended(reason: Reason, name: str) -> None:
    for crashes, lost, failures in itertools.product(range(4), range(5), (0, 2, 9)):
        so_far = Interruptions(9, crashes, lost, failures)
        with_policy = after_interruption(reason, so_far, **LIMITS, retry=POLICIES[name])
        assert with_policy == after_interruption(reason, so_far, **LIMITS)
        assert with_policy.delay_s == 0.0
        assert is_legal(Status.RUNNING, with_policy.status, with_policy.reason)


def test_each_budget_ends_a_task_by_itself_and_says_which_it_was() -> None:
    def end(reason: Reason, *counts: int) -> Reason:
        return after_interruption(reason, Interruptions(sum(counts), *counts), **LIMITS).reason

    assert end(Reason.CRASH, 3, 0, 50) is Reason.CRASH_LIMIT
    assert end(Reason.LOST, 0, 4, 50) is Reason.LOST_LIMIT
    assert end(Reason.CRASH, 2, 3, 50) is Reason.CRASH


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("failures", [1, 2, 3])
def test_a_run_that_was_cut_off_for_its_time_is_a_failure_as_if_the_handler_had_raised(
    name: str, failures: int
) -> None:
    so_far = Interruptions(failures, 2, 1, failures)
    cut_off = after_interruption(Reason.RUN_TIMEOUT, so_far, **LIMITS, retry=POLICIES[name], chance=0.5)
    assert cut_off == after_failure(Reason.RUN_TIMEOUT, so_far, POLICIES[name], None, 0.5)


def test_a_task_that_was_lost_three_times_runs_alone_also_after_a_run_that_took_too_long() -> None:
    def verdict(lost: int) -> Verdict:
        so_far = Interruptions(lost + 1, 0, lost, 1)
        return after_interruption(Reason.RUN_TIMEOUT, so_far, **LIMITS, retry=POLICIES["at once"])

    assert [verdict(lost).alone for lost in range(4)] == [False, False, False, True]

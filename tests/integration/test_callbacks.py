"""Tasks that somebody outside completes: parked, answered, extended, given up - and the parent killed in between."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from plant import Plant

from ringq import protocol
from ringq.callback import digest_of, new_token
from ringq.clock import ManualClock
from ringq.entries import Batch, Spec
from ringq.errors import InvalidOption, InvalidResult, StaleAttempt, UnknownCallback
from ringq.model import CancelOutcome, OnDuplicate, Reason, Status
from ringq.query import Query

S = 1_000_000
DONE, FAILED, AGAIN = Status.COMPLETED.code, Status.FAILED.code, Status.PENDING.code
RETRIED = "2 constant 60s"
UNKNOWN = str(UnknownCallback())


class Office(Plant):
    """A plant whose handlers ask for callbacks."""

    def __init__(self, folder: Path) -> None:
        self.numbers = itertools.count(1)
        self.tokens: dict[int, str] = {}
        self.told: list[tuple[int, ...]] = []  # what those who wait for tasks heard
        super().__init__(folder, clock=ManualClock())

    def tell(self, receipts: Any) -> None:
        self.told += [(row[0], row[4], row[5]) for row in receipts]

    def give(self, **options: Any) -> int:
        task_id: int = self.store.next_task_id
        spec = Spec("shop::pay", "default", 128, None, None, **options)
        number = next(self.numbers).to_bytes(16, "big")
        self.submit(Batch(number, [spec], None, ["{}"], None, lambda *_: None, self.answers.append))
        self.turn()
        return task_id

    def give_with_key(self, key: str) -> int:
        """Behind the one that has it."""
        task_id: int = self.store.next_task_id
        spec = Spec("shop::pay", "default", 128, None, None)
        number, modes = next(self.numbers).to_bytes(16, "big"), [OnDuplicate.SUPERSEDE.code]
        told = self.answers.append
        self.submit(Batch(number, [spec], [0], ["{}"], None, lambda *_: None, told, keys=[key], on_duplicate=modes))
        self.turn()
        return task_id

    def turn(self) -> None:
        self.look_at_the_time()
        self.commit()

    def begin(self, task_id: int) -> None:
        self.fill(1 + self.ring.in_flight())
        self.claim(task_id)

    def request(self, message: Any) -> Any:
        """The answer to it."""
        self.answers.clear()
        self.ask(message)
        self.commit()
        (answer,) = self.answers
        return answer

    def opening(self, task_id: int, timeout_us: int | None = None) -> protocol.OpenCallback:
        self.tokens[task_id] = new_token(task_id)
        lease = self.ring.by_task[task_id].lease
        return protocol.OpenCallback(task_id, lease, digest_of(self.tokens[task_id]), timeout_us)

    def open(self, task_id: int, timeout_us: int | None = None) -> str:
        assert isinstance(self.request(self.opening(task_id, timeout_us)), protocol.Changed)
        return self.tokens[task_id]

    def park(self, task_id: int) -> None:
        """The handler has returned; the receipt is drained, and not recorded yet."""
        body = protocol.encode_carried(protocol.Carried('"memo"', parks=True)).decode()
        self.receive(task_id, Status.COMPLETED, Reason.WAITING, body)

    def parked(self, timeout_us: int | None = None, **options: Any) -> int:
        """A task that waits for somebody outside."""
        task_id = self.give(**options)
        self.begin(task_id)
        self.open(task_id, timeout_us)
        self.park(task_id)
        self.turn()
        assert self.store.waiting_row(task_id) is not None
        return task_id

    def resolving(self, task_id: int, status: int = DONE, text: str = '"paid"') -> protocol.ResolveCallback:
        bodies = (text, None) if status == DONE else (None, text)
        return protocol.ResolveCallback(self.tokens[task_id], protocol.submission_id(), status, *bodies)

    def complete(self, task_id: int, text: str = '"paid"') -> Any:
        return self.request(self.resolving(task_id, text=text))

    def outcome(self, task_id: int) -> tuple[Status, Reason, str | None]:
        record = Query(self.config.database).task(task_id)
        return record.status, record.reason, record.result

    def left(self) -> int:
        """Rows of callbacks and waiting tasks."""
        return len(self.read("SELECT 1 FROM callback")) + len(self.read("SELECT 1 FROM waiting"))


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    office = Office(tmp_path)
    yield office
    office.store.close()


def is_unknown(answer: Any) -> bool:
    return isinstance(answer, UnknownCallback) and str(answer) == UNKNOWN


def test_a_parked_task_ends_with_the_result_it_is_given(office: Office) -> None:
    task_id = office.parked()
    assert office.ring.in_flight() == 0
    assert office.fill(1) == []
    assert isinstance(office.complete(task_id), protocol.Changed)
    assert office.outcome(task_id) == (Status.COMPLETED, Reason.NONE, '"paid"')
    assert office.told == [(task_id, DONE, 0)]
    assert office.store.memo(task_id) == '"memo"'
    assert office.left() == 0


def test_the_attempt_of_a_parked_task_is_kept_and_the_worker_time_is_what_is_counted(office: Office) -> None:
    task_id = office.parked()
    office.clock.advance(3600)
    office.complete(task_id)
    record = Query(office.config.database).task(task_id)
    assert [(one.attempt, one.reason, one.duration_s) for one in record.attempts] == [(1, Reason.WAITING, 50e-6)]
    (statistic,) = Query(office.config.database).statistics()
    assert (statistic.count, statistic.duration_s) == (1, 50e-6)


def test_an_answer_that_comes_before_the_handler_returns_ends_the_task_when_it_does(office: Office) -> None:
    task_id = office.give()
    office.begin(task_id)
    office.open(task_id)
    assert isinstance(office.complete(task_id), protocol.Changed)
    assert is_unknown(office.complete(task_id))
    assert office.store.find_receipts([(task_id, task_id)], 1) == []
    office.park(task_id)
    office.turn()
    assert office.outcome(task_id) == (Status.COMPLETED, Reason.NONE, '"paid"')
    assert office.left() == 0


def test_a_failure_that_comes_early_fails_the_task_when_the_handler_returns(office: Office) -> None:
    task_id = office.give(retry=RETRIED)
    office.begin(task_id)
    office.open(task_id)
    office.request(office.resolving(task_id, FAILED, '{"message":"no money"}'))
    office.park(task_id)
    office.turn()
    assert office.outcome(task_id) == (Status.FAILED, Reason.CALLBACK_FAILED, None)
    assert Query(office.config.database).task(task_id).error == {"message": "no money"}


def test_a_callback_is_resolved_once(office: Office) -> None:
    task_id = office.parked()
    office.complete(task_id)
    for message in (
        office.resolving(task_id),
        office.resolving(task_id, FAILED, "{}"),
        protocol.ExtendCallback(office.tokens[task_id], S),
    ):
        assert is_unknown(office.request(message))
    assert office.outcome(task_id) == (Status.COMPLETED, Reason.NONE, '"paid"')


def test_two_answers_in_one_transaction_are_one(office: Office) -> None:
    task_id = office.parked()
    office.answers.clear()
    office.ask(office.resolving(task_id, text="1"))
    office.ask(office.resolving(task_id, text="2"))
    office.commit()
    assert isinstance(office.answers[0], protocol.Changed)
    assert is_unknown(office.answers[1])
    assert office.outcome(task_id)[2] == "1"


def test_an_answer_that_is_sent_again_because_the_reply_was_lost_is_told_the_same(office: Office) -> None:
    task_id = office.parked()
    message = office.resolving(task_id)
    assert isinstance(office.request(message), protocol.Changed)
    assert isinstance(office.request(message), protocol.Changed)
    assert office.outcome(task_id)[2] == '"paid"'


@pytest.mark.parametrize("token", ["", "1", "1.x", "x" * 5000, "\ud800", f"1.{'A' * 43}"])
def test_a_wrong_token_is_told_no_more_than_that(office: Office, token: str) -> None:
    task_id = office.parked()
    assert is_unknown(office.request(protocol.ResolveCallback(token, bytes(16), DONE, "1")))
    assert is_unknown(office.request(protocol.ExtendCallback(token, S)))
    assert office.complete(task_id) == protocol.Changed(1)


def test_the_database_has_no_token(office: Office) -> None:
    task_id = office.parked()
    token = office.tokens[task_id]
    ((digest,),) = office.read("SELECT digest FROM callback")
    assert digest == digest_of(token)
    office.store.checkpoint()
    assert token.encode() not in office.config.database.read_bytes()
    assert is_unknown(office.request(protocol.ResolveCallback(digest.hex(), bytes(16), DONE, "1")))


def test_a_second_token_of_an_attempt_takes_the_place_of_the_first(office: Office) -> None:
    task_id = office.give()
    office.begin(task_id)
    first = office.open(task_id)
    office.complete(task_id, '"early"')  # worth nothing either
    second = office.open(task_id)
    office.park(task_id)
    office.turn()
    assert is_unknown(office.request(protocol.ResolveCallback(first, bytes(16), DONE, "1")))
    assert office.request(protocol.ResolveCallback(second, bytes(range(16)), DONE, "2")) == protocol.Changed(1)
    assert office.outcome(task_id)[2] == "2"


def test_an_attempt_that_fails_takes_its_token_along(office: Office) -> None:
    task_id = office.give(retry="2 constant 0s")
    office.begin(task_id)
    old = office.open(task_id)
    office.receive(task_id, Status.FAILED, Reason.HANDLER_ERROR, "{}")
    office.turn()
    assert is_unknown(office.request(protocol.ResolveCallback(old, bytes(16), DONE, "1")))
    office.turn()
    office.begin(task_id)
    office.open(task_id)
    office.park(task_id)
    office.turn()
    assert office.complete(task_id) == protocol.Changed(1)


def test_an_answer_to_an_attempt_whose_worker_died_is_lost_with_it(office: Office) -> None:
    task_id = office.give()
    office.begin(task_id)
    office.open(task_id)
    office.complete(task_id)
    office.interrupt(task_id, Reason.CRASH)
    office.turn()
    assert office.left() == 0
    office.begin(task_id)
    office.open(task_id)
    office.park(task_id)
    office.turn()
    assert office.store.waiting_row(task_id) is not None


def test_who_asked_and_returned_nothing_to_wait_for_ends_as_always(office: Office) -> None:
    task_id = office.give()
    office.begin(task_id)
    office.open(task_id)
    office.receive(task_id, Status.COMPLETED, Reason.NONE, "7")
    office.turn()
    assert office.outcome(task_id) == (Status.COMPLETED, Reason.NONE, "7")
    assert office.left() == 0


def test_a_receipt_that_says_parked_without_a_callback_fails_its_task(office: Office) -> None:
    task_id = office.give()
    office.begin(task_id)
    office.park(task_id)
    office.turn()
    assert office.outcome(task_id) == (Status.FAILED, Reason.CALLBACK_FAILED, None)


def test_an_attempt_that_has_ended_gets_no_token(office: Office) -> None:
    task_id = office.give(retry="2 constant 0s")
    office.begin(task_id)
    late = office.opening(task_id)
    office.receive(task_id, Status.FAILED, Reason.HANDLER_ERROR, "{}")
    office.turn()
    assert isinstance(office.request(late), StaleAttempt)
    office.turn()
    office.begin(task_id)
    office.open(task_id)
    assert isinstance(office.request(late), StaleAttempt)
    office.park(task_id)
    office.turn()
    last = office.read("SELECT lease FROM waiting")[0][0]
    assert isinstance(office.request(protocol.OpenCallback(task_id, last, bytes(32))), StaleAttempt)
    office.complete(task_id)
    assert isinstance(office.request(late), StaleAttempt)


def test_an_attempt_of_which_nothing_was_recorded_gets_no_token_once_a_later_one_has(office: Office) -> None:
    task_id = office.give()
    office.begin(task_id)
    late = office.opening(task_id)
    office.kill(with_host=True)
    office.begin(task_id)
    token = office.open(task_id)
    assert isinstance(office.request(late), StaleAttempt)
    office.park(task_id)
    office.turn()
    assert office.request(protocol.ResolveCallback(token, bytes(16), DONE, "1")) == protocol.Changed(1)


@pytest.mark.parametrize("message", [
    protocol.OpenCallback(0, 1, bytes(32)), protocol.OpenCallback(1, 0, bytes(32)), protocol.OpenCallback(1, 1, b"x"),
    protocol.OpenCallback(1, 1, bytes(32), 999), protocol.OpenCallback(1, 1, bytes(32), 366 * 86_400 * S + 1),
    protocol.ExtendCallback("x", 0), protocol.ResolveCallback("x", b"short", DONE, "1"),
    protocol.ResolveCallback("x", bytes(16), DONE), protocol.ResolveCallback("x", bytes(16), FAILED),
    protocol.ResolveCallback("x", bytes(16), FAILED, "1", "{}"),
    protocol.ResolveCallback("x", bytes(16), 13, None, "{}"),
], ids=repr)  # fmt: skip
def test_a_request_that_makes_no_sense_is_refused(office: Office, message: Any) -> None:
    with pytest.raises(InvalidOption):
        office.ask(message)


def test_an_answer_over_the_limit_is_refused_and_the_token_is_still_good(office: Office) -> None:
    task_id = office.parked()
    too_long = office.resolving(task_id, text="1" * (16 << 20 | 1)), office.resolving(task_id, FAILED, "e" * 65_537)
    for message in too_long:
        with pytest.raises(InvalidResult, match=r"bytes, the limit is"):
            office.ask(message)
    assert office.complete(task_id) == protocol.Changed(1)


# -- time -----------------------------------------------------------------------------------------


def test_a_parked_task_whose_time_is_over_is_tried_again_by_its_policy(office: Office) -> None:
    task_id = office.parked(10 * S, retry="1 constant 60s")
    office.clock.advance(9.9)
    office.turn()
    assert office.store.waiting_row(task_id) is not None
    office.clock.advance(0.2)
    office.turn()
    assert office.left() == 0
    assert is_unknown(office.complete(task_id))
    assert office.outcome(task_id)[0] is Status.PENDING
    (attempt,) = Query(office.config.database).task(task_id).attempts
    assert (attempt.attempt, attempt.reason) == (1, Reason.CALLBACK_TIMEOUT)
    assert attempt.duration_s >= 10
    assert office.fill(1) == []
    office.clock.advance(60)
    office.turn()
    assert [slot.attempt for slot in office.fill(1)] == [2]
    office.claim(task_id)
    office.open(task_id, 10 * S)
    office.park(task_id)
    office.turn()
    office.clock.advance(11)
    office.turn()
    assert office.outcome(task_id)[:2] == (Status.DEAD_LETTER, Reason.RETRY_LIMIT)
    assert office.left() == 0


def test_without_a_policy_it_fails_when_its_time_is_over(office: Office) -> None:
    task_id = office.parked(10 * S)
    office.clock.advance(10.1)
    office.turn()
    assert office.outcome(task_id)[:2] == (Status.FAILED, Reason.CALLBACK_TIMEOUT)
    assert office.told == [(task_id, FAILED, Reason.CALLBACK_TIMEOUT.code)]


def test_the_failures_of_callbacks_are_counted_over_a_restart(office: Office) -> None:
    task_id = office.parked(10 * S, retry="1 constant 60s")
    office.clock.advance(11)
    office.turn()
    counted = office.writer.interruptions[task_id]
    office.kill()
    assert office.writer.interruptions[task_id] == counted
    assert (counted.attempts, counted.failures) == (1, 1)


def test_who_is_still_at_work_extends_the_time(office: Office) -> None:
    task_id = office.parked(10 * S)
    for _ in range(3):
        office.clock.advance(9)
        office.turn()
        assert office.request(protocol.ExtendCallback(office.tokens[task_id], 10 * S)) == protocol.Changed(1)
    office.clock.advance(9)
    office.turn()
    assert office.store.waiting_row(task_id) is not None
    office.clock.advance(1.1)
    office.turn()
    assert office.outcome(task_id)[:2] == (Status.FAILED, Reason.CALLBACK_TIMEOUT)


def test_the_time_is_cut_short_or_made_endless(office: Office) -> None:
    short, endless = office.parked(100 * S), office.parked(10 * S)
    office.request(protocol.ExtendCallback(office.tokens[short], S))
    office.request(protocol.ExtendCallback(office.tokens[endless], None))
    office.clock.advance(50)
    office.turn()
    assert office.outcome(short)[:2] == (Status.FAILED, Reason.CALLBACK_TIMEOUT)
    assert office.complete(endless) == protocol.Changed(1)


def test_a_time_that_is_over_before_the_handler_returns_counts_when_it_does(office: Office) -> None:
    task_id = office.give()
    office.begin(task_id)
    office.open(task_id, S)
    office.clock.advance(2)
    office.turn()
    assert is_unknown(office.complete(task_id))
    office.park(task_id)
    office.turn()
    office.turn()
    assert office.outcome(task_id)[:2] == (Status.FAILED, Reason.CALLBACK_TIMEOUT)


def test_an_answer_that_comes_when_the_time_is_over_is_too_late_also_before_the_parent_looks(office: Office) -> None:
    task_id = office.parked(S)
    office.clock.advance(1.5)
    assert is_unknown(office.complete(task_id))
    assert is_unknown(office.request(protocol.ExtendCallback(office.tokens[task_id], S)))
    office.turn()
    assert office.outcome(task_id)[:2] == (Status.FAILED, Reason.CALLBACK_TIMEOUT)


def test_the_total_timeout_of_a_parked_task_fails_it(office: Office) -> None:
    task_id = office.parked(100 * S, retry=RETRIED, total_timeout_ms=20_000, ttl_ms=1000, queue_timeout_ms=1000)
    office.clock.advance(10)
    office.turn()
    assert office.store.waiting_row(task_id) is not None  # it has begun in time
    office.clock.advance(11)
    office.turn()
    assert office.outcome(task_id)[:2] == (Status.FAILED, Reason.TOTAL_TIMEOUT)
    assert office.left() == 0


def test_the_time_for_the_whole_task_counts_before_that_of_its_callback(office: Office) -> None:
    task_id = office.parked(10 * S, retry=RETRIED, total_timeout_ms=20_000)
    office.clock.advance(30)
    office.turn()
    assert office.outcome(task_id)[:2] == (Status.FAILED, Reason.TOTAL_TIMEOUT)


def test_the_time_for_the_whole_task_may_be_over_before_the_handler_returns(office: Office) -> None:
    task_id = office.give(total_timeout_ms=20_000)
    office.begin(task_id)
    office.open(task_id)
    office.keep_lease(task_id)
    office.turn()
    office.clock.advance(30)
    office.turn()
    assert office.store.next_expiry_us() is None
    office.park(task_id)
    office.turn()
    office.turn()
    assert office.outcome(task_id)[:2] == (Status.FAILED, Reason.TOTAL_TIMEOUT)


# -- failures and cancels -------------------------------------------------------------------------


def test_a_failure_from_outside_is_final_whatever_the_policy_says(office: Office) -> None:
    task_id = office.parked(retry=RETRIED)
    office.request(office.resolving(task_id, FAILED, '{"message":"no money"}'))
    assert office.outcome(task_id)[:2] == (Status.FAILED, Reason.CALLBACK_FAILED)
    assert Query(office.config.database).task(task_id).error == {"message": "no money"}


@pytest.mark.parametrize("is_early", [False, True], ids=["parked", "running"])
def test_a_failure_with_retry_is_a_failed_attempt(office: Office, is_early: bool) -> None:
    task_id = office.give(retry=RETRIED)
    office.begin(task_id)
    office.open(task_id)
    failing = office.resolving(task_id, AGAIN, '{"message":"busy"}')
    if is_early:
        assert office.request(failing) == protocol.Changed(1)
    office.park(task_id)
    office.turn()
    if not is_early:
        assert office.request(failing) == protocol.Changed(1)
    office.turn()
    assert office.outcome(task_id)[0] is Status.PENDING
    (attempt,) = Query(office.config.database).task(task_id).attempts
    assert (attempt.reason, attempt.error) == (Reason.CALLBACK_FAILED, {"message": "busy"})
    assert office.left() == 0
    office.clock.advance(61)
    office.turn()
    assert [slot.attempt for slot in office.fill(1)] == [2]


def test_a_failure_with_retry_and_no_policy_fails_the_task(office: Office) -> None:
    task_id = office.parked()
    office.request(office.resolving(task_id, AGAIN, "{}"))
    assert office.outcome(task_id)[:2] == (Status.FAILED, Reason.CALLBACK_FAILED)


def test_a_parked_task_is_cancelled_at_once(office: Office) -> None:
    task_id = office.parked(10 * S)
    office.answers.clear()
    office.cancel(task_id)
    office.turn()
    assert office.outcome(task_id)[:2] == (Status.CANCELLED, Reason.CANCELLED)
    assert is_unknown(office.complete(task_id))
    assert office.left() == 0
    office.clock.advance(20)
    office.turn()
    assert office.outcome(task_id)[:2] == (Status.CANCELLED, Reason.CANCELLED)


@pytest.mark.parametrize("is_first", [True, False], ids=["cancel first", "answer first"])
def test_of_a_cancel_and_an_answer_in_one_transaction_the_first_counts(office: Office, is_first: bool) -> None:
    task_id = office.parked()
    office.answers.clear()
    asks = [lambda: office.cancel(task_id), lambda: office.ask(office.resolving(task_id))]
    for ask in asks if is_first else asks[::-1]:
        ask()
    office.commit()
    assert office.outcome(task_id)[0] is (Status.CANCELLED if is_first else Status.COMPLETED)
    if is_first:
        assert is_unknown(office.answers[1])
    else:
        assert office.answers[1].outcomes == [CancelOutcome.TOO_LATE.code]


# -- crashes --------------------------------------------------------------------------------------

POINTS = ["writer.before_commit", "writer.after_commit", "writer.after_free", "writer.after_reply"]


@pytest.mark.parametrize("with_host", [False, True], ids=["parent", "host"])
@pytest.mark.parametrize("point", POINTS)
def test_a_parent_killed_as_a_callback_is_asked_for(office: Office, point: str, with_host: bool) -> None:
    task_id = office.give()
    office.begin(task_id)
    office.ask(office.opening(task_id, 10 * S))
    office.die_committing(point)
    office.kill(with_host=with_host)
    office.turn()
    if not with_host:  # a lost host has left no trace of an attempt this short
        assert office.left() == 0
    assert is_unknown(office.complete(task_id)) is not with_host or point == POINTS[0]
    office.begin(task_id)
    office.open(task_id)
    office.park(task_id)
    office.turn()
    assert office.complete(task_id) == protocol.Changed(1)
    assert office.outcome(task_id) == (Status.COMPLETED, Reason.NONE, '"paid"')


@pytest.mark.parametrize("is_answered", [False, True], ids=["unanswered", "answered"])
@pytest.mark.parametrize("point", POINTS)
def test_a_parent_killed_as_a_task_is_parked(office: Office, point: str, is_answered: bool) -> None:
    task_id = office.give()
    office.begin(task_id)
    office.open(task_id, 10 * S)
    if is_answered:
        office.complete(task_id)
    office.park(task_id)
    office.die_committing(point)
    office.kill()
    office.turn()
    assert office.ring.in_flight() == 0
    if is_answered:
        assert is_unknown(office.complete(task_id))
    else:
        assert office.fill(1) == []
        assert office.complete(task_id) == protocol.Changed(1)
    assert office.outcome(task_id) == (Status.COMPLETED, Reason.NONE, '"paid"')
    assert office.left() == 0
    (statistic,) = Query(office.config.database).statistics()
    assert statistic.count == 1


@pytest.mark.parametrize("status", [DONE, FAILED, AGAIN])
@pytest.mark.parametrize("point", POINTS)
def test_a_parent_killed_as_a_parked_task_is_answered(office: Office, point: str, status: int) -> None:
    task_id = office.parked(retry="1 constant 60s")
    message = office.resolving(task_id, status, "{}")
    office.ask(message)
    office.die_committing(point)
    office.kill()
    assert office.request(message) == protocol.Changed(1)  # the client sends it again
    office.turn()
    assert is_unknown(office.request(office.resolving(task_id, status, "{}")))
    expected = {DONE: Status.COMPLETED, FAILED: Status.FAILED, AGAIN: Status.PENDING}[status]
    assert office.outcome(task_id)[0] is expected
    assert office.left() == 0
    if status == AGAIN:
        assert office.writer.interruptions[task_id].failures == 1
        office.clock.advance(61)
        office.turn()
        assert [slot.attempt for slot in office.fill(1)] == [2]


@pytest.mark.parametrize("retry", [None, "1 constant 60s"], ids=["final", "again"])
@pytest.mark.parametrize("point", POINTS)
def test_a_parent_killed_as_the_time_of_a_parked_task_is_over(office: Office, point: str, retry: str | None) -> None:
    task_id = office.parked(S, retry=retry)
    office.clock.advance(2)
    office.look_at_the_time()
    office.die_committing(point)
    office.kill()
    office.turn()
    assert office.left() == 0
    assert is_unknown(office.complete(task_id))
    assert office.outcome(task_id)[0] is (Status.PENDING if retry else Status.FAILED)
    if retry:
        assert office.writer.interruptions[task_id].failures == 1


def test_a_parked_task_waits_over_restarts_and_crashes(office: Office) -> None:
    task_id = office.parked(100 * S)
    for _ in range(3):
        office.kill(with_host=True)
        office.stop()
        office.turn()
        assert office.fill(2) == []
    assert office.complete(task_id) == protocol.Changed(1)


def test_a_time_that_is_over_while_nobody_looks_counts_at_the_next_start(office: Office) -> None:
    task_id = office.parked(S)
    office.store.mark_clean()
    office.clock.advance(10)
    office.kill()
    office.turn()
    assert office.outcome(task_id)[:2] == (Status.FAILED, Reason.CALLBACK_TIMEOUT)


@pytest.mark.parametrize("seed", range(60))
def test_random_lives_with_crashes_lose_no_answer_and_count_none_twice(office: Office, seed: int) -> None:
    """Some tasks, and everything that may happen to them, with the parent killed at any point of many commits."""
    chance = random.Random(seed)
    tasks = [office.give(retry="3 constant 1s") for _ in range(4)]
    accepted: dict[int, set[str]] = {task_id: set() for task_id in tasks}  # results that were answered with "done"
    sent: dict[int, list[protocol.ResolveCallback]] = {task_id: [] for task_id in tasks}

    def act(task_id: int) -> None:
        slot = office.ring.by_task.get(task_id)
        if slot is not None and slot.is_claimed and slot.receipt is None and not slot.is_drained:
            what = chance.choice(["open", "open", "park", "park", "crash"])
            if what == "open":
                office.ask(office.opening(task_id, chance.choice([None, 3 * S])))
            elif what == "park":
                office.park(task_id)
            else:
                office.interrupt(task_id, Reason.CRASH)
        if task_id in office.tokens and chance.random() < 0.5:
            message = office.resolving(task_id, chance.choice([DONE, DONE, AGAIN]), f'"{len(sent[task_id])}"')
            sent[task_id].append(message)
            office.ask(message)

    for _ in range(25):
        for slot in office.fill(4):
            slot.is_claimed = True
        for task_id in chance.sample(tasks, 2):
            act(task_id)
        office.clock.advance(chance.choice([0, 0, 1, 2]))
        office.look_at_the_time()
        if chance.random() < 0.4:
            office.die_committing(chance.choice(POINTS))
            office.kill(with_host=chance.random() < 0.3)
        else:
            office.commit()
    for task_id in tasks:
        for message in sent[task_id]:  # sent again: answered as it was, or never good
            if office.request(message) == protocol.Changed(1):
                accepted[task_id].add(str(message.result))
        record = Query(office.config.database).task(task_id)
        if record.status is Status.COMPLETED:
            assert record.result in accepted[task_id]
        assert len([told for told in office.told if told[0] == task_id]) <= 1
    ended = office.read("SELECT task_id FROM receipt")
    assert sum(one.count for one in Query(office.config.database).statistics()) == len(ended)
    assert office.read("SELECT task_id FROM callback WHERE task_id IN (SELECT task_id FROM receipt)") == []
    alone = "SELECT task_id FROM waiting WHERE task_id NOT IN (SELECT task_id FROM callback)"
    assert office.read(alone) == [], "nobody could ever complete these"


# -- beside the rest ------------------------------------------------------------------------------


def test_a_dead_letter_of_callbacks_that_gets_another_chance_has_all_its_retries_again(office: Office) -> None:
    task_id = office.parked(S, retry="1 constant 0s")
    for _ in range(2):
        office.clock.advance(2)
        office.turn()
        office.turn()
        if office.outcome(task_id)[0] is Status.PENDING:
            office.begin(task_id)
            office.open(task_id, S)
            office.park(task_id)
            office.turn()
    assert office.outcome(task_id)[:2] == (Status.DEAD_LETTER, Reason.RETRY_LIMIT)
    assert office.request(protocol.RetryDead(protocol.Dead([task_id]))) == protocol.Changed(1)
    office.kill()
    office.turn()
    assert [slot.attempt for slot in office.fill(1)] == [3]
    office.claim(task_id)
    office.open(task_id, S)
    office.park(task_id)
    office.turn()
    office.clock.advance(2)
    office.turn()
    assert office.outcome(task_id)[0] is Status.PENDING


def test_a_task_with_the_key_of_a_parked_one_waits_for_its_end(office: Office) -> None:
    task_id = office.give_with_key("order-17")
    office.begin(task_id)
    office.open(task_id)
    office.park(task_id)
    office.turn()
    other = office.give_with_key("order-17")
    assert office.fill(2) == []
    assert office.complete(task_id) == protocol.Changed(1)
    assert [slot.task_id for slot in office.fill(2)] == [other]


def test_a_parked_task_far_below_the_others_is_found_by_every_start(office: Office) -> None:
    task_id = office.parked(100 * S, retry=RETRIED)
    others = [office.give() for _ in range(5)]
    for other in others:
        office.begin(other)
        office.receive(other, Status.COMPLETED, Reason.NONE, "1")
    office.turn()
    with office.store.transaction():
        office.store.set_low_water(others[-1], [task_id])
    office.kill(with_host=True)
    office.turn()
    assert office.fill(1) == []
    office.request(office.resolving(task_id, AGAIN, "{}"))
    office.kill(with_host=True)
    office.clock.advance(61)
    office.turn()
    assert [(slot.task_id, slot.attempt) for slot in office.fill(1)] == [(task_id, 2)]


def test_a_parked_task_of_a_paused_queue_ends_and_one_that_is_tried_again_waits(office: Office) -> None:
    done, again = office.parked(), office.parked(retry="1 constant 0s")
    office.request(protocol.SetPause("queue", "default", True))
    office.complete(done)
    office.request(office.resolving(again, AGAIN, "{}"))
    office.turn()
    assert office.outcome(done)[0] is Status.COMPLETED
    assert office.outcome(again)[0] is Status.PAUSED
    assert office.fill(1) == []
    office.request(protocol.SetPause("queue", "default", False))
    office.turn()
    assert [slot.task_id for slot in office.fill(1)] == [again]

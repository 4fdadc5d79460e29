"""Every line of the transition table is gone over by the real machinery, and nothing makes any other move.

Whoever adds a line to the table adds a situation that goes over it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from plant import Plant

import ringq
from ringq import protocol
from ringq.admission import Admission
from ringq.callback import digest_of, new_token
from ringq.entries import Batch, Spec
from ringq.lifecycle import AGAIN, TRANSITIONS, Moves, is_legal
from ringq.model import OnDuplicate, Reason, Status
from ringq.testing.attempt import Kept, attempt
from ringq.testing.manual import InlineClock
from ringq.vanishing import Vanishing

Line = tuple[Status | None, Status, Reason]


def lines(moves: Moves) -> set[Line]:
    return {(source, target, reason) for (source, target), reasons in moves.items() for reason in reasons}


app = ringq.App("life")


@app.task
def fine() -> int:
    return 1


@app.task
def wrong() -> None:
    raise ValueError("no")


@app.task
def hopeless() -> None:
    raise ringq.Permanent("never")


@app.task
def too_long() -> None:
    raise ringq.RunTimeout


@app.task
def too_late() -> None:
    raise ringq.TotalTimeout


@app.task
def too_large() -> None:
    raise ringq.MemoryLimit


@app.task
def not_now() -> None:
    raise ringq.RetryLater("later", after=1)


@app.task
def asleep() -> None:
    raise ringq.Snooze(1)


@app.task
def slowed() -> None:
    raise ringq.Throttled("slow down")


@app.task
def held_up() -> None:
    raise ringq.AttemptPaused


@app.task
def pushed_aside() -> None:
    raise ringq.AttemptPreempted


@app.task
def unwanted() -> None:
    raise ringq.Cancel("not needed any more")


@app.task
def unspeakable() -> object:
    return object()


@app.task
def add(first: int, second: int) -> int:
    return first + second


@app.task
def nursery(ctx: ringq.Context) -> int:
    ctx.spawn(fine.submission())
    return 1


@app.task
def unlucky(ctx: ringq.Context) -> None:
    ctx.spawn(wrong.submission())


@app.task
def tidy(ctx: ringq.Context) -> int:
    ctx.spawn(fine.submission())
    return 1


@tidy.finalize
def close(memo: Any, results: list[Any]) -> int:
    return len(results)


@app.task
def misled(ctx: ringq.Context) -> None:
    ctx.spawn(fine.options(priority=ringq.HIGH).submission())


class Watched(Plant):
    """A plant of which every move of every task is noted, and has to be a legal one. `moves`: in their order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.moves: list[Line] = []
        self.seen: dict[int, Status] = {}
        self.attempts: set[tuple[int, int, int]] = set()
        self.tokens: dict[int, str] = {}
        self.admission = Admission()
        self.admission.learn(app.reports())
        self.numbers = itertools.count(1)
        self.pauses_meanwhile = False
        super().__init__(folder, clock=InlineClock())

    # -- what happens -------------------------------------------------------------------------

    def give(
        self, kind: str = "fine", payload: str = "{}", *, key: str | None = None, mode: OnDuplicate = OnDuplicate.SKIP,
        run_at_us: int | None = None, depends_on: list[int] | None = None, **options: Any,
    ) -> int:  # fmt: skip
        """A task is submitted; its id, if one was inserted."""
        task_id: int = self.store.next_task_id
        spec = Spec(f"life::{kind}", "default", 128, None, None, **options)
        self.writer.submit(
            Batch(
                next(self.numbers).to_bytes(16, "big"), [spec], [0], [payload], [run_at_us],
                lambda *_: None, self.answers.append, keys=[key], on_duplicate=[mode.code],
                depends_on=None if depends_on is None else [depends_on],
            )
        )  # fmt: skip
        self.turn()
        return task_id

    def begin(self, *task_ids: int) -> None:
        """Workers have these tasks."""
        if self.pauses_meanwhile:
            self.pause(False)
        self.turn()
        self.fill(len(task_ids) + self.ring.in_flight())
        for task_id in task_ids:
            self.claim(task_id)
        self.look()
        if self.pauses_meanwhile:
            self.pause()

    def pause(self, paused: bool = True) -> None:
        self.ask(protocol.SetPause("queue", "default", paused))
        self.turn()

    def work(self, task_id: int) -> None:
        """The worker's own code runs the handler, whose receipt is recorded."""
        slot = self.ring.by_task[task_id]
        row = self.read(f"SELECT kind.name, payload FROM task JOIN spec ON spec.id = spec JOIN kind ON kind.id = kind "
                        f"WHERE task.id = {task_id}")[0]  # fmt: skip
        handler: Any = app.kinds().get(row[0])
        claim = (task_id, slot.lease, slot.kind, slot.attempt, 0, row[1].encode())
        clock: Any = self.clock
        receipt = attempt(handler, claim, self.folder, clock, None, {}, None, dict, Kept(None))
        self.receive(task_id, Status.of(receipt.status), Reason.of(receipt.reason), receipt.body)
        self.turn()

    def ask_for_a_callback(self, task_id: int) -> None:
        """As the client of a worker."""
        self.tokens[task_id] = new_token(task_id)
        lease, digest = self.ring.by_task[task_id].lease, digest_of(self.tokens[task_id])
        self.ask(protocol.OpenCallback(task_id, lease, digest, 60_000_000))
        self.turn()

    def park(self, task_id: int) -> None:
        """Its handler returns, and leaves the rest to somebody outside."""
        body = protocol.encode_carried(protocol.Carried("1", parks=True)).decode()
        self.receive(task_id, Status.COMPLETED, Reason.WAITING, body)
        self.turn()

    def resolve(self, task_id: int, status: Status) -> None:
        """Somebody outside says what becomes of a task."""
        bodies = ("1", None) if status is Status.COMPLETED else (None, "{}")
        number = next(self.numbers).to_bytes(16, "big")
        self.ask(protocol.ResolveCallback(self.tokens[task_id], number, status.code, *bodies))
        self.turn()

    def run(self, kind: str, payload: str = "{}", **options: Any) -> int:
        """A task is submitted and run once."""
        task_id = self.give(kind, payload, **options)
        self.begin(task_id)
        self.work(task_id)
        return task_id

    def cut(self, reason: Reason, times: int = 1, *, payload: str = "{}") -> int:
        """A task is submitted, and its attempts end without a receipt."""
        task_id = self.give("add", payload)
        for _ in range(times):
            self.begin(task_id)
            self.interrupt(task_id, reason)
            self.turn()
        return task_id

    def turn(self) -> None:
        self.look_at_the_time()
        self.commit()
        self.look()

    # -- what is noted ------------------------------------------------------------------------

    def look(self) -> None:
        """Compare with what was there the last time."""
        tasks = self.read("SELECT id, status, reason FROM task LEFT JOIN receipt ON task_id = id ORDER BY id")
        held = {task_id: self.held(task_id) for task_id, *_ in tasks}
        ended = {task_id for task_id, status, _ in tasks if status is not None}
        for task_id, lease, code in self.read("SELECT task_id, lease, reason FROM attempt WHERE status IS NULL"):
            reason = Reason.of(code)
            is_final = reason in LAPSES and task_id in ended
            if (task_id, lease, code) not in self.attempts and not is_final:
                self.attempts.add((task_id, lease, code))
                self.note(task_id, Status.WAITING if reason is Reason.WAITING else held[task_id], reason)
        for task_id, status, code in tasks:
            slot = self.ring.by_task.get(task_id)
            now = Status.RUNNING if slot is not None and slot.is_claimed else held[task_id]
            now = now if status is None else Status.of(status)
            if self.seen.get(task_id) is None and now is not held[task_id]:
                self.note(task_id, held[task_id], Reason.NONE)
            if self.seen.get(task_id) is not now:
                self.note(task_id, now, Reason.of(code or 0))

    def held(self, task_id: int) -> Status:
        """Where it is if it has not ended and no worker has it."""
        state = self.store.task_states([task_id])[task_id]
        if state.is_waiting or state.has_not_begun:
            return Status.WAITING if state.is_waiting else Status.BLOCKED
        return Status.PAUSED if self.store.pauses() or task_id in self.store.preempted else Status.PENDING

    def note(self, task_id: int, now: Status, reason: Reason) -> None:
        line = (self.seen.get(task_id), now, reason)
        assert is_legal(*line), f"task {task_id}: {line}"
        self.moves.append(line)
        self.seen[task_id] = now


# -- a situation for each line ----------------------------------------------------------------


def a_task_is_submitted(plant: Watched) -> None:
    plant.give()


def a_worker_takes_it(plant: Watched) -> None:
    plant.begin(plant.give())


def it_is_cancelled_before_it_began(plant: Watched) -> None:
    plant.cancel(plant.give())
    plant.turn()


def its_time_to_live_is_over(plant: Watched) -> None:
    plant.give(ttl_ms=1000)
    plant.clock.advance(1)
    plant.turn()


def it_waits_for_a_worker_for_too_long(plant: Watched) -> None:
    plant.give(queue_timeout_ms=1000)
    plant.clock.advance(1)
    plant.turn()


def all_of_its_time_is_over(plant: Watched) -> None:
    plant.give(total_timeout_ms=1000)
    plant.clock.advance(1)
    plant.turn()


def nobody_has_its_kind_any_more(plant: Watched) -> None:
    plant.give("forgotten")
    number = plant.store.intern_kind("life::forgotten")
    plant.dispatcher.learn(frozenset({number}))
    plant.fill(1)
    rotation = SimpleNamespace(is_reloading=False, reload_error=None)
    workers: Any = SimpleNamespace(vanished={number: "life::forgotten"}, is_settled=True, rotation=rotation)
    Vanishing(0.0, plant.clock, workers, workers, plant.dispatcher, plant.writer).step()
    plant.turn()


def its_handler_returns(plant: Watched) -> None:
    plant.run("fine")


def its_handler_raises(plant: Watched) -> None:
    plant.run("wrong")


def its_handler_says_never(plant: Watched) -> None:
    plant.run("hopeless", retry="3")


def it_takes_too_long(plant: Watched) -> None:
    plant.run("too_long")


def it_runs_when_all_of_its_time_is_over(plant: Watched) -> None:
    plant.run("too_late", retry="3")


def it_takes_too_much_memory(plant: Watched) -> None:
    plant.run("too_large")


def its_arguments_fit_no_handler(plant: Watched) -> None:
    plant.run("fine", '{"nobody": 1}')


def its_result_cannot_be_stored(plant: Watched) -> None:
    plant.run("unspeakable")


def its_handler_is_gone(plant: Watched) -> None:
    plant.run("forgotten")


def its_handler_says_not_needed(plant: Watched) -> None:
    plant.run("unwanted", retry="3")


def its_worker_dies(plant: Watched) -> None:
    plant.cut(Reason.CRASH)


def its_server_dies(plant: Watched) -> None:
    plant.begin(plant.give())
    plant.kill()
    plant.look()


def its_receipt_is_damaged(plant: Watched) -> None:
    plant.cut(Reason.DAMAGED_RECEIPT)


def its_server_is_stopped(plant: Watched) -> None:
    plant.begin(plant.give())
    plant.stop()
    plant.look()


def its_handler_raises_and_may_again(plant: Watched) -> None:
    plant.run("wrong", retry="1")


def it_takes_too_long_and_may_again(plant: Watched) -> None:
    plant.run("too_long", retry="1")


def it_takes_too_much_memory_and_may_again(plant: Watched) -> None:
    plant.run("too_large", retry="1")


def its_handler_says_later(plant: Watched) -> None:
    plant.run("not_now")


def its_handler_sleeps(plant: Watched) -> None:
    plant.run("asleep")


def its_handler_is_throttled(plant: Watched) -> None:
    plant.run("slowed")


def it_is_stopped_for_a_pause_that_is_over(plant: Watched) -> None:
    plant.run("held_up")


def it_is_stopped_for_a_task_that_is_gone(plant: Watched) -> None:
    plant.run("pushed_aside")


def a_more_urgent_task_takes_its_place(plant: Watched) -> None:
    task_id = plant.give("pushed_aside")
    plant.begin(task_id)
    assert plant.writer.stops.ask([task_id], Reason.PREEMPTED) == []
    plant.work(task_id)


def its_workers_die_again_and_again(plant: Watched) -> None:
    plant.cut(Reason.CRASH, 3)


def it_is_lost_again_and_again(plant: Watched) -> None:
    plant.cut(Reason.LOST, 4)


def its_retries_are_used_up(plant: Watched) -> None:
    task_id = plant.run("wrong", retry="1")
    plant.begin(task_id)
    plant.work(task_id)


def a_chunk_is_cut_off(plant: Watched) -> None:
    plant.cut(Reason.CRASH, payload="[[1,2],[3,4]]")


def another_takes_its_place(plant: Watched) -> None:
    plant.give(key="x")
    plant.give(key="x", mode=OnDuplicate.SUPERSEDE)


def somebody_gives_it_another_chance(plant: Watched) -> None:
    task_id = plant.cut(Reason.CRASH, 3)
    plant.ask(protocol.RetryDead(protocol.Dead([task_id])))
    plant.turn()


def it_is_submitted_to_a_paused_queue(plant: Watched) -> None:
    plant.pause()
    plant.give()


def its_queue_is_paused(plant: Watched) -> None:
    plant.give()
    plant.pause()


def its_queue_goes_on(plant: Watched) -> None:
    its_queue_is_paused(plant)
    plant.pause(False)


def in_a_paused_queue(situation: Callable[[Watched], object]) -> Callable[[Watched], None]:
    def paused(plant: Watched) -> None:
        plant.pause()
        situation(plant)

    paused.__name__ = f"in_a_paused_queue_{situation.__name__}"
    return paused


def paused_meanwhile(situation: Callable[[Watched], object]) -> Callable[[Watched], None]:
    def paused(plant: Watched) -> None:
        plant.pauses_meanwhile = True
        situation(plant)

    paused.__name__ = f"{situation.__name__}_in_a_queue_paused_meanwhile"
    return paused


def somebody_gives_it_another_chance_in_a_paused_queue(plant: Watched) -> None:
    task_id = plant.cut(Reason.CRASH, 3)
    plant.pause()
    plant.ask(protocol.RetryDead(protocol.Dead([task_id])))
    plant.turn()


def it_depends_on_another(plant: Watched, **options: Any) -> int:
    return plant.give(depends_on=[plant.give()], **options)


def what_it_depends_on_completes(plant: Watched) -> None:
    first = it_depends_on_another(plant) - 1
    plant.begin(first)
    plant.work(first)


def what_it_depends_on_fails(plant: Watched) -> None:
    first = plant.give("wrong")
    plant.give(depends_on=[first])
    plant.begin(first)
    plant.work(first)


def it_is_cancelled_while_blocked(plant: Watched) -> None:
    plant.cancel(it_depends_on_another(plant))
    plant.turn()


def its_time_to_live_is_over_while_blocked(plant: Watched) -> None:
    it_depends_on_another(plant, ttl_ms=1000)
    plant.clock.advance(1)
    plant.turn()


def all_of_its_time_is_over_while_blocked(plant: Watched) -> None:
    it_depends_on_another(plant, total_timeout_ms=1000)
    plant.clock.advance(1)
    plant.turn()


def another_takes_its_place_while_blocked(plant: Watched) -> None:
    it_depends_on_another(plant, key="x")
    plant.give(key="x", mode=OnDuplicate.SUPERSEDE)


def what_it_spawns_is_refused(plant: Watched) -> None:
    assert plant.admission is not None
    plant.admission.learn([report for report in app.reports() if report["name"] != "life::fine"])
    plant.run("misled")


def its_handler_returns_and_its_child_lives(plant: Watched, kind: str = "nursery", **options: Any) -> int:
    return plant.run(kind, **options)


def its_last_child_completes(plant: Watched, kind: str = "nursery") -> None:
    child = its_handler_returns_and_its_child_lives(plant, kind) + 1
    plant.begin(child)
    plant.work(child)


def its_last_child_completes_and_it_has_a_finalize(plant: Watched) -> None:
    its_last_child_completes(plant, "tidy")


def its_child_fails(plant: Watched) -> None:
    its_last_child_completes(plant, "unlucky")


def it_is_cancelled_while_its_child_lives(plant: Watched) -> None:
    plant.cancel(its_handler_returns_and_its_child_lives(plant))
    plant.turn()


def all_of_its_time_is_over_while_its_child_lives(plant: Watched) -> None:
    its_handler_returns_and_its_child_lives(plant, total_timeout_ms=1000)
    plant.clock.advance(1)
    plant.turn()


def it_is_left_to_somebody_outside(plant: Watched, **options: Any) -> int:
    task_id = plant.give(**options)
    plant.begin(task_id)
    plant.ask_for_a_callback(task_id)
    plant.park(task_id)
    return task_id


def somebody_outside_fails_it(plant: Watched) -> None:
    plant.resolve(it_is_left_to_somebody_outside(plant, retry="1"), Status.FAILED)


def somebody_outside_fails_it_before_its_handler_returns(plant: Watched) -> None:
    task_id = plant.give()
    plant.begin(task_id)
    plant.ask_for_a_callback(task_id)
    plant.resolve(task_id, Status.FAILED)
    plant.park(task_id)


def somebody_outside_has_it_tried_again(plant: Watched) -> None:
    plant.resolve(it_is_left_to_somebody_outside(plant, retry="1"), Status.PENDING)


def nobody_completes_it_in_time(plant: Watched, **options: Any) -> int:
    task_id = it_is_left_to_somebody_outside(plant, **options)
    plant.clock.advance(60)
    plant.turn()
    return task_id


def nobody_completes_it_in_time_and_it_may_again(plant: Watched) -> int:
    return nobody_completes_it_in_time(plant, retry="1")


def nobody_completes_it_in_time_again_and_again(plant: Watched) -> None:
    task_id = nobody_completes_it_in_time_and_it_may_again(plant)
    plant.begin(task_id)
    plant.ask_for_a_callback(task_id)
    plant.park(task_id)
    plant.clock.advance(60)
    plant.turn()


PENDING, PAUSED, RUNNING = Status.PENDING, Status.PAUSED, Status.RUNNING
BLOCKED, WAITING = Status.BLOCKED, Status.WAITING
LAPSES = (Reason.CALLBACK_TIMEOUT, Reason.CALLBACK_FAILED)
SITUATIONS: dict[Line, Callable[[Watched], object]] = {
    (None, PENDING, Reason.NONE): a_task_is_submitted,
    (PENDING, RUNNING, Reason.NONE): a_worker_takes_it,
    (PENDING, Status.CANCELLED, Reason.CANCELLED): it_is_cancelled_before_it_began,
    (PENDING, Status.EXPIRED, Reason.TTL): its_time_to_live_is_over,
    (PENDING, Status.EXPIRED, Reason.QUEUE_TIMEOUT): it_waits_for_a_worker_for_too_long,
    (PENDING, Status.EXPIRED, Reason.TOTAL_TIMEOUT): all_of_its_time_is_over,
    (PENDING, Status.SUPERSEDED, Reason.REPLACED): another_takes_its_place,
    (PENDING, Status.DEAD_LETTER, Reason.UNKNOWN_KIND): nobody_has_its_kind_any_more,
    (RUNNING, Status.COMPLETED, Reason.NONE): its_handler_returns,
    (RUNNING, Status.FAILED, Reason.HANDLER_ERROR): its_handler_raises,
    (RUNNING, Status.FAILED, Reason.PERMANENT): its_handler_says_never,
    (RUNNING, Status.FAILED, Reason.RUN_TIMEOUT): it_takes_too_long,
    (RUNNING, Status.FAILED, Reason.TOTAL_TIMEOUT): it_runs_when_all_of_its_time_is_over,
    (RUNNING, Status.FAILED, Reason.MEMORY_LIMIT): it_takes_too_much_memory,
    (RUNNING, Status.FAILED, Reason.INVALID_PAYLOAD): its_arguments_fit_no_handler,
    (RUNNING, Status.FAILED, Reason.INVALID_RESULT): its_result_cannot_be_stored,
    (RUNNING, Status.FAILED, Reason.UNKNOWN_KIND): its_handler_is_gone,
    (RUNNING, Status.CANCELLED, Reason.CANCELLED): its_handler_says_not_needed,
    (RUNNING, PENDING, Reason.CRASH): its_worker_dies,
    (RUNNING, PENDING, Reason.LOST): its_server_dies,
    (RUNNING, PENDING, Reason.DAMAGED_RECEIPT): its_receipt_is_damaged,
    (RUNNING, PENDING, Reason.STOPPED): its_server_is_stopped,
    (RUNNING, PENDING, Reason.HANDLER_ERROR): its_handler_raises_and_may_again,
    (RUNNING, PENDING, Reason.RUN_TIMEOUT): it_takes_too_long_and_may_again,
    (RUNNING, PENDING, Reason.MEMORY_LIMIT): it_takes_too_much_memory_and_may_again,
    (RUNNING, PENDING, Reason.RETRY_LATER): its_handler_says_later,
    (RUNNING, PENDING, Reason.SNOOZED): its_handler_sleeps,
    (RUNNING, PENDING, Reason.THROTTLED): its_handler_is_throttled,
    (RUNNING, PENDING, Reason.PAUSED): it_is_stopped_for_a_pause_that_is_over,
    (RUNNING, PENDING, Reason.PREEMPTED): it_is_stopped_for_a_task_that_is_gone,
    (RUNNING, Status.DEAD_LETTER, Reason.CRASH_LIMIT): its_workers_die_again_and_again,
    (RUNNING, Status.DEAD_LETTER, Reason.LOST_LIMIT): it_is_lost_again_and_again,
    (RUNNING, Status.DEAD_LETTER, Reason.RETRY_LIMIT): its_retries_are_used_up,
    (RUNNING, Status.SUPERSEDED, Reason.SPLIT): a_chunk_is_cut_off,
    (Status.DEAD_LETTER, PENDING, Reason.NONE): somebody_gives_it_another_chance,
    (None, PAUSED, Reason.NONE): it_is_submitted_to_a_paused_queue,
    (PENDING, PAUSED, Reason.NONE): its_queue_is_paused,
    (PAUSED, PENDING, Reason.NONE): its_queue_goes_on,
    (Status.DEAD_LETTER, PAUSED, Reason.NONE): somebody_gives_it_another_chance_in_a_paused_queue,
    (None, BLOCKED, Reason.NONE): it_depends_on_another,
    (BLOCKED, PENDING, Reason.NONE): what_it_depends_on_completes,
    (BLOCKED, Status.DEPENDENCY_FAILED, Reason.NONE): what_it_depends_on_fails,
    (BLOCKED, Status.CANCELLED, Reason.CANCELLED): it_is_cancelled_while_blocked,
    (BLOCKED, Status.EXPIRED, Reason.TTL): its_time_to_live_is_over_while_blocked,
    (BLOCKED, Status.EXPIRED, Reason.TOTAL_TIMEOUT): all_of_its_time_is_over_while_blocked,
    (BLOCKED, Status.SUPERSEDED, Reason.REPLACED): another_takes_its_place_while_blocked,
    (RUNNING, Status.FAILED, Reason.INVALID_SPAWN): what_it_spawns_is_refused,
    (RUNNING, Status.FAILED, Reason.CALLBACK_FAILED): somebody_outside_fails_it_before_its_handler_returns,
    (RUNNING, WAITING, Reason.WAITING): its_handler_returns_and_its_child_lives,
    (WAITING, PENDING, Reason.NONE): its_last_child_completes_and_it_has_a_finalize,
    (WAITING, PENDING, Reason.CALLBACK_FAILED): somebody_outside_has_it_tried_again,
    (WAITING, PENDING, Reason.CALLBACK_TIMEOUT): nobody_completes_it_in_time_and_it_may_again,
    (WAITING, Status.COMPLETED, Reason.NONE): its_last_child_completes,
    (WAITING, Status.FAILED, Reason.CHILD_FAILED): its_child_fails,
    (WAITING, Status.FAILED, Reason.CALLBACK_FAILED): somebody_outside_fails_it,
    (WAITING, Status.FAILED, Reason.CALLBACK_TIMEOUT): nobody_completes_it_in_time,
    (WAITING, Status.FAILED, Reason.TOTAL_TIMEOUT): all_of_its_time_is_over_while_its_child_lives,
    (WAITING, Status.DEAD_LETTER, Reason.RETRY_LIMIT): nobody_completes_it_in_time_again_and_again,
    (WAITING, Status.CANCELLED, Reason.CANCELLED): it_is_cancelled_while_its_child_lives,
}
SITUATIONS |= {
    (PAUSED, target, reason): in_a_paused_queue(SITUATIONS[PENDING, target, reason])
    for target, reason in (
        (Status.CANCELLED, Reason.CANCELLED), (Status.SUPERSEDED, Reason.REPLACED), (Status.EXPIRED, Reason.TTL),
        (Status.EXPIRED, Reason.QUEUE_TIMEOUT), (Status.EXPIRED, Reason.TOTAL_TIMEOUT),
    )
}  # fmt: skip
SITUATIONS |= {(RUNNING, PAUSED, why): paused_meanwhile(SITUATIONS[RUNNING, PENDING, why]) for why in AGAIN}
SITUATIONS |= {
    (source, PAUSED, why): paused_meanwhile(SITUATIONS[source, PENDING, why])
    for source, why in ((BLOCKED, Reason.NONE), *((WAITING, why) for why in (Reason.NONE, *LAPSES)))
}
SITUATIONS[RUNNING, PAUSED, Reason.PREEMPTED] = a_more_urgent_task_takes_its_place


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Watched]:
    plant = Watched(tmp_path)
    yield plant
    plant.store.close()


@pytest.mark.parametrize("line", SITUATIONS, ids=lambda line: SITUATIONS[line].__name__)
def test_the_machinery_goes_over_this_line(plant: Watched, line: Line) -> None:
    SITUATIONS[line](plant)
    assert line in plant.moves


def test_every_line_of_the_table_is_gone_over() -> None:
    assert lines(TRANSITIONS) == SITUATIONS.keys(), "each line has a situation"


@pytest.mark.parametrize("line", SITUATIONS, ids=lambda line: SITUATIONS[line].__name__)
def test_whatever_is_asked_of_a_task_there_no_other_move_is_made(plant: Watched, line: Line) -> None:
    """Receipts of old attempts, deaths, cancels, retries, pauses, time: `Watched.note` refuses every illegal move."""
    SITUATIONS[line](plant)
    before, tasks = dict(plant.seen), sorted(plant.seen)
    for task_id in tasks:
        _late_receipts(plant, task_id)
        plant.turn()
        plant.pause()
        plant.pause(False)
        plant.ask(protocol.RetryDead(protocol.Dead([task_id])))
        plant.turn()
        plant.cancel(task_id)
        plant.turn()
    plant.clock.advance(10**6)
    plant.turn()
    plant.kill()
    plant.look()
    for task_id, status in before.items():
        if status.is_terminal and status is not Status.DEAD_LETTER:
            assert plant.seen[task_id] is status


def _late_receipts(plant: Watched, task_id: int) -> None:
    """What a worker that was taken for dead may still say of attempts that are over."""
    if plant.seen[task_id] in (PENDING, PAUSED, BLOCKED, WAITING):
        return  # nobody says anything of it
    now_us = plant.clock.now_us()
    if task_id in plant.ring.by_task:
        plant.receive(task_id, Status.COMPLETED, Reason.NONE, "1")
        return
    for lease, (status, reason) in enumerate(
        [(Status.COMPLETED, Reason.NONE), (Status.FAILED, Reason.HANDLER_ERROR), (Status.FAILED, Reason.CANCELLED)]
    ):
        bodies = ("1", None) if status is Status.COMPLETED else (None, "{}")
        codes = (status.code, reason.code)
        plant.writer.record([(task_id, 7 + lease, 1, 1, *codes, now_us, 5, 0, None, None, *bodies)])

"""The whole life of tasks against a small model: submitted, run, ended in every way, cancelled, killed, reopened."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from life_model import LOST_MAX, Answer, Attempt, Ending, Limits, Model, Task, Wish
from plant import ATTEMPT_US, Plant, Slot

from ringq import protocol, upkeep
from ringq.entries import Batch, Spec
from ringq.errors import KeyInUse, NotDead, UnknownTask
from ringq.lifecycle import Interruptions
from ringq.model import CancelOutcome, OnDuplicate, Outcome, PauseReason, Reason, Status
from ringq.query import Query
from ringq.store import tasks as task_tables
from ringq.vanishing import GiveUp

KINDS, QUEUES = ["media::scan", "mail::send"], ["default", "bulk"]
SCOPES = [("group", "night"), ("group", "day"), ("domain", "media"), ("server", "")]
POINTS = ["writer.before_commit", "writer.after_commit", "writer.after_free", "writer.after_reply"]
SECOND_US = 1_000_000

SPANS_US = st.sampled_from([None, None, None, None, 2 * SECOND_US, 100 * SECOND_US])
wishes = st.builds(
    Wish,
    kind=st.sampled_from([KINDS[0], *KINDS]), queue=st.sampled_from(QUEUES), priority=st.sampled_from([64, 128]),
    key=st.sampled_from([None, None, "a", "a", "b"]), mode=st.sampled_from([OnDuplicate.SKIP, *OnDuplicate]),
    retry=st.sampled_from([None, "0", "1", "1", "2", "1 constant 1s", "3 exponential 1s..10s"]),
    limits=st.one_of(
        st.just(Limits()),
        st.builds(Limits, ttl_us=SPANS_US, ttl_from=st.integers(0, 1), total_us=SPANS_US, queue_us=SPANS_US),
    ),
    tags=st.sampled_from([(), (), (("customer", "7"),), (("customer", "8"), ("night", ""))]),
    label=st.sampled_from([None, None, "a name"]),
    run_at_us=st.sampled_from([None, None, None, -SECOND_US, SECOND_US, 30 * SECOND_US]),  # from now on
    group=st.sampled_from([None, None, "night", "day"]),
)  # fmt: skip
FAILED, COMPLETED = Status.FAILED, (Status.COMPLETED, Reason.NONE, None)
endings = st.sampled_from(  # None: it goes on
    [
        *[None] * 3, *[COMPLETED] * 5, *[(FAILED, Reason.HANDLER_ERROR, None)] * 8,
        *[(FAILED, Reason.RETRY_LATER, after_s) for after_s in (None, 5)],
        *[(FAILED, Reason.SNOOZED, after_s) for after_s in (None, 3)],
        *[(FAILED, Reason.THROTTLED, after_s) for after_s in (None, 90)],
        *[(status, reason, None) for status in (FAILED, None) for reason in (Reason.PAUSED, Reason.PREEMPTED)],
        *[
            (FAILED, reason, None)
            for reason in (
                Reason.PERMANENT, Reason.CANCELLED, Reason.RUN_TIMEOUT, Reason.INVALID_PAYLOAD, Reason.INVALID_RESULT,
                Reason.UNKNOWN_KIND, Reason.MEMORY_LIMIT, Reason.TOTAL_TIMEOUT,
            )
        ],
        *[
            (None, reason, None)
            for reason in (
                Reason.CRASH, Reason.LOST, Reason.DAMAGED_RECEIPT, Reason.RUN_TIMEOUT, Reason.MEMORY_LIMIT,
                Reason.TOTAL_TIMEOUT,
            )
        ],
    ]
)  # fmt: skip
points = st.sampled_from([None] * 8 + POINTS)  # where the parent is killed
STEPS = [
    *["submit"] * 7, *["work"] * 9, *["run"] * 2, *["let_time_pass"] * 2, *["cancel"] * 2, *["one_dead_letter"] * 2,
    *["die_before_it_began", "run_for_long"] * 2, "crash_again_and_again", "cancel_many", "cancel_what_is_unknown",
    "dead_letters_of", "purge_and_be_killed", *["set_queue"] * 2, "set_the_clock", "be_killed", "stop", "give_up",
    "look_them_up", *["pause_more"] * 2, "go_on",
]  # fmt: skip
Draw = Callable[[Any], Any]


class Machine(RuleBasedStateMachine):
    """A plant and its model. `inbox`: what came of attempts and is not committed yet."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(upkeep, "EVERY", 2)
        self.patch.setattr(task_tables, "LAG_MAX", 4)
        self.plant = Plant(Path(self.folder.name), submission_keep_s=1e9)
        self.model = Model()
        self.inbox: dict[int, Ending] = {}
        self.submissions = 0

    @rule(step=st.sampled_from(STEPS), data=st.data())
    def step(self, step: str, data: st.DataObject) -> None:
        """One rule, because hypothesis leaves rules out of whole runs: hardly one would have all that a task needs."""
        getattr(self, step)(data.draw)

    # -- submissions --------------------------------------------------------------------------

    def submit(self, draw: Draw) -> None:
        """Perhaps the parent is killed meanwhile: then the client asks again."""
        given, point = draw(st.lists(wishes, min_size=1, max_size=4)), draw(points)
        self.submissions += 1
        now_us = self.plant.clock.now_us()
        asked = [Wish(**{**vars(w), "run_at_us": w.run_at_us and now_us + w.run_at_us}) for w in given]
        expected: list[Answer] = []
        batch = self.batch(asked)
        self.plant.submit(batch)
        self.turn(lambda: expected.extend(self.model.submit(asked)), point)
        if point is not None:
            self.plant.answers.clear()
            self.plant.submit(batch)
            self.turn(lambda: expected or expected.extend(self.model.submit(asked)))
        assert self.told(len(asked)) == expected

    def batch(self, given: list[Wish]) -> Batch:
        return Batch(
            submission=self.submissions.to_bytes(16, "big"),
            specs=list(map(_spec, given)),
            spec_of=list(range(len(given))), payloads=["{}"] * len(given), run_at_us=[w.run_at_us for w in given],
            reply=lambda first, replayed, told=None, paused=None: self.plant.answers.append((first, told)),
            refuse=self.plant.answers.append, keys=[w.key for w in given], on_duplicate=[w.mode.code for w in given],
        )  # fmt: skip

    def told(self, count: int) -> list[Answer]:
        first, told = self.plant.answers.pop()
        if told is None:
            return [(Outcome.INSERTED, first + number, 0) for number in range(count)]
        return [(Outcome.of(code), *rest) for code, *rest in zip(*told, strict=True)]

    # -- attempts -----------------------------------------------------------------------------

    def run(self, draw: Draw) -> None:
        self.publish(draw(st.integers(1, 4)))

    def publish(self, workers: int) -> None:
        """Publish, and let as many workers take what was published first."""
        self.turn()
        free = self.ready()
        in_flight = self.plant.ring.in_flight()
        published = self.plant.fill(in_flight + workers)
        assert [slot.task_id for slot in published] == free[: len(published)], "not in order"
        if not any(task.lost >= LOST_MAX for task in self.model.active()):
            assert len(published) >= min(workers, len(free)), "a worker is left without a task"
        for slot in published:
            assert slot.attempt == self.model.tasks[slot.task_id].counted + 1
            self.model.publish(slot.task_id)
        unclaimed = [slot.task_id for slot in self.plant.ring.by_task.values() if not slot.is_claimed]
        for task_id in unclaimed[:workers]:
            self.plant.claim(task_id)
            self.model.claim(task_id)

    def ready(self) -> list[int]:
        pending = [task for task in self.model.active() if task.place == "pending" and self.model.is_open(task)]
        return [task.id for task in sorted(pending, key=lambda task: (task.priority, task.id))]

    def work(self, draw: Draw) -> None:
        """Attempts come to their ends, and more are begun; or that is not committed yet."""
        for task_id in self.running():
            how = draw(endings)
            if how is None:
                continue
            status, reason, after_s = how
            if status is None:
                self.cut_off(task_id, reason)
            else:
                self.receive(task_id, status, reason, after_s)
        if draw(st.booleans()):
            self.turn(point=draw(points))
            self.publish(draw(st.integers(1, 4)))

    def crash_again_and_again(self, draw: Draw) -> None:
        """Nothing else can make a dead letter of a task without retries."""
        self.publish(1)
        self.take_one(draw, lambda task_id: self.cut_off(task_id, draw(st.sampled_from([Reason.CRASH, Reason.LOST]))))
        for _ in range(3):
            self.publish(2)
            for task_id in self.running():
                self.cut_off(task_id, Reason.CRASH)
            self.turn()
        if draw(st.booleans()):
            self.one_dead_letter(draw)

    def die_before_it_began(self, draw: Draw) -> None:
        def drop(task_id: int) -> None:
            task = self.model.tasks[task_id]
            if task.lease is not None:
                return  # it has begun
            if draw(st.booleans()):
                self.plant.cancel(task_id)
                self.check_cancel(lambda: [task_id], None)
            self.plant.drop(task_id)
            self.model.look(self.plant.clock.now_us())
            self.model.drop(task_id)
            self.plant.clock.advance(draw(st.sampled_from([0, 3])))
            if draw(st.booleans()):
                self.turn()

        self.take_one(draw, drop)

    def run_for_long(self, _: Draw) -> None:
        slots = [self.plant.ring.by_task[task_id] for task_id in self.running()]
        for slot in slots:
            self.plant.keep_lease(slot.task_id)
        self.turn()
        for slot in slots:  # the last thing that the transaction has written
            self.model.tasks[slot.task_id].lease = slot.lease, slot.attempt

    def take_one(self, draw: Draw, use: Callable[[int], object]) -> None:
        if running := self.running():
            use(draw(st.sampled_from(running)))

    def running(self) -> list[int]:
        slots = self.plant.ring.by_task.values()
        return [slot.task_id for slot in slots if slot.is_claimed and not slot.is_drained]

    def cut_off(self, task_id: int, reason: Reason) -> None:
        """The worker died, was killed, or wrote nonsense."""
        now_us, slot = self.plant.clock.now_us(), self.plant.ring.by_task[task_id]
        times = now_us, now_us - ATTEMPT_US
        self.inbox[task_id] = Ending(task_id, slot.lease, slot.attempt, None, reason, *times)
        self.plant.interrupt(task_id, reason)

    def receive(self, task_id: int, status: Status, reason: Reason, after_s: int | None) -> None:
        body = "{}" if after_s is None else f'{{"after_s": {after_s}.0}}'
        slot = self.plant.ring.by_task[task_id]
        self.plant.receive(task_id, status, reason, body)
        self.inbox[task_id] = _as_ending(slot, after_s)

    # -- what operators do --------------------------------------------------------------------

    def cancel(self, draw: Draw) -> None:
        if self.model.tasks:
            task_ids = draw(st.lists(st.sampled_from(sorted(self.model.tasks)), min_size=1, max_size=3))
            self.plant.cancel(*task_ids)
            self.check_cancel(lambda: task_ids, draw(points))

    def cancel_many(self, draw: Draw) -> None:
        """A page after the other, as clients do."""
        kind, queue = draw(st.sampled_from(KINDS)), draw(st.sampled_from([None, *QUEUES]))
        after, upto = 0, 0

        def of_page() -> list[int]:
            nonlocal upto
            upto = self.plant.answers[-1].after
            ids = [task.id for task in self.model.active() if _is_of(task, kind, queue)]
            return [task_id for task_id in ids if after < task_id <= (upto or task_id)]

        while True:
            self.plant.cancel(kind=kind, queue=queue, after=after)
            self.check_cancel(of_page, None)
            if not upto:
                break
            after = upto

    def check_cancel(self, which: Callable[[], list[int]], point: str | None) -> None:
        expected: dict[int, tuple[CancelOutcome, Status]] = {}
        self.turn(lambda: expected.update(self.model.cancel(which(), self.inbox)), point)
        if point in (None, "writer.after_reply"):
            answer = self.plant.answers.pop()
            outcomes = map(CancelOutcome.of, answer.outcomes)
            states = zip(outcomes, map(Status.of, answer.statuses), strict=True)
            assert dict(zip(answer.task_ids, states, strict=True)) == expected

    def cancel_what_is_unknown(self, draw: Draw) -> None:
        """A purged one, or one that never was."""
        task_id = draw(st.integers(1, self.model.next_id))
        if task_id not in self.model.tasks:
            known = sorted(self.model.tasks)[:1]
            self.plant.cancel(task_id, *known)
            self.turn()
            assert isinstance(self.plant.answers.pop(), UnknownTask)

    def one_dead_letter(self, draw: Draw) -> None:
        """Also of tasks that are none: then nothing happens to any."""
        known = self.model.dead() or sorted(self.model.tasks) or [1]
        task_ids = draw(st.lists(st.sampled_from(known), min_size=1, max_size=2))
        if draw(st.integers(0, 5)) == 0:
            task_ids.append(draw(st.integers(1, self.model.next_id)))
        verb, point = draw(st.sampled_from([protocol.RetryDead, protocol.RetryDead, protocol.PurgeDead])), draw(points)
        expected: list[Any] = []
        self.plant.ask(verb(protocol.Dead(task_ids)))
        self.turn(lambda: expected.append(self.dead_letters(verb, sorted(set(task_ids)))), point)
        self.check_dead(expected, point)

    def dead_letters_of(self, draw: Draw) -> None:
        kind, queue = draw(st.sampled_from([None, *KINDS])), draw(st.sampled_from([None, *QUEUES]))
        verb = draw(st.sampled_from([protocol.RetryDead, protocol.RetryDead, protocol.PurgeDead]))
        expected: list[Any] = []
        self.plant.ask(verb(protocol.Dead(None, kind, queue, None, 100)))
        does = self.model.retry if verb is protocol.RetryDead else self.model.purge
        self.turn(lambda: expected.append(does(self.model.dead(kind, queue))))
        self.check_dead(expected, None)

    def dead_letters(self, verb: Any, task_ids: list[int]) -> Any:
        for task_id in task_ids:
            if task_id not in self.model.tasks:
                return UnknownTask
            if self.model.tasks[task_id].status is not Status.DEAD_LETTER:
                return NotDead
        if verb is protocol.PurgeDead:
            return self.model.purge(task_ids)
        return KeyInUse if self.model.keys_in_use(task_ids) else self.model.retry(task_ids)

    def check_dead(self, expected: list[Any], point: str | None) -> None:
        if point in (None, "writer.after_reply"):
            answer = self.plant.answers.pop()
            assert (answer.count if isinstance(answer, protocol.Changed) else type(answer)) == expected[0]

    def purge_and_be_killed(self, _: Draw) -> None:
        """The last id may be that of a purged one."""
        self.plant.ask(protocol.PurgeDead(protocol.Dead(None, limit=100)))
        self.turn(lambda: self.model.purge(self.model.dead()))
        self.kill(with_host=False)

    def set_queue(self, draw: Draw) -> None:
        changes = [{"paused": True}, {"paused": True}, {"paused": False}, {"retry": "0"}, {"retry": "2"}]
        self.say(draw(st.sampled_from(QUEUES)), draw(st.sampled_from(changes)))

    def say(self, queue: str, changes: dict[str, Any]) -> None:
        paused, is_other = changes.get("paused"), True
        if paused is None:
            self.plant.ask(protocol.SetQueue(queue, changes))
        else:
            is_other = paused is not self.model.is_held(queue, also_cooling=not paused)
            self.plant.ask(protocol.SetPause("queue", queue, paused))
        self.turn(lambda: self.model.set_queue(queue, **changes))
        assert self.plant.answers.pop() == protocol.Changed(int(is_other))

    def pause_more(self, draw: Draw) -> None:
        """A group, a domain, or everything; perhaps what is paused already."""
        self.say_pause(*draw(st.sampled_from(SCOPES)), paused=True)

    def go_on(self, draw: Draw) -> None:
        self.say_pause(*draw(st.sampled_from(sorted(self.model.halted) or SCOPES)), paused=False)

    def say_pause(self, scope: str, name: str, *, paused: bool) -> None:
        is_other: list[bool] = []
        self.plant.ask(protocol.SetPause(scope, name, paused))  # type: ignore[arg-type]
        self.turn(lambda: is_other.append(self.model.set_pause(scope, name, paused)))
        assert self.plant.answers.pop() == protocol.Changed(int(is_other[0]))

    def give_up(self, draw: Draw) -> None:
        """A handler is gone for some time."""
        kind = draw(st.sampled_from(KINDS))
        met = [task.id for task in self.model.active() if task.kind == kind and task.place == "pending"]
        if met:
            self.plant.writer.change(GiveUp(met, self.plant.answers.append))
            self.turn(lambda: self.model.give_up(met), draw(points))
            self.plant.answers.clear()
        if draw(st.booleans()):
            self.one_dead_letter(draw)

    def look_them_up(self, _: Draw) -> None:
        query, model = Query(self.plant.config.database), self.model
        for task in model.tasks.values():
            record, (_, status, reason) = query.task(task.id), _shown(task, model)
            assert (record.status.value, record.reason.value) == (status, reason or "")
            held = model.pauses(task) if record.status is Status.PAUSED else PauseReason(0)
            assert record.pause_reasons == held
            assert (record.tags, record.label) == (dict(task.tags), task.label or task.kind)
        shown = [_shown(task, model)[1] for task in model.tasks.values()]
        counts = {status.value: count for status, count in query.counts().items() if count}
        assert counts == {status: shown.count(status) for status in shown}
        for status in ("pending", "paused", "running", "expired"):
            found = {record.id for record in query.tasks(status=status)}
            assert found == {task.id for task in model.tasks.values() if _shown(task, model)[1] == status}

    # -- time, and ends of the server ---------------------------------------------------------

    def let_time_pass(self, draw: Draw) -> None:
        self.plant.clock.advance(draw(st.sampled_from([0.5, 1, 1, 3, 3, 60, 200])))
        if draw(st.booleans()):
            self.turn()

    def set_the_clock(self, draw: Draw) -> None:
        self.plant.clock.jump(draw(st.sampled_from([-200, -3, -3, 40, 100_000])))

    def be_killed(self, draw: Draw) -> None:
        self.kill(with_host=draw(st.booleans()))

    def kill(self, *, with_host: bool) -> None:
        """SIGKILL; what was not committed is lost, but for what workers have left in shared memory."""
        now_us, endings = self.plant.clock.now_us(), []
        for slot in self.plant.ring.by_task.values():
            if slot.is_claimed and not with_host:
                endings.append(self.found(slot, now_us))
        leases = [(task.id, *task.lease) for task in self.model.active() if task.lease is not None]
        if with_host:
            endings = [Ending(*lease, None, Reason.LOST, now_us, now_us) for lease in leases]
        self.inbox.clear()
        self.plant.answers.clear()
        self.plant.kill(with_host=with_host)
        self.model.commit(now_us, endings=endings, expires=False)
        self.model.restart()
        self.model.commit(now_us, expires=False)

    def found(self, slot: Slot, now_us: int) -> Ending:
        if slot.receipt is None:
            return Ending(slot.task_id, slot.lease, slot.attempt, None, Reason.LOST, now_us, now_us)
        return _as_ending(slot, self.inbox[slot.task_id].after_us if slot.task_id in self.inbox else None, in_us=True)

    def stop(self, _: Draw) -> None:
        """As a server stops that was told to: what does not end in time is stopped, and charged to nobody."""
        now_us = self.plant.clock.now_us()
        for task_id in self.running():
            slot = self.plant.ring.by_task[task_id]
            times = now_us, now_us - ATTEMPT_US
            self.inbox[task_id] = Ending(task_id, slot.lease, slot.attempt, None, Reason.STOPPED, *times)
        self.plant.stop()
        self.model.commit(now_us, endings=self.inbox.values(), expires=False)
        self.inbox.clear()
        self.model.restart()

    def turn(self, action: Callable[[], object] = lambda: None, point: str | None = None) -> None:
        """A turn of the loop; with `point`, the parent is killed there."""
        now_us, due = self.plant.clock.now_us(), self.plant.look_at_the_time()
        note(f"turn at {now_us % 10**12}, due: {due}, inbox: {list(self.inbox)}")
        if point is None:
            self.plant.commit()
        else:
            self.plant.die_committing(point)
        if point != "writer.before_commit":
            self.model.commit(now_us, action, self.inbox.values(), due)
            self.model.look(now_us)
        if point is not None:
            answers = list(self.plant.answers)
            self.kill(with_host=False)
            self.plant.answers = answers
        self.inbox.clear()

    # -- what must be so ----------------------------------------------------------------------

    @invariant()
    def every_task_is_where_the_model_says(self) -> None:
        """In exactly one status, with its reason, attempts, key, and times."""
        read, model = self.plant.read, self.model
        assert self.plant.store.next_task_id == model.next_id
        stored = read(
            "SELECT task.id, kind.name, spec.queue, spec.priority, submitted_us, run_at_us FROM task "
            "JOIN spec ON spec.id = spec JOIN kind ON kind.id = spec.kind ORDER BY 1"
        )
        tasks = sorted(model.tasks.values(), key=lambda task: task.id)
        assert stored == [(t.id, t.kind, t.queue, t.priority, t.submitted_us, t.run_at_us) for t in tasks]
        receipts = read("SELECT task_id, status, reason, lease, attempt, ended_us FROM receipt ORDER BY 1")
        ended = [(t.id, t.status.code, t.reason.code, *t.end[:3]) for t in tasks if t.status is not None]
        assert receipts == ended
        attempts = read("SELECT task_id, lease, reason, status, ended_us - duration_us FROM attempt")
        made = [(t.id, lease, *_codes(one)) for t in tasks for lease, one in t.attempts.items()]
        assert sorted(attempts, key=lambda row: row[:2]) == sorted(made, key=lambda row: row[:2])
        counts = self.plant.writer.interruptions
        for task in model.active():
            expected = Interruptions(task.counted, task.crashes, task.lost, task.failures)
            assert counts.get(task.id, Interruptions()) == expected, task

    @invariant()
    def side_tables_name_those_who_may_be_there(self) -> None:
        active, ids = self.model.active(), self.ids
        at = {place: {task.id for task in active if task.place == place} for place in ("delayed", "waiting")}
        rows = self.plant.read("SELECT task_id, run_at_us FROM delayed")
        assert dict(rows) == {task.id: task.run_at_us for task in active if task.place == "delayed"}
        assert ids("follower") == at["waiting"]
        behind = {self.model.behind[name]: self.model.holder[name] for name in self.model.behind}
        assert dict(self.plant.read("SELECT task_id, behind FROM follower")) == behind
        assert ids("active_key") == set(self.model.holder.values())
        assert ids("task_key") == {task.id for task in self.model.tasks.values() if task.name is not None}
        assert self.plant.store.keyed == {*self.model.holder.values(), *self.model.behind.values()}
        self.what_limits_are_kept()
        tags = self.plant.read("SELECT task_id, key, value FROM tag ORDER BY 1, 2")
        assert tags == [(task.id, *tag) for task in self.model.tasks.values() for tag in task.tags]
        labels = self.plant.read("SELECT task_id, text FROM label ORDER BY 1")
        assert labels == [(task.id, task.label) for task in self.model.tasks.values() if task.label]
        assert ids("cancel_request") == {task.id for task in active if task.is_cancelled}
        assert set(self.plant.writer.cancels.asked_ns) == ids("cancel_request")
        leases = self.plant.read("SELECT task_id, lease, attempt FROM lease")
        assert leases == [(task.id, *task.lease) for task in active if task.lease is not None]
        mark = self.plant.store.low_water
        old = {task.id for task in active if task.id <= mark}
        assert ids("straggler") == old - at["delayed"]

    def what_limits_are_kept(self) -> None:
        """Of tasks that have ended for good something may be left, which means nothing."""
        tasks = self.model.tasks.values()
        alive = {task.id for task in tasks if task.status in (None, Status.DEAD_LETTER)}
        rows = set(self.plant.read("SELECT expires_us, task_id FROM expiry"))
        assert {row for row in rows if row[1] in alive} == {row for row in self.model.expiries if row[1] in alive}
        assert rows <= self.model.expiries
        renewed = dict(self.plant.read("SELECT task_id, since_us FROM renewal"))
        assert renewed.items() <= {task.id: task.renewed_us for task in tasks}.items()
        assert renewed.keys() >= {task.id for task in tasks if task.limits and task.renewed_us is not None}

    @invariant()
    def what_is_counted_and_shown_agrees(self) -> None:
        active = self.model.active()
        read, slots = self.plant.read, self.plant.ring.by_task.values()
        assert {s.task_id for s in slots if s.is_claimed} == {task.id for task in active if task.place == "running"}
        assert {s.task_id for s in slots if not s.is_claimed} == {t.id for t in active if t.place == "published"}
        assert len(self.plant.feed.backlog) == sum(task.place == "pending" for task in active)
        assert self.plant.store.count_active() == len(active)
        counted = "SELECT kind, status, count FROM statistic WHERE count <> 0 ORDER BY 1, 2"
        assert read(counted) == read("SELECT kind, status, count(*) FROM receipt GROUP BY 1, 2 ORDER BY 1, 2")
        shown = [_shown(task, self.model) for task in self.model.tasks.values()]
        assert read("SELECT id, status, reason FROM task_v ORDER BY id") == sorted(shown)

    def ids(self, table: str) -> set[int]:
        rows = self.plant.read(f"SELECT task_id FROM {table}")
        assert len(rows) == len(set(rows)), f"a task is twice in {table}"
        return {row[0] for row in rows}

    def teardown(self) -> None:
        """Whatever has happened, every task comes to an end."""
        try:
            for queue in QUEUES:
                self.say(queue, {"paused": False})
            for scope, name in SCOPES:
                self.say_pause(scope, name, paused=False)
            for _ in range(200):
                if not self.model.active():
                    break
                self.plant.clock.advance(100)
                self.publish(9)
                for task_id in self.running():
                    self.receive(task_id, Status.COMPLETED, Reason.NONE, None)
                self.turn()
            assert not self.model.active(), "never ran"
            self.every_task_is_where_the_model_says()
            self.what_is_counted_and_shown_agrees()
            query = Query(self.plant.config.database)
            for task in self.model.tasks.values():
                record = query.task(task.id)
                assert (record.status, record.reason, record.attempt_count) == (task.status, task.reason, task.end[1])
        finally:
            self.plant.store.close()
            self.patch.undo()
            self.folder.cleanup()


def _as_ending(slot: Slot, after: int | None, in_us: bool = False) -> Ending:
    assert slot.receipt is not None
    status, reason, ended_us = Status.of(slot.receipt[4]), Reason.of(slot.receipt[5]), slot.receipt[6]
    after_us = after if in_us or after is None else after * SECOND_US
    times = ended_us, ended_us - ATTEMPT_US
    return Ending(slot.task_id, slot.lease, slot.attempt, status, reason, *times, after_us)


def _spec(w: Wish) -> Spec:
    ttl_ms, total_ms, queue_ms = (us and us // 1000 for us in (w.limits.ttl_us, w.limits.total_us, w.limits.queue_us))
    return Spec(
        w.kind, w.queue, w.priority, w.group, None, w.retry, ttl_ms, w.limits.ttl_from, total_timeout_ms=total_ms,
        queue_timeout_ms=queue_ms, label=w.label, tags=w.tags,
    )  # fmt: skip


def _codes(one: Attempt) -> tuple[int, int | None, int]:
    return one.reason.code, None if one.status is None else one.status.code, one.begun_us


def _is_of(task: Task, kind: str | None, queue: str | None) -> bool:
    return kind in (None, task.kind) and queue in (None, task.queue)


def _shown(task: Task, model: Model) -> tuple[int, str, str | None]:
    if task.status is not None:
        return task.id, task.status.value, task.reason.value
    held = "paused" if model.pauses(task) else "pending"
    return task.id, held if task.lease is None else "running", None


TestLife = Machine.TestCase
IS_DEEP = settings().max_examples == settings.get_profile("deep").max_examples  # in scripts/check --deep
TestLife.settings = settings(
    suppress_health_check=list(HealthCheck), **{} if IS_DEEP else {"max_examples": 40, "stateful_step_count": 40}
)

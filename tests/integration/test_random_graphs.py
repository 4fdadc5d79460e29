"""Random graphs of tasks whose handlers fail, whose workers die, that are cancelled; the server is killed meanwhile.

What becomes of them is held against a small model of the rules, which knows nothing of how they are kept.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from graph_model import IGNORE, Claim, Fact, Model, Plan, draw
from hypothesis import settings
from plant import Plant, Slot

from ringq import protocol, upkeep, writer
from ringq.admission import Admission
from ringq.codec import FINALIZE_PREFIX
from ringq.errors import CyclicDependency, DependencyFailed, RingqError
from ringq.lifecycle import Interruptions
from ringq.model import CancelOutcome, OnDuplicate, Reason, Status
from ringq.store import tasks as task_tables

IS_DEEP = settings().max_examples == settings.get_profile("deep").max_examples  # in scripts/check --deep
SEEDS, TASKS = (200, 2000) if IS_DEEP else (12, 300)
KINDS = ["media::scan", "mail::send", "sales::report"]
SCOPES = [("server", ""), ("domain", "media"), ("group", "night"), ("queue", "default")]
POINTS = ["writer.before_commit", "writer.after_commit", "writer.after_free", "writer.after_reply"]
SIDE_TABLES = (
    "waiting", "active_key", "follower", "delayed", "cancel_request", "lease", "straggler", "callback", "preempted",
)  # fmt: skip
STATEMENTS = ("_write", "_execute", "_read", "_read_one")
WORKERS, PATIENCE = 24, 400  # turns in which nothing ends


class Cut(Exception):
    """The parent dies here."""


@dataclass
class Asked:
    """A submission that has no answer yet."""

    message: protocol.Submit
    plans: list[Plan]


class World(Plant):
    """A plant in which a graph grows. `now`: how many transactions, or starts, there were."""

    def __init__(self, folder: Path, seed: int, count: int) -> None:
        self.seed, self.count = seed, count
        self.chance = random.Random(seed)
        self.admission = Admission()
        self.admission.learn([{"name": kind} for kind in KINDS])
        self.now = self.numbers = self.newest = self.drawn = 0
        self.facts: dict[int, Fact] = {}
        self.plans: dict[str, Plan] = {}
        self.ids: dict[str, int] = {}
        self.claimed: dict[int, list[Claim]] = {}
        self.active: set[int] = set()
        self.asked: dict[bytes, Asked] = {}
        self.spawned: dict[int, bool] = {}  # lease -> whether what its handler stores at once is stored
        self.wrong: list[str] = []
        self.crashes = 0
        super().__init__(folder, crashes_max=10**6, lost_max=10**6, submission_keep_s=1e9)

    def live(self) -> None:
        """Until every task has ended."""
        idle = 0
        while (len(self.facts) < self.count or self.active or self.asked) and idle < PATIENCE:
            before = len(self.active), len(self.facts)
            if len(self.facts) < self.count and self.chance.random() < 0.3:
                self.submit_some()
            if self.chance.random() < 0.06:
                self.cancel_some()
            if self.chance.random() < 0.03:
                self.pause_something(self.chance.random() < 0.5)
            if idle > 20:
                for scope, name in SCOPES:
                    self.ask(protocol.SetPause(scope, name, False))  # type: ignore[arg-type]
                self.clock.advance(0.1)
            self.work()
            self.turn_or_die()
            self.clock.advance(self.chance.choice([0, 0.0001, 0.001]))
            idle = idle + 1 if before == (len(self.active), len(self.facts)) else 0
        self.close_book()

    # -- submissions --------------------------------------------------------------------------

    def submit_some(self) -> None:
        """A batch whose tasks depend on each other, and on earlier ones."""
        size = self.chance.choice([1, 1, 3, 10, 40])
        self.drawn += size
        plans = [draw(self.seed, f"t{self.drawn - number}") for number in range(size)]
        order = self.chance.sample(plans, size)  # they may name those that come later in the batch
        known = list(self.ids)
        for number, plan in enumerate(order):
            near = (
                order[:number] if self.chance.random() < 0.7 else order[: min(number, 2)]
            )  # some have many dependents
            names = [one.name for one in self.chance.sample(near, min(len(near), self.chance.choice([0, 1, 1, 2, 40])))]
            far = self.chance.sample(known, min(len(known), self.chance.choice([0, 0, 1, 3])))
            plan.depends_on = names + [name for name in far if self.ids[name] in self.active or plan.policy is IGNORE]
        self.chance.choice(plans).key = self.chance.choice([None, f"k{self.chance.randrange(4)}"])
        self.send(plans)

    def send(self, plans: list[Plan]) -> None:
        self.numbers += 1
        message = self.message((1 << 100) + self.numbers, plans)
        message.keys = [plan.key for plan in plans]
        message.on_duplicate = [OnDuplicate.SUPERSEDE.code] * len(plans)
        self.asked[message.submission] = Asked(message, plans)
        self.ask_again(self.asked[message.submission])

    def ask_again(self, asked: Asked) -> None:
        assert self.admission is not None
        submission = asked.message.submission

        def answered(*_: Any) -> None:
            del self.asked[submission]

        self.submit(self.admission.check(asked.message, answered, lambda error: self.refused(submission, error)))

    def refused(self, submission: bytes, error: RingqError) -> None:
        """Some of those that they depend on have failed meanwhile, or wait for what would be superseded."""
        asked = self.asked.pop(submission)
        for plan in asked.plans:
            if isinstance(error, CyclicDependency):
                plan.key = None
            elif isinstance(error, DependencyFailed):
                plan.depends_on = [
                    name for name in plan.depends_on if plan.policy is IGNORE or not self.has_failed(name)
                ]
            else:
                raise error
        self.send(asked.plans)

    def has_failed(self, name: str) -> bool:
        task_id = self.ids.get(name)
        return task_id is not None and self.facts[task_id].status not in (None, Status.COMPLETED)

    def message(self, number: int, plans: Sequence[Plan]) -> protocol.Submit:
        for plan in plans:
            self.plans[plan.name] = plan
        places = {plan.name: place for place, plan in enumerate(plans)}
        depends_on = [[-1 - places[n] if n in places else self.ids[n] for n in plan.depends_on] for plan in plans]
        fields = [
            protocol.SpecFields(
                KINDS[len(plan.name) % 3], priority=64 * (len(plan.name) % 4), retry=str(plan.retries),
                ttl_ms=plan.ttl_ms, group=[None, "night"][len(plan.name) % 2],
            )
            for plan in plans
        ]  # fmt: skip
        specs = list(dict.fromkeys(fields))
        spec_of = [specs.index(one) for one in fields]
        return protocol.Submit(
            number.to_bytes(16, "big"), specs, spec_of, [json.dumps(plan.name) for plan in plans],
            [self.clock.now_us() + plan.run_after_us if plan.run_after_us else None for plan in plans],
            depends_on=[own or None for own in depends_on], on_dependency_failure=[plan.policy.code for plan in plans],
        )  # fmt: skip

    # -- what workers do ----------------------------------------------------------------------

    def work(self) -> None:
        """Workers take tasks, and go on with those that they have."""
        self.fill(WORKERS)
        for slot in list(self.ring.by_task.values()):
            if not slot.is_claimed and self.chance.random() < 0.7:
                self.take(slot)
            if slot.is_claimed and not slot.is_drained and self.chance.random() < 0.6:
                self.go_on(slot)

    def take(self, slot: Slot) -> None:
        self.claim(slot.task_id)
        is_finalize = slot.payload.startswith(FINALIZE_PREFIX.decode())
        self.facts[slot.task_id].claims.append(Claim(self.now, slot.lease, is_finalize))
        key = self.facts[slot.task_id].plan.key
        for other in self.ring.by_task.values():
            is_other = other is not slot and other.is_claimed and not other.is_drained
            if key is not None and is_other and self.same_key(slot, other):
                self.wrong.append(f"{slot.task_id} and {other.task_id} have the same key, and both run")

    def same_key(self, one: Slot, other: Slot) -> bool:
        first, second = (self.facts[slot.task_id].plan for slot in (one, other))
        return (first.key, len(first.name) % 3) == (second.key, len(second.name) % 3)

    def go_on(self, slot: Slot) -> None:
        """An attempt comes to its end, or not."""
        task_id, plan = slot.task_id, self.facts[slot.task_id].plan
        fate = self.chance.random()
        if fate < 0.01:
            self.interrupt(task_id, Reason.CRASH)
        elif fate < 0.02 and slot.lease not in self.spawned:
            self.drop(task_id)
        elif fate < 0.04:
            self.keep_lease(task_id)
        elif task_id in self.writer.cancels.asked_ns and self.chance.random() < 0.6:
            self.receive(task_id, Status.FAILED, Reason.CANCELLED, "{}")
        elif self.writer.interruptions.get(task_id, Interruptions()).failures < self.fails_until(slot, plan):
            self.receive(task_id, Status.FAILED, Reason.HANDLER_ERROR, '{"type":"ValueError"}')
        elif slot.payload.startswith(FINALIZE_PREFIX.decode()):
            states = self.store.upstream_states(self.store.children_of(task_id))
            ends = [states[child][1] == Status.COMPLETED.code for child in self.store.children_of(task_id)]
            self.receive(task_id, Status.COMPLETED, Reason.NONE, json.dumps([plan.name, ends]))
        elif not plan.at_once or self.has_spawned(slot, plan):
            self.succeed(slot, plan)

    def fails_until(self, slot: Slot, plan: Plan) -> int:
        is_finalize = slot.payload.startswith(FINALIZE_PREFIX.decode())
        return plan.failures + (plan.finalize_failures if is_finalize else 0)

    def has_spawned(self, slot: Slot, plan: Plan) -> bool:
        """Whether what the handler stores at once is stored; else it asks for that, and waits for the answer."""
        if slot.lease in self.spawned:
            return self.spawned[slot.lease]
        self.spawned[slot.lease] = False
        children = [
            draw(self.seed, f"{plan.name}/{slot.lease}.{n}", depth=9, is_child=True) for n in range(plan.at_once)
        ]
        message = self.message((1 << 101) + slot.lease, children)
        message.parent = (slot.task_id, slot.lease)
        assert self.admission is not None
        self.submit(
            self.admission.check(
                message, lambda *_: self.spawned.update({slot.lease: True}),
                lambda error: self.refused_children(slot, error),
            )
        )  # fmt: skip
        return False

    def refused_children(self, slot: Slot, error: RingqError) -> None:
        """Its attempt must have ended meanwhile."""
        if self.ring.by_task.get(slot.task_id) is slot and not slot.is_drained:
            self.wrong.append(f"{slot.task_id} could not spawn: {error}")

    def succeed(self, slot: Slot, plan: Plan) -> None:
        text = json.dumps(plan.name)
        if not plan.waits and not plan.kept:
            self.receive(slot.task_id, Status.COMPLETED, Reason.NONE, text)
            return
        codes = {"child": protocol.CHILD, "sibling": protocol.SIBLING, "follow_up": protocol.FOLLOW_UP}
        carried = protocol.Carried(text, waits=plan.waits, finalizes=plan.finalizes, fail_fast=plan.fail_fast)
        if plan.kept:
            carried.batch = self.message(slot.lease, [one for _, one in plan.kept])
            carried.roles = [codes[role] for role, _ in plan.kept]
        self.receive(slot.task_id, Status.COMPLETED, Reason.WAITING, protocol.encode_carried(carried).decode())

    # -- what operators do --------------------------------------------------------------------

    def cancel_some(self) -> None:
        running = [slot.task_id for slot in self.ring.by_task.values() if slot.is_claimed and not slot.is_drained]
        waiting = [task_id for (task_id,) in self.read("SELECT task_id FROM waiting")]
        pool = self.chance.choice([running, waiting, list(self.facts)[-100:]]) or [0]
        ids = {self.chance.choice(pool) for _ in range(self.chance.choice([1, 1, 3]))} - {0}
        for task_id in ids:
            fact = self.facts[task_id]
            fact.cancelled = self.now if fact.cancelled is None else fact.cancelled
        if ids:
            self.cancel(*ids)

    def pause_something(self, paused: bool) -> None:
        scope, name = self.chance.choice(SCOPES)
        self.ask(protocol.SetPause(scope, name, paused, running="finish"))  # type: ignore[arg-type]

    # -- turns, and ends of the parent --------------------------------------------------------

    def turn_or_die(self) -> None:
        fate = self.chance.random()
        if fate > 0.03:
            self.turn()
            return
        self.crashes += 1
        try:
            if fate < 0.01:
                point = self.chance.choice(POINTS)
                self.die_committing(point)
            elif fate < 0.02:
                with self.cut_off_after(self.chance.randrange(60)):
                    self.turn()
            else:
                self.turn(dies=True)
        except Cut:
            pass
        self.answers.clear()
        self.kill(with_host=self.chance.random() < 0.3)
        self.spawned.clear()
        self.look()
        for asked in list(self.asked.values()):
            self.ask_again(asked)

    def turn(self, *, dies: bool = False) -> None:
        """A turn of the loop, or several: while a transaction is under way, workers go on."""
        self.look_at_the_time()
        ring: Any = self.ring
        if self.writer.wait_ns(saturated=False) != 0:
            return
        self.settlement.commit(ring)
        while self.writer.is_under_way:
            if dies and self.chance.random() < 0.2:
                raise Cut
            if self.chance.random() < 0.2:
                self.work()
            self.settlement.commit(ring)
        self.look()
        self.queues.step()
        self.settlement.answer()
        self.read_answers()

    @contextmanager
    def cut_off_after(self, count: int) -> Iterator[None]:
        """The parent dies before so many statements, if there are."""
        numbers = iter(range(count))

        def counted(execute: Callable[..., Any]) -> Callable[..., Any]:
            def one(*arguments: Any) -> Any:
                if next(numbers, None) is None:
                    raise Cut
                return execute(*arguments)

            return one

        for name in STATEMENTS:
            setattr(self.store, name, counted(getattr(self.store, name)))
        try:
            yield
        finally:
            for name in STATEMENTS:
                delattr(self.store, name)

    def read_answers(self) -> None:
        for answer in self.answers:
            if isinstance(answer, protocol.Cancelled):
                for task_id, code in zip(answer.task_ids, answer.outcomes, strict=True):
                    self.facts[task_id].told.add(CancelOutcome.of(code).value)
            elif not isinstance(answer, protocol.Changed):
                self.wrong.append(f"answered: {answer!r}")
        self.answers.clear()

    # -- what is noted ------------------------------------------------------------------------

    def look(self) -> None:
        """Something may have become durable."""
        self.now += 1
        for task_id, payload in self.read(f"SELECT id, payload FROM task WHERE id > {self.newest}"):
            name = json.loads(payload)
            assert name not in self.ids, f"{name} is there twice"
            self.newest, self.ids[name] = task_id, task_id
            self.facts[task_id] = Fact(task_id, self.plans[name])
            self.active.add(task_id)
        for (task_id,) in self.read("SELECT task_id FROM attempt WHERE reason = 27"):
            if self.facts[task_id].returned is None:
                self.facts[task_id].returned = self.now
        for task_id, status, reason, result, error in self.read(
            "SELECT task_id, status, reason, result, error FROM receipt"
        ):
            if task_id in self.active:
                self.active.discard(task_id)
                fact = self.facts[task_id]
                fact.status, fact.reason, fact.ended = Status.of(status), Reason.of(reason), self.now
                fact.result, fact.error = json.loads(result or "null"), json.loads(error or "{}")
        for slot in self.ring.by_task.values():
            if slot.is_claimed and not slot.is_drained and slot.task_id not in self.active:
                self.wrong.append(f"{slot.task_id} has ended and runs")

    def close_book(self) -> None:
        """Who belongs to whom, and whether anything is left."""
        for upstream, task_id, role in self.read("SELECT upstream, task_id, role FROM edge"):
            if role == 3:
                self.facts[upstream].parent = task_id
            else:
                self.facts[task_id].upstream.append(upstream)
        for fact in self.facts.values():
            fact.children = self.store.children_of(fact.id)
        if not self.active:
            left = [table for table in SIDE_TABLES if self.read(f"SELECT 1 FROM {table} LIMIT 1")]
            left += ["edge"] * len(self.read("SELECT 1 FROM edge WHERE is_open = 1 LIMIT 1"))
            self.wrong += [f"{table} has rows that mean nothing" for table in left]
            counted = self.read("SELECT sum(count) FROM statistic")
            if counted != [(len(self.facts),)]:
                self.wrong.append(f"{counted} ends are counted, of {len(self.facts)} tasks")


@pytest.mark.parametrize("seed", range(SEEDS))
def test_whatever_happens_to_a_graph_its_tasks_end_as_the_rules_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(upkeep, "EVERY", 50)
    monkeypatch.setattr(task_tables, "LAG_MAX", 100)
    monkeypatch.setattr(writer, "STEP_NS", 0)
    world = World(tmp_path, seed, TASKS)
    world.live()
    complaints = world.wrong + Model(world.facts).complaints()
    world.store.close()
    assert not complaints, "\n".join(complaints[:20])

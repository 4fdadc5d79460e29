"""The rules of tasks that belong together, in plain Python: what may have become of one, given what became of others.

Nothing here knows of databases or transactions; "when" is the number of the step in which something became durable.
When somebody cancels a task, its worker dies or the server does decides what it comes to, so the rules allow all that
timing may bring, and no more: each end has to be justified by ends before it, and each of those by ends before that.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from ringq.model import OnDependencyFailure, Reason, Status

CANCEL, FAIL, IGNORE = OnDependencyFailure
USED_UP: Final = (Reason.RETRY_LIMIT, True, True)
DEEPEST: Final = 3  # generation of children


@dataclass
class Plan:
    """What a task is, and what its handler does: drawn by the seed and its name, so that it is the same each time.

    `failures`: so many attempts fail before one does not; `retries`: so many may. `depends_on`: names. `kept`: tasks
    that go with the receipt; `at_once`: how many are stored while the handler runs.
    """

    name: str
    policy: OnDependencyFailure
    retries: int
    failures: int
    depends_on: list[str] = field(default_factory=list)
    key: str | None = None
    run_after_us: int = 0
    ttl_ms: int | None = None
    waits: bool = False
    finalizes: bool = False
    finalize_failures: int = 0
    fail_fast: bool = True
    kept: list[tuple[str, Plan]] = field(default_factory=list)  # (role, plan)
    at_once: int = 0


@dataclass
class Claim:
    """A worker took the task. `rest`: its payload said that it shall finalize it."""

    when: int
    lease: int
    is_finalize: bool


@dataclass
class Fact:
    """What is known of a task in the end. `returned`: when its handler had, if it waited for children then."""

    id: int
    plan: Plan
    status: Status | None = None
    reason: Reason = Reason.NONE
    result: Any = None
    error: dict[str, Any] = field(default_factory=dict)
    ended: int = 0
    returned: int | None = None
    claims: list[Claim] = field(default_factory=list)
    upstream: list[int] = field(default_factory=list)
    children: list[int] = field(default_factory=list)
    parent: int | None = None
    cancelled: int | None = None  # when somebody asked for that for the first time
    told: set[str] = field(default_factory=set)  # what was answered to that


def draw(seed: int, name: str, depth: int = 0, *, is_child: bool = False) -> Plan:
    """What the task of this name is."""
    chance = random.Random(f"{seed} {name}")
    plan = Plan(
        name, chance.choice([CANCEL, CANCEL, FAIL, IGNORE]), retries=chance.choice([0, 0, 1, 2]),
        failures=chance.choice([0] * 16 + [1, 1, 2, 3]), run_after_us=chance.choice([0] * 12 + [500, 40_000]),
        ttl_ms=chance.choice([None] * 40 + [3, 60]),
    )  # fmt: skip
    if depth < DEEPEST and chance.random() < (0.2, 0.3, 0.2)[depth]:
        plan.waits = True
        plan.finalizes, plan.fail_fast = chance.random() < 0.5, chance.random() < 0.5
        plan.finalize_failures = chance.choice([0, 0, 0, 1])
        plan.at_once = chance.choice([0, 0, 0, 2])
        for number in range(chance.choice([0, 1, 2, 3, 5, 9])):
            child = draw(seed, f"{name}.{number}", depth + 1, is_child=True)
            before = [one.name for role, one in plan.kept if role == "child"]
            child.depends_on = chance.sample(before, min(len(before), chance.choice([0, 0, 1, 2])))
            plan.kept.append(("child", child))
    if chance.random() < 0.06:
        plan.kept.append(("follow_up", draw(seed, f"{name}>", DEEPEST)))
        plan.kept[-1][1].depends_on = chance.choice([[], [name]])
    if is_child and chance.random() < 0.06:
        plan.kept.append(("sibling", draw(seed, f"{name}~", DEEPEST, is_child=True)))
        plan.kept[-1][1].depends_on = chance.choice([[], [name]])
    return plan


class Model:
    """Judges what has become of all tasks."""

    def __init__(self, facts: dict[int, Fact]) -> None:
        self._facts = facts
        self._ids = {fact.plan.name: fact.id for fact in facts.values()}

    def complaints(self) -> list[str]:
        """What the rules do not allow; for every task: its end, its attempts, and those who belong to it."""
        return [
            f"{fact.plan.name} ({fact.id}, {fact.status}, {fact.reason}, step {fact.ended}): {text}"
            for fact in self._facts.values()
            for text in (*self._end(fact), *self._attempts(fact), *self._obligations(fact), *self._family(fact))
        ]

    # -- rules --------------------------------------------------------------------------------

    def _end(self, fact: Fact) -> Iterator[str]:
        """How it has ended must follow from something."""
        allowed: dict[Status, Callable[[Fact], bool]] = {
            Status.COMPLETED: self._may_complete, Status.FAILED: self._may_fail,
            Status.DEAD_LETTER: lambda one: (one.reason, one.plan.retries > 0, _fails(one.plan)) == USED_UP,
            Status.CANCELLED: lambda one: _was_asked(one) or self._goes_with_parent(one),
            Status.DEPENDENCY_FAILED: lambda one: one.ended == self._broken(one),
            Status.SUPERSEDED: lambda one: one.plan.key is not None and one.error.get("task") in self._facts,
            Status.EXPIRED: lambda one: one.returned is None and any(up.plan.ttl_ms for up in self._lineage(one)),
        }  # fmt: skip
        if fact.status is None:
            yield "has not ended"
        elif not allowed[fact.status](fact):
            yield "nothing justifies that end"

    def _attempts(self, fact: Fact) -> Iterator[str]:
        """When it may run: after what it depends on, before its end, and that of its parent."""
        parent = self._facts.get(fact.parent or 0)
        for claim in fact.claims:
            if any(self._facts[up].ended > claim.when for up in fact.upstream):
                yield "ran before its dependencies had ended"
            if claim.when >= fact.ended:
                yield "ran after its end"
            if parent is not None and claim.when >= parent.ended:
                yield "ran after the end of its parent"
            if claim.is_finalize != (fact.returned is not None and claim.when >= fact.returned):
                yield "was finalized instead of run, or run instead of finalized"
            if claim.is_finalize and any(self._facts[child].ended > claim.when for child in fact.children):
                yield "was finalized before its children had ended"

    def _obligations(self, fact: Fact) -> Iterator[str]:
        """What it may not outlive; and what was answered to a cancel holds."""
        parent = self._facts.get(fact.parent or 0)
        broken, ends = self._broken(fact), self._ends_waiting(fact)
        if broken is not None and fact.ended > broken:
            yield "outlived what it depends on"
        if ends is not None and fact.ended > ends:
            yield f"still waited when it had no reason to any more, in step {ends}"
        if parent is not None and fact.ended > parent.ended and not any(c.when < parent.ended for c in fact.claims):
            yield "outlived its parent"
        if "cancelled" in fact.told and fact.status is not Status.CANCELLED:
            yield "was said to be cancelled"
        if "cancelling" in fact.told and fact.status not in (Status.CANCELLED, Status.COMPLETED):
            yield "was said to be about to be cancelled"

    def _family(self, fact: Fact) -> Iterator[str]:
        """What its handler asked for is there if that has returned, and only then."""
        returned = fact.returned is not None or fact.status is Status.COMPLETED
        for role, plan in fact.plan.kept:
            own = self._facts.get(self._ids.get(plan.name, 0))
            if (own is not None) != returned:
                yield f"{plan.name} is {'missing' if returned else 'there'}"
            elif own is not None and own.parent != {"child": fact.id, "sibling": fact.parent}.get(role):
                yield f"{plan.name} is a child of {own.parent}"
        if fact.parent is not None and fact.id not in self._facts[fact.parent].children:
            yield "is not among the children of its parent"
        named = [self._heir(self._ids[name]) for name in fact.plan.depends_on]
        if {self._heir(one) for one in fact.upstream} != set(named):
            yield f"depends on {fact.upstream}, and named {named}"
        if (
            fact.plan.waits
            and fact.status is Status.COMPLETED
            and fact.plan.finalizes
            and fact.result != self._sum(fact)
        ):
            yield f"was finalized to {fact.result}, and should be {self._sum(fact)}"

    # -- what they follow from ----------------------------------------------------------------

    def _may_complete(self, fact: Fact) -> bool:
        waits = fact.returned is not None
        is_alright = not _fails(fact.plan) and self._broken(fact) is None and waits == _waits(fact)
        if not waits or not is_alright:
            return is_alright
        if fact.plan.finalizes:
            return self._first_failed(fact) is None or not fact.plan.fail_fast
        return self._first_failed(fact) is None and fact.ended == self._ends_waiting(fact)

    def _may_fail(self, fact: Fact) -> bool:
        if fact.reason is Reason.HANDLER_ERROR:
            return _fails(fact.plan) and not fact.plan.retries
        if fact.reason is not Reason.CHILD_FAILED or fact.error["task"] not in fact.children:
            return False
        child = self._facts[fact.error["task"]]
        is_its_fault = child.ended < fact.ended or child.error.get("type") != "ParentEnded"
        has_failed = child.status is not Status.COMPLETED and child.ended <= fact.ended
        return has_failed and is_its_fault and fact.ended == self._ends_waiting(fact)

    def _goes_with_parent(self, fact: Fact) -> bool:
        parent = self._facts.get(fact.parent or 0)
        return parent is not None and parent.ended <= fact.ended and parent.status is not Status.COMPLETED

    def _broken(self, fact: Fact) -> int | None:
        """When one of those that it depends on had ended so that it cannot run any more."""
        if fact.plan.policy is IGNORE:
            return None
        return min((self._facts[up].ended for up in fact.upstream if not self._is_fine(up)), default=None)

    def _is_fine(self, task_id: int) -> bool:
        """Whether who depends on this task may run: a failure that goes no further is none."""
        up = self._facts[task_id]
        goes_no_further = up.status is Status.DEPENDENCY_FAILED and up.plan.policy is FAIL
        return up.status is Status.COMPLETED or goes_no_further

    def _first_failed(self, fact: Fact) -> int | None:
        """When the first of its children had ended without completing."""
        children = [self._facts[child] for child in fact.children]
        return min((one.ended for one in children if one.status is not Status.COMPLETED), default=None)

    def _ends_waiting(self, fact: Fact) -> int | None:
        """When a task that waits for its children has to end, at the latest; None for one that finalizes."""
        if fact.returned is None:
            return None
        last = max((self._facts[child].ended for child in fact.children), default=0)
        failed = self._first_failed(fact) if fact.plan.fail_fast else None
        if failed is None and fact.plan.finalizes:
            return None
        return max(fact.returned, last if failed is None else failed)

    def _heir(self, task_id: int) -> int:
        """Who has its place."""
        while self._facts[task_id].status is Status.SUPERSEDED:
            task_id = self._facts[task_id].error["task"]
        return task_id

    def _lineage(self, fact: Fact) -> Iterator[Fact]:
        yield fact
        while fact.parent is not None:
            fact = self._facts[fact.parent]
            yield fact

    def _sum(self, fact: Fact) -> list[Any]:
        """What a finalize returns: the memo, and which children have completed, in the order in which they came."""
        return [fact.plan.name, [self._facts[child].status is Status.COMPLETED for child in fact.children]]


def _fails(plan: Plan) -> bool:
    return plan.failures + (plan.finalize_failures if plan.finalizes and plan.waits else 0) > plan.retries


def _waits(fact: Fact) -> bool:
    return fact.plan.waits or bool(fact.children)


def _was_asked(fact: Fact) -> bool:
    return fact.cancelled is not None and fact.cancelled <= fact.ended

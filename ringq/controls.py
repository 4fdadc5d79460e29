"""Flow: what is paused, limited and shared in which way, as it is durable - the operator's word, else the code's.

operator's word (the database) ──► App, domain, task (code) ──► no limit       the first that says
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple

from ringq.clock import Clock
from ringq.committed import Said
from ringq.controlling import ResumeDue
from ringq.model import PauseReason
from ringq.store.controls import ControlRow, PauseRow, Scoped, held_by

LOOK_NS = 500_000_000  # how often it is looked whether a pause is over: the clock may be set


@dataclass(slots=True)
class Limits:
    """How many tasks run at a time; what is not named has no limit. 0: none may start."""

    server: int | None = None
    domains: dict[str, int] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)


class Share(NamedTuple):
    """How much of the workers a group gets beside others: in proportion to `weight`, but at least `min_slots`."""

    weight: float = 1.0
    min_slots: int = 0


class Controls:
    """In memory, and only what is durable: the store's own tables are ahead while a transaction is open."""

    def __init__(self, store: Any, clock: Clock, write: Callable[[ResumeDue], None]) -> None:
        """`write`: the writer's `change`."""
        self._store = store
        self._clock = clock
        self._write = write
        self._pauses: dict[Scoped, PauseRow] = dict(store.pauses())
        self._spans: dict[Scoped, list[tuple[int, int]]] = {key: list(own) for key, own in store.pause_spans().items()}
        self._rows: dict[Scoped, ControlRow] = dict(store.controls())
        self._declared: dict[Scoped, int] = {}
        self._next_us: int | None = None
        self._limits = Limits()
        self._weights: dict[str, Share] = {}
        self._is_resuming = False
        self._arrange()

    def everything(self) -> list[Said]:
        """All of which something is said, or was while tasks waited that still do."""
        return [Said(*scoped) for scoped in {*self._pauses, *self._spans, *self._rows, *self._declared}]

    def learn(self, reports: Iterable[Mapping[str, Any]]) -> list[Said]:
        """The limits that stand in the code, as workers report them with their kinds; what has become other."""
        declared: dict[Scoped, int] = {}
        for report in reports:
            own, shared = report.get("max_concurrency"), report.get("domain_max_concurrency")
            if own is not None:
                declared["kind", report["name"]] = own
            if shared is not None:
                declared["domain", report["name"].partition("::")[0]] = shared
        changed = {scoped for scoped, _ in declared.items() ^ self._declared.items()}
        if changed:
            self._declared = declared
            self._arrange()
        return [Said(*scoped) for scoped in changed]

    def follow(self, changed: Sequence[Said]) -> None:
        """Something was said of these, and is durable."""
        for scope, name, _ in changed:
            scoped = (scope, name)
            _follow(self._pauses, scoped, self._store.pauses().get(scoped))
            _follow(self._rows, scoped, self._store.controls().get(scoped))
            spans = self._store.pause_spans().get(scoped)
            _follow(self._spans, scoped, list(spans) if spans else None)
        self._arrange()

    def step(self) -> int | None:
        """Have go on what was paused until now; the nanoseconds until it must be called again, None: never."""
        if self._next_us is None:
            return None
        left_us = self._next_us - self._clock.now_us()
        if left_us > 0:
            return min(left_us * 1000, LOOK_NS)
        if not self._is_resuming:
            self._is_resuming = True
            self._write(ResumeDue(self._clock.now_us(), self._done))
        return LOOK_NS

    def paused(self, queue: str, domain: str, group: str | None) -> PauseReason:
        """What holds tasks of this queue, domain and group; 0 if nothing does."""
        return held_by(self._pauses, queue, domain, group)

    def pauses(self) -> Mapping[Scoped, PauseRow]:
        """What is paused."""
        return self._pauses

    def spans(self, queue: str, domain: str, group: str | None, now_us: int) -> list[tuple[int, int | None]]:
        """When tasks of this queue, domain and group were paused, as (from, to) by `from`; to None: they still are.

        They may overlap.
        """
        found: list[tuple[int, int | None]] = []
        for scope, name in (("server", ""), ("queue", queue), ("domain", domain), ("group", group)):
            if name is not None:
                found += self._spans.get((scope, name), ())
                row = self._pauses.get((scope, name))
                found += [] if row is None or row.since_us >= now_us else [(row.since_us, None)]
        return sorted(found, key=itemgetter(0))

    def limits(self) -> Limits:
        """Who runs how many tasks at a time. Another object after each change."""
        return self._limits

    def weights(self) -> Mapping[str, Share]:
        """The groups of which a weight or a minimum was said. Another object after each change."""
        return self._weights

    def _arrange(self) -> None:
        limits, weights = Limits(), {}
        by_scope = {"domain": limits.domains, "group": limits.groups, "kind": limits.kinds}
        for (scope, name), declared in self._declared.items():
            by_scope[scope][name] = declared
        for scope, name, cap, weight, min_slots in self._rows.values():
            if scope == "server":
                limits.server = cap
            elif cap is not None:
                by_scope[scope][name] = cap
            if weight is not None or min_slots is not None:
                weights[name] = Share(1.0 if weight is None else weight, min_slots or 0)
        self._limits, self._weights = limits, weights
        ends = (row.resume_at_us for row in self._pauses.values() if row.resume_at_us is not None)
        self._next_us = min(ends, default=None)

    def _done(self) -> None:
        self._is_resuming = False


def _follow(table: dict[Scoped, Any], scoped: Scoped, row: Any) -> None:
    if row is None:
        table.pop(scoped, None)
    else:
        table[scoped] = row

"""Flow: the events that fit one filter, the last so many of them. Under load, most are lost before they were made."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from ringq import events, protocol
from ringq.lines import Lines
from ringq.places import domain_of
from ringq.witness import Block, Occurrence


class Channel:
    """What fits one filter. Attributes: `words`; `count`, of all that has fitted so far."""

    def __init__(self, wanted: protocol.Subscribe, store: Any, lines: Lines) -> None:
        self.words = frozenset(events.WORDS if wanted.words is None else wanted.words)
        self.count = 0
        self._store = store
        self._lines = lines
        self._buffer = wanted.buffer
        self._blocks: deque[Block] = deque()
        self._held = 0  # in these
        self._tasks = None if wanted.tasks is None else frozenset(wanted.tasks)
        self._names: dict[str, frozenset[str]] = {
            scope: frozenset(names)
            for scope, names in (("kind", wanted.kinds), ("domain", wanted.domains), ("group", wanted.groups))
            if names is not None
        }
        self._fitting_kinds: dict[int, bool] = {}  # by number
        self._fitting_specs: dict[int, bool] = {}

    def take(self, found: Iterable[Block]) -> None:
        """Keep those that fit, and of the others as many as there is room for."""
        for block in found:
            if block.word not in self.words:
                continue
            own = block if self._tasks is None and not self._names else self._fitting(block)
            if len(own):
                self._blocks.append(own)
                self._held += len(own)
                self.count += len(own)
        while self._blocks and self._held - len(self._blocks[0]) >= self._buffer:
            self._held -= len(self._blocks.popleft())

    def behind(self, seen: int, limit: int) -> tuple[int, list[Occurrence]]:
        """The first of those behind the first `seen` that are kept, and how many came before them."""
        first = max(seen, self.count - min(self._held, self._buffer))
        skip = first - (self.count - self._held)
        chosen: list[Occurrence] = []
        for block in self._blocks:
            if len(chosen) == limit:
                break
            upto = min(len(block), skip + limit - len(chosen))
            chosen += [block[place] for place in range(skip, upto)]
            skip = max(0, skip - len(block))
        return first, chosen

    # -- what fits ----------------------------------------------------------------------------

    def _fitting(self, block: Block) -> Block:
        if block.task_ids is None:
            if self._names:
                self._lines.write_heads(block.all())
            return Block(block.word, [one for one in block.all() if self._fits(one)])
        places: Sequence[int] = range(len(block))
        if self._tasks is not None:
            ids, tasks = block.task_ids, self._tasks
            places = [place for place in places if ids[place] in tasks]
        if self._names and places:
            if block.kinds is not None and "group" not in self._names:
                kinds, numbers = block.kinds, {number for number in set(block.kinds) if self._fits_kind(number)}
                places = [place for place in places if kinds[place] in numbers]
            else:
                specs = block.specs(self._store)
                places = [place for place in places if self._fits_spec(specs.get(block.task_ids[place]))]
        return block if len(places) == len(block) else block.part(places)

    def _fits(self, one: Occurrence) -> bool:
        if one.task_id == 0:
            return self._fits_scope(one.more["scope"], one.more["name"])
        if self._tasks is not None and self._tasks.isdisjoint(range(one.task_id, one.task_id + one.count)):
            return False
        return not self._names or self._fits_spec(one.spec)

    def _fits_scope(self, scope: str, name: str) -> bool:
        """What concerns all concerns everybody; else it must be what the filter names."""
        if self._tasks is not None:
            return False
        return scope == "server" or not self._names or (self._names.keys() == {scope} and name in self._names[scope])

    def _fits_spec(self, spec: int | None) -> bool:
        if spec is None:
            return False  # the task was deleted meanwhile
        found = self._fitting_specs.get(spec)
        if found is None:
            row = self._store.specs()[spec]
            found = self._fitting_specs[spec] = self._has(row.kind, row.group)
        return found

    def _fits_kind(self, number: int) -> bool:
        found = self._fitting_kinds.get(number)
        if found is None:
            found = self._fitting_kinds[number] = self._has(self._store.kinds()[number], None)
        return found

    def _has(self, kind: str, group: str | None) -> bool:
        own = {"kind": kind, "domain": domain_of(kind), "group": group}
        return all(own[scope] in names for scope, names in self._names.items())

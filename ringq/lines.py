"""Flow: events as lines of JSON. What is told of a task besides its id is looked up when somebody is sent it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ringq import events
from ringq.clock import instant
from ringq.places import domain_of
from ringq.witness import Occurrence


class Lines:
    """Writes them. What tasks share is written once for each spec."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._shared: dict[int, str] = {}  # by spec
        self._at = 0, ""  # of the last line: those of a transaction have it in common

    def write_heads(self, found: Iterable[Occurrence]) -> None:
        """Look up what is told of the tasks of these, and the specs. One that was deleted has none."""
        single: dict[int, list[Occurrence]] = {}
        for one in found:
            if one.head is not None:
                continue
            one.head = ""
            if one.count > 1 and one.spec is not None:
                one.head = self._of_spec(one.spec)
            elif one.task_id:
                single.setdefault(one.task_id, []).append(one)
        for task_id, spec, label, tags, key in self._store.heads(list(single)) if single else ():
            head = self._of_spec(spec)
            head += f',"tags":{tags}' if tags else ""
            head += events.fragment({"label": label, "key": key}) if label or key else ""
            for one in single[task_id]:
                one.spec, one.head = spec, head

    def line(self, one: Occurrence) -> bytes:
        """As it is sent and kept; its head must be written."""
        if one.line is None:
            if self._at[0] != one.at_us:
                self._at = one.at_us, events.moment(instant(one.at_us))
            task = f',"task":{one.task_id}' if one.task_id else ""
            text = f'{{"word":"{one.word}","at":{self._at[1]}{task}{one.head or ""}{events.fragment(one.more)}}}'
            one.line = text.encode()
        return one.line

    def _of_spec(self, spec: int) -> str:
        found = self._shared.get(spec)
        if found is None:
            row = self._store.specs()[spec]
            what = {"kind": row.kind, "domain": domain_of(row.kind), "queue": row.queue}
            found = self._shared[spec] = events.fragment({**what, "group": row.group, "priority": row.priority})
        return found

"""Cli: lines of one input that depend on each other, by names that they give themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ringq.errors import InvalidDependency, RingqError
from ringq.kinds import Member, Submission, Submitted
from ringq.spelling import meant


class References:
    """What each of some tasks depends on: ids, and lines that have a `ref`."""

    def __init__(self, tasks: Sequence[dict[str, Any]]) -> None:
        """Takes `ref` and `depends_on` out of the fields of these tasks.

        Raises InvalidDependency, with the line, for two that have one name and for a name that none has.
        """
        self._places: dict[str, int] = {}
        self._named: list[list[int | str]] = []
        for place, task in enumerate(tasks):
            ref, given = task.pop("ref", None), task.pop("depends_on", None)
            if ref is not None and self._places.setdefault(ref, place) != place:
                where = tasks[self._places[ref]].get("where")
                raise InvalidDependency(f"{task.get('where')}: {where} has the ref {ref!r} already")
            self._named.append(list(given) if isinstance(given, (list, tuple)) else [] if given is None else [given])
        for task, named in zip(tasks, self._named, strict=True):
            for one in named:
                if isinstance(one, str) and one not in self._places:
                    hint = meant(one, list(self._places))
                    raise InvalidDependency(f"{task.get('where')}: depends_on: no line has the ref {one!r}{hint}")

    def linked(
        self, batch: Sequence[Submission[Any]], first: int, stored: Sequence[Submitted[Any]], places: Sequence[Any]
    ) -> list[Submission[Any]]:
        """A batch of these tasks, from the one of place `first` on, with what they depend on.

        `stored`: those of the batches before; `places`: where each stands, for messages. Raises InvalidDependency for a
        line that depends on one of a later batch; and what `Submission.after` raises.
        """
        linked = []
        for number, one in enumerate(batch):
            named, where = self._named[first + number], places[number]
            try:
                linked.append(
                    one.after(*(self._task(each, first, len(batch), stored) for each in named)) if named else one
                )
            except RingqError as error:
                raise type(error)(str(error) if where is None else f"{where}: {error}") from None
        return linked

    def _task(self, one: int | str, first: int, count: int, stored: Sequence[Submitted[Any]]) -> Any:
        if not isinstance(one, str):
            return one
        place = self._places[one]
        if place < first:
            return stored[place]
        if place >= first + count:
            raise InvalidDependency(
                f"depends_on: {one!r} is in a later batch of so many lines: name it before this one"
            )
        return Member(place - first)

"""Flow: what a transaction has made true, one thing that has happened at a time. Makes nothing that nobody wants."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property
from operator import itemgetter
from typing import Any, Final

from ringq.clock import Clock, instant
from ringq.committed import Committed, Said
from ringq.dispatch import Dispatcher
from ringq.entries import TASK_ID, Row
from ringq.model import Reason, Status
from ringq.places import Place
from ringq.receipts import ReceiptRow
from ringq.steering import places_of

COMPLETED: Final = Status.COMPLETED.code
ENDS: Final = {status.code: status.value for status in Status if status.is_terminal}
# Attempts that did not end their task, and that are no failure.
STOPPED: Final = {
    Reason.PREEMPTED.code: "preempted", Reason.PAUSED.code: "paused", Reason.SNOOZED.code: "given_back",
    Reason.THROTTLED.code: "given_back", Reason.STOPPED.code: "given_back",
}  # fmt: skip
ERROR_CHARS_MAX: Final = 500


class Occurrence:
    """Something that has happened, not written yet.

    Attributes: `at_us`; `task_id`, 0 for none, else the first of `count` tasks; `spec`, the number of theirs, if it was
    looked up; `more`, what else is told; `head` and `line`, how it is written, as far as somebody wanted it.
    """

    __slots__ = ("at_us", "count", "head", "line", "more", "spec", "task_id", "word")

    def __init__(
        self, word: str, at_us: int, task_id: int, more: dict[str, Any], count: int = 1, spec: int | None = None
    ) -> None:
        self.word = word
        self.at_us = at_us
        self.task_id = task_id
        self.more = more
        self.count = count
        self.spec = spec
        self.head: str | None = None
        self.line: bytes | None = None


class Block:
    """What has happened to several at once, in order. Each is made when somebody wants it: 2.5 us, with its line."""

    def __init__(
        self, word: str, rows: Sequence[Any], make: Callable[[Any], Occurrence] = lambda one: one,
        task_id: Callable[[Any], int] | None = None, kind: Callable[[Any], int] | None = None,
    ) -> None:  # fmt: skip
        """`make`: an occurrence of a row. `task_id` and `kind`, its number, of a row, if it is of one task."""
        self.word = word
        self._rows = rows
        self._make = make
        self._task_id = task_id
        self._kind = kind
        self._made: dict[int, Occurrence] = {}
        self._specs: dict[int, int] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> Occurrence:
        found = self._made.get(place)
        if found is None:
            found = self._made[place] = self._make(self._rows[place])
        return found

    def all(self) -> list[Occurrence]:
        """Every one of them."""
        return [self[place] for place in range(len(self))]

    def part(self, places: Sequence[int]) -> Block:
        """Those in these places."""
        return Block(self.word, [self._rows[place] for place in places], self._make)

    @cached_property
    def task_ids(self) -> list[int] | None:
        """Of each; None if one of them may not be of one task."""
        return None if self._task_id is None else list(map(self._task_id, self._rows))

    @cached_property
    def kinds(self) -> list[int] | None:
        """The numbers of their kinds, if those are at hand."""
        return None if self._kind is None else list(map(self._kind, self._rows))

    def specs(self, store: Any) -> dict[int, int]:
        """The specs of their tasks, looked up once; without those that were deleted."""
        if self._specs is None:
            self._specs = dict(store.specs_of_any(self.task_ids))
        return self._specs


class Witness:
    """Tells what happened, transaction by transaction. What is paused and limited it compares with the time before."""

    def __init__(
        self, store: Any, clock: Clock, dispatcher: Dispatcher, running: Callable[[], Sequence[tuple[int, ...]]]
    ) -> None:
        self._store = store
        self._clock = clock
        self._dispatcher = dispatcher
        self._running = running
        self.begin()

    def begin(self) -> None:
        """Tell what happens from now on."""
        store = self._store
        self._below = store.stored_below
        self._pauses, self._controls, self._queues = dict(store.pauses()), dict(store.controls()), dict(store.queues())

    def of(self, committed: Committed, words: Collection[str]) -> list[Block]:
        """What a transaction has made true, of what is wanted. To be asked after each, in order."""
        at_us = self._clock.now_us()
        first, self._below = self._below, self._store.stored_below
        found: list[Block] = []
        if "submitted" in words and self._below > first:
            found.append(_submitted(self._store.new_tasks(first, self._below), at_us))
        if committed.fired:
            found.append(Block("fired", committed.fired, lambda r: Occurrence("fired", at_us, r[1], _fired(r), r[2])))
        if committed.unended:
            ended = [_unended(row, delay_s, at_us) for row, delay_s in committed.unended]
            found += [Block(one.word, [one]) for one in ended]
        if committed.receipts and self._is_wanted(committed, words):
            found += _ended(committed, at_us)
        found += _of_graph(committed, at_us)
        if committed.controls or committed.queues:
            found += [Block(one.word, [one]) for one in self._of_scopes(committed, at_us)]
        return [block for block in found if len(block) and block.word in words]

    def _is_wanted(self, committed: Committed, words: Collection[str]) -> bool:
        """Whether one of the receipts may be; to know that costs the same however many there are."""
        return "completed" in words or not _are_completed(committed)

    def _of_scopes(self, committed: Committed, at_us: int) -> Iterator[Occurrence]:
        """What was paused, goes on, has other limits, cools down."""
        for said in dict.fromkeys((scope, name) for scope, name, _ in committed.controls):
            before, now = self._pauses.get(said), self._store.pauses().get(said)
            if (before is None) != (now is None):
                word = "resumed" if now is None else "paused"
                until_us = None if now is None else now.resume_at_us
                yield Occurrence(word, at_us, 0, {**self._named(said), **_until(until_us), **self._counts(said)})
            limits = self._store.controls().get(said)
            if limits != self._controls.get(said):
                settings = {} if limits is None else _given(limits._asdict())
                yield Occurrence("changed", at_us, 0, {**self._named(said), "settings": settings})
        for name in dict.fromkeys(committed.queues):
            yield from self._of_queue(name, at_us)
        self._pauses, self._controls = dict(self._store.pauses()), dict(self._store.controls())

    def _of_queue(self, name: str, at_us: int) -> Iterator[Occurrence]:
        now = self._store.queue(name)
        before = self._queues.get(name, now._replace(**dict.fromkeys(_given(now._asdict()), None), name=name))
        self._queues[name] = now
        said = {"scope": "queue", "name": name}
        if now.throttled_until_us is not None and now.throttled_until_us != before.throttled_until_us:
            yield Occurrence("throttled", at_us, 0, {**said, **_until(now.throttled_until_us)})
        cool = {"throttles": 0, "throttled_until_us": None}
        if now._replace(**cool) != before._replace(**cool):
            settings = {name: value for name, value in _given(now._asdict()).items() if not name.startswith("throttle")}
            yield Occurrence("changed", at_us, 0, {**said, "settings": settings})

    def _named(self, said: tuple[str, str]) -> dict[str, str]:
        return {"scope": said[0], "name": said[1]}

    def _counts(self, said: tuple[str, str]) -> dict[str, int | None]:
        """How many of its tasks might start but for a pause, if that is known by now; and how many run."""
        scope, backlog = Said(*said), self._dispatcher.backlog
        backlog.sort()
        pending = sum(len(lane) for lane in backlog.lanes() if _is_of(lane.place, scope))
        running = places_of(self._store, [row[1] for row in self._running()])
        return {
            "pending": pending if backlog.is_sorted else None,
            "running": sum(_is_of(place, scope) for _, place in running),
        }


def dispatched(rows: Sequence[Row], at_us: int) -> Block:
    """Tasks were published."""

    def make(row: Row) -> Occurrence:
        return Occurrence("dispatched", at_us, row[0], {"attempt": row[2]})

    return Block("dispatched", rows, make, TASK_ID, itemgetter(1))


def _submitted(rows: Sequence[tuple[int, int, int]], at_us: int) -> Block:
    def make(row: tuple[int, int, int]) -> Occurrence:
        task_id, count, spec = row
        return Occurrence("submitted", at_us, task_id, {"count": count}, count, spec)

    return Block("submitted", rows, make)


def _fired(row: tuple[str, int, int]) -> dict[str, Any]:
    return {"schedule": row[0], "count": row[2]}


def _are_completed(committed: Committed) -> bool:
    completed = sum(one[0] for (_, status), one in committed.sums.items() if status == COMPLETED)
    return completed == len(committed.receipts)


def _ended(committed: Committed, at_us: int) -> Iterator[Block]:
    """The ends of tasks; nearly always all have completed."""
    by_word: dict[str, Sequence[ReceiptRow]] = {"completed": committed.receipts}
    if not _are_completed(committed):
        words = [ENDS[row[4]] for row in committed.receipts]
        rows = list(zip(words, committed.receipts, strict=True))
        by_word = {word: [row for own, row in rows if own == word] for word in dict.fromkeys(words)}

    def make(row: ReceiptRow) -> Occurrence:
        word = ENDS[row[4]]
        more: dict[str, Any] = {"attempt": row[3], "duration_s": row[7] / 1e6}
        if row[4] != COMPLETED:
            more |= {"reason": Reason.of(row[5]).value, "error": error_line(row[12])}
        if word == "failed":
            more["will_retry"] = False
        return Occurrence(word, at_us, row[0], more)

    return (Block(word, own, make, TASK_ID, itemgetter(2)) for word, own in by_word.items())


def _unended(row: Sequence[Any], delay_s: float, at_us: int) -> Occurrence:
    """An attempt that did not end its task."""
    task_id, _, _, number, reason, _, duration_us, _, _, _, error = row
    more = {"attempt": number, "reason": Reason.of(reason).value, "duration_s": duration_us / 1e6}
    if delay_s:
        more["retry_at"] = instant(at_us + round(delay_s * 1e6))
    if reason in STOPPED:
        return Occurrence(STOPPED[reason], at_us, task_id, more)
    return Occurrence("failed", at_us, task_id, {**more, "will_retry": True, "error": error_line(error)})


def _of_graph(committed: Committed, at_us: int) -> Iterator[Block]:
    """Tasks that belong together."""

    def of_pairs(word: str, pairs: Sequence[tuple[int, int]], other: str) -> Block:
        return Block(word, pairs, lambda pair: Occurrence(word, at_us, pair[0], {other: pair[1]}), TASK_ID)

    def of_ids(word: str, ids: Sequence[int]) -> Block:
        return Block(word, ids, lambda task_id: Occurrence(word, at_us, task_id, {}), int)

    if committed.spawned:
        yield of_pairs("spawned", committed.spawned, "parent")
    if committed.waiting:
        yield of_pairs("waiting", committed.waiting, "children")
    if committed.unblocked:
        yield of_ids("unblocked", committed.unblocked)
    if committed.finalizing:
        yield of_ids("finalizing", committed.finalizing)
    if committed.revived:
        yield of_ids("revived", committed.revived)


def error_line(text: str | None) -> str | None:
    """The error of an attempt, stored as JSON, in one line."""
    if not text:
        return None
    try:
        told = json.loads(text)
    except ValueError:
        return None
    words = [str(told[key]) for key in ("type", "message") if isinstance(told, dict) and told.get(key)]
    return " ".join(": ".join(words).split())[:ERROR_CHARS_MAX] or None


def _is_of(place: Place, said: Said) -> bool:
    return said.scope == "server" or getattr(place, said.scope) == said.name


def _until(until_us: int | None) -> dict[str, Any]:
    return {} if until_us is None else {"until": instant(until_us)}


def _given(columns: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in columns.items() if value is not None and name not in ("scope", "name")}

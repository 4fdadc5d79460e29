"""Flow: brings stored tasks into the backlog - at start, when their time comes, when an attempt did not end them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import repeat
from operator import itemgetter
from typing import Any

from ringq.backlog import Backlog
from ringq.codec import FINALIZE_PREFIX
from ringq.config import MIB, Config
from ringq.entries import Row, Spec
from ringq.lane import REFILL_ROWS_MAX
from ringq.lifecycle import Interruptions
from ringq.places import FINALIZER, Place, place_of

DUE_ROWS_MAX = 1000  # tasks that come due in one transaction
REFILL_BYTES_MAX = 4 * MIB  # of payloads: what one refill of a lane may load
SPEC, PAYLOAD = itemgetter(1), itemgetter(2)  # of what the store loads
FINALIZE = FINALIZE_PREFIX.decode()
SPARSE = 4  # a span read in one go may hold up to so many times the wanted rows


class Feed:
    """Turns rows of the store into rows for the ring, and puts them where they belong."""

    def __init__(self, store: Any, config: Config, interruptions: dict[int, Interruptions]) -> None:
        self._store = store
        self._interruptions = interruptions
        self.backlog = Backlog(self._load, config.window_tasks_max, config.window_bytes_max, self._places_of)
        self.next_due_us: int | None = None  # wall-clock time at which the next delayed task starts
        self.next_expiry_us: int | None = None  # … at which a task may not begin any more

    def load_all(self, chunk: int = 10_000) -> int:
        """Fill the backlog with every active task that is not delayed. Returns their number."""
        count = 0
        for scope, name in {*self._store.pauses(), *self._store.controls()}:
            self.backlog.tell_apart(scope, name)
        places: dict[int, Place] = {}
        for rows in self._store.active_ids(chunk):
            count += len(rows)
            for spec_id in set(map(SPEC, rows)).difference(places):
                places[spec_id] = self.backlog.places.narrow(place_of(self._spec(spec_id)))
            by_place: dict[Place, list[int]] = defaultdict(list)
            for task_id, spec_id in rows:
                by_place[places[spec_id]].append(task_id)
            for place, ids in by_place.items():
                self.backlog.lane(place).append_ids(ids)
        self.look_for_delayed()
        self.look_for_expiries()
        return count

    def look_for_delayed(self) -> None:
        """Find out when the next delayed task comes due."""
        self.next_due_us = self._store.next_due_us()

    def look_for_expiries(self) -> None:
        """Find out when the next time to live is over."""
        self.next_expiry_us = self._store.next_expiry_us()

    def due(self, now_us: int) -> list[int]:
        """Delayed tasks whose time has come, the longest overdue first, a window of them at once.

        They are given again until the writer has noted that they came due.
        """
        if self.next_due_us is None or self.next_due_us > now_us:
            return []
        return [task_id for _, task_id in self._store.due((-1, -1), now_us, DUE_ROWS_MAX)]

    def give_back(self, task_ids: Iterable[int]) -> None:
        """Put active tasks at their place in the order."""
        by_spec: dict[int, list[int]] = defaultdict(list)
        first = self._store.finalizing
        for task_id, spec_id in self._store.specs_of(sorted(task_ids)):
            if task_id in first:
                self.backlog.lane(self._store.place_of(task_id, spec_id)).give_back([task_id])
            else:
                by_spec[spec_id].append(task_id)
        for spec_id, ids in by_spec.items():
            self.backlog.lane(place_of(self._spec(spec_id))).give_back(ids)

    def _places_of(self, runs: Sequence[tuple[int, int]]) -> dict[int, Place]:
        """The places of the tasks of these runs of ids; of some that have ended too."""
        if not runs:
            return {}
        ids = [task_id for first, last in runs for task_id in range(first, last + 1)]
        first_id, last_id = runs[0][0], runs[-1][1]
        is_dense = last_id - first_id + 1 <= SPARSE * len(ids)
        found = self._store.specs_between(first_id, last_id) if is_dense else self._store.specs_of(ids)
        places = {spec_id: place_of(self._spec(spec_id)) for spec_id in set(map(SPEC, found))}
        of_all = {task_id: places[spec_id] for task_id, spec_id in found}
        if self._store.finalizing:
            first = self._store.finalizing.intersection(of_all)
            of_all.update({task_id: of_all[task_id]._replace(priority=FINALIZER) for task_id in first})
        return of_all if len(of_all) == len(ids) else {i: of_all[i] for i in ids if i in of_all}

    def _load(self, runs: Sequence[tuple[int, int]]) -> tuple[list[Row], int]:
        """The rows of these runs of ids, in order, and the id up to which they are loaded: large payloads end it early.

        A span that is dense enough is read in one range.
        """
        wanted = sum(last - first + 1 for first, last in runs)
        first_id, last_id = runs[0][0], runs[-1][1]
        if last_id - first_id + 1 <= SPARSE * wanted:
            found = self._store.load_tasks(first_id, last_id, SPARSE * REFILL_ROWS_MAX, REFILL_BYTES_MAX)
        else:
            ids = [task_id for first, last in runs for task_id in range(first, last + 1)]
            found = self._store.load_tasks_by_id(ids, REFILL_BYTES_MAX)
        if not found:
            return [], last_id
        is_cut = sum(map(len, map(PAYLOAD, found))) >= REFILL_BYTES_MAX
        upto = found[-1][0] if is_cut else last_id
        if len(runs) > 1:
            ours = {task_id for first, last in runs for task_id in range(first, last + 1)}
            found = [row for row in found if row[0] in ours]
        return self._rows(found), upto

    def _rows(self, found: Sequence[tuple[int, int, str]]) -> list[Row]:
        if self._store.finalizing:
            first = self._store.finalizing
            found = [(i, spec, FINALIZE + text if i in first else text) for i, spec, text in found]
        specs = set(map(SPEC, found))
        heads = {spec_id: self._head(spec_id) for spec_id in specs}
        if len(specs) == 1 and not self._interruptions:  # the usual case costs a third
            kind, limit_ms = heads.popitem()[1]
            ids, _, payloads = zip(*found, strict=True)
            return list(zip(ids, repeat(kind), repeat(1), repeat(limit_ms), payloads))
        none = Interruptions()
        attempts = {row[0]: 1 + self._interruptions.get(row[0], none).attempts for row in found}
        return [(task_id, heads[s][0], attempts[task_id], heads[s][1], payload) for task_id, s, payload in found]

    def _head(self, spec_id: int) -> tuple[int, int]:
        """What a row of the ring has of a spec: kind and run limit."""
        spec = self._spec(spec_id)
        return self._store.intern_kind(spec.kind), spec.run_timeout_ms or 0

    def _spec(self, spec_id: int) -> Spec:
        # Never kept here: the number of one that is still being written goes to another one if that is rolled back.
        return Spec(*self._store.specs()[spec_id])

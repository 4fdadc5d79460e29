"""Answer: what a client is told in an inline run - as by a server, but that waiting is when tasks run.

Clients find it in the place of the server's socket, so every client of this database in this process is served by it:
also one that the code under test makes by `ringq.connect`, in any thread.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from typing import Any

from ringq import families, protocol
from ringq.client import alone
from ringq.client.link import Link
from ringq.errors import InvalidOption, NothingToRun, RingqError, UnknownTask
from ringq.maps import Maps
from ringq.testing.runs import Runs
from ringq.version import VERSION


class Rows:
    """What `ringq.maps` asks of the store, each question to a database that is opened for it."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    def find_map(self, kind: str, key: str) -> int | None:
        """As the store's."""
        with self._runs.opened() as store:
            return store.find_map(kind, key)

    def map_chunks(self, number: int, first: int, limit: int) -> list[tuple[int, int, int, bytes]]:
        """As the store's."""
        with self._runs.opened() as store:
            return store.map_chunks(number, first, limit)


class InlineLink(Link):
    """One thread's connection to nobody."""

    def __init__(self, runs: Runs, maps: Maps) -> None:
        """`maps`: of all links of one run, since a map belongs to one of them."""
        self._runs = runs
        self._maps = maps
        self._me: Any = self  # to `maps` a connection
        self._reader = protocol.FrameReader(protocol.REQUESTS)
        self._frames = deque()
        # What was asked and has not ended, by request. A handler may wait on the link of the thread that runs it while
        # that waits for the handler: each is told what it asked itself.
        self._asked: list[dict[int, set[int]]] = [{}]
        self.is_open = True

    async def send(self, frame: bytes, deadline: float | None) -> None:
        """Answer a request."""
        for request in self._reader.feed(frame):
            try:
                reply = self._answer(request.request_id, request.message)
            except RingqError as error:
                reply = protocol.failure_of(error)
            if reply is not None:
                self._frames.append(protocol.Frame(request.request_id, reply))

    async def receive(self, deadline: float | None) -> protocol.Frame:
        """The next reply; runs tasks until there is one.

        Raises TimeoutError at once if nothing may run and there is a `deadline`, NothingToRun if there is none.
        """
        if not self._find():
            raise TimeoutError if deadline is not None else self._stuck()
        return self._frames.popleft()

    async def has_input(self, timeout: float | None) -> bool:
        """Whether a reply is there. With a `timeout` of 0 nothing is run for it. Raises NothingToRun if it is None."""
        if timeout == 0:
            return bool(self._frames) or self._look_up()
        if self._find():
            return True
        if timeout is None:
            raise self._stuck()
        return False

    def close(self) -> None:
        """The maps of this link are free."""
        self.is_open = False
        self._maps.release(self._me)

    def wake(self) -> None:
        """Nobody sleeps on it."""

    def __del__(self) -> None:
        """There is no socket."""

    # -- inside -----------------------------------------------------------------------------------

    def _find(self) -> bool:
        """Run tasks until something can be told. False if nothing is left to run."""
        while not (self._frames or self._look_up()):
            waiting, self._frames = self._frames, deque()
            self._asked.append({})
            try:
                if self._runs.run_next() is None:
                    return False
            finally:
                self._asked.pop()
                self._frames = waiting
        return True

    def _answer(self, request: int, message: protocol.Message) -> Any:
        if isinstance(message, protocol.Submit):
            with self._runs.opened() as store:
                return alone.write(store, message, (), self._runs.held)
        if isinstance(message, protocol.Wait):
            return self._wait(request, message)
        if isinstance(message, protocol.Family):
            with self._runs.opened() as store:
                return families.family(store, message)
        if isinstance(message, protocol.OpenMap):
            return self._maps.open(self._me, message)
        if isinstance(message, protocol.ForgetMap):
            self._maps.check(self._me, message.kind, message.key)
        if isinstance(message, protocol.Health | protocol.Progress):
            return _from_memory(message)
        if isinstance(message, protocol.Subscribe):
            raise InvalidOption("events: a run inside a test tells none; use a ringq.Server, or call the hook yourself")
        return self._runs.change(message)

    def _wait(self, request: int, message: protocol.Wait) -> None:
        protocol.check_wait(message)
        with self._runs.opened() as store:
            missing = store.missing_tasks(message.ranges)
        if missing is not None:
            raise UnknownTask(f"there is no task {missing}")
        ids = {task_id for first, last in message.ranges for task_id in range(first, last + 1)}
        self._asked[-1][request] = ids

    def _look_up(self) -> bool:
        """Whether the database knows the end of some task that was asked for; then it is among the replies."""
        asked = self._asked[-1]
        if not asked:
            return False
        with self._runs.opened() as store:
            for request, ids in list(asked.items()):
                rows = store.find_receipts(
                    protocol.id_ranges(sorted(ids)), protocol.ENDS_MAX, protocol.ENDS_BYTES_MAX
                )  # fmt: skip
                if rows:
                    self._frames.append(protocol.Frame(request, protocol.ended(rows)))
                    ids.difference_update(row[0] for row in rows)
                    if not ids:
                        del asked[request]
        return bool(self._frames)

    def _stuck(self) -> NothingToRun:
        ids = sorted(task_id for ids in self._asked[-1].values() for task_id in ids)
        if not ids:
            return NothingToRun("nothing was asked that could be answered")
        which = f"task {ids[0]}" if len(ids) == 1 else f"task {ids[0]} and {len(ids) - 1:,} more"
        return NothingToRun(
            f"{which} cannot end: nothing is left that may run now. It may be delayed (move the clock with "
            "clock.advance), have no handler in this app, or be the one that waits"
        )


def _from_memory(message: protocol.Health | protocol.Progress) -> protocol.HealthReply | protocol.ProgressReply:
    """What a server would not have to ask its database."""
    if isinstance(message, protocol.Progress):
        return protocol.ProgressReply(time.monotonic_ns(), b"", {}, {}, {})  # nothing runs beside who asks
    state = {"version": VERSION, "pid": os.getpid(), "inline": True, "workers": [{"ready": True}]}
    return protocol.HealthReply(json.dumps(state))

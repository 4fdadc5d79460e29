"""Cli: a producer of no-op tasks that keeps a server busy: so many under way, or so many a second."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import ringq
from ringq.bench.handlers import noop
from ringq.client.follow import Follow
from ringq.client.line import Exchange, Line
from ringq.client.steps import finish

LOOK_S = 0.2  # between two questions whether it is over
SHORT_S = 0.001
LEAST = 2  # tasks, of which a percentile can be told


class Stream:
    """Submits in batches of `batch`, and hears of the ends on a second connection while at most `depth` are under way.

    Not `client.map`, which has the same loop: its chunks carry many calls each, these are tasks.
    """

    def __init__(self, database: Path, depth: int, batch: int) -> None:
        self._client = ringq.connect(database)
        self._follow = Follow(Line(Exchange(database, None)), itertools.count(1).__next__)
        self._depth = depth
        self._batch = [noop.submission(0)] * batch
        self._under_way: dict[int, float] = {}  # since when, by the task's id

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._follow.close()
        self._client.close()

    def run(self, seconds: float, per_s: float | None = None) -> list[float]:
        """Go on for `seconds`, and until two have ended, as fast as the depth allows, or with `per_s` tasks a second.

        Returns, for each task that ended meanwhile, the milliseconds from before its submission until its end was
        known here. What is under way at the end stays so, for the next `run` or `drain`.
        """
        waits: list[float] = []
        began = time.perf_counter()
        submitted = 0
        while (now := time.perf_counter()) < began + seconds or len(waits) < LEAST:
            due = began if per_s is None else began + submitted / per_s
            if now >= due and len(self._under_way) + len(self._batch) <= self._depth:
                self._submit()
                submitted += len(self._batch)
            else:
                until = began + seconds if now >= due else min(due, began + seconds)
                waits += self._take(max(until - now, SHORT_S))
        return waits

    def drain(self) -> None:
        """Wait for the ends of all that are under way."""
        while self._under_way:
            self._take(None)

    def _submit(self) -> None:
        now = time.perf_counter()
        ids = [handle.id for handle in self._client.submit_many(self._batch)]
        self._under_way.update(dict.fromkeys(ids, now))
        self._follow.add(ids)

    def _take(self, timeout: float | None) -> list[float]:
        ended = finish(self._follow.take, timeout)
        now = time.perf_counter()
        return [(now - self._under_way.pop(end.task_id)) * 1e3 for end in ended]


def keep_busy(database: Path, depth: int, batch: int, per_s: float, is_over: Callable[[], bool]) -> None:
    """Keep a server busy with `per_s` tasks a second until `is_over`; for a process of its own."""
    with Stream(database, depth, batch) as stream:
        while not is_over():
            stream.run(LOOK_S, per_s)
        stream.drain()


def percentile_99(values: list[float]) -> float:
    """The value that one in a hundred exceeds; `values`: at least two."""
    return statistics.quantiles(values, n=100, method="inclusive")[98]

"""The limits of attempts that run, besides that of their run time: when they are looked up, and what they lead to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from ringq import limits
from ringq.berth import Berth
from ringq.bounds import LOOK_NS, NOTHING, Bounds
from ringq.checkpoints import Checkpoints
from ringq.clock import ManualClock
from ringq.config import Config
from ringq.machine import resident_kib
from ringq.model import Reason
from ringq.process import Exit
from ringq.store.submissions import SpecRow

MS = 1_000_000
CONFIG: Any = Config(database=None)  # type: ignore[arg-type]
KIND, LEASE, TASK = 7, 500, 11


class Books:
    """A store in which one task is, submitted when the clock began; `looks` counts how often it was looked up."""

    def __init__(self, spec: SpecRow, since_us: int) -> None:
        self.bounded_kinds = {KIND} if spec.is_bounded else set()
        self._spec = spec
        self._since_us = since_us
        self.looks = 0

    def since_of(self, task_id: int) -> tuple[int, int]:
        assert task_id == TASK
        self.looks += 1
        return 1, self._since_us

    def specs(self) -> dict[int, SpecRow]:
        return {1: self._spec}


class Bench:
    """One worker that runs one call from the first moment on. `rss_kib` is what it holds."""

    def __init__(self, *, limit_ms: int = 0, call: int = 0, age_ms: int = 0, **limits_given: int) -> None:
        self.clock = ManualClock()
        self.began_ns = self.clock.monotonic_ns()
        spec = SpecRow("a::b", "default", 128, None, limit_ms or None, **limits_given)  # type: ignore[arg-type]
        self.store = Books(spec, self.clock.now_us() - age_ms * 1000)
        self.bounds = Bounds(self.store, self.clock, Checkpoints(self.store, self.clock))
        self.signals: list[Any] = []
        self.reasons: list[int] = []
        self.berth = Berth(0)
        process: Any = SimpleNamespace(
            pid=1, label=None, signal=self.signals.append, kill=lambda: self.signals.append("kill")
        )
        self.berth.fill(process, 0)
        self.row = (0, TASK, LEASE, KIND, 1, limit_ms, self.began_ns, call)
        self.rows = [self.row]
        self.rss_kib = 100_000
        self.weighed = 0

    def running(self) -> list[Any]:
        return self.rows

    def request_cancel(self, worker: int, lease: int, reason: int, call: int = 0) -> bool:
        self.reasons.append(reason)
        return True

    def resident_kib(self, _pid: int) -> int:
        self.weighed += 1
        return self.rss_kib

    def after(self, ms: int, cancelled_ms: int | None = None) -> int | None:
        """Enforce the limits so long after it has begun; the milliseconds until the next look."""
        now_ns = self.began_ns + ms * MS
        asked = {} if cancelled_ms is None else {TASK: self.began_ns + cancelled_ms * MS}
        wait = limits.enforce(self, [self.berth], CONFIG, now_ns, asked, self.bounds)
        return None if wait is None else wait // MS

    @property
    def blame(self) -> Reason:
        return self.berth.blame(LEASE, self.rows[0][7], Exit(1, -9, 0, "", ""), None)


Make = Callable[..., Bench]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Make:
    def make(**given: int) -> Bench:
        one = Bench(**given)
        monkeypatch.setattr("ringq.machine.resident_kib", one.resident_kib)
        return one

    return make


def test_nobody_is_looked_up_whose_kind_has_no_limits_of_its_own(bench: Make) -> None:
    plain = bench(limit_ms=1000)
    assert plain.after(0) == 1000
    assert plain.bounds.look(plain.rows, [plain.berth], plain.began_ns, []) is NOTHING
    assert (plain.store.looks, plain.weighed) == (0, 0)
    assert plain.after(1000) == 5000  # the server's own


def test_an_attempt_is_looked_up_once(bench: Make) -> None:
    one = bench(kill_after_ms=100)
    for ms in range(10):
        assert one.after(ms) is None
    assert one.store.looks == 1
    one.rows = []
    assert one.after(11) is None


def test_the_time_to_tidy_up_is_that_of_the_task(bench: Make) -> None:
    one = bench(limit_ms=1000, kill_after_ms=200)
    assert one.after(1000) == 200
    assert one.after(1200) == 1000
    assert one.after(2200) is None
    assert one.signals == [signal.SIGUSR2, signal.SIGTERM, "kill"]
    assert one.blame is Reason.RUN_TIMEOUT


def test_the_time_for_the_whole_task_ends_what_runs_and_a_clock_that_is_set_does_not_move_that(bench: Make) -> None:
    one = bench(limit_ms=5000, age_ms=9000, total_timeout_ms=10_000)
    assert one.after(0) == 1000
    one.clock.jump(3600)
    assert one.after(999) == 1
    assert one.after(1000) == 5000
    assert one.reasons == [Reason.TOTAL_TIMEOUT.code]
    assert one.after(6000) == 1000
    assert one.signals == [signal.SIGUSR2, signal.SIGTERM]
    assert one.blame is Reason.TOTAL_TIMEOUT


def test_what_is_over_before_it_has_begun_is_told_at_once(bench: Make) -> None:
    one = bench(age_ms=9000, total_timeout_ms=1000)
    one.after(0)
    assert one.reasons == [Reason.TOTAL_TIMEOUT.code]


def test_memory_is_looked_at_ten_times_a_second_and_has_one_second(bench: Make) -> None:
    one = bench(memory_limit_kib=200_000, kill_after_ms=60_000)
    assert one.after(0) == LOOK_NS // MS
    assert one.after(30) == 70
    assert one.weighed == 1
    one.rss_kib = 250_000
    one.after(100)
    assert (one.weighed, one.reasons) == (2, [Reason.MEMORY_LIMIT.code])
    one.rss_kib = 50_000  # it has freed some: too late
    one.after(1099)
    assert one.signals == [signal.SIGUSR2]
    one.after(1100)
    one.after(2100)
    assert one.signals == [signal.SIGUSR2, signal.SIGTERM, "kill"]
    assert one.blame is Reason.MEMORY_LIMIT
    assert one.bounds.peak_kib(LEASE) == 250_000


def test_who_is_out_of_time_and_then_of_memory_has_no_longer_than_the_memory_gives(bench: Make) -> None:
    one = bench(limit_ms=1000, memory_limit_kib=200_000)
    one.after(1000)
    one.rss_kib = 250_000
    one.after(1500)
    one.after(2500)
    assert one.signals == [signal.SIGUSR2, signal.SIGTERM]
    assert one.blame is Reason.RUN_TIMEOUT  # which came first


def test_a_cancel_is_what_a_cancelled_attempt_ends_for_whatever_else_is_over(bench: Make) -> None:
    one = bench(memory_limit_kib=200_000, total_timeout_ms=100)
    one.rss_kib = 250_000
    one.after(0, cancelled_ms=0)
    assert one.reasons == [Reason.CANCELLED.code]


def test_the_next_call_of_a_map_is_weighed_for_itself(bench: Make) -> None:
    one = bench(call=1, memory_limit_kib=200_000)
    one.rss_kib = 250_000
    one.after(0)
    assert one.reasons == [Reason.MEMORY_LIMIT.code]
    one.rss_kib = 100_000
    one.rows = [(*one.row[:7], 2)]
    one.after(10)
    assert len(one.reasons) == 1
    assert one.weighed == 2


def test_the_peak_is_told_once_with_the_receipt_also_if_the_attempt_has_ended_since(bench: Make) -> None:
    one = bench(memory_limit_kib=200_000)
    one.rss_kib = 150_000
    one.after(0)
    one.rows = []
    one.after(1)
    receipt: Any = (TASK, LEASE, KIND, 1, 10, 0, 5, 5, 0, None, None, "1", None)
    other: Any = (TASK, LEASE + 1, KIND, 1, 10, 0, 5, 5, 0, None, 70, "1", None)
    assert one.bounds.weighed([receipt, other]) == [(*receipt[:10], 150_000, *receipt[11:]), other]
    assert one.bounds.weighed([receipt]) == [receipt]


def test_nothing_is_kept_of_an_attempt_whose_receipt_has_been_taken(bench: Make) -> None:
    one = bench(memory_limit_kib=200_000)
    one.after(0)
    row: Any = (TASK, LEASE, KIND, 1, 10, 0, 0, 0, 0, 0, None, "1", None)
    assert one.bounds.weighed([row])[0][10] == 100_000
    one.rows = []
    one.after(1)
    assert one.bounds.peak_kib(LEASE) == 0


def test_what_a_process_has_started_is_counted_until_it_ends() -> None:
    alone = resident_kib(os.getpid())
    code = "import sys; kept = bytearray(100 << 20); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        own = resident_kib(child.pid)
        both = resident_kib(os.getpid())
        assert own > 100 * 1024
        told = os.path.exists(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
        assert both >= alone + own - 20_000 if told else both < own
        child.communicate()
    assert resident_kib(child.pid) == 0

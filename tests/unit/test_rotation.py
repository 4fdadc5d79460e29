"""Which worker is replaced next, when the old one leaves, and what a limit of run time does to one call of many."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ringq import limits
from ringq.berth import Berth
from ringq.config import Config
from ringq.model import Reason
from ringq.process import Exit
from ringq.rotation import TELL_NS, Rotation

SECOND_NS = 1_000_000_000


class Floor:
    """A rotation over berths whose processes are only names."""

    def __init__(self, workers: int = 2, **settings: Any) -> None:
        self.berths = [Berth(index, is_kept=index < workers) for index in range(workers + 1)]
        self.busy: dict[int, int] = {}
        self.said: list[str] = []
        self.now_ns = SECOND_NS
        self.changes = 0
        self.can_start = True
        self.rotation = Rotation(
            Config(Path("x.db"), workers=workers, **settings), self.berths,
            SimpleNamespace(monotonic_ns=lambda: self.now_ns),  # type: ignore[arg-type]
            start=self._start, retire=self._retire, busy=lambda: self.busy, on_change=self._change,
            say=lambda text, **_: self.said.append(text),
        )  # fmt: skip
        for berth in self.berths[:workers]:
            self._start(berth, self.now_ns)
            berth.claims = True
            berth.welcome(self.now_ns)

    def step(self) -> int | None:
        return self.rotation.step(self.now_ns)

    def ready(self, index: int) -> None:
        self.berths[index].claims = True
        self.berths[index].welcome(self.now_ns)
        self.step()

    def gone(self, index: int) -> None:
        self.berths[index].clear()
        self.step()

    def state(self) -> str:
        """A letter for each berth: - empty, b booting, r ready, l leaving; upper case if it is kept filled."""
        letters = ""
        for berth in self.berths:
            letter = "-" if berth.process is None else "l" if berth.is_leaving else "r" if berth.ready else "b"
            letters += letter.upper() if berth.is_kept else letter
        return letters

    def _start(self, berth: Berth, now_ns: int) -> None:
        if self.can_start:
            berth.fill(SimpleNamespace(pid=1 << 30, label=""), now_ns, self.rotation.generation)  # type: ignore[arg-type]

    def _retire(self, berth: Berth) -> None:
        berth.is_leaving = True

    def _change(self) -> None:
        self.changes += 1


def test_one_worker_after_the_other_leaves_when_its_replacement_is_ready() -> None:
    floor = Floor()
    floor.rotation.reload()
    floor.step()
    assert floor.state() == "RRb"
    floor.step()
    assert floor.state() == "RRb"
    floor.ready(2)
    assert floor.state() == "lRR"
    floor.step()
    assert floor.state() == "lRR"  # there is no room for another one yet
    floor.gone(0)
    assert floor.state() == "bRR"
    floor.now_ns += SECOND_NS
    floor.ready(0)
    assert floor.state() == "RlR"
    assert floor.said[-1] == "reloaded 2 workers in 1.0 s"
    assert not floor.rotation.is_reloading
    floor.gone(1)
    assert floor.state() == "R-R"


def test_an_idle_worker_is_replaced_before_a_busy_one() -> None:
    floor = Floor(workers=3)
    floor.busy = {0: 7, 1: 8}
    floor.rotation.reload()
    floor.step()
    floor.ready(3)
    assert floor.state() == "RRlR"


def test_a_replacement_that_fails_ends_the_reload_and_changes_nothing() -> None:
    floor = Floor()
    floor.rotation.reload()
    floor.step()
    floor.berths[2].error = "shop:app: SyntaxError"
    floor.gone(2)
    assert floor.state() == "RR-"
    assert floor.said[-1] == "reload failed: shop:app: SyntaxError; the workers stay as they are"
    assert floor.rotation.reload_error == "shop:app: SyntaxError; the workers stay as they are"
    assert not floor.rotation.is_reloading
    floor.rotation.reload()
    assert floor.rotation.reload_error is None
    floor.step()
    assert floor.state() == "RRb"


def test_no_process_for_a_replacement_ends_the_reload() -> None:
    floor = Floor()
    floor.can_start = False
    floor.rotation.reload()
    assert floor.step() == 0
    floor.step()
    assert "reload failed" in floor.said[-1]


def test_a_second_reload_replaces_all_of_them_once_more() -> None:
    floor = Floor(workers=1)
    floor.rotation.reload()
    floor.step()
    floor.rotation.reload()
    floor.ready(1)
    assert floor.state() == "lR"
    floor.gone(0)
    assert floor.state() == "bR"
    floor.ready(0)
    assert floor.rotation.reloads == 1
    assert [line for line in floor.said if line.startswith("reloaded")] == ["reloaded 1 worker in 0.0 s"]


def test_a_reload_asked_for_while_a_replacement_fails_is_another_try() -> None:
    floor = Floor()
    floor.rotation.reload()
    floor.step()
    floor.rotation.reload()
    floor.berths[2].error = "shop:app: SyntaxError"
    floor.gone(2)
    assert floor.state() == "RRb"
    assert floor.rotation.is_reloading
    floor.gone(2)
    assert floor.said[-1].startswith("reload failed: ")


def test_a_worker_that_leaves_claims_no_more_once_it_runs_its_last_attempt() -> None:
    floor = Floor()
    floor.rotation.reload()
    floor.step()
    floor.ready(2)
    assert floor.berths[0].claims
    floor.busy = {0: 5}
    floor.step()
    assert not floor.berths[0].claims
    assert floor.berths[0].runs_last
    assert floor.changes == 1
    assert floor.step() == TELL_NS
    floor.now_ns += TELL_NS
    floor.step()
    floor.step()
    assert floor.said.count("reload: worker 0 leaves when task 5 has ended") == 1


def test_an_old_worker_that_dies_meanwhile_needs_no_farewell() -> None:
    floor = Floor(workers=1)
    floor.rotation.reload()
    floor.step()
    floor.gone(0)
    floor.ready(1)
    assert floor.state() == "-R"
    assert floor.rotation.reloads == 1


def test_recycling_waits_for_the_age_and_is_tried_again_later_after_a_failure() -> None:
    floor = Floor(workers=1, recycle_age_s=10)
    assert floor.step() == 10 * SECOND_NS
    floor.now_ns += 10 * SECOND_NS
    floor.step()
    assert floor.said == ["worker 0 is replaced after 10 s"]
    floor.gone(1)
    assert floor.said[-1].startswith("worker 0 stays, because of its replacement: ")
    wait_ns = floor.step()
    assert wait_ns is not None
    assert wait_ns > SECOND_NS
    floor.now_ns += wait_ns
    floor.step()
    floor.ready(1)
    assert floor.rotation.recycled == 1
    assert floor.state() == "lR"


class Slots:
    """A ring in which one call runs."""

    def __init__(self) -> None:
        self.row = (0, 11, 500, 1, 1, 100, SECOND_NS, 3)  # limit 100 ms, call 3
        self.requests: list[tuple[int, ...]] = []

    def running(self) -> list[tuple[int, int, int, int, int, int, int, int]]:
        return [self.row]

    def request_cancel(self, worker: int, lease: int, reason: int, call: int = 0) -> bool:
        self.requests.append((worker, lease, reason, call))
        return True


def test_each_call_of_a_task_climbs_the_ladder_of_its_own() -> None:
    signals: list[Any] = []
    process = SimpleNamespace(label="", signal=signals.append, kill=lambda: signals.append("kill"))
    slots, berth = Slots(), Berth(0)
    berth.fill(process, 0)  # type: ignore[arg-type]
    config = Config(Path("x.db"), term_grace_s=5, kill_grace_s=1)

    def enforce(milliseconds: int) -> int | None:
        return limits.enforce(slots, [berth], config, SECOND_NS + milliseconds * 1_000_000)

    assert enforce(40) == 60_000_000
    assert enforce(100) == 5 * SECOND_NS
    assert (slots.requests, signals) == ([(0, 500, Reason.RUN_TIMEOUT.code, 3)], [signal.SIGUSR2])
    slots.row = (*slots.row[:6], SECOND_NS + 100_000_000, 4)  # it has ended in time; the next one begins
    assert enforce(150) == 50_000_000
    assert len(signals) == 1
    exit_ = Exit(1, -9, 0, "", "")
    assert berth.blame(500, 4, exit_, None) is Reason.CRASH
    assert berth.blame(500, 3, exit_, None) is Reason.RUN_TIMEOUT
    enforce(7000)
    assert signals == [signal.SIGUSR2, signal.SIGUSR2, signal.SIGTERM, "kill"]
    assert berth.blame(500, 4, exit_, None) is Reason.RUN_TIMEOUT
    assert berth.blame(500, 5, exit_, None) is Reason.STOPPED


@pytest.mark.parametrize("rounds", [1, 3])
def test_a_reload_lets_a_berth_that_was_given_up_try_again(rounds: int) -> None:
    berth = Berth(0)
    config = Config(Path("x.db"), boot_deaths_max=rounds)
    for number in range(rounds):
        assert berth.disabled is False
        assert berth.plan(config, number, has_worked=False) is (number == rounds - 1)
    assert berth.disabled
    berth.forgive(77)
    assert (berth.disabled, berth.retry_at_ns) == (False, 77)

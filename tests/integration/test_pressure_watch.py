"""The sampler as a real process beside a loop: samples, deaths, silence, sources of the user, the parent's death."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ringq.clock import SystemClock
from ringq.config import Config
from ringq.errors import InvalidOption
from ringq.model import BACKGROUND, HIGH, NORMAL
from ringq.pressure_watch import PressureWatch

PATIENCE_S = 40.0

PLANT = """
import pathlib, threading

class Told:
    name = "told"
    def pressure(self):
        return float(pathlib.Path("told").read_text())

class Stuck:
    name = "stuck"
    def pressure(self):
        threading.Event().wait()

def __getattr__(name):
    raise AttributeError("no " + name)
"""
BURN = """
import os, time
for _ in os.sched_getaffinity(0):
    if not os.fork():
        until = time.monotonic() + 60
        while time.monotonic() < until:
            pass
        os._exit(0)
os.wait()
"""
AWAY = f"""
import subprocess, sys
burner = subprocess.Popen([sys.executable, "-c", {BURN!r}], stdout=subprocess.DEVNULL, start_new_session=True)
print(burner.pid, flush=True)  # and ends: they are nobody's family then
"""
HOST = """
import selectors, sys, time
from pathlib import Path
from ringq.clock import SystemClock
from ringq.config import Config
from ringq.pressure_watch import PressureWatch

selector = selectors.DefaultSelector()
watch = PressureWatch(Config(Path("x.db"), pressure="on"), selector, SystemClock(), print)
while watch.describe()["sources"] == {}:
    for key, _ in selector.select():
        key.data(0)
print(watch.pid, flush=True)
sys.stdin.read()
"""


class Loop:
    """A loop as the server's, with nothing in it but the pressure."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.selector = selectors.DefaultSelector()
        self.said: list[str] = []
        settings = {"pressure": "on", **settings}
        config = Config(folder / "x.db", **settings)
        self.watch = PressureWatch(config, self.selector, SystemClock(), self.said.append)

    def until(self, condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            self.turn()
            value = condition()
            if value:
                return value
        raise AssertionError(f"not so after {PATIENCE_S} s: {self.state} {self.said}")

    def turn(self) -> None:
        wait_ns = self.watch.wait_ns()
        for key, _ in self.selector.select(min(0.5, PATIENCE_S if wait_ns is None else wait_ns / 1e9)):
            key.data(0)
        self.watch.step()

    @property
    def state(self) -> dict[str, Any]:
        state = self.watch.describe()
        assert state is not None
        return state

    def source(self, name: str) -> float | None:
        return self.state["sources"].get(name)  # type: ignore[no-any-return]


@pytest.fixture
def loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Loop]]:
    loops: list[Loop] = []
    (tmp_path / "plant.py").write_text(PLANT)
    monkeypatch.chdir(tmp_path)

    def make(**settings: Any) -> Loop:
        loops.append(Loop(tmp_path, **settings))
        return loops[-1]

    yield make
    for one in loops:
        one.watch.close()
        one.watch.close()
        one.selector.close()


def tell(folder: Path, value: float) -> None:
    """What the source `told` answers from now on."""
    (folder / "new").write_text(str(value))
    (folder / "new").replace(folder / "told")


def alive(pid: int | None) -> bool:
    try:
        return pid is not None and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_without_a_policy_nothing_runs(loop: Callable[..., Loop]) -> None:
    children = psutil.Process().children()
    one = loop(pressure="off")
    assert psutil.Process().children() == children
    assert (one.watch.pid, one.watch.describe(), one.watch.wait_ns()) == (None, None, None)
    assert not one.watch.refuses(255)
    assert one.watch.room(255, 5) == 5
    one.watch.started(255)
    one.watch.step()
    assert one.said == []


@pytest.mark.parametrize("given", [{"pressure_sources": ("a:b",)}, {"disk_bandwidth_mib": 5.0}])
def test_what_means_nothing_without_a_policy_is_told(loop: Callable[..., Loop], given: dict[str, Any]) -> None:
    assert loop(pressure="off", **given).said == [
        "pressure is off, and so its sources and bandwidths mean nothing: set pressure = on"
    ]


def test_a_policy_that_makes_no_sense_is_refused(loop: Callable[..., Loop]) -> None:
    with pytest.raises(InvalidOption, match="out of order"):
        loop(pressure="background 0.9 normal 0.3")


def test_samples_come_with_sources_rates_and_their_cost(loop: Callable[..., Loop]) -> None:
    one = loop(disk_bandwidth_mib=1e6)
    one.until(lambda: one.source("cpu") is not None)
    assert {"cpu", "load", "memory", "disk"} <= one.state["sources"].keys()
    assert one.state["rates"].keys() == {"disk_read", "disk_write", "net_rx", "net_tx"}
    assert one.watch.rates == one.state["rates"]
    assert one.state["sampler"] == {"pid": one.watch.pid, "cpu_ms": one.state["sampler"]["cpu_ms"], "starts": 1}
    json.dumps(one.state)


def test_processes_that_burn_every_core_are_pressure_if_they_are_not_ours(loop: Callable[..., Loop]) -> None:
    one = loop(pressure="background 0.5 only cpu")
    one.until(lambda: one.source("cpu") is not None)
    started = subprocess.run([sys.executable, "-c", AWAY], stdout=subprocess.PIPE, check=True)
    group = int(started.stdout)
    try:
        one.until(lambda: one.watch.refuses(BACKGROUND))
        one.until(lambda: (one.source("cpu") or 0) > 0.75)
    finally:
        os.killpg(group, signal.SIGKILL)
    assert one.state["flips"] >= 1
    assert not one.watch.refuses(HIGH)


def test_a_source_of_the_user_stops_work_and_lets_it_go_on(loop: Callable[..., Loop], tmp_path: Path) -> None:
    tell(tmp_path, 0.0)
    one = loop(pressure="normal 0.95 high 1 only told", pressure_sources=("plant:Told",))
    one.until(lambda: one.source("told") is not None)
    tell(tmp_path, 1.0)
    one.until(lambda: one.watch.refuses(NORMAL))
    assert one.state["flips"] == 1
    assert (one.watch.refuses(HIGH), one.watch.room(NORMAL, 5)) == (False, 0)
    tell(tmp_path, 0.0)
    one.until(lambda: not one.watch.refuses(NORMAL))
    assert one.state["flips"] == 2
    assert one.said == []


def test_a_source_that_counts_and_is_none_is_told(loop: Callable[..., Loop]) -> None:
    one = loop(pressure="background 0.5 only cpuu,load")
    one.until(lambda: one.source("cpu") is not None)
    assert one.said == ["pressure: there is no source cpuu; did you mean cpu?"]


def test_the_floor_lets_one_start(loop: Callable[..., Loop], tmp_path: Path) -> None:
    tell(tmp_path, 1.0)
    one = loop(pressure="background 0.95 floor 2s only told", pressure_sources=("plant:Told",))
    one.until(lambda: one.watch.refuses(BACKGROUND))
    one.until(lambda: one.watch.room(BACKGROUND, 9) == 1)
    one.watch.started(BACKGROUND)
    assert one.watch.room(BACKGROUND, 9) == 0


def test_a_source_that_hangs_and_one_that_is_none_cost_a_warning_each(
    loop: Callable[..., Loop], tmp_path: Path
) -> None:
    tell(tmp_path, 0.25)
    one = loop(pressure_sources=("plant:Stuck", "plant:Told", "plant:nothing"))
    one.until(lambda: len(one.said) == 2)
    assert one.said == [
        "pressure source plant:nothing counts as 0: AttributeError: no nothing",
        "pressure source stuck counts as 0: it has not answered within 0.5 s",
    ]
    assert (one.source("stuck"), one.source("told")) == (0.0, 0.25)


def test_a_sampler_that_is_killed_is_started_again(loop: Callable[..., Loop]) -> None:
    one = loop()
    one.until(lambda: one.source("cpu") is not None)
    first = one.watch.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    one.until(lambda: one.state["sampler"]["starts"] == 2)
    assert one.said == [
        "the sampler of pressure has ended (signal 9): it is started again, and till then there is no pressure"
    ]
    assert not alive(first)
    one.until(lambda: one.watch.rates)
    second = one.watch.pid
    assert second is not None
    os.kill(second, signal.SIGKILL)
    one.until(lambda: one.state["sampler"]["starts"] == 3)
    assert len(one.said) == 1  # the next ones soon after are not told
    assert one.watch._backoff_s == 0.4


def test_a_sampler_that_falls_silent_is_no_pressure_and_is_replaced(loop: Callable[..., Loop], tmp_path: Path) -> None:
    tell(tmp_path, 1.0)
    one = loop(pressure="background 0.95 only told", pressure_sources=("plant:Told",))
    one.until(lambda: one.watch.refuses(BACKGROUND))
    silent = one.watch.pid
    assert silent is not None
    os.kill(silent, signal.SIGSTOP)
    one.until(lambda: not one.watch.refuses(BACKGROUND))
    one.until(lambda: one.state["sampler"]["starts"] == 2)
    assert not alive(silent)
    assert one.said == [
        "the sampler of pressure says nothing any more: it is started again, and till then there is no pressure"
    ]
    one.until(lambda: one.watch.refuses(BACKGROUND))


def test_what_has_waited_in_the_pipe_for_too_long_is_not_taken(loop: Callable[..., Loop]) -> None:
    one = loop()
    one.until(lambda: one.source("cpu") is not None)
    sampler = one.watch._sampler
    assert sampler is not None
    old = {
        "at_ns": time.monotonic_ns() - 6_000_000_000,
        "sources": {"cpu": 1.0},
        "rates": {},
        "cpu_ms": 1,
        "warnings": [],
    }
    sampler._inbox = json.dumps(old).encode() + b"\n"
    flips = one.state["flips"]
    one.watch._take(sampler)
    assert (one.state["flips"], one.watch.rates != {}) == (flips, True)


@pytest.mark.parametrize("nonsense", [b"half of", b"5\n", b'{"at_ns": 1}\n'])
def test_a_sampler_that_says_nonsense_is_replaced(loop: Callable[..., Loop], nonsense: bytes) -> None:
    one = loop()
    one.until(lambda: one.source("cpu") is not None)
    sampler = one.watch._sampler
    assert sampler is not None
    sampler._inbox = nonsense
    one.until(lambda: one.state["sampler"]["starts"] == 2)
    one.until(lambda: one.watch.rates)


def test_what_is_asked_of_the_server_alone_ends_no_sampler(loop: Callable[..., Loop]) -> None:
    one = loop()
    one.until(lambda: one.source("cpu") is not None)
    pid = one.watch.pid
    assert pid is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, number)
    one.watch.rates = {}
    one.until(lambda: one.watch.rates)
    assert (one.watch.pid, one.said) == (pid, [])


def test_the_sampler_ends_with_a_server_that_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOST], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as host:
        assert host.stdout is not None
        sampler = psutil.Process(int(host.stdout.readline()))
        host.kill()
        sampler.wait(PATIENCE_S)


def test_closing_ends_the_sampler(loop: Callable[..., Loop]) -> None:
    one = loop()
    pid = one.watch.pid
    descriptors = len(os.listdir("/proc/self/fd"))
    one.watch.close()
    assert not alive(pid)
    assert len(os.listdir("/proc/self/fd")) == descriptors - 1

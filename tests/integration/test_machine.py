"""What is read of this machine keeps the contract that tests with made-up counters take for granted."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import IO

import pytest

from ringq.machine import Machine, family, resident_kib
from ringq.neighbours import Neighbours, Reading, own_cpu_s
from ringq.sampler import OURS

BURN = """
import sys, time
for line in sys.stdin:
    until = time.process_time() + float(line)
    while time.process_time() < until:
        pass
    print("burnt", flush=True)
"""
NESTED = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {BURN!r}]))"


@pytest.fixture(params=[BURN, NESTED], ids=["child", "grandchild"])
def burner(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A process that uses as many CPU seconds as it is told to."""
    with subprocess.Popen(
        [sys.executable, "-c", request.param], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        burn(process, 0.001)  # it has started
        yield process
        assert process.stdin is not None
        process.stdin.close()


def burn(process: subprocess.Popen[str], seconds: float) -> None:
    """Have it burn CPU seconds, however long that takes where others want the CPU too."""
    read, write = _pipes(process)
    write.write(f"{seconds}\n")
    write.flush()
    assert read.readline() == "burnt\n"


def readings(machine: Machine, process: subprocess.Popen[str], seconds: float) -> tuple[Reading, Reading]:
    before = machine.read(time.monotonic_ns())
    burn(process, seconds)
    return before, machine.read(time.monotonic_ns())


def test_what_a_child_burns_is_ours(burner: subprocess.Popen[str]) -> None:
    before, now = readings(Machine(os.getpid()), burner, 0.6)
    assert own_cpu_s(before, now) == pytest.approx(0.6, abs=0.15)
    assert now.busy_s - before.busy_s >= 0.5


def test_what_others_burn_is_not(burner: subprocess.Popen[str]) -> None:
    with subprocess.Popen([sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as ours:
        before, now = readings(Machine(ours.pid), burner, 0.6)
        assert own_cpu_s(before, now) < 0.1
        assert now.busy_s - before.busy_s >= 0.5
        neighbours = Neighbours()
        neighbours.judge(before)
        sample = neighbours.judge(now)
        assert sample is not None
        wall_s = (now.at_ns - before.at_ns) / 1e9
        assert sample.sources["cpu"] >= 0.9 * min(1.0, 0.6 / wall_s / now.cpus)


def test_what_a_dead_child_has_burnt_is_ours(burner: subprocess.Popen[str]) -> None:
    machine = Machine(os.getpid())
    before = machine.read(time.monotonic_ns())
    burn(burner, 0.5)
    assert burner.stdin is not None
    burner.stdin.close()
    burner.wait(10)
    now = machine.read(time.monotonic_ns())
    assert own_cpu_s(before, now) == pytest.approx(0.5, abs=0.2)


def test_counters_only_grow(burner: subprocess.Popen[str]) -> None:
    before, now = readings(Machine(os.getpid()), burner, 0.1)
    for name in ("at_ns", "busy_s", "quota_busy_s", "disk_read", "disk_write", "net_rx", "net_tx"):
        assert 0 <= getattr(before, name) <= getattr(now, name)
    assert before.stalls_s.keys() == now.stalls_s.keys()
    assert all(total_s <= now.stalls_s[what] for what, total_s in before.stalls_s.items())


def test_gauges_are_in_their_range(burner: subprocess.Popen[str]) -> None:
    before, now = readings(Machine(os.getpid()), burner, 0.05)
    assert 0 < now.memory < 1
    assert 1 <= now.cpus <= now.cores
    assert now.load >= 0
    assert now.waiting >= 1  # this process
    assert os.getpid() in {one.pid for one in now.own.values()}
    assert burner.pid in {one.pid for one in now.own.values()}
    neighbours = Neighbours(1e6, 1e6)
    assert neighbours.judge(before) is None
    sample = neighbours.judge(now)
    assert sample is not None
    assert sample.sources.keys() <= OURS
    assert all(0 <= value <= 1 for value in sample.sources.values())
    assert {"cpu", "load", "memory", "disk", "network"} <= sample.sources.keys()


def test_a_process_that_is_gone_has_no_family() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait(10)
    assert list(family(process.pid)) == [process.pid]
    assert resident_kib(process.pid) == 0
    assert Machine(process.pid).read(1).own == {}


def _pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    assert process.stdout is not None
    assert process.stdin is not None
    return process.stdout, process.stdin

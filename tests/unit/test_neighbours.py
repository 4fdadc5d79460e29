"""What others use of the machine, told apart from what ringq's own processes use: by counters alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ringq.neighbours import Neighbours, Process, Reading, Sample, own_cpu_s

SECOND = 1_000_000_000
START = Reading(
    at_ns=0, own={}, cpus=2, busy_s=1000.0, cores=2, load=0.0, waiting=0, memory=0.3, stalls_s={},
    disk_read=0, disk_write=0, net_rx=0, net_tx=0,
)  # fmt: skip


def own(*cpu_s: float, waited_s: float = 0.0, is_waiting: bool = False, moved: int = 0) -> dict[Any, Process]:
    """Processes of ours: the first has waited for children."""
    found = [Process(n, n, used, 0.0 if n else waited_s, is_waiting, 0 if n else moved) for n, used in enumerate(cpu_s)]
    return {(one.pid, one.began): one for one in found}


def judged(before: Reading = START, caps: tuple[float, float] = (0.0, 0.0), seconds: float = 1.0, **now: Any) -> Sample:
    """A sample of what `now` says that has changed since `before`."""
    neighbours = Neighbours(*caps)
    assert neighbours.judge(before) is None
    sample = neighbours.judge(dataclasses.replace(before, at_ns=round(seconds * SECOND), **now))
    assert sample is not None
    return sample


def cpu(others: float, ours: float) -> float:
    """The source `cpu` where others and we use so many of two CPUs."""
    before = dataclasses.replace(START, own=own(50.0))
    return judged(before, busy_s=1000.0 + others + ours, own=own(50.0 + ours)).sources["cpu"]


def test_the_first_reading_says_nothing() -> None:
    assert Neighbours().judge(START) is None


@pytest.mark.parametrize("ours", [0.0, 0.5, 1.0, 1.9, 2.0])
def test_our_own_work_is_no_pressure(ours: float) -> None:
    assert cpu(0.0, ours) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("others", "ours", "value"),
    [(2.0, 0.0, 1.0), (1.0, 0.0, 0.5), (1.0, 1.0, 1.0), (0.8, 1.2, 0.8), (0.5, 0.5, 1 / 3), (0.1, 1.9, 0.1)],
)
def test_others_are_pressure_by_their_share_of_what_we_leave(others: float, ours: float, value: float) -> None:
    assert cpu(others, ours) == pytest.approx(value)


def test_it_is_a_rate() -> None:
    assert judged(busy_s=1002.0, seconds=4.0).sources["cpu"] == pytest.approx(0.25)


def test_a_worker_that_has_died_counts_by_what_its_parent_has_waited_for() -> None:
    before = dataclasses.replace(START, own=own(10.0, 20.0, 30.0))
    now = dataclasses.replace(START, own=own(10.5, 20.0, waited_s=30.9))
    assert own_cpu_s(before, now) == pytest.approx(1.4)


def test_a_process_that_has_left_the_family_takes_away_nothing_that_others_have_used() -> None:
    before = dataclasses.replace(START, own=own(10.0, 20.0, 500.0))
    assert own_cpu_s(before, dataclasses.replace(START, own=own(10.5, 20.5))) == pytest.approx(1.0)


def test_a_new_process_counts_from_its_beginning() -> None:
    before = dataclasses.replace(START, own=own(10.0))
    assert own_cpu_s(before, dataclasses.replace(START, own=own(10.0, 0.7))) == pytest.approx(0.7)


def test_a_quota_is_what_the_machine_is_for_us() -> None:
    before = dataclasses.replace(START, cpus=64, quota=2.0, quota_busy_s=5.0)
    assert judged(before, busy_s=1001.0, quota_busy_s=6.0).sources["cpu"] == pytest.approx(0.5)


def test_a_full_machine_is_pressure_whatever_the_quota() -> None:
    before = dataclasses.replace(START, quota=1.0)
    assert judged(before, busy_s=1002.0).sources["cpu"] == 1.0


def test_memory_is_pressure_from_its_second_half_on() -> None:
    used = {share: judged(memory=share).sources["memory"] for share in (0.0, 0.5, 0.75, 0.875, 1.0)}
    assert used == {0.0: 0.0, 0.5: 0.0, 0.75: 0.5, 0.875: 0.75, 1.0: 1.0}


def test_load_is_what_others_have_waiting_for_each_core() -> None:
    assert judged(load=3.0, waiting=2).sources["load"] == 1.0
    assert judged(load=1.0, waiting=8).sources["load"] == 0.5


def test_load_of_our_own_is_none() -> None:
    busy = own(50.0, 50.0, is_waiting=True)
    assert judged(dataclasses.replace(START, own=busy), load=8.0, waiting=2).sources["load"] == 0.0


def test_load_that_is_over_is_none_though_the_average_goes_on() -> None:
    assert judged(load=7.0, waiting=0).sources["load"] == 0.0


def test_our_own_load_is_taken_off_the_average_too() -> None:
    busy = own(50.0, 50.0, is_waiting=True)
    neighbours = Neighbours()
    for second in range(300):
        reading = dataclasses.replace(START, own=busy, at_ns=second * SECOND, load=2.0, waiting=4)
        sample = neighbours.judge(reading)
    assert sample is not None
    assert sample.sources["load"] == pytest.approx(0.0, abs=0.02)


def test_rates_are_told_and_are_no_pressure_by_themselves() -> None:
    sample = judged(disk_read=10, disk_write=20, net_rx=30, net_tx=40, seconds=2)
    assert sample.rates == {"disk_read": 5, "disk_write": 10, "net_rx": 15, "net_tx": 20}
    assert not {"disk", "network"} & sample.sources.keys()


def test_rates_are_pressure_by_their_share_of_a_bandwidth() -> None:
    sources = judged(caps=(100.0, 50.0), disk_read=10, disk_write=20, net_rx=30, net_tx=40).sources
    assert (sources["disk"], sources["network"]) == (0.3, 1.0)


def test_counters_that_fall_are_no_rates() -> None:
    before = dataclasses.replace(START, net_rx=1000, busy_s=1000.0)
    sample = judged(before, caps=(0.0, 10.0), net_rx=5, busy_s=999.0)
    assert (sample.rates["net_rx"], sample.sources["network"], sample.sources["cpu"]) == (0, 0.0, 0.0)


def test_stalls_count_by_the_share_of_others() -> None:
    before = dataclasses.replace(START, own=own(50.0), stalls_s={"cpu": 7.0, "memory": 1.0})
    sample = judged(before, busy_s=1002.0, own=own(51.5), stalls_s={"cpu": 7.8, "memory": 1.4})
    assert sample.sources["psi_cpu"] == pytest.approx(0.8 * 0.25)
    assert sample.sources["psi_memory"] == pytest.approx(0.4)


def test_stalls_by_our_own_disk_writes_are_no_pressure() -> None:
    before = dataclasses.replace(START, own=own(50.0, moved=0), stalls_s={"io": 0.0})
    alone = judged(before, own=own(50.0, moved=4096), disk_write=4096, stalls_s={"io": 0.9})
    shared = judged(before, own=own(50.0, moved=4096), disk_write=16384, stalls_s={"io": 0.8})
    foreign = judged(before, disk_write=16384, stalls_s={"io": 0.8})
    assert alone.sources["psi_io"] == 0.0
    assert shared.sources["psi_io"] == pytest.approx(0.6)
    assert foreign.sources["psi_io"] == pytest.approx(0.8)


def test_without_stall_information_there_is_no_such_source() -> None:
    assert not [name for name in judged().sources if name.startswith("psi")]

"""The soft exception may come between any two bytecodes: whatever it cuts, no process and no descriptor is left."""

from __future__ import annotations

import gc
import os
import random
import signal
from collections.abc import Callable, Iterator

import psutil
import pytest

import ringq
from ringq.contrib.exec import command
from ringq.contrib.lines import program

CUTS = 300
REPLY = 'while read line; do echo "{\\"id\\": 0, \\"status\\": \\"ok\\"}"; done'

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it may come in a __del__


class Limit:
    """Raises RunTimeout some time after `arm`, once, as the run time limit does; not after `disarm`."""

    def __init__(self) -> None:
        self._is_armed = False

    def arm(self, seconds: float) -> None:
        self._is_armed = True
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def disarm(self) -> None:
        self._is_armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)

    def on_signal(self, *_: object) -> None:
        if self._is_armed:
            self._is_armed = False
            raise ringq.RunTimeout


@pytest.fixture
def limit() -> Iterator[Limit]:
    limit = Limit()
    soft = signal.signal(signal.SIGUSR2, limit.on_signal)
    alarm = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGUSR2))
    yield limit
    limit.disarm()
    signal.signal(signal.SIGALRM, alarm)
    signal.signal(signal.SIGUSR2, soft)


def cut_often(limit: Limit, call: Callable[[], object], longest_s: float) -> int:
    """How many of CUTS calls were cut, each after a time of its own."""
    cuts = 0
    chance = random.Random(7)
    for _ in range(CUTS):
        try:
            try:
                limit.arm(chance.uniform(0.00005, longest_s))
                call()
            finally:
                limit.disarm()
        except ringq.RunTimeout:
            cuts += 1
    return cuts


def left() -> tuple[int, list[psutil.Process]]:
    gc.collect()
    return len(os.listdir("/proc/self/fd")), psutil.Process().children()


def test_a_command_is_cut_anywhere(limit: Limit) -> None:
    run = command()
    run(["true"])
    before = left()
    assert cut_often(limit, lambda: run(["true"], stdin="text"), 0.003) > CUTS // 10
    assert left() == before


def test_a_program_is_cut_anywhere(limit: Limit) -> None:
    before = left()
    ask = program(["sh", "-c", REPLY])
    cuts = cut_often(limit, lambda: [ask(ringq.Context(), number=number) for number in range(100)], 0.003)
    assert cuts > CUTS // 10
    descriptors, children = left()
    new = [child for child in children if child not in before[1]]
    for child in new:
        child.kill()
        child.wait(10)
    # the last one may have been cut before or after its conversation: then program and guard live on
    assert (len(new), descriptors - before[0]) in ((0, 0), (2, 3))

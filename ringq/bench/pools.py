"""Cli: the pools that benchmarks compare with, their processes as well off on a busy machine as ringq's workers are."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterator
from multiprocessing.pool import Pool

from ringq.bench import measure
from ringq.native import set_death_signal


@contextlib.contextmanager
def pool() -> Iterator[Pool]:
    """A started `multiprocessing.Pool`, with as many processes as a benchmark's server has workers."""
    with multiprocessing.get_context("spawn").Pool(measure.WORKERS, initializer=stand_alone) as started:
        yield started


def stand_alone() -> None:
    """Begin a session in this process, as ringq's workers do; the initializer of a peer's processes.

    Linux shares the cores out by sessions first (sched_autogroup): beside strangers, two bare processes in one session
    took a fifth longer for the same work than two in sessions of their own. Ends with the thread that started it.
    """
    set_death_signal()
    os.setsid()

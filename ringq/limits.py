"""Flow: the run time limit of what runs now - soft exception, then SIGTERM, then SIGKILL."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Protocol

from ringq.berth import Berth
from ringq.config import Config
from ringq.model import Reason
from ringq.process import WorkerProcess


class Running(Protocol):
    """What the ladder needs of the ring."""

    def running(self) -> list[tuple[int, int, int, int, int, int, int, int]]: ...
    def request_cancel(self, worker: int, lease: int, reason: int, call: int = 0) -> bool: ...


def enforce(ring: Running, berths: Sequence[Berth], config: Config, now_ns: int) -> int | None:
    """Move calls over their limit up the ladder; each call of a map has a limit of its own.

    Returns the nanoseconds until the next step of any of them, None when nothing that runs has a limit.
    """
    steps_s = (0.0, config.term_grace_s, config.term_grace_s + config.kill_grace_s)
    waits = []
    for worker, _, lease, _, _, limit_ms, started_ns, call in ring.running():
        berth = berths[worker]
        if limit_ms == 0 or berth.process is None:
            continue
        over_ns = now_ns - started_ns - limit_ms * 1_000_000
        stage = berth.stage_of(lease, call)
        while stage < len(steps_s) and over_ns >= steps_s[stage] * 1e9:
            stage += 1
            berth.climb(lease, call, stage)
            _take_step(ring, berth, berth.process, lease, call)
        if stage < len(steps_s):
            waits.append(round(steps_s[stage] * 1e9) - over_ns)
    return min(waits, default=None)


def _take_step(ring: Running, berth: Berth, process: WorkerProcess, lease: int, call: int) -> None:
    if berth.stage == 1:
        if ring.request_cancel(berth.index, lease, Reason.RUN_TIMEOUT.code, call):
            process.signal(signal.SIGUSR2)
    elif berth.stage == 2:
        process.signal(signal.SIGTERM)
    else:
        process.kill()

"""Flow: the end of what runs for too long now, or was cancelled - soft exception, then SIGTERM, then SIGKILL."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Protocol

from ringq.berth import Berth
from ringq.config import CANCEL_HOOK_CALL, Config
from ringq.model import Reason
from ringq.process import WorkerProcess

NOBODY: Final[Mapping[int, int]] = MappingProxyType({})
LOOK_AGAIN_NS: Final = 20_000_000  # a chunk that was cancelled may have gone on to its next call before it saw that


class Running(Protocol):
    """What the ladder needs of the ring."""

    def running(self) -> list[tuple[int, int, int, int, int, int, int, int]]: ...
    def request_cancel(self, worker: int, lease: int, reason: int, call: int = 0) -> bool: ...


def enforce(
    ring: Running, berths: Sequence[Berth], config: Config, now_ns: int, cancelled: Mapping[int, int] = NOBODY
) -> int | None:
    """Move calls over their limit up the ladder; each call of a map has a limit of its own.

    `cancelled`: tasks that shall end, with the time since when: as if their limit had been over then. What an attempt
    does to answer that has a limit of its own, `cancel_hook_s`. Returns the nanoseconds until the next step of any of
    them, None when nothing that runs has to end.
    """
    steps_s = (0.0, config.term_grace_s, config.term_grace_s + config.kill_grace_s)
    waits = []
    for worker, task_id, lease, _, _, limit_ms, started_ns, call in ring.running():
        berth = berths[worker]
        asked_ns = cancelled.get(task_id) if cancelled else None
        if (limit_ms == 0 and asked_ns is None) or berth.process is None:
            continue
        ends_ns = [started_ns + limit_ms * 1_000_000] if limit_ms else []
        if asked_ns is not None and call == CANCEL_HOOK_CALL:
            asked_ns, ends_ns = None, [started_ns + round(config.cancel_hook_s * 1e9)]
        elif asked_ns is not None:
            ends_ns.append(asked_ns if call else max(asked_ns, started_ns))
        over_ns = now_ns - min(ends_ns)
        stage = berth.stage_of(lease, call)
        while stage < len(steps_s) and over_ns >= steps_s[stage] * 1e9:
            stage += 1
            reason = Reason.RUN_TIMEOUT if asked_ns is None else Reason.CANCELLED
            berth.climb(lease, call, stage, reason)
            _take_step(ring, berth, berth.process, lease, call, reason)
        if stage < len(steps_s):
            waits.append(round(steps_s[stage] * 1e9) - over_ns)
        if asked_ns is not None and call:
            waits.append(LOOK_AGAIN_NS)
    return min(waits, default=None)


def _take_step(ring: Running, berth: Berth, process: WorkerProcess, lease: int, call: int, reason: Reason) -> None:
    if berth.stage == 1:
        if ring.request_cancel(berth.index, lease, reason.code, call):
            process.signal(signal.SIGUSR2)
    elif berth.stage == 2:
        process.signal(signal.SIGTERM)
    else:
        process.kill()

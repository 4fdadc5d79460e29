"""Flow: the end of what runs for too long, holds too much memory, was cancelled or makes room for others: soft
exception, SIGTERM, SIGKILL.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Protocol

from ringq.berth import Berth
from ringq.bounds import FREE, NOTHING, Bounds
from ringq.config import CANCEL_HOOK_CALL, Config
from ringq.lifecycle import STOPS
from ringq.model import Reason
from ringq.process import WorkerProcess
from ringq.stops import Stop, Stops

NOBODY: Final[Mapping[int, int]] = MappingProxyType({})
STEPS: Final = 3
End = tuple[tuple[int, int, int], Reason]  # the times of the steps of the ladder, and what for
NEVER_NS: Final = 1 << 62
NEVER: Final[End] = ((0, 0, 0), Reason.NONE)
LOOK_AGAIN_NS: Final = 20_000_000  # a chunk that was cancelled may have gone on to its next call before it saw that


class Running(Protocol):
    """What the ladder needs of the ring."""

    def running(self) -> list[tuple[int, int, int, int, int, int, int, int]]: ...
    def request_cancel(self, worker: int, lease: int, reason: int, call: int = 0) -> bool: ...


def enforce(
    ring: Running, berths: Sequence[Berth], config: Config, now_ns: int, cancelled: Mapping[int, int] = NOBODY,
    bounds: Bounds | None = None, stops: Stops | None = None,
) -> int | None:  # fmt: skip
    """Move calls over their limit up the ladder; each call of a map has a limit of its own.

    `cancelled`: tasks that shall end, with the time since when: as if their limit had been over then. What an attempt
    does to answer that has a limit of its own, `cancel_hook_s`. `bounds`: who knows the other limits. `stops`: who
    shall begin anew later: of no cancelled task. Returns the nanoseconds until the next step of any of them, None when
    nothing that runs has to end.
    """
    waits: list[int] = []
    stops = stops or None  # asked once, not for each worker
    rows = ring.running()
    found = NOTHING if bounds is None else bounds.look(rows, berths, now_ns, waits)
    for worker, task_id, lease, _, _, limit_ms, started_ns, call in rows:
        berth = berths[worker]
        bound = found.get(lease, FREE) if found else FREE
        asked_ns = cancelled.get(task_id) if cancelled else None
        stop = stops.get(task_id) if stops is not None and asked_ns is None else None
        if (limit_ms == 0 and asked_ns is None and bound is FREE and stop is None) or berth.process is None:
            continue
        graces_s = config.term_grace_s if bound.kill_after_s is None else bound.kill_after_s, config.kill_grace_s
        ends = [_end(started_ns + limit_ms * 1_000_000, graces_s, Reason.RUN_TIMEOUT)] if limit_ms else []
        if bound.ends_ns is not None:
            ends.append(_end(bound.ends_ns, graces_s, Reason.TOTAL_TIMEOUT))
        if asked_ns is not None and call == CANCEL_HOOK_CALL:
            asked_ns, hook_ns = None, started_ns + round(config.cancel_hook_s * 1e9)
            ends = [_end(hook_ns, graces_s, Reason.RUN_TIMEOUT)]
        elif asked_ns is not None:
            ends.append(_end(asked_ns if call else max(asked_ns, started_ns), graces_s, Reason.CANCELLED))
        if bound.over_ns is not None:  # not as long: it may grow on
            ends.append(_end(bound.over_ns, (config.kill_grace_s, config.kill_grace_s), Reason.MEMORY_LIMIT))
        if stop is not None and (berth.is_stopped_by_force(lease, call) or not _is_over(ends, now_ns)):
            waits += [times[0] - now_ns for times, _ in ends if times[0] > now_ns]
            ends = [_stop_end(stop, stop.since_ns if call else max(stop.since_ns, started_ns), config)]
        steps_ns = [min(times[number] for times, _ in ends) for number in range(STEPS)] if ends else []
        reason = Reason.CANCELLED if asked_ns is not None else min(ends, default=NEVER)[1]
        # A stop may be ignored: whatever ends the task is told all the same.
        stage = 0 if reason not in STOPS and berth.is_only_asked(lease, call) else berth.stage_of(lease, call)
        while stage < len(steps_ns) and now_ns >= steps_ns[stage]:
            stage += 1
            berth.climb(lease, call, stage, reason)
            _take_step(ring, berth, berth.process, lease, call, reason)
        if stage < len(steps_ns) and steps_ns[stage] < NEVER_NS:
            waits.append(steps_ns[stage] - now_ns)
        if call and (asked_ns is not None or stop is not None):
            waits.append(LOOK_AGAIN_NS)
    return min(waits, default=None)


def _is_over(ends: Sequence[End], now_ns: int) -> bool:
    return any(now_ns >= times[0] for times, _ in ends)


def _stop_end(stop: Stop, since_ns: int, config: Config) -> End:
    """The ladder of a stop: that of a pause has no second step."""
    if stop.reason is Reason.PAUSED:
        return (since_ns, NEVER_NS, NEVER_NS), stop.reason
    return _end(since_ns, (config.preempt_grace_s, config.kill_grace_s), stop.reason)


def _end(since_ns: int, graces_s: tuple[float, float], reason: Reason) -> End:
    """When each step of the ladder is due for a limit that is over since an instant."""
    term_ns = since_ns + round(graces_s[0] * 1e9)
    return (since_ns, term_ns, term_ns + round(graces_s[1] * 1e9)), reason


def _take_step(ring: Running, berth: Berth, process: WorkerProcess, lease: int, call: int, reason: Reason) -> None:
    if berth.stage == 1:
        if ring.request_cancel(berth.index, lease, reason.code, call):
            process.signal(signal.SIGUSR2)
    elif berth.stage == 2:
        process.signal(signal.SIGTERM)
    else:
        process.kill()

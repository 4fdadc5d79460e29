"""Values: how far running attempts are - what they have shown of it, how fast they go, when they may be done. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

# (worker, task_id, lease, kind, attempt, since_ns, fraction, said_ns, message, bytes_done, bytes_total), as
# `ring.Parent.progress` gives it
Shown = tuple[int, int, int, int, int, int, float | None, int, str, int, int | None]

ROW: Final = struct.Struct("<IIIIqQQQdQQ64s")
"""The same as `ring.Parent.packed_progress` gives it: in another order, and what is not there is all ones, or 0 ns."""
BYTES_UNKNOWN: Final = 2**64 - 1

ALPHA: Final = 0.3  # the share of the newest sample in a throughput
SAMPLE_NS_MIN: Final = 10_000_000
SILENT_NS: Final = 1_000_000_000
"""Who has said nothing for so long is taken to go on as fast as it and its kind did."""
ESTIMATE_MAX: Final = 0.99


@dataclass(frozen=True, slots=True)
class TaskProgress:
    """How far a running task is.

    Attributes: `task_id`, `kind`, and its `label`, which is the kind if nobody has given it another; `lease`,
    `attempt` and `worker`, of the attempt that runs. `fraction`, 0.0 to 1.0: what the handler has said, or the share
    of its bytes if it said those alone; if it is silent for more than a second, or has said nothing at all, it is
    estimated from how long tasks of its kind take, and `is_estimated` is true; None if nothing is known. `message`,
    the latest, or empty. `bytes_done`; `bytes_total`, None if the handler has not said it. `throughput_bps`, bytes per
    second, averaged over the last second or so. `eta_s`, seconds that are left, None if nobody can tell. `elapsed_s`,
    since when the attempt runs.
    """

    task_id: int
    kind: str
    label: str
    lease: int
    attempt: int
    worker: int
    fraction: float | None
    is_estimated: bool
    message: str
    bytes_done: int
    bytes_total: int | None
    throughput_bps: float
    eta_s: float | None
    elapsed_s: float


class Throughput:
    """Bytes per second of one attempt, as a moving average.

    Attributes: `bps`. The first sample gives 0.0; while nothing is added it decays.
    """

    def __init__(self) -> None:
        self.bps = 0.0
        self._bytes = 0
        self._at_ns: int | None = None

    def sample(self, bytes_done: int, now_ns: int) -> None:
        """So many bytes are done now. What comes less than 10 ms after the last sample is left to the next one."""
        if self._at_ns is not None:
            span_ns = now_ns - self._at_ns
            if span_ns < SAMPLE_NS_MIN:
                return
            # a handler may set its count back: that is no speed
            self.bps += ALPHA * (max(0, bytes_done - self._bytes) * 1e9 / span_ns - self.bps)
        self._bytes, self._at_ns = bytes_done, now_ns


def unpacked(rows: bytes) -> Iterator[Shown]:
    """What lies in the bytes. Raises struct.error if these are no whole rows."""
    for worker, kind, attempt, size, task_id, lease, since_ns, said_ns, fraction, done, total, text in ROW.iter_unpack(
        rows
    ):
        yield (
            *(worker, task_id, lease, kind, attempt, since_ns, fraction if said_ns else None, said_ns),
            *(text[:size].decode("utf-8", "replace"), done, None if total == BYTES_UNKNOWN else total),
        )


def progress_of(
    shown: Shown, now_ns: int, kind: str, usual_s: float | None, *, label: str | None, bps: float
) -> TaskProgress:
    """What is known of an attempt at this instant. `usual_s`: how long completed tasks of its kind took, None if there
    were none; `bps`: its throughput.
    """
    worker, task_id, lease, _, attempt, since_ns, _, _, message, done, total = shown
    elapsed_s = max(0, now_ns - since_ns) / 1e9
    fraction, is_estimated = _fraction(shown, now_ns, elapsed_s, usual_s)
    if total is not None and total > done and bps > 0:
        eta_s: float | None = (total - done) / bps
    else:
        eta_s = _left_s(fraction, elapsed_s, usual_s)
    return TaskProgress(
        task_id,
        kind,
        label or kind,
        lease,
        attempt,
        worker,
        fraction,
        is_estimated,
        message,
        done,
        total,
        bps,
        eta_s,
        elapsed_s,
    )


def share(done: float, total: float) -> float:
    """Which part of `total` is done, 0.0 to 1.0; of nothing everything is."""
    return 1.0 if total <= 0 else min(1.0, max(0.0, done / total))


def _fraction(shown: Shown, now_ns: int, elapsed_s: float, usual_s: float | None) -> tuple[float | None, bool]:
    """How far it is, and whether that is an estimate."""
    since_ns, said, said_ns, done, total = shown[5], shown[6], shown[7], shown[9], shown[10]
    if said is None and total is not None:
        return share(done, total), False
    if not usual_s:
        return said, False
    if said is None:
        return min(ESTIMATE_MAX, elapsed_s / usual_s), True
    silent_ns = now_ns - said_ns
    if silent_ns <= SILENT_NS or said >= ESTIMATE_MAX:
        return said, False
    own_rate = said / max(1e-9, (said_ns - since_ns) / 1e9)
    rate = (1 / usual_s + own_rate) / 2
    return min(ESTIMATE_MAX, said + rate * silent_ns / 1e9), True


def _left_s(fraction: float | None, elapsed_s: float, usual_s: float | None) -> float | None:
    if fraction:
        return elapsed_s * (1 - fraction) / fraction
    return max(0.0, usual_s - elapsed_s) if usual_s else None

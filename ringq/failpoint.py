"""Values: named points where a test may kill, stop or delay the process; inert unless armed.

Armed by `RINGQ_FAILPOINT=name=action[:n]` in the environment of `serve` (workers inherit it): on the n-th
passing of `name` (default the first) the process is killed (`kill`), stopped (`stop`), or raises (`raise`).
"""

from __future__ import annotations

import os
import signal

GRAPH = frozenset(  # passed only where tasks belong together, or wait for somebody outside
    {
        "graph.linked",
        "graph.spawned",
        "graph.waiting",
        "graph.resolved",
        "graph.released",
        "graph.finalizing",
        "graph.finalized",
        "graph.cancelled",
        "callback.opened",
        "callback.parked",
        "callback.resolved",
        "callback.lapsed",
        "kin.spawned_at_once",
        "kin.called_back",
        "kin.finalizing",
        "kin.finalized",
    }
)
NAMES = GRAPH | frozenset(
    {
        "start.epoch_committed",
        "start.orphans_gone",
        "start.segment_adopted",
        "writer.after_slice",
        "writer.before_commit",
        "writer.after_commit",
        "writer.after_free",
        "writer.after_reply",
        "dispatch.before_publish",
        "dispatch.after_publish",
        "pool.after_death",
        "worker.claimed",
        "worker.running",
        "worker.before_receipt",
        "worker.after_receipt",
    }
)

_armed: str | None = None
_action = ""
_countdown = 0


def arm(text: str | None) -> None:
    """Arm one failpoint from its text, or disarm with None. Raises ValueError for an unknown name or action."""
    global _armed, _action, _countdown  # noqa: PLW0603 - one process-wide switch, read on every hit
    if not text:
        _armed = None
        return
    name, _, rest = text.partition("=")
    action, _, count = rest.partition(":")
    if name not in NAMES or action not in ("kill", "stop", "raise"):
        raise ValueError(f"RINGQ_FAILPOINT: expected name=kill|stop|raise[:n] with a known name, got {text!r}")
    _armed, _action, _countdown = name, action, int(count or 1)


def is_armed() -> bool:
    """Whether any point does anything: where 40 ns count, `hit` is only called then."""
    return _armed is not None


def hit(name: str) -> None:
    """Pass the point `name`."""
    if _armed is not None and name == _armed:
        _fire()


def _fire() -> None:
    global _countdown  # noqa: PLW0603
    _countdown -= 1
    if _countdown != 0:
        return
    if _action == "raise":
        raise RuntimeError(f"failpoint {_armed}")
    os.kill(os.getpid(), signal.SIGKILL if _action == "kill" else signal.SIGSTOP)

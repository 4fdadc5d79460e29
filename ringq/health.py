"""Face: the server's state in one answer."""

from __future__ import annotations

import json
import os
from typing import Any

from ringq.admission import DEFAULT_QUEUE
from ringq.backlog import Backlog
from ringq.berth import Berth
from ringq.clock import Clock
from ringq.config import Config
from ringq.dispatch import Dispatcher
from ringq.pool import Pool
from ringq.progress import Shown
from ringq.ring import Parent
from ringq.version import VERSION
from ringq.writer import Writer


def describe(
    config: Config, clock: Clock, ring: Parent, pool: Pool, backlog: Backlog, dispatcher: Dispatcher, writer: Writer,
    **state: Any,
) -> str:  # fmt: skip
    """The state as JSON; `state` is what the supervisor alone knows."""
    now_ns = clock.monotonic_ns()
    running = {row[0]: row for row in ring.running()}
    shown = {row[0]: row for row in ring.progress()}
    return json.dumps(
        {
            "version": VERSION,
            "pid": os.getpid(),
            "database": os.fsencode(config.database).decode(errors="replace"),
            "durability": config.durability,
            "queues": [name for name, _ in config.queues],
            "default_queue": dict(config.defaults).get("queue", DEFAULT_QUEUE),
            "drain_timeout_s": config.drain_timeout_s,
            **state,
            "pending": len(backlog) + len(dispatcher.stranded) + ring.ready(),
            "without_handler": len(dispatcher.stranded),
            "in_flight": ring.in_flight(),
            "workers": [
                _worker(berth, ring, running.get(berth.index), shown.get(berth.index), now_ns)
                for berth in pool.berths
                if berth.is_kept or berth.process is not None
            ],
            "worker_deaths": pool.deaths,
            "reloading": pool.rotation.is_reloading,
            "reloads": pool.rotation.reloads,
            "reloads_begun": pool.rotation.generation,
            "reload_error": pool.rotation.reload_error,
            "recycled": pool.rotation.recycled,
            "lookahead_ms": dispatcher.lookahead_ms,
            "closed_queues": dispatcher.gate.closed,
            "refusals": dict(dispatcher.gate.refusals),
            "writer": writer.statistics,
            "ring": ring.statistics(),
        }
    )


def _worker(
    berth: Berth, ring: Parent, running: tuple[int, ...] | None, shown: Shown | None, now_ns: int
) -> dict[str, object]:
    fraction, message = (shown[6] or 0.0, shown[8]) if running and shown and shown[2] == running[2] else (0.0, "")
    seen_ns = ring.heartbeat_ns(berth.index)
    return {
        "index": berth.index,
        "label": berth.label or None,
        "pid": berth.process.pid if berth.process else None,
        "ready": berth.takes_tasks,
        "leaving": berth.is_leaving,
        "seen_s": (now_ns - seen_ns) / 1e9 if seen_ns else None,
        "task_id": running[1] if running else None,
        "running_s": (now_ns - running[6]) / 1e9 if running else None,
        "progress": fraction,
        "message": message,
    }

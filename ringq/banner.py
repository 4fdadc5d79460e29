"""Flow: the words with which serving begins - what is served, how, and what one does next."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

from ringq import log
from ringq.config import Config
from ringq.version import VERSION


def greet(config: Config, kinds: Sequence[str], pending: int) -> None:
    """Say that clients may come: the kinds they can submit, and the tasks that wait already."""
    queues = ",".join(name if cap is None else f"{name}:{cap}" for name, cap in config.queues)
    submit = ["ringq", "submit", next(iter(kinds), "KIND"), "--payload", "{...}", "--db", str(config.database)]
    log.announce(
        [
            f"ringq {VERSION} serves {config.database} with {config.worker_count} workers: "
            f"{len(kinds)} kinds, {pending} tasks pending (pid {os.getpid()})",
            f"  app {config.app}, queues {queues or 'all'}, durability {config.durability}",
            f"  submit: {shlex.join(submit)}",
            f"  stop: Ctrl-C or kill -TERM {os.getpid()}; running tasks get {config.drain_timeout_s:g} s to end",
        ],
        version=VERSION,
        database=config.database,
        app=config.app,
        workers=config.worker_count,
        queues=queues,
        durability=config.durability,
        kinds=len(kinds),
        pending=pending,
        pid=os.getpid(),
    )

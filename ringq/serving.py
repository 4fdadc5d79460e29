"""Face: what `ringq serve` runs - the lock, the database, a supervisor; another one if the App decides its settings."""

from __future__ import annotations

import contextlib
import gc
import os
import signal

from ringq import failpoint, log
from ringq.clock import SystemClock
from ringq.config import Config, check_socket_path, socket_path
from ringq.launch import prepare_runtime_dir
from ringq.log import say
from ringq.notify import ServiceSocket
from ringq.orphans import inherits_orphans
from ringq.reload import check_installed
from ringq.signals import SignalInbox
from ringq.store import OwnerLock, Store
from ringq.supervisor import EXIT_INTERNAL, Supervisor

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)


def serve(config: Config) -> int:
    """Run a server until it is told to stop. Returns its exit code.

    Raises a RingqError (AlreadyServed, NotADatabase, CannotCreate, CannotStart, AppImportError …) when it cannot start.
    """
    log.configure(format=config.log_format, quiet=config.quiet)
    failpoint.arm(os.environ.get("RINGQ_FAILPOINT"))
    umask = os.umask(0o077)  # for everything of ringq's own; handlers get theirs back
    if config.reload:
        check_installed()
    # Rows are tuples of numbers and text and form no cycles; collecting them again and again took 10 % of the loop.
    gc.set_threshold(200_000, 20, 50)
    with (
        OwnerLock.obtain(config.database),
        SignalInbox(SIGNALS if inherits_orphans() else SIGNALS[:-1]) as signals,
        contextlib.closing(ServiceSocket()) as service,
    ):
        outcome = _serve(config, signals, service, umask)
        if isinstance(outcome, Config):
            outcome = _serve(outcome, signals, service, umask)
        return outcome if isinstance(outcome, int) else EXIT_INTERNAL  # what the App decides it decides once


def _serve(config: Config, signals: SignalInbox, service: ServiceSocket, umask: int) -> int | Config:
    """The exit code; or the settings to start again with, because the App decides some that nobody gave.

    The parent learns them from its first worker, never by an import of its own: an App that decides nothing costs
    nothing, and one that does costs an import. A signal that comes in between is taken by the second start.
    """
    with Store.open(config.database, durability=config.durability, say=say) as store:
        prepare_runtime_dir(config)
        check_socket_path(socket_path(config.database))
        supervisor = Supervisor(config, store, SystemClock(), signals, service, umask)
        try:
            return supervisor.run()
        finally:
            supervisor.close()

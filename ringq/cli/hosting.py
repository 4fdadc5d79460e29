"""Cli: the server of `ringq map` - one that runs, else one of its own for as long as the map takes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final, Literal

import click

from ringq import Server, connect
from ringq.admission import DEFAULT_QUEUE
from ringq.cli.options import nearest
from ringq.errors import AlreadyServed, InvalidConfig, InvalidOption, ServerUnavailable, UnknownKind
from ringq.settings import SETTINGS, project

LOOK_S: Final = 0.05
STARTS_S: Final = 60.0  # for which a server that owns the database and does not answer is waited for


class Host:
    """Has a server for one kind. Attributes: `client`, of the database, whoever serves it."""

    def __init__(
        self, database: Path, kind: str, queue: str | None, target: str | None, workers: int | None
    ) -> None:  # fmt: skip
        """Asks nobody yet. `queue` in which its tasks wait, None if the server decides, or who knows; `target` by which
        workers import it, None if not known.
        """
        self.client = connect(database)
        self._kind = kind
        self._queue = queue
        self._target = target
        self._workers: int | Literal["auto"] | None = "auto" if workers == 0 else workers
        self._server: Server | None = None

    def find(self) -> None:
        """Find the server or start one; again, when it is gone.

        Raises UnknownKind if the one that runs does not know the kind, InvalidOption if it does not serve the queue,
        ServerUnavailable if none runs and none can be started, and what `ringq.Server` raises.
        """
        self._stop()
        patience_until = time.monotonic() + STARTS_S
        while not self._is_served():
            if self._target is None:
                raise ServerUnavailable(
                    f"no server runs for {self.client.database}: start one that has {self._kind} with `ringq serve`, "
                    "or name the task as module:task"
                )
            # Of the map's queue alone: which queues this project's servers serve is said for the others.
            queues = [self._queue or _default_queue()]
            server = Server(self._target, self.client.database, workers=self._workers, queues=queues)
            try:
                server.start()
            except AlreadyServed:  # by one that begins or ends at this moment
                if time.monotonic() >= patience_until:
                    raise
                time.sleep(LOOK_S)
            else:
                self._server = server
                return

    def close(self) -> None:
        """End the server that was started here, after the calls that run."""
        self.client.close()
        self._stop()

    def _stop(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None

    def _is_served(self) -> bool:
        """Whether a server answers. One that is stopping, as after the death of an earlier map, is waited for."""
        is_told = False
        while True:
            probe = connect(self.client.database, reconnect=0)
            try:
                health = probe.health()
            except ServerUnavailable as error:
                if isinstance(error.__cause__, PermissionError):
                    raise
                return False
            finally:
                probe.close()
            if not health["stopping"]:
                break
            if not is_told:
                click.echo(f"ringq: waiting for the server that is stopping (pid {health['pid']})", err=True)
                is_told = True
            time.sleep(LOOK_S)
        if self._kind not in health["kinds"]:
            raise UnknownKind(
                f"the server of {self.client.database} (pid {health['pid']}) does not know {self._kind}"
                f"{nearest(self._kind, health['kinds'])}: stop it, so that one is started here, or use another database"
            )
        queue = self._queue or (None if self._target is None else health["default_queue"])
        if queue is not None and health["queues"] and queue not in health["queues"]:
            raise InvalidOption(
                f"the server of {self.client.database} (pid {health['pid']}) does not serve queue {queue}, "
                f"only {', '.join(health['queues'])}: name one of these with --queue, or stop it, so that one is "
                "started here"
            )
        return True


def _default_queue() -> str:
    """Where a server that is started here puts tasks for which nobody else says; what is wrong, it tells itself."""
    setting = SETTINGS["defaults"]
    try:
        written = os.environ.get(setting.variable)
        found = project() if written is None else None
        said = setting.read(written) if written is not None else found.values.get("defaults", ()) if found else ()
    except (ValueError, InvalidConfig):
        said = ()
    return str(dict(said).get("queue", DEFAULT_QUEUE))

"""Cli: `ringq reload` - HUP to the running server, and the word when its workers have the new code."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ringq.cli import exit_codes, options, printing
from ringq.errors import ServerStopping, ServerUnavailable, WaitTimeout

if TYPE_CHECKING:
    from ringq.client import Client

LOOK_S: Final = 0.05
TELL_S: Final = 2.0  # a reload that is held up longer by a task says so


@click.command()
@options.database
@click.option("--timeout", type=options.span, metavar="SPAN", help="Give up waiting after e.g. 30s, exit code 124.")
@options.as_json("one JSON document")
def reload(database: Path, timeout: float | None, as_json: bool) -> int:
    """Replace the workers of the running server, one by one, by ones that import the app anew; wait for the last.

    The same as sending HUP to the server. No running task is interrupted: a worker leaves after its task. Code that
    cannot be imported changes nothing: exit code 1. When no server runs, the exit code is 69. Ctrl-C and --timeout end
    the waiting only.
    """
    import ringq

    with ringq.connect(database, reconnect=0) as client:
        began = time.monotonic()
        health = _finished(client, _ask(client), began, timeout)
    took_s, error = time.monotonic() - began, health["reload_error"]
    workers = sum(worker["ready"] for worker in health["workers"])
    if as_json:
        printing.document({"reloaded": error is None, "workers": workers, "took_s": took_s, "error": error})
    elif error is None:
        click.echo(f"reloaded {workers} worker{'' if workers == 1 else 's'} in {took_s:.1f} s")
    else:
        click.echo(f"ringq: reload failed: {printing.visible(error)}", err=True)
    return exit_codes.OK if error is None else exit_codes.NO


def _ask(client: Client) -> dict[str, Any]:
    """Send HUP; the server's health before."""
    from ringq.store.lock import server_pid

    health = client.health()
    if health["stopping"]:
        raise ServerStopping(f"the server is stopping (pid {health['pid']}): the next one has the new code anyway")
    # Seen from another container, the number that the server has for itself may be that of any process.
    if server_pid(client.database) != health["pid"]:
        raise ServerUnavailable(
            f"the server of {client.database} cannot be signalled from here: its pid {health['pid']} is another "
            "container's or another user's: run `ringq reload` where the server runs"
        )
    os.kill(health["pid"], signal.SIGHUP)
    return health


def _finished(client: Client, before: dict[str, Any], began: float, timeout: float | None) -> dict[str, Any]:
    """Wait until a reload that began after `before` is over; the server's health then."""
    is_told = False
    while True:
        health = client.health()
        if health["stopping"] or health["pid"] != before["pid"]:
            raise ServerStopping("the server stops before the reload is over: the next one has the new code anyway")
        if health["reloads_begun"] > before["reloads_begun"] and not health["reloading"]:
            return health
        waited_s = time.monotonic() - began
        if timeout is not None and waited_s >= timeout:
            raise WaitTimeout(f"the reload is not over after {timeout:g} s; it goes on{_hold_up(health)}")
        if waited_s >= TELL_S and not is_told and (why := _hold_up(health)):
            click.echo(f"ringq: the reload goes on{why}", err=True)
            is_told = True
        time.sleep(LOOK_S)


def _hold_up(health: dict[str, Any]) -> str:
    """Which task the next worker waits for, as the end of a sentence; nothing if that is not what takes so long."""
    leaving = (worker for worker in health["workers"] if worker["leaving"] and worker["task_id"] is not None)
    return next((f": worker {one['index']} leaves when task {one['task_id']} has ended" for one in leaving), "")

"""Cli: `ringq server show`, `pause`, `resume` and `set`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from ringq.cli import controls, options


@click.group()
def server() -> None:
    """Limit and pause everything, and look at it. Holds at once and over restarts; needs no server."""


@server.command()
@options.database
@options.as_json("one JSON document")
def show(database: Path, as_json: bool) -> None:
    """Show whether everything is paused, the limit of all tasks, and how many wait and run."""
    controls.show(database, "server", "", as_json)


@server.command()
@controls.pausing
@controls.told
def pause(until: str | None, running: Literal["stop", "finish"], database: Path, as_json: bool) -> None:
    """Start no more tasks; submissions are taken."""
    controls.pause(database, "server", "", until, running)
    controls.tell(database, "server", "", as_json)


@server.command()
@controls.told
def resume(database: Path, as_json: bool) -> None:
    """Start tasks again, but for those of what was paused by itself."""
    controls.resume(database, "server", "")
    controls.tell(database, "server", "", as_json)


@server.command("set")
@controls.limit
@controls.told
def set_(database: Path, as_json: bool, **given: str | None) -> None:
    """Say how many tasks run at a time altogether; `none` takes it back."""
    said = controls.settings(given)
    with controls.connected(database) as client:
        client.set_server(**said)
    controls.tell(database, "server", "", as_json)

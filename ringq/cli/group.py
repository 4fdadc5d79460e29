"""Cli: `ringq group list`, `show`, `pause`, `resume` and `set`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from ringq.cli import controls, options


@click.group()
def group() -> None:
    """Say how tasks of groups share the workers, and look at it. Holds at once and over restarts; needs no server."""


@group.command("list")
@options.database
@options.as_json("NDJSON, one line per group")
def list_(database: Path, as_json: bool) -> None:
    """List the groups of which something was said."""
    controls.list_all(database, "group", as_json)


@group.command()
@controls.name
@options.database
@options.as_json("one JSON document")
def show(name: str, database: Path, as_json: bool) -> None:
    """Show what was said of group NAME, and how many of its tasks wait and run."""
    controls.show(database, "group", name, as_json)


@group.command()
@controls.name
@controls.pausing
@controls.told
def pause(name: str, until: str | None, running: Literal["stop", "finish"], database: Path, as_json: bool) -> None:
    """Start no more tasks of group NAME; submissions are taken."""
    controls.pause(database, "group", name, until, running)
    controls.tell(database, "group", name, as_json)


@group.command()
@controls.name
@controls.told
def resume(name: str, database: Path, as_json: bool) -> None:
    """Start tasks of group NAME again."""
    controls.resume(database, "group", name)
    controls.tell(database, "group", name, as_json)


@group.command("set")
@controls.name
@controls.limit
@click.option("--weight", metavar="W|none", help="Its part of the workers beside other groups; 1 if nobody says.")
@click.option("--min-slots", metavar="N|none", help="So many of its tasks may run whatever the weights.")
@controls.told
def set_(name: str, database: Path, as_json: bool, **given: str | None) -> None:
    """Say something of group NAME; `none` takes it back."""
    said = controls.settings(given)
    with controls.connected(database) as client:
        client.set_group(name, **said)
    controls.tell(database, "group", name, as_json)

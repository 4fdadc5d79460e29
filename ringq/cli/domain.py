"""Cli: `ringq domain list`, `show`, `pause`, `resume` and `set`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from ringq.cli import controls, options


@click.group()
def domain() -> None:
    """Limit and pause the kinds of a domain, and look at it. Holds at once and over restarts; needs no server."""


@domain.command("list")
@options.database
@options.as_json("NDJSON, one line per domain")
def list_(database: Path, as_json: bool) -> None:
    """List the domains of which something was said, here or in the code."""
    controls.list_all(database, "domain", as_json)


@domain.command()
@controls.name
@options.database
@options.as_json("one JSON document")
def show(name: str, database: Path, as_json: bool) -> None:
    """Show what was said of domain NAME, and how many of its tasks wait and run."""
    controls.show(database, "domain", name, as_json)


@domain.command()
@controls.name
@controls.pausing
@controls.told
def pause(name: str, until: str | None, running: Literal["stop", "finish"], database: Path, as_json: bool) -> None:
    """Start no more tasks of domain NAME; submissions are taken."""
    controls.pause(database, "domain", name, until, running)
    controls.tell(database, "domain", name, as_json)


@domain.command()
@controls.name
@controls.told
def resume(name: str, database: Path, as_json: bool) -> None:
    """Start tasks of domain NAME again."""
    controls.resume(database, "domain", name)
    controls.tell(database, "domain", name, as_json)


@domain.command("set")
@controls.name
@controls.limit
@controls.told
def set_(name: str, database: Path, as_json: bool, **given: str | None) -> None:
    """Say how many tasks of domain NAME run at a time; with `none` the code decides again."""
    said = controls.settings(given)
    with controls.connected(database) as client:
        client.set_domain(name, **said)
    controls.tell(database, "domain", name, as_json)

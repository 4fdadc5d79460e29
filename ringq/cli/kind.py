"""Cli: `ringq kind list`, `show` and `set`."""

from __future__ import annotations

from pathlib import Path

import click

from ringq.cli import controls, options


@click.group()
def kind() -> None:
    """Limit tasks of a kind, and look at it. Holds at once and over restarts; needs no server."""


@kind.command("list")
@options.database
@options.as_json("NDJSON, one line per kind")
def list_(database: Path, as_json: bool) -> None:
    """List the kinds of which something was said, here or in the code."""
    controls.list_all(database, "kind", as_json)


@kind.command()
@controls.name
@options.database
@options.as_json("one JSON document")
def show(name: str, database: Path, as_json: bool) -> None:
    """Show what was said of kind NAME (`domain::name`), and how many of its tasks wait and run."""
    controls.show(database, "kind", name, as_json)


@kind.command("set")
@controls.name
@controls.limit
@controls.told
def set_(name: str, database: Path, as_json: bool, **given: str | None) -> None:
    """Say how many tasks of kind NAME (`domain::name`) run at a time; with `none` the code decides again."""
    said = controls.settings(given)
    with controls.connected(database) as client:
        client.set_kind(name, **said)
    controls.tell(database, "kind", name, as_json)

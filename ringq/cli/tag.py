"""Cli: `ringq tag keys`, `values`, `count` and `tasks`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ringq.cli import filters, options, printing

if TYPE_CHECKING:
    from ringq.active_tags import ActiveTags

F = TypeVar("F", bound=Callable[..., Any])

_domain = click.option("--domain", help="Only tasks of this domain.")
STATUSES = ("pending", "running", "paused", "waiting", "blocked")


def _which(command: F) -> F:
    for decorate in (
        click.option("--status", type=click.Choice(STATUSES), help="Only this status."),
        _domain,
        click.option("--prefix", metavar="TEXT", help="With a tag whose key begins so."),
        filters.tag,
        options.database,
    ):
        command = decorate(command)
    return command


@click.group()
def tag() -> None:
    """Look at the tags of tasks that have not ended. Needs no server.

    Keys and prefixes are compared as they are: % and _ mean themselves.
    """


@tag.command()
@options.database
@click.option("--prefix", metavar="TEXT", default="", help="Only keys that begin so.")
@_domain
@options.as_json("NDJSON, one line per key")
def keys(database: Path, prefix: str, domain: str | None, as_json: bool) -> None:
    """List the keys of tags, in order."""
    found = _tags(database, domain).keys(prefix)
    if as_json:
        printing.lines({"key": key} for key in found)
    else:
        printing.table(["key"], ([key] for key in found))


@tag.command()
@click.argument("key")
@options.database
@_domain
@options.as_json("NDJSON, one line per value")
def values(key: str, database: Path, domain: str | None, as_json: bool) -> None:
    """List the values that tag KEY has, with the number of tasks, the most frequent first."""
    found = _tags(database, domain).values(key)
    if as_json:
        printing.lines({"value": value, "tasks": count} for value, count in found.items())
    else:
        printing.table(["value", "tasks"], found.items(), right=["tasks"])


@tag.command()
@_which
@options.as_json("one JSON document")
def count(database: Path, domain: str | None, as_json: bool, **which: Any) -> None:
    """Count the tasks that have all of what is given; of one domain, all of its tasks if nothing else is."""
    _check(domain, which)
    found = _tags(database, domain).count(**which)
    if as_json:
        printing.document({"tasks": found})
    else:
        click.echo(found)


@tag.command()
@_which
@options.as_json("NDJSON, one line per task")
def tasks(database: Path, domain: str | None, as_json: bool, **which: Any) -> None:
    """List the ids of these tasks, in order; `ringq task list --tag` shows more of them."""
    _check(domain, which)
    found = _tags(database, domain).tasks(**which)
    if as_json:
        printing.lines({"id": task_id} for task_id in found)
    else:
        for task_id in found:
            click.echo(task_id)


def _check(domain: str | None, which: dict[str, Any]) -> None:
    if domain is None and which["tags"] is None and which["prefix"] is None:
        raise click.UsageError("say which tasks: --tag KEY=VALUE or --prefix TEXT, or --domain for all of one")


def _tags(database: Path, domain: str | None) -> ActiveTags:
    from ringq.query import Query

    tags = Query(database).active_tags
    return tags if domain is None else tags.of(domain)

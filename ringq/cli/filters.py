"""Cli: the options that say which tasks are meant, for every verb with one wording."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from ringq.cli import options

F = TypeVar("F", bound=Callable[..., Any])

NAMES = (
    *("kind", "domain", "kind_prefix", "queue", "group", "key", "tags", "tag_prefix"),
    *("submitted_before", "submitted_after"),
)


def which(command: F) -> F:
    """The options of a `ringq.Filter`, but for the status, under its names."""
    past: Any = {"type": options.instant, "metavar": "WHEN"}
    for decorate in (
        click.option("--submitted-after", **past, help="At that time or later."),
        click.option("--submitted-before", **past, help="Before that time: ISO 8601, or -15m, counted from now."),
        click.option("--tag-prefix", metavar="TEXT", help="With a tag whose key begins so."),
        tag,
        click.option("--key", help="With this key; goes with --kind."),
        click.option("--group", help="Of this group."),
        click.option("--queue", help="Of this queue."),
        click.option("--prefix", "kind_prefix", metavar="TEXT", help="Of kinds that begin so."),
        click.option("--domain", help="Of kinds of this domain."),
        click.option("--kind", help="Of this kind."),
    ):  # fmt: skip
        command = decorate(command)
    return command


def tag(command: F) -> F:
    """--tag KEY[=VALUE], any number of times: what a task has to have; None if there is none."""
    help_ = "With this tag, or one of this key; several: with all of them."
    return click.option("--tag", "tags", multiple=True, metavar="KEY[=VALUE]", callback=_tags, help=help_)(command)


def given(options_: dict[str, Any]) -> dict[str, Any]:
    """What of these options says which tasks are meant, taken out of them."""
    found = {name: options_.pop(name) for name in NAMES}
    return {name: value for name, value in found.items() if value is not None}


def _tags(_context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> dict[str, str | None] | None:
    pairs = [text.partition("=") for text in texts]
    if not all(key for key, _, _ in pairs) or len({key for key, _, _ in pairs}) < len(pairs):
        raise click.BadParameter("write each key once, e.g. customer=acme, or customer for any value")
    return {key: value if equals else None for key, equals, value in pairs} or None

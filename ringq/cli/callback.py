"""Cli: `ringq callback complete`, `fail` and `extend`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from ringq.cli import controls, options, printing

TOKEN_CHARS_MAX = 1000


def _read_token(_context: click.Context, _parameter: click.Parameter, argument: str) -> str:
    """What the argument says, or stands in the first line of standard input: `ps` shows arguments to everybody."""
    if argument != "-":
        return argument
    line = "" if sys.stdin is None else sys.stdin.readline(TOKEN_CHARS_MAX).strip()
    if not line:
        raise click.BadParameter("standard input has no line with a token")
    return line


def _read_json(_context: click.Context, _parameter: click.Parameter, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"this is not JSON: {error}; text needs quotes of its own, as in '\"done\"'") from None


token_ = click.argument("token", callback=_read_token)
told = options.as_json("one JSON document")


@click.group()
def callback() -> None:
    """End tasks that wait for somebody outside. Needs no server.

    TOKEN is what ctx.callback() has given the handler; - reads it from the first line of stdin, so that `ps` does not
    show it. It works once; exit code 1 if it does not.
    """


@callback.command()
@token_
@options.database
@click.option("--result", callback=_read_json, default="null", metavar="JSON", help="What the task's result is.")
@told
def complete(token: str, database: Path, result: Any, as_json: bool) -> None:
    """The task of TOKEN is done."""
    with controls.connected(database) as client:
        client.complete(token, result)
    _tell("completed", as_json)


@callback.command()
@token_
@options.database
@click.option("--error", required=True, metavar="TEXT", help="Why.")
@click.option("--retry", is_flag=True, help="Try it again, as its retry policy says.")
@told
def fail(token: str, database: Path, error: str, retry: bool, as_json: bool) -> None:
    """The task of TOKEN has failed."""
    with controls.connected(database) as client:
        client.fail(token, error, retry=retry)
    _tell("failed", as_json)


@callback.command()
@token_
@click.argument("span", type=options.span)
@options.database
@told
def extend(token: str, span: float, database: Path, as_json: bool) -> None:
    """Wait for SPAN from now on, e.g. 90s, for whoever has TOKEN and is still at work."""
    with controls.connected(database) as client:
        client.extend(token, span)
    _tell("extended", as_json)


def _tell(what: str, as_json: bool) -> None:
    if as_json:
        printing.document({"callback": what})

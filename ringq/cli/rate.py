"""Cli: `ringq rate list`, `set`, `remove` and `hold`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ringq.cli import controls, options, printing

if TYPE_CHECKING:
    from ringq.bucket import RateRecord


@click.group()
def rate() -> None:
    """Say how often something may happen, and look at it. Holds at once and over restarts; needs no server.

    SCOPE is kind:DOMAIN::NAME, group:NAME or queue:NAME, whose tasks start no more often; or a free name, as github,
    for handlers and programs that ask: ctx.acquire("github").
    """


@rate.command("list")
@options.database
@options.as_json("NDJSON, one line per scope")
def list_(database: Path, as_json: bool) -> None:
    """List the scopes that have a rate, and how many tokens each has now."""
    from ringq.query import Query

    records = Query(database).rates()
    if as_json:
        printing.lines(map(printing.fields, records))
        return
    printing.table(["scope", "rate", "tokens", "state"], map(_row, records), right=["tokens"])


@rate.command("set")
@click.argument("scope")
@click.argument("rate")
@options.database
@click.option("--burst", type=float, metavar="N", help="How many at once after a rest; else those of an interval.")
@options.as_json("one JSON document, the rate as it is then")
def set_(scope: str, rate: str, burst: float | None, database: Path, as_json: bool) -> None:
    """Limit SCOPE to RATE: 10/s, '5 per 30s', '100/m burst 20'."""
    with controls.connected(database) as client:
        client.set_rate(scope, rate, burst=burst)
    _tell(database, scope, as_json)


@rate.command()
@click.argument("scope")
@options.database
@options.as_json("one JSON document, the scope")
def remove(scope: str, database: Path, as_json: bool) -> None:
    """Limit SCOPE no more, or as the code of its kind says."""
    with controls.connected(database) as client:
        client.remove_rate(scope)
    if as_json:
        printing.document({"scope": scope, "removed": True})


@rate.command()
@click.argument("scope")
@click.argument("span", type=options.span)
@options.database
@options.as_json("one JSON document, the rate as it is then")
def hold(scope: str, span: float, database: Path, as_json: bool) -> None:
    """Let nothing of SCOPE pass for SPAN, e.g. 90s; with 0 only the tokens that it has are gone."""
    with controls.connected(database) as client:
        client.hold(scope, span)
    _tell(database, scope, as_json)


def _tell(database: Path, scope: str, as_json: bool) -> None:
    if as_json:
        from ringq.query import Query

        printing.document(next(printing.fields(one) for one in Query(database).rates() if one.scope == scope))


def _row(one: RateRecord) -> tuple[object, ...]:
    state = "open" if one.held_until is None else f"held until {printing.moment(one.held_until)}"
    return one.scope, one.rate, f"{one.tokens:.4g}", state + (", from the code" if one.declared else "")

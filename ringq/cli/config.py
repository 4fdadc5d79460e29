"""Cli: `ringq config show`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ringq.cli import options, printing
from ringq.settings import SETTINGS, Setting, stranger_warnings


@click.group()
def config() -> None:
    """Show the settings that `ringq serve` would use, and where each comes from."""


@config.command()
@options.server_settings
@click.option("--origin", is_flag=True, help="Also where each comes from.")
@options.as_json("one JSON document")
@click.pass_context
def show(context: click.Context, /, origin: bool, as_json: bool, **given: Any) -> None:
    """Show the settings that `ringq serve` would use here, with the same flags.

    First the flags, then RINGQ_*, then ringq.toml or [tool.ringq] of pyproject.toml in the working directory or one
    above it, then what the App itself says (it is imported), then the built-in defaults. With --json spans are in
    seconds and sizes in MiB.
    """
    from ringq.config import Config

    for warning in stranger_warnings(os.environ):
        click.echo(f"ringq: {printing.visible(warning)}", err=True)
    decided = {field: value for field, value in given.items() if value is not None}
    undecided = frozenset(given) - decided.keys()
    by_app = _settings_of_app(context, decided["app"]) if "app" in decided else {}
    effective = Config(**{"database": Path(), **decided}, undecided=undecided).decided_by(by_app)
    values = {
        one.name: None if one.field == "database" and given["database"] is None else _value(one, effective)
        for one in SETTINGS.values()
    }
    if as_json:
        origins = {name: _origin(context, SETTINGS[name], by_app) for name in values}
        printing.document(
            {name: {"value": values[name], "origin": origins[name]} for name in values} if origin else values
        )
        return
    rows = ((name, _text(SETTINGS[name], values[name]), _origin(context, SETTINGS[name], by_app)) for name in values)
    printing.table(["setting", "value", *(["origin"] if origin else [])], (row if origin else row[:2] for row in rows))


def _value(one: Setting, effective: Any) -> Any:
    return one.plain(getattr(effective, one.field))


def _settings_of_app(context: click.Context, app: str) -> dict[str, Any]:
    """What the App says; an App that cannot be imported says nothing, which is worth a line."""
    from ringq.loading import line_of, load_app

    found = options.project(context)
    if found is not None and context.get_parameter_source("app") is ParameterSource.DEFAULT_MAP:
        sys.path.insert(0, str(found.path.parent))
    try:
        return load_app(app).settings
    except Exception as error:
        why = printing.visible(line_of(app, error))
        click.echo(f"ringq: the settings that the app itself decides are not shown: {why}", err=True)
        return {}


def _origin(context: click.Context, one: Setting, by_app: dict[str, Any]) -> str:
    source = context.get_parameter_source(one.field)
    if source is ParameterSource.COMMANDLINE:
        return "argument" if one.name == "app" else f"flag --{one.name.replace('_', '-')}"
    if source is ParameterSource.ENVIRONMENT:
        return one.variable
    found = options.project(context)
    if found and source is ParameterSource.DEFAULT_MAP:
        return found.place(one.name)
    return f"app {context.params['app']}" if one.field in by_app else "default"


def _text(one: Setting, value: Any) -> str:
    if value in (None, ""):
        return "(all)" if one.name == "queues" else "(none)"
    if isinstance(value, bool):
        return str(value).lower()
    if one.name.startswith("recycle_") and not value:
        return "never"
    if one.name.endswith("_bandwidth") and not value:
        return "any"
    return f"{value:g}{one.unit}" if one.unit and not isinstance(value, str) else str(value)

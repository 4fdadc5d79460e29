"""Cli: `ringq version`."""

from __future__ import annotations

import platform
from importlib.metadata import version as installed

import click

from ringq.cli import options, printing
from ringq.version import VERSION

_STANDS_ON = ("SQLAlchemy", "alembic", "msgspec", "cronsim", "click", "rich")


@click.command()
@options.as_json("one JSON document")
def version(as_json: bool) -> None:
    """Print the versions of ringq and of what it stands on."""
    versions = {
        "ringq": VERSION,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        **{name.lower(): installed(name) for name in _STANDS_ON},
    }
    if as_json:
        printing.document(versions)
    else:
        printing.table(["", ""], versions.items())

"""Cli: `ringq serve`."""

from __future__ import annotations

import os
from typing import Any

import click
from click.core import ParameterSource

from ringq.cli import options


@click.command()
@options.server_settings
@click.option(
    "--host-pidfd", type=click.IntRange(min=0), hidden=True, help="Serve until the process of this pidfd ends."
)
@click.pass_context
def serve(context: click.Context, /, host_pidfd: int | None, **given: Any) -> int:
    """Run the tasks of a database with the handlers of MODULE:APP until TERM or INT.

    What is not given here is decided by RINGQ_* (RINGQ_WORKERS=4), then by ringq.toml or [tool.ringq] of
    pyproject.toml, here or in a directory above: see `ringq config show --origin`.

    The first TERM or INT lets running tasks end (--drain-timeout), the second stops at once; nothing that was
    acknowledged is lost either way. HUP replaces the workers one by one with fresh ones that import the code as it is
    then; if they cannot, the old ones stay. USR1 prints the stacks of all processes.
    """
    from ringq import log, serving
    from ringq.config import Config
    from ringq.settings import stranger_warnings

    given = {field: value for field, value in given.items() if value is not None}
    _require(given)
    undecided = frozenset(context.params) - given.keys() - {"host_pidfd"}
    config = Config(**given, host_pidfd=host_pidfd, undecided=undecided)
    if context.get_parameter_source("app") is ParameterSource.DEFAULT_MAP:
        _make_importable(context)
    log.configure(format=config.log_format, quiet=config.quiet)
    for warning in stranger_warnings(os.environ):
        log.say(warning, level="warning")
    return serving.serve(config)


def _require(given: dict[str, Any]) -> None:
    if "app" not in given:
        raise click.UsageError(
            "name the app: `ringq serve MODULE:APP`, or set RINGQ_APP, or app in ringq.toml or [tool.ringq]"
        )
    if "database" not in given:
        raise click.MissingParameter(param=next(one for one in serve.params if one.name == "database"))


def _make_importable(context: click.Context) -> None:
    """An app named by the project's file is found from its directory, from wherever below it one serves.

    By PYTHONPATH, which the workers and what they start inherit; the working directory stays the user's.
    """
    found = options.project(context)
    assert found is not None
    rest = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(found.path.parent), *([rest] if rest else [])])

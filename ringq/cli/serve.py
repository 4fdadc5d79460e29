"""Cli: `ringq serve`."""

from __future__ import annotations

from pathlib import Path

import click

from ringq.cli import options


@click.command()
@click.argument("app", envvar="RINGQ_APP", metavar="MODULE:APP")
@options.database
@click.option("--workers", type=options.workers, default="auto", metavar="N|auto", help="Processes; auto: one a core.")
@click.option("--queues", type=options.queues, default="", metavar="NAMES", help="Only these, e.g. default,bulk:2.")
@click.option(
    "--durability",
    type=click.Choice(["full", "normal"]),
    default="full",
    help="full: an answer survives power loss; normal: it survives crashes of processes, and is faster.",
)
@click.option(
    "--drain-timeout",
    type=options.span,
    default="30s",
    metavar="SPAN",
    help="How long TERM lets running tasks end; what is cut off runs again later.",
)
def serve(
    app: str,
    database: Path,
    workers: int,
    queues: tuple[tuple[str, int | None], ...],
    durability: str,
    drain_timeout: float,
) -> int:
    """Run the tasks of a database with the handlers of MODULE:APP until TERM or INT.

    The first TERM or INT lets running tasks end (--drain-timeout), the second stops at once; nothing that was
    acknowledged is lost either way. USR1 prints the stacks of all processes.
    """
    module, colon, attribute = app.partition(":")
    if not (module and colon and attribute):
        raise click.BadParameter(f"{app!r} does not name an app; write e.g. photos:app", param_hint="MODULE:APP")
    from ringq import supervisor
    from ringq.config import Config

    return supervisor.serve(
        Config(
            database=database,
            app=app,
            workers=workers,
            queues=queues,
            durability=durability,
            drain_timeout_s=drain_timeout,
        )
    )

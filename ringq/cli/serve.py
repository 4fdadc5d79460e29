"""Cli: `ringq serve`."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import click

from ringq.cli import options


@click.command()
@click.argument("app", envvar="RINGQ_APP", metavar="MODULE:APP")
@options.database
@click.option("--workers", type=options.workers, default="auto", metavar="N|auto", help="Processes; auto: one a core.")
@click.option(
    "--queues",
    type=options.queues,
    default="",
    metavar="NAME[:MAX_RUNNING],...",
    help="Serve only these queues, e.g. default,bulk:2; all queues if not given.",
)
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
    _check_app(app)
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


def _check_app(app: str) -> None:
    """Refuse what can be no MODULE:APP; a path to a file gets the module's name as the answer."""
    module, _, attribute = app.partition(":")
    if module and attribute and all(part.isidentifier() for part in module.split(".")) and not module.endswith(".py"):
        return
    file = PurePosixPath(module.removesuffix(".py"))
    above = file.is_absolute() or ".." in file.parts
    name = ".".join([file.name] if above else file.parts)
    if name and all(part.isidentifier() for part in name.split(".")):
        place = f", in the folder {file.parent}" if above else ""
        raise click.BadParameter(
            f"{app!r} does not name a module and its app; write e.g. {name}:{attribute or 'app'}{place}",
            param_hint="MODULE:APP",
        )
    raise click.BadParameter(f"{app!r} does not name an app; write e.g. photos:app", param_hint="MODULE:APP")

"""Cli: `ringq demo`."""

from __future__ import annotations

from pathlib import Path

import click

from ringq.cli import exit_codes, options


@click.command()
@click.option("--files", type=click.IntRange(min=1), help="Only so many files; all (about 1,800) if not given.")
@click.option("--workers", type=options.workers, default="auto", metavar="N|auto", help="Processes; auto: one a core.")
@click.option("--db", "database", type=click.Path(path_type=Path), metavar="PATH", help="A new database, kept.")
@click.option(
    "--graph", is_flag=True, help="Tasks that belong together: a tree over the files, and a report behind it."
)
@click.option("--keep", is_flag=True, help="Keep the temporary database; print how to explore it.")
def demo(files: int | None, workers: int, database: Path | None, graph: bool, keep: bool) -> int:
    """Analyse the Python standard library on all cores; kill processes on the way; prove that nothing was lost.

    Needs no network and no files of yours. Exit code 0 only if the proof holds: submitted = completed, nothing
    lost, nothing recorded twice, results equal to those of a plain loop.
    """
    from ringq.demo import graph as tree
    from ringq.demo import show

    holds = (tree if graph else show).run(database, files, workers, keep or database is not None)
    return exit_codes.OK if holds else exit_codes.NO

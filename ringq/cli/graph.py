"""Cli: `ringq task graph` - what belongs together with a task, as a tree or for programs that draw."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ringq.cli import options, printing

if TYPE_CHECKING:
    from ringq.drawing import Graph, GraphTask

WIDE: Final = 10_000  # columns of what is no terminal: a line stays a line
DEPTH_MAX: Final = 100  # of a tree: deeper ones are for programs that draw


@click.command()
@click.argument("id_", metavar="ID", type=int)
@options.database
@click.option("--limit", type=click.IntRange(1, 10_000), default=1000, show_default=True, help="At most so many tasks.")
@options.as_json("one JSON document")
@click.option("--dot", is_flag=True, help="For Graphviz: ringq task graph 7 --dot | dot -Tsvg > graph.svg.")
@click.option("--mermaid", is_flag=True, help="For Mermaid, which Markdown pages draw.")
def graph(id_: int, database: Path, limit: int, as_json: bool, dot: bool, mermaid: bool) -> None:
    """Show what belongs together with a task: what it depends on, what depends on it, parents and children.

    As a tree: below each task are those that wait for it, and its children. One that waits for several stands below the
    first of them, and is only named below the others.
    """
    from ringq.query import Query

    if as_json + dot + mermaid > 1:
        raise click.UsageError("--json, --dot and --mermaid exclude each other")
    found = Query(database).graph(id_, limit=limit)
    if as_json:
        printing.document(found.plain())
    elif dot or mermaid:
        click.echo(found.to_dot() if dot else found.to_mermaid(), nl=False)
    else:
        _show(found)
    if found.is_cut:
        click.echo(f"ringq: there is more: these are the {len(found.tasks):,} nearest tasks (--limit)", err=True)


def _show(found: Graph) -> None:
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    below, above = _ordered(found)
    tasks = {task.id: task for task in found.tasks}
    console = Console(width=None if sys.stdout.isatty() else WIDE, highlight=False)
    shown: set[int] = set()
    for root in (task.id for task in found.tasks if not above[task.id]):
        top = Tree(Text(_line(tasks[root], found.root)))
        shown.add(root)
        stack: list[tuple[Any, int, int]] = [(top, root, 1)]
        while stack:
            branch, task_id, depth = stack.pop()
            begun = len(stack)
            for number, mark in below[task_id]:
                again = " …" if number in shown or depth >= DEPTH_MAX else ""
                added = branch.add(Text(f"{mark}{_line(tasks[number], found.root)}{again}"))
                if not again:
                    shown.add(number)
                    stack.insert(begun, (added, number, depth + 1))  # the first is the next
        console.print(top)


def _ordered(found: Graph) -> tuple[dict[int, list[tuple[int, str]]], dict[int, int]]:
    """Who stands below each task, with a mark for children; and below how many each stands."""
    below: dict[int, list[tuple[int, str]]] = defaultdict(list)
    above: dict[int, int] = defaultdict(int)
    for edge in found.edges:
        upper, lower, mark = edge.upstream, edge.task, ""
        if edge.relation == "child":
            upper, lower, mark = edge.task, edge.upstream, "child "
        below[upper].append((lower, mark))
        above[lower] += 1
    return below, above


def _line(task: GraphTask, root: int) -> str:
    label = f" ({task.label})" if task.label != task.kind else ""
    return printing.visible(f"{task.id} {task.kind}{label} {task.status.value}{' *' if task.id == root else ''}")

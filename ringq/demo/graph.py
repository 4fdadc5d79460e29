"""Demo: tasks that belong together - a tree over all files, finalized level by level, and a report behind it.

survey ──► a child per folder ──► a child per file          (handlers spawn)
report ◄── survey ◄── its folders ◄── their files           (finalize, then the dependency)
"""

from __future__ import annotations

import json
import os
import signal
import sysconfig
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

import ringq
from ringq.demo.handlers import COUNTED, survey, verdict
from ringq.demo.library import library_files
from ringq.demo.show import LOOK_EVERY_S, STUCK_S, Server, ShowFailed, explain, place
from ringq.demo.stage import Stage
from ringq.drawing import Graph
from ringq.model import Status
from ringq.query import Query

SHOWN = 14  # folders of the tree: the largest
KILL_WORKER_AT = 0.25  # of the files
KILL_PARENT_AT = 0.5
DRAW_EVERY_S = 0.25
TASKS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Standing:
    """How far the tree is. `folders`: (name, files that have ended, files, whether it has)."""

    survey: Status
    report: Status
    folders: tuple[tuple[str, int, int, bool], ...]

    @property
    def ended(self) -> int:
        """How many files have ended."""
        return sum(count for _, count, _, _ in self.folders)


def run(database: Path | None, files: int | None, workers: int, keep: bool) -> bool:
    """Run the show; True if the proof holds. Without `database` it plays in a temporary folder."""
    stage, sources = Stage(), library_files(files)
    with place(database, keep) as path:
        server = Server(path, workers)
        try:
            holds = _play(stage, server, path, sources)
        finally:
            server.stop()
        if keep:
            explain(stage, path, "ringq task graph 1 --limit 60", "ringq history")
    return holds


def _play(stage: Stage, server: Server, database: Path, sources: Sequence[Path]) -> bool:
    server.workers()
    folders = _folders(sources)
    with ringq.connect(database) as client:
        root = survey.submission(folders)
        top, last = client.submit_many([root, verdict.submission(ringq.result_of(root))])
    stage.say("two tasks are on disk: a survey, and a report that depends on it; all others are spawned by handlers")
    started = time.perf_counter()
    _watch(stage, server, Query(database), top.id, last.id, len(sources))
    wall_s = time.perf_counter() - started
    return _prove(stage, Query(database), top.id, last.id, folders, wall_s)


def _watch(stage: Stage, server: Server, query: Query, top: int, last: int, files: int) -> None:
    """Show the tree as it grows and ends; end a worker and the server on the way."""
    deeds = [(KILL_WORKER_AT, _kill_worker), (KILL_PARENT_AT, _kill_parent)]
    moved_at, drawn_at, before = time.monotonic(), 0.0, -1
    with Live(console=stage.console, auto_refresh=False, transient=True) as live:
        while True:
            standing = _standing(query, top, last)
            if stage.console.is_terminal and time.monotonic() - drawn_at >= DRAW_EVERY_S:
                live.update(_tree(standing), refresh=True)
                drawn_at = time.monotonic()
            if standing.report.is_terminal:
                break
            if deeds and standing.ended >= deeds[0][0] * files:
                deeds.pop(0)[1](stage, server, standing.ended)
            if standing.ended != before:
                before, moved_at = standing.ended, time.monotonic()
            if server.process.poll() is not None or time.monotonic() - moved_at > STUCK_S:
                raise ShowFailed(f"nothing moves any more at {before} of {files} files: {server.last_words()}")
            time.sleep(LOOK_EVERY_S)
    stage.console.print(_tree(standing))


def _standing(query: Query, top: int, last: int) -> Standing:
    graph = query.graph(top, limit=TASKS_MAX)
    tasks = {task.id: task for task in graph.tasks}
    below = _below(graph)
    folders = [
        (tasks[one].label, sum(tasks[file].status.is_terminal for file in below[one]), len(below[one]),
         tasks[one].status.is_terminal)
        for one in below[top]
    ]  # fmt: skip
    return Standing(tasks[top].status, tasks[last].status, tuple(sorted(folders, key=lambda row: (-row[2], row[0]))))


def _below(graph: Graph) -> dict[int, list[int]]:
    """The children of each."""
    below: dict[int, list[int]] = defaultdict(list)
    for edge in graph.edges:
        if edge.relation == "child":
            below[edge.task].append(edge.upstream)
    return below


def _tree(standing: Standing) -> Tree:
    """The report, the survey, its largest folders."""
    tree = Tree(_branch("report", standing.report))
    node = tree.add(_branch("survey", standing.survey))
    for name, ended, files, has_ended in standing.folders[:SHOWN]:
        row = Table.grid(padding=(0, 1))
        row.add_column(width=24, no_wrap=True)
        row.add_row(Text(name), ProgressBar(files, ended, width=24), f"{ended}/{files}", "ended" if has_ended else "")
        node.add(row)
    rest = standing.folders[SHOWN:]
    if rest:
        ended = sum(row[1] for row in rest)
        node.add(f"{len(rest)} more folders: {ended:,}/{sum(row[2] for row in rest):,} files")
    return tree


def _branch(name: str, status: Status) -> str:
    color = {Status.COMPLETED: "green", Status.WAITING: "magenta", Status.BLOCKED: "dim"}.get(status, "yellow")
    return f"[bold]{name}[/]  [{color}]{status.value}[/]"


def _folders(sources: Sequence[Path]) -> dict[str, list[str]]:
    """The files by the folder below the library's own that they are in."""
    library = Path(sysconfig.get_path("stdlib"))
    folders: dict[str, list[str]] = defaultdict(list)
    for path in sources:
        parts = path.relative_to(library).parts
        folders[parts[0] if len(parts) > 1 else "."].append(str(path))
    return dict(folders)


def _kill_worker(stage: Stage, server: Server, seen: int) -> None:
    victim = server.workers()[0]
    os.kill(victim, signal.SIGKILL)
    stage.say(f"[red]kill -9[/] worker {victim} after {seen:,} files")


def _kill_parent(stage: Stage, server: Server, seen: int) -> None:
    died = server.kill_and_restart()
    stage.say(f"[red]kill -9[/] the server {died} after {seen:,} files; started again as {server.process.pid}")


def _prove(stage: Stage, query: Query, top: int, last: int, folders: dict[str, list[str]], wall_s: float) -> bool:
    """Whether there is a task and a receipt for each that there should be, and the sums are those of the files."""
    graph = query.graph(top, limit=TASKS_MAX)
    kinds = Counter(task.kind for task in graph.tasks)
    receipts = Counter(record.task_id for record in query.history(limit=TASKS_MAX))
    files = [json.loads(query.task(task.id).result or "null") for task in graph.tasks if task.kind == "stdlib::metrics"]
    totals = json.loads(query.task(top).result or "{}")
    wanted = {
        "stdlib::metrics": sum(map(len, folders.values())), "stdlib::folder": len(folders), "stdlib::survey": 1,
        "stdlib::verdict": 1,
    }  # fmt: skip
    facts = {
        "a task for each file and folder, none twice": dict(kinds) == wanted,
        "one receipt for each task": receipts == Counter({task.id: 1 for task in graph.tasks}),
        "the sums are those of the files": all(
            totals.get(name) == sum(one.get(name, 0) for one in files) for name in COUNTED
        ),
    }  # fmt: skip
    stage.say(f"{len(graph.tasks):,} tasks in {wall_s:.1f} s, both deaths included")
    stage.console.print(Text(json.loads(query.task(last).result or '"no report"')))
    for what, holds in facts.items():
        stage.console.print(f"[{'green' if holds else 'bold red'}]{'yes' if holds else 'NO'}[/]  {what}")
    return all(facts.values())

"""Values: tasks that belong together as a graph, and that as JSON, and as text for programs that draw. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from ringq.model import OnDependencyFailure, Status

COLORS: Final = {
    Status.COMPLETED: "#cfe8cf", Status.RUNNING: "#cfdff5", Status.WAITING: "#e0d6f2", Status.BLOCKED: "#eeeeee",
    Status.PENDING: "#ffffff", Status.PAUSED: "#f5ecc8",
}  # fmt: skip
WRONG: Final = "#f3caca"  # of all that have ended otherwise


@dataclass(frozen=True, slots=True)
class GraphTask:
    """One task of a graph. `label`: its kind, if nobody has given it another."""

    id: int
    kind: str
    label: str
    status: Status


@dataclass(frozen=True, slots=True)
class GraphEdge:
    """One task waits for another.

    Attributes: `upstream`, whose end is waited for; `task`, who waits; `relation`: "dependency", or "child" if
    `upstream` is a child of `task`; `on_failure`, what becomes of `task` if a dependency does not complete, None for a
    child; `is_open`, whether it still waits.
    """

    upstream: int
    task: int
    relation: Literal["dependency", "child"]
    on_failure: OnDependencyFailure | None
    is_open: bool


@dataclass(frozen=True, slots=True)
class Graph:
    """All that belongs together with one task: what it waits for and what waits for it, at any depth.

    Attributes: `root`, the id of that task; `tasks`, by id; `edges`; `is_cut`, whether there is more than is told here.
    """

    root: int
    tasks: tuple[GraphTask, ...]
    edges: tuple[GraphEdge, ...]
    is_cut: bool

    def plain(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return {
            "root": self.root, "is_cut": self.is_cut,
            "tasks": [asdict(task) for task in self.tasks], "edges": [asdict(edge) for edge in self.edges],
        }  # fmt: skip

    def to_json(self) -> str:
        """The graph as a JSON document, in plain ASCII."""
        return json.dumps(self.plain())

    def to_dot(self) -> str:
        """The graph as Graphviz reads it: `dot -Tsvg`. What is waited for points to who waits; to children, dashed."""
        lines = [
            "digraph ringq {",
            "  rankdir=LR;",
            '  node [shape=box, style="rounded,filled", fontname="sans-serif"];',
        ]
        for task in self.tasks:
            width = ", penwidth=2" if task.id == self.root else ""
            text = r"\n".join(_quoted(part) for part in _texts(task))
            lines.append(f'  t{task.id} [label="{text}", fillcolor="{COLORS.get(task.status, WRONG)}"{width}];')
        for edge in self.edges:
            if edge.relation == "child":
                lines.append(f"  t{edge.task} -> t{edge.upstream} [style=dashed];")
            else:
                lines.append(f"  t{edge.upstream} -> t{edge.task}{' [color=gray]' if not edge.is_open else ''};")
        return "\n".join([*lines, *(["  // there is more than is shown here"] if self.is_cut else []), "}", ""])

    def to_mermaid(self) -> str:
        """The graph as Mermaid reads it, which pages of GitHub draw. Arrows as in `to_dot`."""
        lines = ["flowchart LR"]
        for task in self.tasks:
            lines.append(f'  t{task.id}["{"<br/>".join(_entities(part) for part in _texts(task))}"]')
        for edge in self.edges:
            if edge.relation == "child":
                lines.append(f"  t{edge.task} -.-> t{edge.upstream}")
            else:
                lines.append(f"  t{edge.upstream} --> t{edge.task}")
        for task in self.tasks:
            lines.append(f"  style t{task.id} fill:{COLORS.get(task.status, WRONG)}")
        return "\n".join([*lines, *(["  %% there is more than is shown here"] if self.is_cut else []), ""])


def _texts(task: GraphTask) -> list[str]:
    return [f"{task.id} {task.label}", task.status.value]


def _quoted(text: str) -> str:
    """For a quoted text of DOT; no line ends, which would begin another statement for a careless reader."""
    return _visible(text).replace("\\", "\\\\").replace('"', '\\"')


def _entities(text: str) -> str:
    """For a quoted text of Mermaid, which knows no escapes but entities without `&`."""
    return "".join(one if one.isalnum() or one in " _-.:/" else f"#{ord(one)};" for one in _visible(text))


def _visible(text: str) -> str:
    return "".join(one if one.isprintable() else "?" for one in text)

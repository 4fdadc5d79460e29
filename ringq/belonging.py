"""Flow: which tasks belong together, and how, from the database alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from ringq.drawing import Graph, GraphEdge, GraphTask
from ringq.errors import InvalidOption, UnknownTask
from ringq.kinds import Submitted, options
from ringq.model import CHILD, OnDependencyFailure, Status, TaskRecord
from ringq.records import task_record
from ringq.store.questions import Questions, asking

LIMIT_MAX: Final = 10_000
EDGES_EACH: Final = 10
"""So many edges are looked at for each task that a graph may have."""


class Belonging:
    """Questions of `Query` about tasks that depend on each other, and about parents and children."""

    _path: Path

    def dependencies(self, task: Submitted[Any] | int, *, limit: int = 1000) -> list[TaskRecord]:
        """What this task, a handle or an id, depends on: the first of them, as they were named.

        The ids of all, at most 10,000, are in its own record. Raises UnknownTask.
        """
        _check_page(0, limit)
        with asking(self._path) as ask:
            return _records(ask, ask.belonging.dependencies(_known(ask, task))[:limit])

    def dependents(self, task: Submitted[Any] | int, *, after: int = 0, limit: int = 100) -> list[TaskRecord]:
        """What depends on this task, the lowest id first, from the one behind `after` on. Raises UnknownTask."""
        _check_page(after, limit)
        with asking(self._path) as ask:
            return _records(ask, ask.belonging.dependents(_known(ask, task), after, limit))

    def children(self, task: Submitted[Any] | int, *, after: int = 0, limit: int = 100) -> list[TaskRecord]:
        """The children of this task, the lowest id first, from the one behind `after` on. Raises UnknownTask."""
        _check_page(after, limit)
        with asking(self._path) as ask:
            return _records(ask, ask.belonging.children(_known(ask, task), after, limit))

    def parent(self, task: Submitted[Any] | int) -> TaskRecord | None:
        """The task whose child this one is; None for nobody's. Raises UnknownTask."""
        with asking(self._path) as ask:
            found = ask.belonging.parent(_known(ask, task))
            return None if found is None else _records(ask, [found])[0]

    def graph(self, task: Submitted[Any] | int, *, limit: int = 1000) -> Graph:
        """All that belongs together with this task: dependencies, dependents, parents and children, at any depth.

        `limit`: how many tasks at most, 1 to 10,000, the nearest ones; if there are more, the graph says that it is
        cut. Raises UnknownTask.
        """
        _check_page(0, limit)
        with asking(self._path) as ask:
            return _graph(ask, _known(ask, task), limit)


def belonging_of(ask: Questions, task_id: int) -> dict[str, Any]:
    """To whom a task belongs, by the names of the fields of its record."""
    found = ask.belonging
    return {
        "parent": found.parent(task_id), "dependencies": tuple(found.dependencies(task_id)),
        "child_count": found.child_count(task_id), "memo": found.memo(task_id),
    }  # fmt: skip


def _graph(ask: Questions, root: int, limit: int) -> Graph:
    """From the task outwards, all that is one step further at a time."""
    known = {root: None}  # in order
    edges: dict[tuple[int, int], GraphEdge] = {}
    frontier, is_cut = [root], False
    while frontier:
        most = EDGES_EACH * limit
        rows = ask.belonging.edges(frontier, most)
        is_cut = is_cut or len(rows) >= most
        frontier = []
        for upstream, task_id, role, _, is_open in rows:
            edges[upstream, task_id] = _edge(upstream, task_id, role, is_open)
            for one in (upstream, task_id):
                if one in known:
                    continue
                if len(known) >= limit:
                    is_cut = True
                    continue
                known[one] = None
                frontier.append(one)
    inside = [edge for ends, edge in sorted(edges.items()) if known.keys() >= set(ends)]
    nodes = ask.belonging.nodes(sorted(known))
    tasks = [GraphTask(one, kind, label or kind, Status.of(status)) for one, kind, label, status in nodes]
    return Graph(root, tuple(tasks), tuple(inside), is_cut)


def _edge(upstream: int, task_id: int, role: int, is_open: int) -> GraphEdge:
    if role == CHILD:
        return GraphEdge(upstream, task_id, "child", None, bool(is_open))
    return GraphEdge(upstream, task_id, "dependency", OnDependencyFailure.of(role), bool(is_open))


def _records(ask: Questions, task_ids: list[int]) -> list[TaskRecord]:
    return [task_record(row) for row in ask.belonging.rows_of(task_ids)]


def _known(ask: Questions, task: Submitted[Any] | int) -> int:
    """The id of a task that there is. Raises UnknownTask, InvalidOption."""
    task_id = options.task_id_of(task)
    if not ask.ends([task_id]):
        raise UnknownTask(f"there is no task {task_id}")
    return task_id


def _check_page(after: int, limit: int) -> None:
    for name, value, least in (("after", after, 0), ("limit", limit, 1)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InvalidOption(f"{name}: expected a whole number from {least} on, got {value!r}")
    if limit > LIMIT_MAX:
        raise InvalidOption(f"limit: expected 1 to {LIMIT_MAX:,}, got {limit!r}")

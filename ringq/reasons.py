"""Values: what may keep a task from running, in words: one line for each. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from ringq.model import Cause, PauseReason, Status

# By the words of `gate.Refusal`, and those for what comes before and after the gate. {name}: filled in by `cause`.
TEXTS: Final = {
    "ended": "it has ended: {status}",
    "running": "it runs, in worker {worker} for {seconds:.1f} s",
    "stopping": "it was asked to stop: {reason}",
    "delayed": "its time has not come: it may start from {at} on",
    "behind_key": "task {other} runs, or has run, under its key: it starts when that one has ended",
    "serial_key": "task {other} has the turn of its serial key: it starts when that one has ended",
    "dependency": "it depends on what has not ended: {others}",
    "children": "its handler has returned, and it ends when its children have: {others}",
    "callback": "its handler has returned, and it ends when somebody outside completes it by its token",
    "preempted": "a more urgent task took its place: it goes on when no more urgent one waits",
    "no_handler": "no worker has a handler of {kind}: deploy one, then ringq reload",
    "queue_not_served": "this server does not serve queue {queue}: name it in --queues, or start a server that does",
    "server_paused": "everything is paused{until}: ringq server resume",
    "domain_paused": "domain {domain} is paused{until}: ringq domain resume {domain}",
    "group_paused": "group {group} is paused{until}: ringq group resume {group}",
    "queue_paused": "queue {queue} is paused{until}: ringq queue resume {queue}",
    "queue_cooling": "queue {queue} cools down, as what its tasks use has asked for: ringq queue list",
    "pressure": "others use this machine: tasks of priority {priority} wait for less pressure than {pressure}",
    "io_budget": "what runs is expected to use the disk or network as much as it may: the next starts when it has less",
    "server_full": "{used} tasks run, of {limit} that may at a time: ringq server set --max-concurrency",
    "queue_full": "{used} tasks of queue {queue} run, of {limit} that may at a time",
    "domain_full": "{used} tasks of domain {domain} run, of {limit} that may at a time",
    "group_full": "{used} tasks of group {group} run, of {limit} that may at a time",
    "kind_full": "{used} tasks of {kind} run, of {limit} that may at a time",
    "rate": "a rate of its kind, group or queue lets the next one start in {seconds:.3f} s: ringq rate list",
    "no_worker": "no worker is ready: the server starts, or its workers are being replaced",
    "alone": "task {other} runs alone, since workers have died of it: all others wait for its end",
    "sorting": "tasks are being sorted anew, since something was said of a group, kind or domain: a moment",
    "returning": "it is on its way back to its place among those that wait: a moment",
    "published": "it is given out: the next worker that is free takes it",
    "queued": "its turn has not come: {ahead:,} tasks are before it, more urgent or older, and it counts as priority "
    "{priority}{share}",
    "no_server": "no server runs on this database: ringq serve",
}
# What the database alone says of pauses, by the bit of a reason.
PAUSES: Final = {
    PauseReason.GLOBAL: "server_paused",
    PauseReason.DOMAIN: "domain_paused",
    PauseReason.GROUP: "group_paused",
    PauseReason.QUEUE: "queue_paused",
    PauseReason.PREEMPTION: "preempted",
}


SHOWN: Final = 5
"""So many tasks are named for which one waits."""


def of_others(dependencies: Sequence[int], children: Sequence[int] | None, is_parked: bool) -> Iterator[Cause]:
    """What keeps a task that waits for others: for more than SHOWN if more are given, for no children if None is."""
    if dependencies:
        yield cause("dependency", others=_named(dependencies))
    if children is not None:
        yield cause("children", others=_named(children) or "all have, a moment")
    if is_parked:
        yield cause("callback")


def status_of(causes: Sequence[Cause]) -> Status:
    """The status of a task that neither runs nor has ended, by what keeps it."""
    words = {one.word for one in causes}
    if words & {"children", "callback"}:
        return Status.WAITING
    if "dependency" in words:
        return Status.BLOCKED
    return Status.PAUSED if words & set(PAUSES.values()) else Status.PENDING


def cause(word: str, **facts: Any) -> Cause:
    """What keeps a task from running, with what the line about it names."""
    return Cause(word, TEXTS[word].format(**facts))


def _named(task_ids: Sequence[int]) -> str:
    more = " and others" if len(task_ids) > SHOWN else ""
    return ", ".join(f"task {one}" for one in task_ids[:SHOWN]) + more

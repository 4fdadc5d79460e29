"""Values: what may keep a task from running, in words: one line for each. Pure."""

from __future__ import annotations

from typing import Any, Final

from ringq.model import Cause, PauseReason

# By the words of `gate.Refusal`, and those for what comes before and after the gate. {name}: filled in by `cause`.
TEXTS: Final = {
    "ended": "it has ended: {status}",
    "running": "it runs, in worker {worker} for {seconds:.1f} s",
    "stopping": "it was asked to stop: {reason}",
    "delayed": "its time has not come: it may start from {at} on",
    "behind_key": "task {other} runs, or has run, under its key: it starts when that one has ended",
    "serial_key": "task {other} has the turn of its serial key: it starts when that one has ended",
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


def cause(word: str, **facts: Any) -> Cause:
    """What keeps a task from running, with what the line about it names."""
    return Cause(word, TEXTS[word].format(**facts))

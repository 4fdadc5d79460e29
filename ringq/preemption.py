"""Flow: which running tasks make room for more urgent ones. Pure.

After taskmill 0.7, which asks every less urgent task to stop as soon as one urgent task is there. Here only as many
stop as the urgent ones need, and none for a task whose time has not come: the caller names only those that may start.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice, takewhile
from operator import itemgetter
from typing import NamedTuple


class Running(NamedTuple):
    """A task that runs. `asked`: whether it was asked to stop already, and so makes room for somebody by itself."""

    task_id: int
    priority: int
    started_ns: int
    preemptible: bool = True
    asked: bool = False


ORDER = itemgetter(1, 2, 0)  # priority, start, id


def choose(waiting: Iterable[int], threshold: int, running: Sequence[Running], free: int) -> list[int]:
    """The tasks that shall stop: the least urgent first, of equals the youngest.

    `waiting`: the priorities of those that may start now, the most urgent first; those up to `threshold` are urgent,
    and nothing behind them is looked at. `free`: workers that have nothing to do. The urgent ones take free places
    first, then those of who was asked before; each of the others takes the place of a strictly less urgent task. Who
    is not `preemptible` is never chosen.
    """
    served = max(0, free) + sum(one.asked for one in running)
    urgent = list(islice(takewhile(lambda priority: priority <= threshold, waiting), served, served + len(running)))
    if not urgent:
        return []
    found: list[int] = []
    victims = sorted((one for one in running if one.preemptible and not one.asked), key=ORDER, reverse=True)
    for priority, victim in zip(urgent, victims, strict=False):
        if victim.priority <= priority:
            break  # the urgent ones that follow are less urgent than this, the victims more
        found.append(victim.task_id)
    return found

"""Tasks that wait for others: many behind one, one behind many, chains, children - against tasks that wait for none.

A task depends on 10,000 at most: the fan-in goes over joints, each behind 10,000, and one behind the joints.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import ringq
from ringq.bench import measure
from ringq.bench.handlers import noop, spread
from ringq.graph import DEPENDENCIES_MAX

WIDTH = 50_000
LINKS = 2_000
Submissions = list[ringq.Submission[int]]


def plain(width: int) -> Submissions:
    """Tasks that wait for nothing."""
    return [noop.submission(number) for number in range(width)]


def fan_out(width: int) -> Submissions:
    """All others wait for the first."""
    first = noop.submission(0)
    behind = noop.options(depends_on=first)
    return [first, *(behind.submission(number) for number in range(1, width))]


def fan_in(width: int) -> Submissions:
    """The last waits for all others, over joints."""
    first = plain(width)
    parts = [first[start : start + DEPENDENCIES_MAX] for start in range(0, width, DEPENDENCIES_MAX)]
    joints = [noop.options(depends_on=part).submission(0) for part in parts]
    return [*first, *joints, noop.options(depends_on=joints).submission(0)]


def chain(links: int) -> Submissions:
    """Each waits for the one before."""
    tasks = [noop.submission(0)]
    for number in range(1, links):
        tasks.append(noop.options(depends_on=tasks[-1]).submission(number))
    return tasks


def run(options: measure.Options) -> measure.Figures:
    """Interleave them; the figures."""
    width, links = options.size(WIDTH, 500), options.size(LINKS, 50)
    with measure.server(options) as server, ringq.connect(server.database) as client:

        def rate(make: Callable[[int], Submissions], size: int) -> Callable[[], float]:
            return lambda: _rate(client, make(size))

        flat, out, into, chained, children = measure.interleave(
            options.rounds, rate(plain, width), rate(fan_out, width), rate(fan_in, width), rate(chain, links),
            lambda: _children(client, width),
        )  # fmt: skip
    return {
        "plain_per_s": measure.spread(flat),
        "fan_out_per_s": measure.spread(out),
        "fan_in_per_s": measure.spread(into),
        "children_per_s": measure.spread(children),
        "links_per_s": measure.spread(chained),
        "ratio_fan_out_plain": measure.ratios(out, flat),
        "ratio_fan_in_plain": measure.ratios(into, flat),
        "ratio_children_plain": measure.ratios(children, flat),
    }


def _rate(client: ringq.Client, tasks: Submissions) -> float:
    """Tasks per second, from the first byte sent until the end of the last is told."""
    started = time.perf_counter()
    handles = client.submit_many(tasks)
    client.wait_many(handles)
    return len(tasks) / (time.perf_counter() - started)


def _children(client: ringq.Client, width: int) -> float:
    """The same of the children of one task, that is finalized with their results."""
    started = time.perf_counter()
    assert client.submit(spread, {"width": width}).result() == width
    return width / (time.perf_counter() - started)

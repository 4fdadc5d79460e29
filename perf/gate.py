"""What a decision costs: nanoseconds of the gate, and no-op tasks end to end with all of flow control on and off.

`ns_...`: one call of `gate.admit` for one task, as the dispatcher makes it for the first of each chunk and for each
stretch of a lane that is limited: of a place of which nothing is said; with one limit; with five, of server, domain,
group, queue and kind; with a rate of each of kind, group and queue; with all of it; and of one that is paused, which is
refused. `ns_free_256`: the same for a chunk of 256, by the task. `us_shared_1000` (and `_10000`): what a task costs the
dispatcher where so many groups wait and share by weights, two tasks each; it looks at each group for each chunk.

`plain_per_s` and `configured_per_s`: tasks submitted, run and answered, in turns, by two servers that get the same
tasks: of three groups, in turn, 10,000 at a time. To the second it was said that tasks age, that the groups share by
3 : 2 : 1 with a minimum of one, and limits of server, domain, groups and kind that are never reached. (A queue's, which
counts what is given out too, is 255 at most: no-op tasks would reach it.)
`ratio_configured` is the second over the first, round by round.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence

import ringq
from ringq.backlog import Backlog
from ringq.bench import measure
from ringq.bench.end_to_end import BATCH, TASKS
from ringq.bench.handlers import noop
from ringq.controls import Share
from ringq.dispatch import Dispatcher
from ringq.entries import Admitted, Row
from ringq.gate import SCOPES, Gate
from ringq.notation import rate as read_rate
from ringq.places import Place
from ringq.rates import Rates
from ringq.rating import changed

PLACE = Place(128, "default", "acme", "bench::noop")
NAMES = {"server": "", "domain": "bench", "group": "acme", "queue": "default", "kind": "bench::noop"}
DECISIONS = 100_000
CHUNK = 256
MANY = 1 << 40  # a limit that is never reached
RATE = "1000000/s"  # the most that may be said: the burst lasts for a round of decisions
GROUPS = {"acme": 3.0, "beta": 2.0, "ceta": 1.0}
AGING = "grace 5m interval 1m ceiling 64"


class Tokens:
    """Rates as the server has them, without a database behind."""

    def __init__(self, scopes: Iterable[str]) -> None:
        self._rates = Rates()
        for scope in scopes:
            self._rates.set(changed(None, scope, read_rate(RATE), 0), _now_us(), 0)

    def admit(self, kind: str, group: str | None, queue: str, wanted: int) -> int:
        """See `gate.Tokens`."""
        return self._rates.admit(kind, group, queue, wanted, _now_us())[0]

    def give_back(self, kind: str, group: str | None, queue: str, count: int) -> None:
        """See `gate.Tokens`."""
        self._rates.give_back(kind, group, queue, count)

    def limits(self, kind: str, group: str | None, queue: str) -> bool:
        """See `gate.Tokens`."""
        return self._rates.limits(kind, group, queue)


class Side:
    """One of the two servers."""

    def __init__(self, client: ringq.Client, tasks: int, batch: int) -> None:
        self._client = client
        self._tasks = tasks
        self._batch = batch
        self._sources = [noop.options(group=group) for group in GROUPS]

    def rate(self) -> float:
        """Tasks per second of one round."""
        started = time.perf_counter()
        handles: list[ringq.Submitted[int]] = []
        for first in range(0, self._tasks, self._batch):
            numbers = range(first, min(first + self._batch, self._tasks))
            handles += self._client.submit_many(
                [self._sources[number % len(self._sources)].submission(number) for number in numbers]
            )
        self._client.wait_many(handles)
        total = sum(handle.result() for handle in handles)
        seconds = time.perf_counter() - started
        assert total == sum(range(self._tasks))
        return self._tasks / seconds


def configure(client: ringq.Client) -> None:
    """Say something of everything."""
    limit = 1_000_000
    for group, weight in GROUPS.items():
        client.set_group(group, weight=weight, min_slots=1, max_concurrency=limit)
    client.set_server(max_concurrency=limit)
    client.set_domain("bench", max_concurrency=limit)
    client.set_kind("bench::noop", max_concurrency=limit)


def gate(scopes: Iterable[str] = (), rates: Iterable[str] = (), paused: str | None = None) -> Gate:
    """A gate of which this was said."""
    made = Gate(())
    for scope in scopes:
        made.limit(scope, NAMES[scope], MANY)
    if rates:
        made.ration(Tokens(f"{scope}:{NAMES[scope]}" for scope in rates))
    if paused is not None:
        made.pause(paused, NAMES[paused], is_paused=True)
    return made


def decision_ns(made: Gate, decisions: int, wanted: int = 1) -> float:
    """Nanoseconds of CPU that one call takes; the loop around it is a twentieth of it."""
    admit = made.admit
    admit(PLACE, wanted)
    started = time.process_time_ns()
    for _ in range(decisions):
        admit(PLACE, wanted)
    return (time.process_time_ns() - started) / decisions


class Sink:
    """A ring that takes whatever is published, and whose workers are done with it."""

    published = 0

    def publish(self, tasks: Sequence[Row], _first_lease: int) -> int:
        """See `dispatch.Publisher`."""
        self.published += len(tasks)
        return len(tasks)

    def ready(self) -> int:
        """See `dispatch.Publisher`."""
        return 0

    in_flight = ready


def shared_us(groups: int, tasks: int) -> float:
    """Microseconds of CPU for each of `tasks` that are published of so many groups."""
    sink = Sink()
    backlog = Backlog(lambda runs: ([], runs[-1][1]), 1 << 20, 1 << 30)
    dispatcher = Dispatcher(sink, backlog, Gate(()), epoch=1, lookahead_ms=8.0)
    dispatcher.pace.learn(1, 1000, 1000)
    backlog.tell_groups_apart()
    dispatcher.sharing.follow({"0": Share(3.0)}, {}, [])
    places = [Place(128, "default", str(number)) for number in range(groups)]
    backlog.append(
        *(Admitted(place, [n, n + groups], [1] * 2, [0] * 2, ["{}"] * 2) for n, place in enumerate(places, 1))
    )
    started = time.process_time_ns()
    while sink.published < min(tasks, 2 * groups):
        dispatcher.fill(2, 0)
    return (time.process_time_ns() - started) / 1000 / sink.published


def run(options: measure.Options) -> measure.Figures:
    """The decisions, then both servers in turns."""
    decisions, tasks, batch = (options.size(*sizes) for sizes in ((DECISIONS, 1_000), (TASKS, 2_000), (BATCH, 500)))
    rated = ("kind", "group", "queue")
    sides = {
        "ns_free": lambda: decision_ns(gate(), decisions),
        "ns_free_256": lambda: decision_ns(gate(), decisions, CHUNK) / CHUNK,
        "ns_one_limit": lambda: decision_ns(gate(["group"]), decisions),
        "ns_five_limits": lambda: decision_ns(gate(SCOPES), decisions),
        "ns_rates": lambda: decision_ns(gate(rates=rated), decisions),
        "ns_five_limits_and_rates": lambda: decision_ns(gate(SCOPES, rated), decisions),
        "ns_refused": lambda: decision_ns(gate(paused="group"), decisions),
        "us_shared_1000": lambda: shared_us(1000, decisions),
        "us_shared_10000": lambda: shared_us(10_000, decisions // 50),
    }
    costs = dict(zip(sides, measure.interleave(options.rounds, *sides.values()), strict=True))
    with contextlib.ExitStack() as undo:
        clients = [
            undo.enter_context(ringq.connect(undo.enter_context(measure.server(options, *more)).database))
            for more in ((), ("--aging", AGING))
        ]
        configure(clients[1])
        plain, configured = measure.interleave(options.rounds, *(Side(client, tasks, batch).rate for client in clients))
    return {
        **{name: measure.spread(values) for name, values in costs.items()},
        "plain_per_s": measure.spread(plain),
        "configured_per_s": measure.spread(configured),
        "ratio_configured": measure.ratios(configured, plain),
    }


def _now_us() -> int:
    return time.monotonic_ns() // 1000

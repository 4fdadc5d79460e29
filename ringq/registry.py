"""Flow: which kinds may be submitted and which served, while the workers may not all have the same code."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ringq.admission import Admission
from ringq.berth import Berth
from ringq.dispatch import Dispatcher
from ringq.feed import Feed


class Revoking(Protocol):
    """What the registry needs of the ring."""

    def revoke_all(self) -> list[tuple[int, int, int, int]]: ...


class Registry:
    """Any worker may claim any slot: a kind is served when every worker that claims has it. Newer code's kinds may be
    submitted as soon as a worker has reported them, the older ones as long as a worker has them.
    """

    def __init__(self, store: Any, admission: Admission, dispatcher: Dispatcher, feed: Feed) -> None:
        self._store = store
        self._admission = admission
        self._dispatcher = dispatcher
        self._feed = feed
        self._strangers: frozenset[str] = frozenset()
        self._told: frozenset[str] = frozenset()
        self._is_in_motion = False
        self.vanished: dict[int, str] = {}  # kinds, by number, that no worker has any more
        self.is_settled = False  # whether every worker that should be there has told its kinds

    def remember(self, texts: Mapping[str, str], defaults: str) -> None:
        """Store what each kind's report says, and what this server says of tasks: for clients while no server runs."""
        if set(texts.values()) != set(self._store.registry()) or defaults != self._store.server_defaults():
            with self._store.transaction():
                self._store.set_registry(texts)
                self._store.set_server_defaults(defaults)

    def follow(self, berths: Sequence[Berth], ring: Revoking) -> None:
        """Workers have come or gone: what may be submitted and served from now on."""
        stay = [berth for berth in berths if berth.is_kept or (berth.process is not None and not berth.is_leaving)]
        told = sorted((b for b in stay if b.reports is not None), key=lambda berth: berth.generation)
        self._is_in_motion = any(berth.is_leaving and berth.claims for berth in berths)
        self._admission.learn(list({kind["name"]: kind for berth in told for kind in berth.reports or []}.values()))
        served = [{kind["name"] for kind in berth.reports or []} for berth in berths if berth.claims]
        self.is_settled = not self._is_in_motion and all(
            berth.claims and berth.error is None for berth in berths if berth.is_kept
        )
        if not served:
            return  # nobody to run anything: whoever comes next decides
        shared = set.intersection(*served)
        kinds = self._store.kinds()
        strangers = frozenset(kinds.values()) - shared
        if strangers - self._strangers:  # what is published of them would be claimed by a worker without handler
            task_ids = [row[0] for row in ring.revoke_all()]
            self._dispatcher.ended(task_ids)
            self._dispatcher.came_back(task_ids)
            self._feed.give_back(task_ids)
        known = shared.union(self._admission.kinds)
        self.vanished = {number: name for number, name in kinds.items() if name not in known}
        if strangers != self._strangers:
            self._strangers = strangers
            numbers = frozenset(number for number, name in kinds.items() if name in strangers)
            self._feed.give_back(self._dispatcher.learn(numbers))

    def tell(self, say: Callable[[str], None], wait_s: float) -> None:
        """Say which kinds are not served, if that has changed for longer than until some worker has left."""
        if self._strangers == self._told or self._is_in_motion:
            return
        self._told = self._strangers
        partly = self._strangers.intersection(self._admission.kinds)
        if self._strangers - partly:
            names = ", ".join(sorted(self._strangers - partly))
            come_to = "stay pending" if wait_s == math.inf else f"are dead letters after {wait_s:g} s, if none comes"
            say(f"no handler here for {names}: tasks of that kind {come_to}")
        if partly:
            names = ", ".join(sorted(partly))
            say(f"not every worker has a handler for {names}: tasks of that kind stay pending until a reload (HUP)")

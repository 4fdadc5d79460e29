"""Flow: what was said of groups, kinds, domains, queues and the server, told to those who go by it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ringq.committed import Said
from ringq.controls import Controls
from ringq.dispatch import Dispatcher
from ringq.places import Place, place_of


def steer(dispatcher: Dispatcher, controls: Controls, changed: Iterable[Said]) -> None:
    """Have the dispatcher go by what is true of these now; who runs must be counted anew."""
    gate, limits = dispatcher.gate, controls.limits()
    by_scope = {"domain": limits.domains, "group": limits.groups, "kind": limits.kinds}
    for scope, name, _ in changed:
        dispatcher.backlog.tell_apart(scope, name)
        gate.pause(scope, name, (scope, name) in controls.pauses())
        if scope in by_scope:
            gate.limit(scope, name, by_scope[scope].get(name))
        elif scope == "server":
            gate.limit(scope, name, limits.server)
    if controls.weights():
        dispatcher.backlog.tell_groups_apart()


def places_of(store: Any, task_ids: Sequence[int]) -> list[tuple[int, Place]]:
    """The places of these tasks that have not ended."""
    specs = store.specs()
    return [(task_id, place_of(specs[number])) for task_id, number in store.specs_of(task_ids)]

"""Flow: what was said of groups, kinds, domains, queues and the server, told to those who go by it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from ringq.committed import Said
from ringq.controls import Controls
from ringq.dispatch import Dispatcher
from ringq.places import Place, place_of


class Specs(Protocol):
    """What is needed of the store."""

    def specs(self) -> Any: ...
    def specs_of(self, task_ids: list[int]) -> list[tuple[int, int]]: ...


def steer(dispatcher: Dispatcher, controls: Controls, changed: Iterable[Said]) -> None:
    """Have the dispatcher go by what is true of these now; `recount` must follow."""
    gate, limits = dispatcher.gate, controls.limits()
    by_scope = {"domain": limits.domains, "group": limits.groups, "kind": limits.kinds}
    for scope, name, _ in changed:
        dispatcher.backlog.tell_apart(scope, name)
        gate.pause(scope, name, (scope, name) in controls.pauses())
        if scope in by_scope:
            gate.limit(scope, name, by_scope[scope].get(name))
        elif scope == "server":
            gate.limit(scope, name, limits.server)


def recount(dispatcher: Dispatcher, store: Specs, running: list[int]) -> None:
    """Count these tasks, and no others, among what runs: some had no limit when they began."""
    specs = store.specs()
    places: list[tuple[int, Place]] = [(i, place_of(specs[spec])) for i, spec in store.specs_of(running)]
    dispatcher.gate.recount(places)

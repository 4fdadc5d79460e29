"""Values: what decides when a task's turn comes, and which tasks need a lane of their own for that. Pure."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

FINALIZER: Final = -1  # the priority of what is to be finalized: before other work
SEPARATOR: Final = "::"  # of domain and name in a kind


class Place(NamedTuple):
    """Where a pending task stands. `kind` is a kind, or `domain::` for all of a domain; "" for any."""

    priority: int
    queue: str
    group: str | None = None
    kind: str = ""

    @property
    def domain(self) -> str:
        """The domain of the kind."""
        return domain_of(self.kind)


def domain_of(kind: str) -> str:
    """The domain of a kind; "" for none."""
    return kind.partition(SEPARATOR)[0]


def place_of(spec: Any) -> Place:
    """The place of the tasks of a spec."""
    return Place(spec.priority, spec.queue, spec.group, spec.kind)


class Places:
    """Tasks share a lane, whatever their groups and kinds, until something is said of one of these: a limit, a pause.

    What was said once counts for as long as the server runs: to bring lanes together again would gain nothing.

    Attributes: `has_all_groups`, whether each group has a lane of its own, because groups share by weights.
    """

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = {"group": set(), "kind": set(), "domain": set()}
        self._is_any = False
        self.has_all_groups = False

    def narrow(self, place: Place) -> Place:
        """The place with nothing in it that does not matter."""
        priority, queue, group, kind = place
        if not self._is_any:
            return place if group is None and not kind else Place(priority, queue)
        names = self._names
        if group not in names["group"] and not self.has_all_groups:
            group = None
        if kind not in names["kind"]:
            domain = domain_of(kind)
            kind = domain + SEPARATOR if domain in names["domain"] else ""
        return Place(priority, queue, group, kind)

    def tell_apart(self, scope: str, name: str) -> bool:
        """Tasks of this group, kind or domain have lanes of their own from now on. Whether that is new."""
        names = self._names.get(scope)
        if names is None or name in names:
            return False
        names.add(name)
        self._is_any = True
        return True

    def tell_groups_apart(self) -> bool:
        """Each group has a lane of its own from now on. Whether that is new."""
        was, self.has_all_groups, self._is_any = self.has_all_groups, True, True
        return not was

"""Flow: how much disk and network tasks are expected to use, as the code says, else as they have; for the gate.

reports of workers ──► budgets of kinds ──┐
what attempts used ──► averages ──────────┴─► expected of what runs ──► against the rates that the sampler sees
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from ringq.budgets import AXES, Averages, Headroom, IoBudget
from ringq.gate import Gate, Refusal

UNSEEN: Final = "budgets of disk and network limit nothing while pressure is off: set pressure = 'idle 1', or on"


class Toll:
    """As many tasks of a kind as fit beside all that run. Attributes: `used`, how many do, or are about to."""

    def __init__(self, fits: Callable[[], int]) -> None:
        self.reason = Refusal.IO_BUDGET
        self.used = 0
        self.expected = IoBudget()
        self._fits = fits

    @property
    def limit(self) -> int:
        """How many may run now: it changes with all else that does."""
        return self.used + self._fits()


class Budgeting:
    """Kinds without a budget are unknown here, and cost nothing."""

    def __init__(self, gate: Gate, say: Callable[[str], object]) -> None:
        """`say` is told, once, when budgets mean nothing."""
        self._gate = gate
        self._say = say
        self._headroom = Headroom()
        self._averages = Averages()
        self._declared: dict[str, IoBudget] = {}
        self._tolls: dict[str, Toll] = {}
        self._kin: dict[str, list[str]] = {}  # each kind with its aliases, under each of these names
        self._has_warned = False

    def declare(self, reports: Sequence[Mapping[str, Any]], *, is_seen: bool) -> set[str]:
        """These budgets stand in the code, as workers report them; the kinds whose budget has become other.

        `is_seen`: whether somebody looks at the rates.
        """
        declared = {report["name"]: IoBudget.read(report["io"]) for report in reports if report.get("io") is not None}
        changed = {kind for kind, _ in declared.items() ^ self._declared.items()}
        self._declared = declared
        self._kin = {report["name"]: report["names"] for report in reports if report["name"] in declared}
        for kind in changed:
            if kind not in declared:
                del self._tolls[kind]
            elif kind not in self._tolls:
                self._tolls[kind] = Toll(partial(self._fits, kind))
            self._expect(kind)
            self._gate.budget(kind, self._tolls.get(kind))
        if declared and not is_seen and not self._has_warned:
            self._has_warned = True
            self._say(UNSEEN)
        return changed

    def learn(self, kind: str, used: Mapping[str, int]) -> None:
        """An attempt of this kind has used so much."""
        if kind in self._declared:
            self._averages.learn(kind, IoBudget.read(used))
            for name in self._kin[kind]:
                self._expect(name)

    def observe(self, rates: Mapping[str, float]) -> None:
        """Bytes a second, as last seen; {} if nobody looks."""
        if self._declared:
            self._headroom.observe(rates)

    def describe(self) -> dict[str, Any] | None:
        """What is expected of what runs, how much there is room for, and what is expected of each kind's tasks.

        As JSON takes it; None without budgets.
        """
        if not self._declared:
            return None
        kinds = {kind: toll.expected.plain() for kind, toll in self._tolls.items()}
        return {"expected": self._running(), "room": self._headroom.plain(), "kinds": kinds}

    def _expect(self, kind: str) -> None:
        if kind in self._tolls:
            self._tolls[kind].expected = self._averages.expect(self._kin[kind][0], self._declared[kind])

    def _fits(self, kind: str) -> int:
        return self._headroom.fits(self._tolls[kind].expected, self._running())

    def _running(self) -> dict[str, int]:
        """Of all kinds together, in bytes. What is learnt of a kind holds for those of it that run, too."""
        tolls = [toll for toll in self._tolls.values() if toll.used]
        return {axis: sum(getattr(toll.expected, axis) * toll.used for toll in tolls) for axis in AXES}

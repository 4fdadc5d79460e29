"""Edge: the process beside the server that looks at the machine once a second - `python -m ringq.sampler`.

A process, because the server's loop has no threads, imports nobody's code and shall not wait for a file of the kernel.
One JSON object a line goes into the server's pipe: {"at_ns", "sources", "rates", "cpu_ms", "warnings"}.
"""

from __future__ import annotations

import importlib
import inspect
import json
import math
import os
import signal
import sys
import threading
import time
from typing import Any, Final

from ringq.neighbours import Neighbours, Sample
from ringq.pressure import PressureSource
from ringq.ring import set_death_signal

INTERVAL_S: Final = 1.0
ANSWER_S: Final = 0.5  # a source has so long; with all of the interval what it says would be a second old
NAME_CHARS_MAX: Final = 64
NOTHING: Final = Sample({}, {})
OURS: Final = frozenset({"cpu", "load", "memory", "disk", "network", "psi_cpu", "psi_io", "psi_memory"})


def main(argument: str) -> None:
    """Sample until the server is gone; `argument` is the JSON that PressureWatch gives."""
    given = json.loads(argument)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):  # for the server, which ends this process too
        signal.signal(number, signal.SIG_IGN)
    set_death_signal()
    try:
        signal.pidfd_send_signal(given["server"], 0)  # it may have died before the death signal was set
        _run(given)
    except (ProcessLookupError, BrokenPipeError):
        return


def _run(given: dict[str, Any]) -> None:
    from ringq.machine import Machine  # noqa: PLC0415 - psutil; tests of sources alone have no use for it

    machine = Machine(os.getppid())
    neighbours = Neighbours(given["disk_bandwidth"], given["network_bandwidth"])
    sources = Sources(given["sources"])
    due_s = time.monotonic()
    while True:
        _sleep_until(due_s - ANSWER_S)
        sources.ask()
        _sleep_until(due_s)
        at_ns = time.monotonic_ns()
        try:
            sample = neighbours.judge(machine.read(at_ns))
        except Exception as error:  # one counter that this kernel does not have shall not cost the others' sources
            sample = NOTHING
            sources.warn("machine", f"{type(error).__name__}: {error}")
        if sample is not None:
            os.write(given["to"], line(at_ns, sample, sources.take(), sources.warnings))
            sources.warnings = []
        due_s = max(due_s + INTERVAL_S, time.monotonic() + ANSWER_S)  # a late sample is not made up for


def line(at_ns: int, sample: Sample, values: dict[str, float], warnings: list[str]) -> bytes:
    """A sample as it goes into the pipe; `values`: those of the sources of the user."""
    shown = {name: round(value, 4) for name, value in {**sample.sources, **values}.items()}
    rates = {name: round(rate) for name, rate in sample.rates.items()}
    cpu_ms = round(time.process_time() * 1000, 1)
    told = {"at_ns": at_ns, "sources": shown, "rates": rates, "cpu_ms": cpu_ms, "warnings": warnings}
    return json.dumps(told).encode() + b"\n"


class Sources:
    """The sources of the user. Attributes: `warnings`, told once each, to be taken away by whoever tells them."""

    def __init__(self, targets: list[str]) -> None:
        """`targets`: "module:attribute" of each. One that cannot be had is warned of and left out."""
        self.warnings: list[str] = []
        self._asked: dict[str, _Asked] = {}
        self._told: set[str] = set()
        for target in targets:
            try:
                source = _load(target)
                if source.name in OURS or source.name in self._asked:
                    raise ValueError(f"its name {source.name!r} is taken")
                self._asked[source.name] = _Asked(source)
            except BaseException as error:  # also a module that calls sys.exit
                self.warn(target, f"{error}" if type(error) is ValueError else f"{type(error).__name__}: {error}")

    def ask(self) -> None:
        """Ask each, and return at once."""
        for asked in self._asked.values():
            asked.ask()

    def take(self) -> dict[str, float]:
        """What each has answered since it was asked; 0 for one that has not, or with anything but 0 to 1."""
        values = {}
        for name, asked in self._asked.items():
            value, wrong = asked.take()
            values[name] = value
            if wrong:
                self.warn(name, wrong)
        return values

    def warn(self, name: str, wrong: str) -> None:
        """Have it told what is wrong with a source, unless that was told of it before."""
        if name not in self._told:
            self._told.add(name)
            self.warnings.append(f"pressure source {name} counts as 0: {' '.join(wrong.split())[:300]}")


def checked(answer: object) -> float:
    """The answer of a source as a number from 0 to 1. Raises ValueError that says what it is instead."""
    is_number = isinstance(answer, (int, float)) and not isinstance(answer, bool)
    if not is_number or not math.isfinite(answer) or not 0 <= answer <= 1:  # type: ignore[operator,arg-type]
        raise ValueError(f"it has answered {answer!r:.100}, not a number from 0 to 1")
    return float(answer)  # type: ignore[arg-type]


class _Asked:
    """One source and its thread. An answer counts for the question it was given to, and only until the next one."""

    def __init__(self, source: PressureSource) -> None:
        self._source = source
        self._questions = 0
        self._answer: tuple[int, object, str] | None = None
        self._is_idle = threading.Event()
        self._is_idle.set()
        self._wanted = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def ask(self) -> None:
        if self._is_idle.is_set():
            self._is_idle.clear()
            self._wanted.set()

    def take(self) -> tuple[float, str]:
        """The value and what is wrong with it."""
        answer = self._answer
        number, self._questions = self._questions, self._questions + 1
        if answer is None or answer[0] != number:
            return 0.0, f"it has not answered within {ANSWER_S:g} s"
        try:
            return (0.0, answer[2]) if answer[2] else (checked(answer[1]), "")
        except ValueError as error:
            return 0.0, str(error)

    def _serve(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            number, value, wrong = self._questions, None, ""
            try:
                value = self._source.pressure()
            except BaseException as error:
                wrong = f"{type(error).__name__}: {error}"
            self._answer = (number, value, wrong)
            self._is_idle.set()


def _sleep_until(at_s: float) -> None:
    time.sleep(max(0.0, at_s - time.monotonic()))


def _load(target: str) -> PressureSource:
    module, _, attribute = target.partition(":")
    source = getattr(importlib.import_module(module), attribute)
    if inspect.isclass(source):
        source = source()
    name = getattr(source, "name", None)
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= NAME_CHARS_MAX:
        raise ValueError(f"its name is {name!r:.100}, not a text of 1 to {NAME_CHARS_MAX} characters")
    if not callable(getattr(source, "pressure", None)):
        raise ValueError("it has no method pressure()")
    return source  # type: ignore[no-any-return]


if __name__ == "__main__":
    main(sys.argv[1])

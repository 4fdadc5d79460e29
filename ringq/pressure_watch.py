"""Flow: the server's side of pressure - keeps the sampler running, takes its samples, says who may not start.

The gate asks; what it costs the loop is one wake-up a second while pressure is configured, and nothing if it is not.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from ringq.clock import Clock
from ringq.config import Config
from ringq.pressure import SILENCE_NS, Policy, Pressure
from ringq.spelling import meant

READ_BYTES_MAX: Final = 64 * 1024
START_PATIENCE_NS: Final = 20_000_000_000  # until the first sample: a source of the user may import much
STEADY_NS: Final = 10_000_000_000  # who has lived so long has started well
MIB: Final = 1024 * 1024


class Told(msgspec.Struct):
    """A line of the sampler: see there."""

    at_ns: int
    sources: dict[str, float]
    rates: dict[str, int]
    cpu_ms: float
    warnings: list[str]


_LINES: Final = msgspec.json.Decoder(Told)


class PressureWatch:
    """Attributes: `rates`, bytes a second of disk and network as last seen, {} if not known."""

    def __init__(
        self, config: Config, selector: selectors.BaseSelector, clock: Clock, say: Callable[[str], object]
    ) -> None:
        """`say` is told what is wrong, each thing once.

        Raises InvalidOption for a policy that makes no sense.
        """
        self._config = config
        self._selector = selector
        self._clock = clock
        self._say = say
        policy = Policy.read(config.pressure)
        self._pressure = Pressure(policy) if policy else None
        self.rates: Mapping[str, float] = {}
        self._sampler: _Sampler | None = None
        self._start_ns: int | None = None  # when the next sampler is due
        self._backoff_s = config.respawn_backoff_s
        self._has_warned = False
        self._unknown: set[str] = set()
        self._cpu_ms = 0.0
        self._starts = 0
        if self._pressure is not None:
            self._start()
        elif config.pressure_sources or config.disk_bandwidth_mib or config.network_bandwidth_mib:
            say("pressure is off, and so its sources and bandwidths mean nothing: set pressure = on")

    @property
    def is_on(self) -> bool:
        """Whether anybody looks."""
        return self._pressure is not None

    @property
    def pid(self) -> int | None:
        """Of the sampler, which is a child of this process."""
        return self._sampler.pid if self._sampler is not None else None

    def concerns(self, priority: int) -> bool:
        """Whether tasks of this stored priority (0 to 255) may not all start now: none, or one for the floor."""
        return self._pressure is not None and self._pressure.concerns(priority)

    def refuses(self, priority: int) -> bool:
        """Whether no task of this stored priority (0 to 255) may start now."""
        return self._pressure is not None and self._pressure.refuses(priority, self._clock.monotonic_ns())

    def room(self, priority: int, wanted: int) -> int:
        """How many of `wanted` tasks of this stored priority may start now: all, none, or one for the floor."""
        if self._pressure is None:
            return wanted
        return self._pressure.room(priority, wanted, self._clock.monotonic_ns())

    def started(self, priority: int) -> None:
        """A task of this priority was let through."""
        if self._pressure is not None:
            self._pressure.started(priority, self._clock.monotonic_ns())

    def give_back(self, priority: int) -> None:
        """It did not start after all."""
        if self._pressure is not None:
            self._pressure.give_back(priority)

    def step(self) -> None:
        """See to what is due: a new sampler, the end of one that has gone silent. To be called in each turn."""
        if self._pressure is None:
            return
        now_ns = self._clock.monotonic_ns()
        if self._start_ns is not None and now_ns >= self._start_ns:
            self._start()
        if self._sampler is not None and now_ns >= self._sampler.patience_ns:
            self._take(self._sampler)  # this process may have been stuck itself
        if self._sampler is not None and now_ns >= self._sampler.patience_ns:
            self._lose("says nothing any more", now_ns)
        self._pressure.expire(now_ns)

    def wait_ns(self) -> int | None:
        """Until `step` must be called, or something may start; None if that takes an event first."""
        if self._pressure is None:
            return None
        now_ns = self._clock.monotonic_ns()
        times = [self._pressure.next_look_ns(now_ns), self._start_ns]
        if self._sampler is not None:
            times.append(self._sampler.patience_ns)
        return min((max(0, at_ns - now_ns) for at_ns in times if at_ns is not None), default=None)

    def describe(self) -> dict[str, Any] | None:
        """The pressure with its sources, as JSON takes it; None if it is off."""
        if self._pressure is None:
            return None
        sampler = {"pid": self.pid, "cpu_ms": self._cpu_ms, "starts": self._starts}
        return {**self._pressure.describe(), "rates": dict(self.rates), "sampler": sampler}

    def close(self) -> None:
        """End the sampler. Twice is no error."""
        self._start_ns = None
        if self._sampler is not None:
            self._sampler.close()
            self._sampler = None

    def _start(self) -> None:
        self._start_ns = None
        try:
            self._sampler = _Sampler(self._config, self._clock.monotonic_ns())
        except OSError as error:
            self._lose(f"cannot be started ({error.strerror})", self._clock.monotonic_ns())
            return
        self._starts += 1
        self._selector.register(self._sampler.pipe, selectors.EVENT_READ, lambda _: self._on_readable())
        self._sampler.on_close = self._selector.unregister

    def _on_readable(self) -> None:
        if self._sampler is not None:
            self._take(self._sampler)

    def _take(self, sampler: _Sampler) -> None:
        """Take what has come; of several samples the last: those before it have waited in the pipe."""
        assert self._pressure is not None
        samples = sampler.read()
        now_ns = self._clock.monotonic_ns()
        for warning in (warning for sample in samples for warning in sample.warnings):
            self._say(warning)
        if samples and now_ns - samples[-1].at_ns < SILENCE_NS:
            last = samples[-1]
            if not self.rates:
                self._check_names(last.sources)
            self.rates, self._cpu_ms = last.rates, last.cpu_ms
            sampler.patience_ns = now_ns + SILENCE_NS
            if now_ns - sampler.started_ns > STEADY_NS:
                self._backoff_s, self._has_warned = self._config.respawn_backoff_s, False
            self._pressure.take(last.sources, now_ns)
        if sampler.is_over:
            self._lose("has ended", now_ns)

    def _check_names(self, known: Mapping[str, float]) -> None:
        assert self._pressure is not None
        for name in self._pressure.policy.only:
            if name not in known and name not in self._unknown:
                self._unknown.add(name)
                self._say(f"pressure: there is no source {name}{meant(name, known)}")

    def _lose(self, what: str, now_ns: int) -> None:
        if self._sampler is not None:
            how = self._sampler.close()
            self._sampler = None
            what = f"{what} ({how})" if what == "has ended" else what
        if not self._has_warned:
            self._say(f"the sampler of pressure {what}: it is started again, and till then there is no pressure")
            self._has_warned = True
        self.rates = {}
        self._start_ns = now_ns + round(self._backoff_s * 1e9)
        self._backoff_s = min(self._backoff_s * 2, self._config.respawn_backoff_max_s)


class _Sampler:
    """The running process. The end of its pipe is its end."""

    def __init__(self, config: Config, now_ns: int) -> None:
        self.on_close: Callable[[int], object] = lambda _: None
        self.is_over = False
        self.started_ns = now_ns
        self.patience_ns = now_ns + START_PATIENCE_NS
        self._inbox = b""
        with contextlib.ExitStack() as on_failure, contextlib.ExitStack() as always:
            self.pipe, write_end = os.pipe2(os.O_CLOEXEC)
            on_failure.callback(os.close, self.pipe)
            always.callback(os.close, write_end)
            os.set_blocking(self.pipe, False)
            server = os.pidfd_open(os.getpid())
            always.callback(os.close, server)
            argument = json.dumps(
                {
                    "server": server, "to": write_end, "sources": config.pressure_sources,
                    "disk_bandwidth": config.disk_bandwidth_mib * MIB,
                    "network_bandwidth": config.network_bandwidth_mib * MIB,
                }
            )  # fmt: skip
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "ringq.sampler", argument], stdin=subprocess.DEVNULL,
                pass_fds=(server, write_end),
            )  # fmt: skip
            on_failure.pop_all()
        self.pid = self._popen.pid

    def read(self) -> list[Told]:
        """The samples that have come since the last look."""
        try:
            received = os.read(self.pipe, READ_BYTES_MAX)
            self.is_over = not received
        except BlockingIOError:
            received = b""
        lines, _, self._inbox = (self._inbox + received).rpartition(b"\n")
        try:
            return _LINES.decode_lines(lines)
        except msgspec.DecodeError:  # a source has written into a pipe that is not its own
            self.is_over = True
            return []

    def close(self) -> str:
        """End the process; how it ended."""
        self.on_close(self.pipe)
        self._popen.kill()
        code = self._popen.wait()
        os.close(self.pipe)
        return f"signal {-code}" if code < 0 else f"exit code {code}"

"""Face: the processes beside the server that are no workers - who watches its files, who runs the hooks of the app."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Final

from ringq.clock import Clock
from ringq.config import Config
from ringq.log import say, warn
from ringq.reload import Watcher

STEADY_NS: Final = 10_000_000_000  # whoever has run for so long is started again at once
LEAVE_S: Final = 1.0  # to see to the last events, when the server has ended


class Companions:
    """Attributes: `pids`, of those that run."""

    def __init__(self, config: Config, clock: Clock, selector: selectors.BaseSelector, umask: int) -> None:
        """Starts nothing yet."""
        self._config = config
        self._clock = clock
        self._selector = selector
        self._umask = umask
        self._watcher: Watcher | None = None
        self._hooks: Hooks | None = None
        self._wants_hooks = False
        self._has_begun = False
        self._start_ns: int | None = None
        self._backoff_s = config.respawn_backoff_s

    @property
    def pids(self) -> set[int]:
        """The process ids of those that run."""
        return {one.pid for one in (self._watcher, self._hooks) if one is not None}

    def follow(self, reports: Sequence[dict[str, Any]]) -> None:
        """The server listens, and a worker has told what the app declares."""
        if self._config.reload and not self._has_begun:
            self._watcher = Watcher(self._selector, self._on_watcher_end)
        self._has_begun = True
        self._wants_hooks = any(report.get("hooks") for report in reports)
        if self._wants_hooks and self._hooks is None and self._start_ns is None:
            self._start_ns = self._clock.monotonic_ns()

    def reload(self) -> None:
        """Workers have newer code: the hooks shall have it too."""
        if self._hooks is not None:
            self._hooks.close(0.0)
            self._hooks = None
        self._start_ns = self._clock.monotonic_ns() if self._wants_hooks else None

    def step(self, is_stopping: bool) -> None:
        """Start what is due. To be called in each turn."""
        if self._start_ns is None or self._clock.monotonic_ns() < self._start_ns:
            return
        self._start_ns = None
        if is_stopping:
            return
        try:
            self._hooks = Hooks(self._config, self._selector, self._clock.monotonic_ns(), self._umask, self._on_end)
        except OSError as error:
            self._again(f"the process for hooks cannot be started ({error.strerror})")

    def wait_ns(self) -> int | None:
        """Until `step` must be called; None if that takes an event first."""
        return None if self._start_ns is None else max(0, self._start_ns - self._clock.monotonic_ns())

    def close(self) -> None:
        """End all of them, when clients are told nothing more: hooks may see to what they were told. Twice is fine."""
        if self._watcher is not None:
            self._watcher.close()
        if self._hooks is not None:
            self._hooks.close(LEAVE_S)
        self._watcher = self._hooks = self._start_ns = None

    def _on_end(self, code: int) -> None:
        assert self._hooks is not None
        if self._clock.monotonic_ns() - self._hooks.started_ns > STEADY_NS:
            self._backoff_s = self._config.respawn_backoff_s
        self._hooks = None
        self._again(f"the process for hooks has ended with code {code}")

    def _again(self, why: str) -> None:
        warn(f"{why}: it is started again in {self._backoff_s:g} s")
        self._start_ns = self._clock.monotonic_ns() + round(self._backoff_s * 1e9)
        self._backoff_s = min(self._backoff_s * 2, self._config.respawn_backoff_max_s)

    def _on_watcher_end(self, code: int) -> None:
        self._watcher = None
        say(f"changes of files are not noticed any more: the watcher ended with code {code}", level="warning")


class Hooks:
    """The running process `python -m ringq.hooks`. `on_end` gets its exit code if it ends by itself."""

    def __init__(self, config: Config, selector: selectors.BaseSelector, now_ns: int, umask: int, on_end: Any) -> None:
        """Raises OSError."""
        self.started_ns = now_ns
        self._selector = selector
        self._on_end = on_end
        server = os.pidfd_open(os.getpid())
        argument = {
            "server": server, "app": config.app, "database": os.fsencode(config.database.absolute()).hex(),
            "umask": umask, "log_format": config.log_format, "quiet": config.quiet,
        }  # fmt: skip
        try:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "ringq.hooks", json.dumps(argument)], stdin=subprocess.DEVNULL,
                pass_fds=(server,),
            )  # fmt: skip
        finally:
            os.close(server)
        self.pid = self._popen.pid
        self._pidfd = os.pidfd_open(self.pid)
        selector.register(self._pidfd, selectors.EVENT_READ, lambda _: self._on_end(self._forget()))

    def close(self, patience_s: float) -> None:
        """Give it so long to end by itself, as it does when the server has closed its connection; then end it."""
        try:
            self._popen.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._popen.send_signal(signal.SIGKILL)
        self._forget()

    def _forget(self) -> int:
        self._selector.unregister(self._pidfd)
        os.close(self._pidfd)
        return self._popen.wait()

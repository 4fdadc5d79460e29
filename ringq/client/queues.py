"""Submit and answer: the client's verbs for queues."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final, Unpack

from ringq import defaults, notation, protocol
from ringq.client.changing import Asking, change
from ringq.client.controls import Running, end_pause, set_pause
from ringq.client.steps import Verb
from ringq.config import WORKERS_MAX
from ringq.errors import InvalidOption
from ringq.kinds import options
from ringq.kinds.limits import LimitOptions
from ringq.kinds.options import TtlFrom
from ringq.retry import Retry


class QueueSettings(LimitOptions, total=False):
    """What can be said of a queue, as `Client.set_queue` says."""

    max_workers: int | None
    retry: Retry | str | int | None
    cooldown: str | None
    retention: float | timedelta | str | None
    dead_retention: float | timedelta | str | None
    priority: int | None
    group: str | None
    run_timeout: float | timedelta | None
    ttl: float | timedelta | None
    ttl_from: TtlFrom | None
    tags: Mapping[str, str] | None


SETTINGS: Final = tuple(QueueSettings.__annotations__)


class Queues:
    """Queues as their operator sees them. What is said here is stored, holds at once, and wins over flags."""

    @Verb
    async def pause_queue(
        self: Asking, name: str, until: datetime | timedelta | None = None, *, running: Running = "stop"
    ) -> bool:
        """Start no more tasks of a queue; submissions are taken. False if it was paused already, and stays as it was.

        Until `resume_queue`, also over restarts; or `until` an aware datetime, or a timedelta from now. `running`: its
        tasks that run are asked to "stop", and run again later, or may "finish".

        Raises InvalidOption, and what `submit_many` raises about the server and the database; while none runs, it is
        stored for the next one.
        """
        return await set_pause(self, "queue", name, until, running)

    @Verb
    async def resume_queue(self: Asking, name: str) -> bool:
        """Start tasks of a queue again, also if it cools down. False if it did neither. Raises as `pause_queue`."""
        return await end_pause(self, "queue", name)

    @Verb
    async def set_queue(self: Asking, name: str, **settings: Unpack[QueueSettings]) -> None:
        """Say something of a queue; None takes it back: then the server's flags decide, or what is built in.

        `max_workers`: how many of its tasks run at a time, 0 to 255. `retry`: what happens to its tasks after a failure
        if neither they nor their kind nor domain say: a Retry, a number, or text. `cooldown`: how long no task starts
        after one was `Throttled`: "constant 60s", or "exponential 60s..30m", which doubles while it goes on.
        `retention`: how long its ended tasks stay, with all that is known of them, before they are forgotten: seconds,
        timedelta or text as "30d", from 1 second to 36,500 days, or "forever". `dead_retention`: the same of its dead
        letters.

        The others are options that its tasks have if neither they nor their kind nor domain say: `priority`, `group`,
        `run_timeout`, `ttl`, `ttl_from`, `total_timeout`, `queue_timeout`, `kill_after`, `memory_limit`, `tags`, with
        the ranges of `Task.options`. They hold for tasks that are stored from then on.

        Raises as `pause_queue`.
        """
        options.check_names("set_queue", settings, SETTINGS)
        changes: dict[str, int | bool | str | dict[str, Any] | None] = {}
        if "max_workers" in settings:
            cap = settings["max_workers"]
            whole = isinstance(cap, int) and not isinstance(cap, bool)
            if cap is not None and not (whole and 0 <= cap <= WORKERS_MAX):
                raise InvalidOption(f"max_workers: expected 0 to {WORKERS_MAX} or None, got {cap!r}")
            changes["max_workers"] = cap
        if "retry" in settings:
            given = settings["retry"]
            changes["retry"] = None if given is None else str(Retry.of(given))
        if "cooldown" in settings:
            changes["cooldown"] = options.cooldown_of(settings["cooldown"])
        if "retention" in settings:
            changes["retention"] = _retention("retention", settings["retention"])
        if "dead_retention" in settings:
            changes["dead_retention"] = _retention("dead_retention", settings["dead_retention"])
        given_defaults = {name: value for name, value in settings.items() if name in defaults.FIELDS}
        if given_defaults:
            changes["defaults"] = _defaults(given_defaults)
        if not changes:
            raise InvalidOption(f"set_queue: say at least one of {', '.join(SETTINGS)}")
        await _set(self, name, changes)


def _retention(name: str, given: Any) -> str | None:
    """As it is stored: the words that were given, a number in seconds."""
    if given is None:
        return None
    try:
        seconds = notation.retention(given)
    except ValueError as error:
        raise InvalidOption(f"{name}: {error}") from None
    return given.strip().lower() if isinstance(given, str) else "forever" if seconds == math.inf else f"{seconds:.15g}s"


def _defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return defaults.stored(given)
    except ValueError as error:
        raise InvalidOption(str(error)) from None


async def _set(client: Asking, name: str, changes: dict[str, int | bool | str | dict[str, Any] | None]) -> None:
    options.check_queue(name)
    await change(client, protocol.SetQueue(name, changes), protocol.Changed)

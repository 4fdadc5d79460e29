"""Submit: the options of domains, kinds and submissions, checked where they are written down."""

from __future__ import annotations

import math
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from ringq.config import NAME_CHARS_MAX, Config
from ringq.errors import InvalidConfig, InvalidKind, InvalidOption
from ringq.protocol import SpecFields

RUN_TIMEOUT_S_MAX: Final = 366 * 24 * 3600.0
SEPARATOR: Final = "::"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INSTANT_US_MAX = 253_402_300_799_999_999  # the end of the year 9999


def check_name(what: str, name: Any) -> str:
    """The name of a domain or of a handler. Raises InvalidKind saying what a name may be."""
    if isinstance(name, str) and len(name) <= NAME_CHARS_MAX and _NAME.fullmatch(name):
        return name
    raise InvalidKind(
        f"{what}: expected a letter or _, then letters, digits, _ . -, at most {NAME_CHARS_MAX}, got {name!r}"
    )


def check_kind(kind: Any) -> str:
    """A kind as text, `domain::name`. Raises InvalidOption."""
    if isinstance(kind, str):
        parts = kind.split(SEPARATOR)
        if len(parts) == 2 and all(_NAME.fullmatch(part) and len(part) <= NAME_CHARS_MAX for part in parts):
            return kind
    raise InvalidOption(f"kind: expected domain::name, as in media::thumbnail, or the task itself, got {kind!r}")


def spec_of(
    kind: str,
    *,
    queue: str | None,
    priority: int | None,
    group: str | None,
    run_timeout: float | timedelta | None,
) -> SpecFields:
    """The options of a submission as the protocol carries them. Raises InvalidOption naming the range."""
    if queue is not None:
        _check_label("queue", queue)
        if set(queue) & set(",:"):
            raise InvalidOption(f"queue: expected a name without comma or colon, got {queue!r}")
    if group is not None:
        _check_label("group", group)
    whole = isinstance(priority, int) and not isinstance(priority, bool)
    if priority is not None and not (whole and 0 <= priority <= 255):
        raise InvalidOption(f"priority: expected 0 (most urgent) to 255 (least), got {priority!r}")
    limit_ms = None if run_timeout is None else _run_timeout_ms(run_timeout)
    return SpecFields(kind, queue, None if priority is None else int(priority), group, limit_ms)


def settings_of(
    *, workers: int | None, durability: str | None, drain_timeout: float | timedelta | None
) -> dict[str, int | float | str]:
    """The settings that an App gives, by their names in the configuration. Raises InvalidOption naming the range."""
    settings: dict[str, int | float | str] = {}
    if workers is not None:
        if not isinstance(workers, int) or isinstance(workers, bool):
            raise InvalidOption(f"workers: expected a whole number, 0 for as many as there are cores, got {workers!r}")
        settings["workers"] = int(workers)
    if durability is not None:
        settings["durability"] = durability
    if drain_timeout is not None:
        settings["drain_timeout_s"] = _seconds("drain_timeout", drain_timeout, 0.0)
    try:
        Config(Path(), **settings)  # type: ignore[arg-type]  # the ranges are written down there
    except InvalidConfig as error:
        raise InvalidOption(str(error).replace("drain_timeout_s", "drain_timeout")) from None
    return settings


def instant_us(run_at: datetime | None, run_after: float | timedelta | None) -> int | None:
    """When a submission may run, in Unix microseconds; None for at once.

    Raises InvalidOption for a naive `run_at`, a negative `run_after`, or both given.
    """
    if run_at is not None:
        if run_after is not None:
            raise InvalidOption("run_at and run_after: give one of them")
        if not isinstance(run_at, datetime) or run_at.utcoffset() is None:
            raise InvalidOption(
                f"run_at: expected a datetime with a time zone, as datetime.now(timezone.utc), got {run_at!r}"
            )
        at = max(0, (run_at - _EPOCH) // timedelta(microseconds=1))
        if at > _INSTANT_US_MAX:
            raise InvalidOption(f"run_at: expected an instant before the year 10000 in UTC, got {run_at!r}")
        return at
    if run_after is None:
        return None
    at = time.time_ns() // 1_000 + round(_seconds("run_after", run_after, 0.0) * 1e6)
    if at > _INSTANT_US_MAX:
        raise InvalidOption(f"run_after: expected an instant before the year 10000, got {run_after!r}")
    return at


def _run_timeout_ms(span: float | timedelta) -> int:
    seconds = _seconds("run_timeout", span, 0.001)
    if seconds > RUN_TIMEOUT_S_MAX:
        raise InvalidOption(f"run_timeout: expected at most {RUN_TIMEOUT_S_MAX:.0f} seconds, got {span!r}")
    return math.ceil(round(seconds * 1000, 6))


def _seconds(option: str, span: Any, least: float) -> float:
    if isinstance(span, timedelta):
        span = span.total_seconds()
    if isinstance(span, (int, float)) and not isinstance(span, bool) and least <= span < math.inf:
        return float(span)
    raise InvalidOption(f"{option}: expected seconds (a number or a timedelta) from {least:g} on, got {span!r}")


def _check_label(option: str, label: Any) -> None:
    if not isinstance(label, str) or not 0 < len(label) <= NAME_CHARS_MAX or not label.isprintable():
        raise InvalidOption(f"{option}: expected 1 to {NAME_CHARS_MAX} printable characters, got {label!r}")

"""Submit: what may be said of servers, domains, groups and kinds, checked here and where it arrives."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any, Final

from ringq.clock import SystemClock, microseconds_of
from ringq.config import NAME_CHARS_MAX
from ringq.errors import InvalidOption

SLOTS_MAX: Final = 1_000_000  # of a limit or a minimum: more than ever run
WEIGHT_MIN, WEIGHT_MAX = 0.001, 1_000_000.0
SETTINGS: Final = {
    "server": ("max_concurrency",),
    "domain": ("max_concurrency",),
    "kind": ("max_concurrency",),
    "group": ("max_concurrency", "weight", "min_slots"),
}


def problem_of(scope: str, name: str, value: Any) -> str | None:
    """What is wrong with saying this of something; None if nothing is."""
    if name not in SETTINGS[scope]:
        return f"{scope}: there is no setting {name!r}; there are {', '.join(SETTINGS[scope])}"
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if name == "weight":
        if is_number and WEIGHT_MIN <= value <= WEIGHT_MAX:
            return None
        return f"weight: expected a number from {WEIGHT_MIN:g} to {WEIGHT_MAX:,.0f}, or None, got {value!r:.50}"
    if is_number and isinstance(value, int) and 0 <= value <= SLOTS_MAX:
        return None
    return f"{name}: expected 0 to {SLOTS_MAX:,}, or None, got {value!r:.50}"


def name_problem(scope: str, name: Any) -> str | None:
    """What is wrong with this name of a domain, group or kind; None if nothing is."""
    if isinstance(name, str) and 0 < len(name) <= NAME_CHARS_MAX and name.isprintable():
        return None
    return f"{scope}: expected 1 to {NAME_CHARS_MAX} printable characters, got {name!r:.50}"


def max_concurrency_of(value: Any) -> int | None:
    """A limit that stands in the code. Raises InvalidOption."""
    wrong = problem_of("kind", "max_concurrency", value)
    if wrong is not None:
        raise InvalidOption(wrong)
    limit: int | None = value
    return limit


def until_us_of(until: datetime | timedelta | None) -> int | None:
    """When a pause is over, in Unix microseconds. Raises InvalidOption for what is over already, or says no instant."""
    if until is None:
        return None
    now_us = SystemClock().now_us()
    if isinstance(until, timedelta):
        at = now_us + until // timedelta(microseconds=1)
    elif isinstance(until, datetime) and until.utcoffset() is not None:
        at = microseconds_of(until)
    else:
        raise InvalidOption(f"until: expected a datetime with a time zone, or a timedelta from now, got {until!r:.80}")
    if at <= now_us:
        raise InvalidOption(f"until: {until} is over already; give an instant to come, or none")
    return at

"""Submit: the limits of an attempt and of a whole task, checked where they are written down."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final, TypedDict, cast

from ringq import notation
from ringq.bucket import Rate
from ringq.config import KIB, MEMORY_KIB_MAX, MEMORY_KIB_MIN
from ringq.errors import SPAN_S_MAX, InvalidOption

SPAN_S_MIN: Final = 0.001


class LimitOptions(TypedDict, total=False):
    """Limits besides `run_timeout` and `ttl`; each may be given with a call, a kind or a domain.

    `kill_after`: seconds or timedelta from the soft exception to the end of the process; if nobody says, 5 s.
    `total_timeout`: alike, from the submission to the end, over all attempts and waits. `queue_timeout`: alike, how
    long it may wait for a worker once it is due, before each attempt. Spans are 1 ms to 366 days. `memory_limit`: MiB,
    or text as "512MB", "2GB": how much memory the worker and what the handler has started may hold during an attempt,
    from 64 MiB on.
    """

    kill_after: float | timedelta | None
    total_timeout: float | timedelta | None
    queue_timeout: float | timedelta | None
    memory_limit: float | str | None


def limits_of(given: Mapping[str, Any]) -> LimitOptions:
    """Those of these options that are limits."""
    return cast(LimitOptions, {name: given[name] for name in LimitOptions.__annotations__ if name in given})


def limit_fields(given: Mapping[str, Any]) -> dict[str, int | None]:
    """These limits as the protocol carries them. Raises InvalidOption naming the range."""
    spans = {name: given.get(name) for name in ("kill_after", "total_timeout", "queue_timeout")}
    fields = {f"{name}_ms": None if span is None else _milliseconds(name, span) for name, span in spans.items()}
    size = given.get("memory_limit")
    return {**fields, "memory_limit_kib": None if size is None else _kib("memory_limit", size)}


def rate_of(rate: Any, burst: Any = None) -> Rate:
    """A rate as text, `10/s`; `burst`: instead of what the text says of it. Raises InvalidOption."""
    try:
        return notation.rate(rate, burst)
    except InvalidOption:
        raise
    except ValueError as error:
        raise InvalidOption(f"rate: {error}") from None


def _milliseconds(option: str, span: Any) -> int:
    seconds = span.total_seconds() if isinstance(span, timedelta) else span
    is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not is_number or not SPAN_S_MIN <= seconds <= SPAN_S_MAX:
        raise InvalidOption(
            f"{option}: expected seconds (a number or a timedelta) from {SPAN_S_MIN} to {SPAN_S_MAX:.0f}, got {span!r}"
        )
    return math.ceil(round(seconds * 1000, 6))


def _kib(option: str, size: Any) -> int:
    try:
        kib = notation.size_mib(size) * KIB
    except ValueError:
        kib = 0
    if not MEMORY_KIB_MIN <= kib <= MEMORY_KIB_MAX:
        raise InvalidOption(
            f"{option}: expected {MEMORY_KIB_MIN // KIB} MiB or more, as 512 (MiB), '512MB' or '2GB', got {size!r}"
        )
    return kib

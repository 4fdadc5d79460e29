"""Values: when schedules fire - cron lines in a time zone and fixed intervals - and what is made up after an absence.

Nothing here reads a clock. Times are Unix microseconds. An occurrence is the instant that the cron line or the interval
names; it fires then, or a jitter later.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from hashlib import blake2b
from itertools import islice, takewhile
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from ringq.errors import InvalidOption

SECOND_US: Final = 1_000_000
EVERY_US_MIN: Final = 10_000
EVERY_US_MAX: Final = 366 * 86_400 * SECOND_US
JITTER_US_MAX: Final = 86_400 * SECOND_US
CRON_CHARS_MAX: Final = 200
CATCH_UP_ALL: Final = 100
CATCH_UP_MAX: Final = 1000  # tasks that one fire may add
LATE_US: Final = 60 * SECOND_US  # what fires later than that was missed

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LOOK_BACK_US: Final = 60 * SECOND_US


@dataclass(frozen=True, slots=True)
class Timing:
    """When a schedule fires: by `cron` or by `every_us`; `from_completion` counts from the end of the task."""

    cron: str | None = None
    every_us: int | None = None
    zone: str = "UTC"
    jitter_us: int = 0
    from_completion: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What a schedule that is due does: `fires`, occurrences in their order; `following`, the one after, None for none.

    `following` of a timing from completion is None if anything fires: the end of that decides.
    """

    fires: list[int]
    following: int | None


def check(timing: Timing, now_us: int) -> None:
    """Raise InvalidOption for a timing that makes no sense, or that has no occurrence after `now_us`."""
    if (timing.cron is None) == (timing.every_us is None):
        raise InvalidOption("schedule: give either cron or every")
    if not 0 <= timing.jitter_us <= JITTER_US_MAX:
        raise InvalidOption(f"jitter: expected 0 s to 1 day, got {timing.jitter_us / SECOND_US:g} s")
    if timing.every_us is not None:
        if not EVERY_US_MIN <= timing.every_us <= EVERY_US_MAX:
            raise InvalidOption(f"every: expected 10 ms to 366 days, got {timing.every_us / SECOND_US:g} s")
        return
    assert timing.cron is not None
    if timing.from_completion:
        raise InvalidOption("from_completion: goes with every, a cron line names its instants itself")
    zone_of(timing.zone)
    if following(timing, now_us, now_us) is None:
        raise InvalidOption(f"cron: {timing.cron!r} never fires")


def catch_up_of(written: object) -> int:
    """How many missed fires are made up at most: 0 for "skip", 1 for "one", 100 for "all", or that number itself.

    Raises InvalidOption for anything else, or a number over 1,000.
    """
    known = {"skip": 0, "one": 1, "all": CATCH_UP_ALL}
    if isinstance(written, str) and written in known:
        return known[written]
    if isinstance(written, int) and not isinstance(written, bool) and 0 <= written <= CATCH_UP_MAX:
        return written
    raise InvalidOption(f'catch_up: expected "skip", "one", "all" or 0 to {CATCH_UP_MAX:,} fires, got {written!r}')


def zone_of(name: object) -> tzinfo:
    """A time zone by its IANA name. Raises InvalidOption."""
    if name == "UTC":
        return UTC
    try:
        if isinstance(name, str) and name:
            return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        pass
    raise InvalidOption(f"zone: expected the IANA name of a time zone, as Europe/Berlin, got {name!r:.100}")


def following(timing: Timing, anchor_us: int, after_us: int) -> int | None:
    """The first occurrence after an instant, and not before `anchor_us`; None if there is none for 50 years.

    Intervals are counted from the anchor, so however late each one fires, the next is where it always was.
    Raises InvalidOption for a cron line or a zone that is none.
    """
    after_us = max(after_us, anchor_us - 1)
    if timing.every_us is not None:
        return anchor_us + ((after_us - anchor_us) // timing.every_us + 1) * timing.every_us
    return next(_cron(timing, after_us), None)


def upcoming(timing: Timing, first_us: int, count: int) -> list[int]:
    """An occurrence and those that follow it, `count` in all. Raises InvalidOption as `following`."""
    if timing.every_us is not None:
        return [first_us + number * timing.every_us for number in range(count)]
    return list(islice(_cron(timing, first_us - 1), count))


def fire_us(timing: Timing, name: str, occurrence_us: int) -> int:
    """When an occurrence of the schedule `name` fires: always the same, up to `jitter_us` later, differing by name."""
    if not timing.jitter_us:
        return occurrence_us
    digest = blake2b(f"{name}\0{occurrence_us}".encode(), digest_size=8).digest()
    return occurrence_us + int.from_bytes(digest, "big") % (timing.jitter_us + 1)


def plan(timing: Timing, name: str, anchor_us: int, due_us: int, now_us: int, catch_up: int) -> Plan:
    """What to do at `now_us` about an occurrence that is due, and those that became due after it.

    The latest one fires, or the `catch_up` latest; with 0, the latest unless it is more than a minute late.
    """
    latest = max(due_us, now_us - timing.jitter_us)  # what lies behind may have to wait for its jitter yet
    fires = [due_us] if timing.from_completion else _recent(timing, anchor_us, due_us, latest, max(1, catch_up))
    if not catch_up:
        fires = [one for one in fires if now_us - fire_us(timing, name, one) <= LATE_US]
    if timing.from_completion:
        assert timing.every_us is not None
        return Plan(fires, None if fires else now_us + timing.every_us)
    return Plan(fires, following(timing, anchor_us, latest))


def _recent(timing: Timing, anchor_us: int, first_us: int, last_us: int, count: int) -> list[int]:
    """The latest occurrences from the one at `first_us` to `last_us`, at most `count`, in their order."""
    if timing.every_us is not None:
        latest = anchor_us + (last_us - anchor_us) // timing.every_us * timing.every_us
        return [*range(max(first_us, latest - (count - 1) * timing.every_us), latest + 1, timing.every_us)]
    # Forwards, from ever further back: an every-second line after a year away would have millions of them, and what
    # cronsim finds backwards is not the same around a change of the zone.
    span_us = _LOOK_BACK_US
    while True:
        after_us = max(first_us - 1, last_us - span_us)
        found = list(takewhile(lambda one: one <= last_us, _cron(timing, after_us)))
        if len(found) >= count or after_us < first_us:
            return found[-count:]
        span_us *= 2


def _cron(timing: Timing, after_us: int) -> Iterator[int]:
    """The occurrences of a cron line after an instant, ascending.

    cronsim begins at a local time: in the hour that a zone repeats it may give an instant of the first pass again, and
    two local times that a zone leaves out become the same instant.
    """
    assert timing.cron is not None
    _check_line(timing.cron)
    start = (_EPOCH + timedelta(microseconds=after_us)).astimezone(zone_of(timing.zone))
    for found in CronSim(timing.cron, start):
        at_us = (found - _EPOCH) // timedelta(microseconds=1)
        if at_us > after_us:
            yield at_us
            after_us = at_us


@lru_cache(maxsize=256)
def _check_line(line: str) -> None:
    """Raise InvalidOption for what cronsim cannot read."""
    if not isinstance(line, str) or len(line) > CRON_CHARS_MAX:
        raise InvalidOption(f"cron: expected a line of at most {CRON_CHARS_MAX} characters, got {str(line)[:50]!r}...")
    try:
        CronSim(line, _EPOCH)
    except (CronSimError, AssertionError, TypeError, ValueError, IndexError) as error:
        if _names_a_missing_day(line, error):
            raise InvalidOption(f"cron: {line!r} never fires: none of its months has that day") from None
        why = str(error)[:1].lower() + str(error)[1:] if isinstance(error, CronSimError) else "not understood"
        raise InvalidOption(
            f"cron: {line!r}: {why}; write minute, hour, day, month, weekday (seconds before them if need be), "
            f"as in '0 3 * * *'"
        ) from None


def _names_a_missing_day(line: str, error: Exception) -> bool:
    """Whether the line would be right, if its months were longer."""
    fields = line.split()
    if str(error) != "Bad day-of-month" or len(fields) not in (5, 6):
        return False
    fields[-2] = "*"
    try:
        CronSim(" ".join(fields), _EPOCH)
    except CronSimError:
        return False
    return True

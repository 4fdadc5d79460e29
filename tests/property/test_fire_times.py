"""When schedules fire: every change of a zone in two years, any start, any absence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import example, given
from hypothesis import strategies as st

from ringq import schedule
from ringq.schedule import Timing

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BEGIN, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2028, 1, 1, tzinfo=UTC)
ZONES = ["America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Africa/Casablanca"]
LINES = [
    "0 3 * * *", "30 2 * * *", "30 1 * * *", "0 2 * * *", "45 1 * * *", "15 2 * * *", "0,30 2 * * *", "0 2,3 * * *",
    "*/15 * * * *", "0 * * * *", "30 1-3 * * *", "5 */2 * * *", "* 2 * * *", "0 0 * * *", "30 2 * * SUN",
    "0 30 2 * * *", "0 0 */1 * * *", "30 15 1,2,3 * * *",
]  # fmt: skip


def us(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


@cache
def changes_of(zone: str) -> list[int]:
    """The hours of 2026 and 2027 in which the zone's offset changes."""
    info, hour, found, at = ZoneInfo(zone), timedelta(hours=1), [], BEGIN
    while at < END:
        if at.astimezone(info).utcoffset() != (at + hour).astimezone(info).utcoffset():
            found.append(us(at + hour))
        at += hour
    return found


def as_cronsim_says(line: str, zone: str, begin: datetime, end: datetime) -> list[int]:
    """What one CronSim gives in a row: two local times that a zone leaves out together are one instant."""
    found: list[int] = []
    for moment in CronSim(line, begin.astimezone(ZoneInfo(zone))):
        if moment >= end:
            return found
        if not found or us(moment) > found[-1]:
            found.append(us(moment))
    raise AssertionError("cronsim ends before its time")


@pytest.mark.parametrize("zone", ZONES)
def test_the_zones_change_in_these_years(zone: str) -> None:
    assert len(changes_of(zone)) == 4


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("zone", ZONES)
def test_around_every_change_of_a_zone_it_fires_exactly_as_cronsim_says_and_once(zone: str, line: str) -> None:
    timing, day = Timing(cron=line, zone=zone), 86_400 * 10**6
    for change in changes_of(zone):
        begin, end = EPOCH + timedelta(microseconds=change - 2 * day), EPOCH + timedelta(microseconds=change + 2 * day)
        fired, at = [], us(begin)
        while (at := schedule.following(timing, 0, at) or us(end)) < us(end):  # each computed anew, as after each fire
            fired.append(at)
        assert fired == as_cronsim_says(line, zone, begin, end)


@pytest.mark.parametrize("zone", ZONES)
def test_a_daily_line_fires_once_on_every_day_of_two_years(zone: str) -> None:
    for line in ("30 2 * * *", "45 1 * * *", "0 0 * * *"):
        timing, info, at, days = Timing(cron=line, zone=zone), ZoneInfo(zone), us(BEGIN), []
        while (at := schedule.following(timing, 0, at) or 0) < us(END):
            days.append((EPOCH + timedelta(microseconds=at)).astimezone(info).date())
        assert {after - before for before, after in pairwise(days)} == {timedelta(days=1)}
        assert len(days) in (729, 730, 731)


@given(st.sampled_from(ZONES), st.sampled_from(LINES), st.integers(0, 3), st.integers(-4 * 3600, 4 * 3600))
def test_the_next_fire_lies_ahead_and_nothing_lies_between(zone: str, line: str, change: int, seconds: int) -> None:
    """Also for a start in the hour that is repeated, or beside the one that is left out."""
    timing, at = Timing(cron=line, zone=zone), changes_of(zone)[change] + seconds * 10**6
    following = schedule.following(timing, 0, at)
    assert following is not None
    assert following > at
    assert schedule.following(timing, 0, following - 1) == following


instants = st.integers(us(BEGIN), us(END))


@given(instants, st.integers(10_000, 10**12), st.integers(0, 10**14))
def test_an_interval_never_drifts(anchor: int, every: int, later: int) -> None:
    following = schedule.following(Timing(every_us=every), anchor, anchor + later)
    assert following is not None
    assert (following - anchor) % every == 0
    assert anchor + later < following <= anchor + later + every


@given(
    st.sampled_from([Timing(every_us=7_000_000), Timing(cron="*/5 * * * *", zone="Europe/Berlin")]),
    instants, st.integers(0, 50_000), st.sampled_from([0, 1, 2, 7, 100]),
)  # fmt: skip
@example(Timing(cron="*/5 * * * *", zone="Europe/Berlin"), us(datetime(2026, 10, 25, 0, 58, tzinfo=UTC)), 9000, 100)
def test_after_an_absence_the_latest_fires_are_made_up_and_nothing_fires_twice(
    timing: Timing, since: int, away_s: int, catch_up: int
) -> None:
    due = schedule.following(timing, since, since)
    assert due is not None
    now = due + away_s * 10**6
    plan = schedule.plan(timing, "a", since, due, now, catch_up)
    everything, at = [due], due
    while (at := schedule.following(timing, since, at) or 0) <= now:
        everything.append(at)
    assert plan.following == at
    if catch_up:
        assert plan.fires == everything[-catch_up:]
    else:
        assert plan.fires == [one for one in everything[-1:] if now - one <= schedule.LATE_US]


@given(st.integers(0, 10**15), st.integers(0, schedule.JITTER_US_MAX), st.text(min_size=1))
def test_a_jitter_is_always_the_same_and_within_its_span(at: int, jitter: int, name: str) -> None:
    timing = Timing(every_us=10**6, jitter_us=jitter)
    fires = schedule.fire_us(timing, name, at)
    assert at <= fires <= at + jitter
    assert fires == schedule.fire_us(timing, name, at)

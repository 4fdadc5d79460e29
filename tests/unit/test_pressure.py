"""Which priorities may not start at which pressure: thresholds, smoothing, steps, flips, the floor."""

from __future__ import annotations

import itertools
import random
import re
from typing import Any

import pytest

from ringq import errors
from ringq.model import BACKGROUND, HIGH, IDLE, NORMAL, REALTIME
from ringq.pressure import FLIP_NS, SILENCE_NS, Policy, Pressure

SECOND = 1_000_000_000


class Watched:
    """A pressure that gets a sample a second."""

    def __init__(self, policy: str = "on") -> None:
        read = Policy.read(policy)
        assert read is not None
        self.pressure = Pressure(read)
        self.now_ns = 100 * SECOND

    def take(self, *values: float) -> Watched:
        for value in values:
            self.pressure.take({"cpu": value}, self.now_ns)
            self.now_ns += SECOND
        return self

    @property
    def refused(self) -> list[int]:
        known = (REALTIME, HIGH, NORMAL, BACKGROUND, IDLE)
        return [priority for priority in known if self.pressure.refuses(priority, self.now_ns)]

    def until(self, value: float, refused: list[int]) -> int:
        """Samples of this value until just these are refused."""
        for number in range(1, 30):
            self.take(value)
            if self.refused == refused:
                return number
        raise AssertionError(self.pressure.describe())


def test_without_samples_everything_may_start() -> None:
    watched = Watched()
    assert watched.refused == []
    assert watched.pressure.room(IDLE, 7, watched.now_ns) == 7
    assert watched.pressure.next_look_ns(watched.now_ns) is None


def test_the_first_sample_is_taken_as_it_is() -> None:
    assert Watched().take(0.6).pressure.value == 0.6


def test_the_defaults_stop_background_work_first_and_urgent_work_never() -> None:
    assert Watched().take(0.5).refused == []
    assert Watched().take(0.501).refused == [BACKGROUND, IDLE]
    assert Watched().take(0.75).refused == [BACKGROUND, IDLE]
    assert Watched().take(1.0).refused == [NORMAL, BACKGROUND, IDLE]


def test_a_policy_may_name_other_priorities() -> None:
    watched = Watched("high 0.9 200 0.3").take(0.4)
    assert watched.pressure.refuses(200, watched.now_ns)
    assert not watched.pressure.refuses(199, watched.now_ns)
    assert Watched("high 0.9 200 0.3").take(0.95).refused == [HIGH, NORMAL, BACKGROUND, IDLE]


def test_noise_is_smoothed() -> None:
    watched = Watched().take(0.2, 0.4, 0.2, 0.4)
    assert watched.pressure.value == pytest.approx(0.2 + 0.3 * 0.2 * (0.7**2 + 1))


def test_one_second_of_load_stops_nothing() -> None:
    watched = Watched().take(0.0, 0.0, 1.0, 0.0)
    assert watched.refused == []
    assert watched.pressure.flips == 0


@pytest.mark.parametrize("part", [0.0, 0.2, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("load", [0.7, 1.0])
def test_a_machine_that_becomes_full_stops_background_work_within_three_seconds(part: float, load: float) -> None:
    """`part`: of the first second that was loaded. From then on the time is counted, a sample a second."""
    watched = Watched().take(0.0, 0.05, part * load)
    after = 0 if watched.refused else watched.until(load, watched.refused or _refused_at(load))
    assert part + after <= 3


@pytest.mark.parametrize("part", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_a_machine_that_becomes_free_lets_all_start_within_five_seconds(part: float) -> None:
    watched = Watched().take(0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    assert watched.refused == [NORMAL, BACKGROUND, IDLE]
    after = watched.take(1 - part).until(0.1, [])
    assert part + after <= 5


@pytest.mark.parametrize("seconds", [2, 3, 4, 5, 8])
def test_a_short_load_lets_all_start_within_five_seconds_too(seconds: int) -> None:
    watched = Watched().take(0.0, *[1.0] * seconds)
    assert watched.refused
    assert watched.until(0.0, []) <= 5


def test_it_opens_a_tenth_below_the_limit() -> None:
    watched = Watched().take(0.6)
    watched.take(*[0.45] * 20)
    assert watched.refused == [BACKGROUND, IDLE]
    watched.until(0.38, [])


def test_a_small_limit_opens_at_its_half() -> None:
    watched = Watched("background 0.08").take(0.09)
    watched.take(*[0.05] * 20)
    assert watched.refused == [BACKGROUND, IDLE]
    watched.until(0.0, [])


def test_no_threshold_flips_twice_within_five_seconds() -> None:
    chance = random.Random(20)
    watched = Watched()
    flips: dict[int, list[int]] = {NORMAL: [], BACKGROUND: []}
    closed = {NORMAL: False, BACKGROUND: False}
    for _ in range(3000):
        watched.take(chance.choice([0.0, 0.1, 0.9, 1.0]) if chance.random() < 0.3 else watched.pressure.value)
        for tier in watched.pressure._tiers:
            if tier.is_closed != closed[tier.priority]:
                closed[tier.priority] = tier.is_closed
                flips[tier.priority].append(watched.now_ns)
    for times in flips.values():
        assert len(times) > 20
        assert min(b - a for a, b in itertools.pairwise(times)) >= FLIP_NS


def test_background_work_never_goes_on_while_normal_work_is_stopped() -> None:
    watched = Watched().take(0.6, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert watched.refused == []  # flipped a moment ago, and so may not close yet
    watched.take(1.0, 1.0)
    assert watched.refused == [NORMAL, BACKGROUND, IDLE]


def test_the_pressure_is_that_of_the_worst_source() -> None:
    watched = Watched()
    watched.pressure.take({"cpu": 0.2, "memory": 0.8}, watched.now_ns)
    state = watched.pressure.describe()
    assert (state["value"], state["sources"]) == (0.8, {"cpu": 0.2, "memory": 0.8})
    assert (state["refused_from"], state["flips"]) == (NORMAL, 2)
    assert state["policy"] == "background 0.5 normal 0.75 floor 60s"


def test_sources_that_do_not_count_are_shown() -> None:
    watched = Watched("background 0.5 only cpu,battery")
    watched.pressure.take({"cpu": 0.2, "memory": 0.8}, watched.now_ns)
    state = watched.pressure.describe()
    assert (state["value"], state["sources"], watched.refused) == (0.2, {"cpu": 0.2, "memory": 0.8}, [])


def test_a_source_that_is_not_sampled_any_more_is_forgotten() -> None:
    watched = Watched()
    watched.pressure.take({"cpu": 0.2, "memory": 0.8}, watched.now_ns)
    watched.pressure.take({"cpu": 0.2}, watched.now_ns + SECOND)
    assert watched.pressure.value == 0.2


def test_after_five_seconds_without_a_sample_there_is_no_pressure() -> None:
    watched = Watched().take(1.0)
    taken_ns = watched.now_ns - SECOND
    assert watched.pressure.next_look_ns(watched.now_ns) == taken_ns + SILENCE_NS
    watched.pressure.expire(taken_ns + SILENCE_NS - 1)
    assert watched.refused
    watched.pressure.expire(taken_ns + SILENCE_NS)
    assert (watched.refused, watched.pressure.value) == ([], 0.0)
    flips = watched.pressure.flips
    watched.pressure.expire(taken_ns + 2 * SILENCE_NS)
    assert watched.pressure.flips == flips


def test_one_task_a_minute_starts_whatever_the_pressure() -> None:
    watched = Watched().take(1.0)
    closed_ns = watched.now_ns - SECOND
    minute = 60 * SECOND
    pressure = watched.pressure
    assert pressure.room(BACKGROUND, 9, closed_ns + minute - 1) == 0
    assert pressure.room(BACKGROUND, 9, closed_ns + minute) == 1
    assert not pressure.refuses(IDLE, closed_ns + minute)
    pressure.started(BACKGROUND, closed_ns + minute)
    assert pressure.room(BACKGROUND, 9, closed_ns + 2 * minute - 1) == 0
    assert pressure.room(BACKGROUND, 9, closed_ns + 2 * minute) == 1


def test_each_threshold_has_a_floor_of_its_own() -> None:
    watched = Watched("background 0.5 normal 0.75 floor 10s").take(1.0)
    late_ns = watched.now_ns + 20 * SECOND
    watched.pressure.started(NORMAL, late_ns)
    assert watched.pressure.room(NORMAL, 3, late_ns) == 0
    assert watched.pressure.room(BACKGROUND, 3, late_ns) == 1
    assert watched.pressure.room(HIGH, 3, late_ns) == 3


def test_what_may_start_anyway_does_not_use_the_floor_up() -> None:
    watched = Watched("background 0.5 floor 10s").take(0.6)
    watched.pressure.started(HIGH, watched.now_ns)
    assert watched.pressure.room(BACKGROUND, 3, watched.now_ns + 10 * SECOND) == 1


def test_the_next_look_is_never_in_the_past() -> None:
    watched = Watched("background 0.5 floor 2s").take(0.6)
    closed_ns = watched.now_ns - SECOND
    assert watched.pressure.next_look_ns(closed_ns) == closed_ns + 2 * SECOND
    assert watched.pressure.next_look_ns(closed_ns + 2 * SECOND) == closed_ns + SILENCE_NS
    assert watched.pressure.next_look_ns(closed_ns + SILENCE_NS) is None


@pytest.mark.parametrize(
    ("written", "policy"),
    [
        ("off", None),
        ("on", "background 0.5 normal 0.75 floor 60s"),
        (" ON ", "background 0.5 normal 0.75 floor 60s"),
        ("floor 5m", "background 0.5 normal 0.75 floor 300s"),
        ("normal 0.8 background .4", "background 0.4 normal 0.8 floor 60s"),
        ("idle 0.3 150 0.3 floor 1.5s", "idle 0.3 150 0.3 floor 1.5s"),
        ("background 0.5 only cpu,Battery,cpu", "background 0.5 floor 60s only cpu,Battery"),
        ("64 1 background 1.0", "background 1 high 1 floor 60s"),
    ],
)
def test_a_policy_is_written(written: str, policy: str | None) -> None:
    read = Policy.read(written)
    assert (read and str(read)) == policy
    assert read is None or Policy.read(str(read)) == read


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("", "'' is no policy; write on, off or e.g."),
        ("maybe", "'maybe' is no policy"),
        ("background", "is no policy"),
        ("background 0.5 normal", "is no policy"),
        ("urgent 0.5", "'urgent' is no priority: realtime, high, normal, background, idle or 0 to 255"),
        ("256 0.5", "'256' is no priority"),
        ("-1 0.5", "'-1' is no priority"),
        ("background half", "the limit of background is 'half', not 0.05 to 1"),
        ("background nan", "the limit of background is 'nan'"),
        ("background 1.5", "the limit of background is 1.5, not 0.05 to 1"),
        ("background 0", "the limit of background is 0, not 0.05 to 1"),
        ("background 0.8 normal 0.5", "background 0.8 normal 0.5 is out of order: what is less urgent must stop first"),
        ("normal 0.5 background 0.8", "background 0.8 normal 0.5 is out of order"),
        ("background 0.5 192 0.6", "background is given twice"),
        ("floor 1m floor 2m", "floor is given twice"),
        ("only cpu only memory", "only is given twice"),
        ("floor soon", "floor: 'soon' is no span; write seconds or e.g. 500ms, 15m, 2h"),
        ("floor 0", "the floor is 0 s, not 1 s to 1 day"),
        ("floor 2d", "the floor is 172800 s, not 1 s to 1 day"),
    ],
)
def test_a_wrong_policy_is_told_in_one_line(written: str, says: str) -> None:
    with pytest.raises(errors.InvalidOption, match=re.escape(says)) as caught:
        Policy.read(written)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", [{"thresholds": ()}, {"thresholds": ((300, 0.5),)}, {"floor_s": 0.1}])
def test_a_wrong_policy_cannot_be_made_either(given: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidOption):
        Policy(**given)


def _refused_at(load: float) -> list[int]:
    return [NORMAL, BACKGROUND, IDLE] if load > 0.75 else [BACKGROUND, IDLE]

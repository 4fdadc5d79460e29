"""How waiting makes tasks more urgent: the rule, its written form, ages of tasks, and pauses that do not count."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringq import notation
from ringq.aging import ID_MAX, Ages, Aging, PausedSpans
from ringq.errors import InvalidOption

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 60 * MINUTE_US

PRIORITIES = st.integers(0, 255)
SPANS_S = st.sampled_from([1e-6, 0.001, 0.5, 1.0, 90.0, 3600.0, 86400.0]) | st.floats(1e-6, 1e6)


@st.composite
def agings(draw: st.DrawFn) -> Aging:
    ceiling = draw(PRIORITIES)
    urgent = draw(st.none() | st.integers(ceiling, 255))
    return Aging(draw(st.just(0.0) | SPANS_S), draw(SPANS_S), ceiling, urgent)


# -- the rule -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("priority", "age_us", "effective"),
    [
        (128, 0, 128),
        (128, 5 * MINUTE_US, 128),
        (128, 6 * MINUTE_US - 1, 128),
        (128, 6 * MINUTE_US, 127),
        (128, 7 * MINUTE_US - 1, 127),
        (128, 7 * MINUTE_US, 126),
        (128, 69 * MINUTE_US - 1, 65),
        (128, 69 * MINUTE_US, 64),
        (128, 10_000 * HOUR_US, 64),
        (255, 5 * MINUTE_US + 255 * MINUTE_US, 64),
        (65, 10 * HOUR_US, 64),
        (128, -HOUR_US, 128),
    ],
)
def test_after_the_grace_a_task_gains_one_for_each_interval_up_to_the_ceiling(
    priority: int, age_us: int, effective: int
) -> None:
    assert Aging().effective(priority, age_us) == effective


@pytest.mark.parametrize("priority", [0, 1, 63, 64])
def test_what_is_as_urgent_as_the_ceiling_stays_as_it_is(priority: int) -> None:
    assert {Aging().effective(priority, age_us) for age_us in (0, HOUR_US, 1000 * HOUR_US)} == {priority}


def test_without_a_grace_the_first_interval_counts() -> None:
    aging = Aging(grace_s=0, interval_s=1, ceiling=0)
    assert [aging.effective(3, second * SECOND_US) for second in range(6)] == [3, 2, 1, 0, 0, 0]


@given(agings(), PRIORITIES, PRIORITIES)
def test_the_age_at_which_it_is_as_urgent_as_wanted_is_the_smallest(aging: Aging, priority: int, wanted: int) -> None:
    age_us = aging.age_at(priority, wanted)
    if age_us is None:
        assert aging.effective(priority, 10**18) > wanted
    else:
        assert aging.effective(priority, age_us) <= wanted
        assert age_us == 0 or aging.effective(priority, age_us - 1) > wanted


@given(agings(), PRIORITIES, st.lists(st.integers(-HOUR_US, 1000 * HOUR_US), min_size=2, max_size=2))
def test_age_never_makes_a_task_less_urgent(aging: Aging, priority: int, ages_us: list[int]) -> None:
    younger, older = sorted(ages_us)
    assert priority >= aging.effective(priority, younger) >= aging.effective(priority, older) >= 0


# -- how it is written --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "aging"),
    [
        ("on", Aging()),
        ("grace 5m interval 1m ceiling 64 urgent 64", Aging(urgent=64)),
        ("grace 0", Aging(grace_s=0)),
        ("interval 500ms", Aging(interval_s=0.5)),
        ("  ceiling 0   urgent 128 ", Aging(ceiling=0, urgent=128)),
        ("urgent 255 grace 2h", Aging(grace_s=7200, urgent=255)),
        ("grace 1.5h interval 90", Aging(grace_s=5400, interval_s=90)),
    ],
)
def test_it_is_written_as_words_and_values_in_any_order(written: str, aging: Aging) -> None:
    assert Aging.read(written) == aging


def test_it_is_printed_as_it_is_written() -> None:
    assert str(Aging()) == "grace 5m interval 1m ceiling 64"
    assert str(Aging(0, 0.5, 0, 200)) == "grace 0s interval 0.5s ceiling 0 urgent 200"


@given(agings())
def test_what_is_printed_reads_as_the_same(aging: Aging) -> None:
    assert Aging.read(str(aging)) == aging


def test_spans_may_be_timedeltas() -> None:
    given_spans: Any = timedelta(minutes=1), timedelta(milliseconds=5)
    assert Aging(*given_spans) == Aging(60.0, 0.005)


@pytest.mark.parametrize(
    ("written", "wrong"),
    [
        ("", "expected pairs of a word and a value"),
        ("grace", "expected pairs"),
        ("grace 5m interval", "expected pairs"),
        ("on off", "'on' is no part"),
        ("speed 3", "'speed' is no part"),
        ("grace 5m grace 6m", "grace is said twice"),
        ("grace soon", "grace: 'soon' is no span"),
        ("grace -5m", "grace: '-5m' is no span"),
        ("grace 400d", "grace: expected seconds"),
        ("interval 0", "interval: expected more than 0"),
        ("interval 0.0000001s", "interval: expected more than 0"),
        ("ceiling 256", "ceiling: expected a priority"),
        ("ceiling -1", "ceiling: expected a priority"),
        ("ceiling high", "ceiling: expected a priority"),
        ("ceiling 1000000000000000000000000", "ceiling: expected a priority"),
        ("urgent 63", "urgent: expected a priority from the ceiling on, 64 to 255, got 63"),
        ("ceiling 200 urgent 199", "from the ceiling on, 200 to 255"),
        ("grace\u0000 5m", "is no part"),
        ("grace \u0665m", "is no span"),
        (5, "expected pairs"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(written: Any, wrong: str) -> None:
    with pytest.raises(InvalidOption) as raised:
        Aging.read(written)
    assert wrong in str(raised.value)
    assert str(raised.value).startswith("aging: ")
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    "wrong",
    [
        *({"grace_s": -1}, {"grace_s": "5m"}, {"grace_s": float("nan")}, {"grace_s": True}, {"interval_s": 0}),
        *({"interval_s": 4e-7}, {"interval_s": float("inf")}, {"ceiling": 64.0}, {"ceiling": None}, {"ceiling": True}),
        *({"ceiling": 256}, {"urgent": 1.5}, {"urgent": 256}, {"urgent": 63}, {"urgent": "x" * 1000}),
    ],
)
def test_options_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=f"^aging: {next(iter(wrong)).removesuffix('_s')}: .{{1,200}}$"):
        Aging(**wrong)


def test_as_a_setting_it_may_also_be_off() -> None:
    assert notation.aging("off") == ""
    assert notation.aging(" grace 300s ") == str(Aging())
    with pytest.raises(ValueError, match=r"^interval: expected more than 0, got 0s$"):
        notation.aging("interval 0")
    with pytest.raises(ValueError, match=r"^expected pairs of a word and a value"):
        notation.aging(None)


# -- when tasks were submitted ------------------------------------------------------------------


def ages_of(*commits: tuple[int, int]) -> Ages:
    ages = Ages()
    for first_id, submitted_us in commits:
        ages.append(first_id, submitted_us)
    return ages


def test_each_task_has_the_time_of_its_commit() -> None:
    ages = ages_of((1, 100), (5, 200), (6, 300))
    assert [ages.submitted_us(task_id) for task_id in (1, 4, 5, 6, 1000)] == [100, 100, 200, 300, 300]


def test_commits_of_the_same_time_take_one_place() -> None:
    ages = ages_of((1, 100), (5, 100), (9, 100), (12, 101))
    assert len(ages) == 2
    assert ages.submitted_us(11) == 100


def test_when_the_clock_is_set_back_new_tasks_are_no_older_than_those_before() -> None:
    ages = ages_of((1, 1000), (5, 400), (9, 999), (12, 1001))
    assert [ages.submitted_us(task_id) for task_id in (4, 5, 9, 12)] == [1000, 1000, 1000, 1001]


def test_of_nothing_nothing_is_known() -> None:
    with pytest.raises(LookupError, match="nothing is known of task 7"):
        Ages().submitted_us(7)
    assert Ages().last_id_submitted_before(10) == 0


def test_what_is_older_than_all_that_is_known_has_the_oldest_time() -> None:
    ages = ages_of((50, 100), (60, 200))
    assert ages.submitted_us(3) == 100
    assert ages.last_id_submitted_before(101) == 59
    assert ages.last_id_submitted_before(100) == 0
    assert ages.last_id_submitted_before(201) == ID_MAX


def test_forgetting_keeps_what_is_still_asked_for_and_frees_the_rest() -> None:
    ages = Ages()
    for commit in range(20_000):
        ages.append(1 + 10 * commit, commit)
        ages.forget_below(10 * commit - 50)
    assert len(ages) < 10
    assert [ages.submitted_us(task_id) for task_id in (199_991, 199_990, 199_951)] == [19_999, 19_998, 19_995]
    ages.forget_below(10**9)
    assert ages.submitted_us(10**9) == 19_999


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 30)), min_size=1, max_size=30),
    st.lists(st.integers(0, 120), max_size=5),
    st.integers(-1, 32),
)
def test_times_are_kept_as_a_dict_would_keep_them(
    commits: list[tuple[int, int]], forgotten: list[int], us: int
) -> None:
    ages, model = Ages(), dict[int, int]()
    next_id, latest_us = 1, 0
    for count, submitted_us in commits:
        ages.append(next_id, submitted_us)
        latest_us = max(latest_us, submitted_us)
        model.update(dict.fromkeys(range(next_id, next_id + count), latest_us))
        next_id += count
    for task_id in forgotten:
        ages.forget_below(task_id)
    model = {task_id: model[task_id] for task_id in model if task_id >= min(next_id - 1, max(forgotten, default=0))}
    assert {task_id: ages.submitted_us(task_id) for task_id in model} == model
    bound = ages.last_id_submitted_before(us)
    assert {task_id for task_id in model if task_id <= bound} == {i for i in model if model[i] < us}


# -- pauses do not count ------------------------------------------------------------------------


def test_without_pauses_age_is_the_time_since_submission() -> None:
    assert PausedSpans().age_us(100, 350) == 250
    assert PausedSpans().age_us(350, 100) == -250
    assert PausedSpans().paused_us(0, 10**18) == 0


def test_age_stands_still_while_paused_and_goes_on_afterwards() -> None:
    going_on, over = PausedSpans([(1000, None)]), PausedSpans([(1000, 1500)])
    assert [going_on.age_us(400, now) for now in (900, 1000, 1001, 1400, 10**15)] == [500, 600, 600, 600, 600]
    assert [over.age_us(400, now) for now in (900, 1000, 1400, 1500, 1600)] == [500, 600, 600, 600, 700]


def test_a_task_is_not_more_urgent_for_having_been_paused() -> None:
    submitted_us, paused_us = 0, 4 * MINUTE_US
    spans = PausedSpans([(paused_us, paused_us + 10 * HOUR_US)])
    aging, later_us = Aging(), 10 * HOUR_US
    for minute in range(4, 12):
        now_us = later_us + minute * MINUTE_US
        assert aging.effective(128, spans.age_us(submitted_us, now_us)) == aging.effective(128, minute * MINUTE_US)


def test_submitted_during_a_pause_it_ages_from_its_end() -> None:
    spans = PausedSpans([(1000, 2000)])
    assert [spans.age_us(1500, now) for now in (1600, 2000, 2300)] == [0, 0, 300]
    assert spans.age_us(2000, 2300) == 300


def test_a_server_that_dies_while_something_is_paused_changes_nothing() -> None:
    before_us, during_us, after_us = 900, 5000, 9000
    until_crash = PausedSpans([(1000, None)])
    successor = PausedSpans([(1000, None)])
    resumed = PausedSpans([(1000, 8000)])
    assert until_crash.age_us(before_us, 1200) == successor.age_us(before_us, during_us) == 100
    assert resumed.age_us(before_us, after_us) == 100 + 1000


def test_overlapping_pauses_of_several_scopes_count_once() -> None:
    queue, group, server = (1000, 2000), (1500, 3000), (5000, None)
    inside = (1600, 1700)
    for spans in itertools.permutations([queue, group, server, inside]):
        paused = PausedSpans(spans)
        assert paused.paused_us(0, 900) == 0
        assert paused.paused_us(0, 1800) == 800
        assert paused.paused_us(0, 4000) == 2000
        assert paused.paused_us(1900, 2100) == 200
        assert paused.paused_us(3000, 5000) == 0
        assert paused.paused_us(0, 6000) == 3000


def test_a_pause_that_ends_before_it_began_is_none() -> None:
    assert PausedSpans([(2000, 1000), (3000, 3000)]).paused_us(0, 10_000) == 0
    assert PausedSpans([(1000, 2500), (2000, 1000)]).paused_us(0, 10_000) == 1500


@given(
    st.lists(st.tuples(st.integers(0, 40), st.none() | st.integers(0, 40)), max_size=6),
    st.integers(0, 45),
    st.integers(0, 45),
    st.integers(0, 45),
)
def test_ages_are_counted_as_one_would_moment_by_moment(
    spans: list[tuple[int, int | None]], since_us: int, now_us: int, age_us: int
) -> None:
    paused = PausedSpans(spans)

    def held(us: int) -> bool:
        return any(begin <= us and (end is None or us < end) for begin, end in spans)

    assert paused.paused_us(since_us, now_us) == sum(map(held, range(since_us, now_us)))
    if since_us <= now_us:
        assert paused.age_us(since_us, now_us) == sum(not held(us) for us in range(since_us, now_us))
    latest_us = paused.latest_us(age_us, now_us)
    assert paused.age_us(latest_us, now_us) >= age_us
    assert latest_us >= now_us or paused.age_us(latest_us + 1, now_us) < age_us

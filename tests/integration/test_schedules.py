"""Schedules on a real database with a manual clock: what fires when, what is written at once, what operators decide."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import example, given, settings
from hypothesis import strategies as st
from store_rows import opened

from ringq import changes, protocol
from ringq.admission import Admission
from ringq.clock import ManualClock
from ringq.config import Config
from ringq.errors import InvalidOption, InvalidSchedule, RingqError, StorageFull, UnknownKind, UnknownSchedule
from ringq.firing import Schedules
from ringq.model import Reason, Status
from ringq.overview import ScheduleRecord
from ringq.protocol import ScheduleFields, SpecFields
from ringq.query import Query
from ringq.scheduling import Declared
from ringq.store import Store, schedules
from ringq.writer import Writer

MINUTE_US = 60_000_000
KINDS = [{"name": "a::b", "queue": "bulk", "priority": None, "group": None, "run_timeout_ms": None}]


class Desk:
    """A parent without workers: its store, its writer, its schedules."""

    def __init__(self, database: Path) -> None:
        self.database = database
        self.clock = ManualClock()
        self.admission = Admission()
        self.admission.learn(KINDS)
        self.answers: list[Any] = []
        self.made: list[int] = []
        self.said: list[str] = []
        self.start()

    def start(self) -> None:
        self.store = Store.open(self.database, durability="normal")
        self.writer = Writer(self.store, Config(self.database), self.clock)
        self.schedules = Schedules(self.store, self.admission, self.clock, self.said.append)

    def restart(self, after_s: float) -> None:
        self.store.close()
        self.clock.advance(after_s)
        self.start()

    def turn(self) -> list[int]:
        """Write what there is to write; the ids of the tasks that were made."""
        made: list[int] = []
        while True:
            if self.schedules.come_due():
                self.writer.change(self.schedules)
            if self.writer.wait_ns(saturated=False) != 0:
                break
            committed = self.writer.commit(lambda: None)
            made += [task_id for tasks in committed.admitted for task_id in tasks.ids]
            for answer in committed.answers:
                answer()
        self.made += made
        return made

    def after(self, seconds: float) -> list[int]:
        self.clock.advance(seconds)
        return self.turn()

    def ask(self, message: Any) -> Any:
        """The answer to a client's message; its error is raised."""
        now_us = self.clock.now_us()
        self.writer.change(changes.of(message, self.admission, now_us, self.answers.append, self.answers.append))
        self.turn()
        answer = self.answers.pop()
        if isinstance(answer, RingqError):
            raise answer
        return answer

    def put(self, name: str = "s", **fields: Any) -> None:
        spec = fields.pop("spec", SpecFields("a::b"))
        given = {"payload": "{}", **({} if "cron" in fields else {"every_us": MINUTE_US}), **fields}
        self.ask(protocol.PutSchedule(ScheduleFields(name, spec, **given)))

    def change(self, change: Any, name: str = "s") -> None:
        self.ask(protocol.ChangeSchedule(name, change))

    def end(self, task_id: int, status: Status = Status.COMPLETED) -> list[int]:
        """A worker's receipt; what that makes."""
        result, error = ("1", None) if status is Status.COMPLETED else (None, "{}")
        now = self.clock.now_us()
        reason = Reason.PERMANENT.code if error else 0
        self.writer.record([(task_id, 1 << 32, 1, 1, status.code, reason, now, 5, 0, None, None, result, error)])
        return self.turn()

    def declare(self, *fields: ScheduleFields) -> list[str]:
        """A worker has imported code in which these stand."""
        reports = [{"name": "a::b", "schedules": list(map(protocol.plain_schedule, fields))}]
        wrong: list[str] = []
        Declared(self.store, self.admission, self.clock).follow(reports, wrong.append)
        self.turn()
        return wrong

    def seen(self, name: str = "s") -> ScheduleRecord:
        return next(record for record in Query(self.database).schedules() if record.name == name)

    def seconds_to_next(self, name: str = "s") -> float:
        return self.seen(name).next_fires[0].timestamp() - self.clock.now_us() / 1e6


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path / "t.db")
    yield desk
    desk.store.close()


def every(**fields: Any) -> ScheduleFields:
    return ScheduleFields("s", SpecFields("a::b"), "{}", **{"every_us": MINUTE_US, **fields})


def test_it_fires_at_once_and_then_on_its_grid_however_late_the_loop_is(desk: Desk) -> None:
    desk.put(skip_if_running=False)
    assert desk.made == [1]
    assert desk.after(59.9) == []
    assert desk.after(0.4) == [2]
    assert desk.seconds_to_next() == pytest.approx(59.7)
    record = Query(desk.database).task(2)
    assert (record.kind, record.queue, record.run_at) == ("a::b", "bulk", None)
    assert Query(desk.database).counts()[Status.PENDING] == 2


def test_it_wakes_the_loop_when_it_is_due_and_never_without_schedules(desk: Desk) -> None:
    desk.turn()
    assert desk.schedules.next_us is None
    desk.put(delay_us=5 * MINUTE_US)
    assert desk.made == []
    assert desk.schedules.next_us == desk.clock.now_us() + 5 * MINUTE_US
    assert desk.after(300) == [1]
    assert desk.schedules.next_us == desk.clock.now_us() + MINUTE_US


def test_a_fire_that_cannot_be_written_is_made_later_and_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.put(delay_us=MINUTE_US, skip_if_running=False)
    desk.clock.advance(60)

    def full(_: object) -> None:
        raise StorageFull

    with monkeypatch.context() as disk:
        disk.setattr(desk.store, "save_schedule", full)  # the task is in the transaction already
        assert desk.turn() == []
    assert desk.store.next_task_id == 1
    assert desk.turn() == []  # the disk is left alone for a second
    assert desk.after(1.1) == [1]
    assert desk.after(58.8) == []
    assert desk.after(0.2) == [2]


@pytest.mark.parametrize(
    ("catch_up", "every_s", "made"), [(1, 60, 1), (0, 60, 1), (0, 400, 0), (3, 60, 3), (100, 60, 10)]
)
def test_after_an_absence_as_many_fires_are_made_up_as_was_asked_for(
    desk: Desk, catch_up: int, every_s: int, made: int
) -> None:
    desk.put(catch_up=catch_up, skip_if_running=catch_up <= 1, delay_us=MINUTE_US, every_us=every_s * 10**6)
    desk.restart(630)
    assert len(desk.turn()) == made
    assert desk.seen().occurrences == made
    assert desk.after(0) == []


def test_the_occurrences_that_are_made_up_are_on_record_in_their_order(desk: Desk) -> None:
    desk.put(catch_up=3, skip_if_running=False, delay_us=MINUTE_US)
    begin = desk.clock.now_us()
    desk.restart(301)
    desk.turn()
    rows = desk.store._read("SELECT task_id, occurrence_us FROM scheduled_task ORDER BY task_id")
    assert rows == [(1, begin + 3 * MINUTE_US), (2, begin + 4 * MINUTE_US), (3, begin + 5 * MINUTE_US)]


def test_no_task_is_made_while_the_last_one_has_not_ended(desk: Desk) -> None:
    desk.put()
    assert desk.made == [1]
    assert desk.after(60) == []
    assert desk.after(60) == []
    assert (desk.seen().skipped, desk.seen().occurrences) == (2, 1)
    assert desk.end(1) == []
    assert desk.after(60) == [2]


def test_a_task_that_was_run_at_once_counts_as_one_that_runs(desk: Desk) -> None:
    desk.put()
    desk.end(1)
    answer = desk.ask(protocol.RunSchedule("s", bytes(16)))
    assert answer == protocol.Submitted(2, 1, False)
    assert desk.after(60) == []
    desk.end(2)
    assert desk.after(60) == [3]


def test_from_completion_the_next_fire_is_counted_from_the_end_of_the_task(desk: Desk) -> None:
    desk.put(from_completion=True)
    assert desk.made == [1]
    assert desk.seen().next_fires == ()
    assert desk.after(600) == []
    assert desk.end(1) == []
    assert desk.seconds_to_next() == pytest.approx(60)
    assert desk.after(60) == [2]
    desk.store.close()  # the parent dies between the receipt and the next fire, or while the task runs
    desk.start()
    assert desk.turn() == []
    assert desk.end(2) == []
    desk.restart(61)
    assert desk.turn() == [3]


def test_a_task_that_ends_before_anybody_has_looked_again_is_noted(desk: Desk) -> None:
    desk.put(from_completion=True, delay_us=MINUTE_US)
    desk.clock.advance(60)
    assert desk.schedules.come_due()
    desk.writer.change(desk.schedules)
    for answer in desk.writer.commit(lambda: None).answers:
        answer()
    now = desk.clock.now_us()
    desk.writer.record([(1, 1 << 32, 1, 1, Status.COMPLETED.code, 0, now, 5, 0, None, None, "1", None)])
    desk.writer.commit(lambda: None)  # as in a turn that finds a transaction under way
    assert desk.turn() == []
    assert desk.seconds_to_next() == pytest.approx(60)


def test_an_end_that_the_dead_parent_did_not_take_note_of_is_noted_at_start(desk: Desk) -> None:
    desk.put(from_completion=True)
    now = desk.clock.now_us()
    with desk.store.transaction():
        desk.store.insert_receipts([(1, 1 << 32, 1, 1, Status.COMPLETED.code, 0, now, 5, 0, None, None, "1", None)])
    desk.restart(30)
    assert desk.turn() == []
    assert desk.seconds_to_next() == pytest.approx(30)


@pytest.mark.parametrize("from_completion", [True, False])
def test_a_failure_does_not_end_a_schedule_unless_that_was_asked_for(desk: Desk, from_completion: bool) -> None:
    desk.put("hardy", from_completion=from_completion)
    desk.put("frail", from_completion=from_completion, end_on_failure=True)
    for task_id in (1, 2):
        desk.end(task_id, Status.FAILED)
    assert (desk.seen("hardy").state, desk.seen("frail").state) == ("active", "ended")
    assert desk.seen("frail").error == "ended because task 2 is failed"
    assert desk.after(60) == [3]
    assert desk.after(60) == []
    desk.change("resume", "frail")
    desk.end(3)
    assert desk.seen("frail").state == "active"
    desk.after(60)
    assert (desk.seen("frail").state, desk.seen("frail").occurrences) == ("active", 2)


def test_it_ends_after_as_many_fires_as_it_may_have(desk: Desk) -> None:
    desk.put(occurrences_max=2, skip_if_running=False)
    assert [desk.after(60), desk.after(60), desk.after(60)] == [[2], [], []]
    assert (desk.seen().state, desk.seen().next_fires) == ("ended", ())
    with pytest.raises(InvalidSchedule, match="has fired 2 times, as often as it may"):
        desk.change("resume")
    desk.put(occurrences_max=3, skip_if_running=False)
    assert len(desk.after(60)) == 1


@pytest.mark.parametrize("from_completion", [True, False])
def test_a_pause_holds_while_a_task_runs_and_nothing_is_made_up_after_it(desk: Desk, from_completion: bool) -> None:
    desk.put(from_completion=from_completion)
    desk.change("pause")
    desk.change("pause")
    assert desk.end(1) == []
    assert desk.after(3630) == []
    assert (desk.seen().state, desk.seen().next_fires) == ("paused", ())
    desk.restart(0)
    assert desk.turn() == []
    desk.change("resume")
    assert desk.seen().state == "active"
    assert desk.made == ([1, 2] if from_completion else [1])  # a minute from its end has passed long ago
    assert desk.after(30) == ([] if from_completion else [2])


def test_a_schedule_that_is_deleted_while_its_task_runs_has_no_successor(desk: Desk) -> None:
    desk.put(from_completion=True)
    desk.change("delete")
    assert desk.end(1) == []
    assert desk.after(3600) == []
    assert Query(desk.database).schedules() == []
    assert Query(desk.database).task(1).status == Status.COMPLETED
    desk.put()  # another of the same name begins anew
    assert (desk.seen().occurrences, desk.made) == (1, [1, 2])


def test_run_now_goes_through_a_pause_moves_nothing_and_is_not_doubled_when_it_is_asked_for_again(desk: Desk) -> None:
    desk.put(delay_us=MINUTE_US)
    first = desk.ask(protocol.RunSchedule("s", b"x" * 16))
    assert desk.ask(protocol.RunSchedule("s", b"x" * 16)) == protocol.Submitted(first.first_id, 1, True)
    assert desk.seconds_to_next() == pytest.approx(60)
    desk.change("pause")
    assert desk.ask(protocol.RunSchedule("s", b"y" * 16)).first_id == 2
    assert desk.made == [1, 2]


def test_what_is_asked_for_again_unchanged_changes_nothing(desk: Desk) -> None:
    desk.put(skip_if_running=False)
    before = desk.seen()
    desk.clock.advance(20)
    desk.put(skip_if_running=False)
    assert desk.seen() == before
    desk.put(every_us=2 * MINUTE_US, delay_us=MINUTE_US)
    assert desk.seconds_to_next() == pytest.approx(60)
    assert desk.seen().occurrences == 1


def test_declared_schedules_follow_the_code_and_keep_what_an_operator_decided(desk: Desk) -> None:
    assert desk.declare(every(delay_us=MINUTE_US)) == []
    assert (desk.seen().state, desk.seen().declared) == ("active", True)
    desk.change("pause")
    desk.restart(10)
    desk.declare(every(delay_us=MINUTE_US))
    assert desk.seen().state == "paused"
    desk.declare(every(every_us=None, cron="0 3 * * *", zone="Europe/Berlin"))
    assert (desk.seen().cron, desk.seen().state) == ("0 3 * * *", "paused")
    desk.change("resume")
    assert desk.seen().next_fires[0].hour in (1, 2)
    desk.declare()
    assert (desk.seen().state, desk.seen().next_fires) == ("undeclared", ())
    with pytest.raises(InvalidSchedule, match="does not stand in the code"):
        desk.change("resume")
    desk.declare(every(delay_us=MINUTE_US))
    assert desk.seconds_to_next() == pytest.approx(60)
    with pytest.raises(InvalidSchedule, match="stands in the code of the App: change it there"):
        desk.put()
    with pytest.raises(InvalidSchedule, match="stands in the code of the App: pause it"):
        desk.change("delete")
    desk.declare()
    desk.change("delete")
    assert Query(desk.database).schedules() == []


def test_a_schedule_of_a_kind_that_is_gone_says_so_and_goes_on_when_it_is_back(desk: Desk) -> None:
    desk.put(skip_if_running=False)
    desk.admission.learn([])
    assert desk.after(60) == []
    assert desk.seen().error == "no handler of kind 'a::b' is registered; registered are: none"
    assert (desk.seen().state, desk.seen().skipped) == ("active", 1)
    desk.after(60)
    assert desk.said == [f"schedule s has made no task: {desk.seen().error}"], "once, not at every fire"
    desk.admission.learn(KINDS)
    assert desk.after(60) == [2]
    assert desk.seen().error is None


def test_a_schedule_whose_zone_is_not_known_any_more_ends_and_stops_nobody(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.put("zoned", every_us=None, cron="* * * * *", zone="Europe/Berlin")
    desk.put("other", delay_us=MINUTE_US)

    def unknown(_: object) -> None:
        raise InvalidOption("zone: expected the IANA name of a time zone")

    monkeypatch.setattr("ringq.schedule.zone_of", unknown)
    assert (desk.seen("zoned").state, desk.seen("zoned").next_fires) == ("active", ())
    assert desk.after(61) == [2]
    zoned = desk.seen("zoned")
    assert (zoned.state, zoned.error) == ("ended", "zone: expected the IANA name of a time zone")
    with pytest.raises(InvalidOption):
        desk.change("resume", "zoned")
    monkeypatch.undo()
    desk.change("resume", "zoned")
    assert desk.seen("zoned").state == "active"


def test_a_declared_schedule_that_is_refused_is_told_and_the_others_are_taken(desk: Desk) -> None:
    wrong = desk.declare(every(), ScheduleFields("t", SpecFields("a::gone"), "{}", every_us=MINUTE_US))
    assert wrong == ["schedule t: no handler of kind 'a::gone' is registered; registered are: a::b"]
    assert [record.name for record in Query(desk.database).schedules()] == ["s"]


def test_a_clock_that_is_set_back_fires_nothing_twice(desk: Desk) -> None:
    desk.put(skip_if_running=False)
    desk.after(60)
    desk.clock.jump(-600)
    assert desk.turn() == []
    assert desk.after(599) == []
    assert desk.after(61) == [3]


# Every change of these zones in 2026 and 2027, as their governments have announced it; UTC.
CHANGES = {
    "America/New_York": ["2026-03-08T07", "2026-11-01T06", "2027-03-14T07", "2027-11-07T06"],
    "Europe/Berlin": ["2026-03-29T01", "2026-10-25T01", "2027-03-28T01", "2027-10-31T01"],
    "Australia/Lord_Howe": ["2026-04-04T15", "2026-10-03T15:30", "2027-04-03T15", "2027-10-02T15:30"],
    "Africa/Casablanca": ["2026-02-15T02", "2026-03-22T02", "2027-02-07T02", "2027-03-14T02"],
}


@pytest.mark.parametrize("line", ["30 2 * * *", "30 1 * * *", "*/20 * * * *", "0 2,3 * * *", "0 15 1-3 * * *"])
@pytest.mark.parametrize(("zone", "text"), [(zone, text) for zone in CHANGES for text in CHANGES[zone]])
def test_over_a_change_of_its_zone_each_fire_that_cronsim_gives_has_one_task(
    desk: Desk, zone: str, text: str, line: str
) -> None:
    """The parent is killed at the change, and the clock is set back an hour later: nothing fires twice."""
    info, change = ZoneInfo(zone), datetime.fromisoformat(f"{text}{'' if ':' in text else ':00'}+00:00")
    before = change - timedelta(minutes=1)
    assert change.astimezone(info).utcoffset() != before.astimezone(info).utcoffset()
    begin, end = change - timedelta(hours=30, seconds=7), change + timedelta(hours=30)
    desk.clock.jump((_us(begin) - desk.clock.now_us()) / 1e6)
    desk.put(cron=line, zone=zone, skip_if_running=False)
    odd = [(change, lambda: desk.restart(0)), (change + timedelta(hours=1), lambda: desk.clock.jump(-600))]
    while (next_us := desk.schedules.next_us) is not None and next_us < _us(end):
        if odd and next_us >= _us(odd[0][0]):
            _, happens = odd.pop(0)
            happens()
        else:
            desk.clock.jump(max(0, next_us - desk.clock.now_us()) / 1e6)
        desk.turn()
    assert not odd
    rows = desk.store._read("SELECT occurrence_us FROM task JOIN scheduled_task ON task_id = id ORDER BY id")
    expected = takewhile(lambda at: at < end, CronSim(line, begin.astimezone(info)))
    assert [at for (at,) in rows] == sorted({_us(at) for at in expected})


def _us(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def test_many_that_are_due_at_once_fire_in_several_transactions(desk: Desk) -> None:
    for number in range(250):
        desk.put(f"s{number}", delay_us=MINUTE_US)
    commits = desk.writer.statistics["commits"]
    assert len(desk.after(61)) == 250
    assert desk.writer.statistics["commits"] - commits == 3


def test_a_jitter_is_seen_before_it_is_waited_for(desk: Desk) -> None:
    desk.put(jitter_us=30_000_000, delay_us=MINUTE_US)
    wait_s = desk.seconds_to_next()
    assert 60 < wait_s < 90
    assert desk.after(wait_s - 0.001) == []
    assert desk.after(0.002) == [1]


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"every_us": 0}, InvalidOption, "every: expected 10 ms to 366 days, got 0 s"),
        ({"every_us": -5}, InvalidOption, "every: expected 10 ms to 366 days"),
        ({"cron": "0 0 30 2 *"}, InvalidOption, "never fires: none of its months has that day"),
        ({"cron": "0 25 * * *"}, InvalidOption, "bad hour; write minute, hour, day"),
        ({"cron": "@daily"}, InvalidOption, "wrong number of fields"),
        ({"cron": "* * * * *", "zone": "Mars/Base"}, InvalidOption, "zone: expected the IANA name"),
        ({"cron": "* * * * *", "every_us": 10**6}, InvalidOption, "either cron or every"),
        ({"cron": "* * * * *", "from_completion": True}, InvalidOption, "from_completion: goes with every"),
        ({"jitter_us": -1}, InvalidOption, "jitter: expected 0 s to 1 day"),
        ({"catch_up": 1001, "skip_if_running": False}, InvalidOption, "catch_up: expected"),
        ({"catch_up": 5}, InvalidOption, "takes skip_if_running=False"),
        ({"occurrences_max": 0}, InvalidOption, "max_occurrences: expected 1 or more"),
        ({"delay_us": -1}, InvalidOption, "initial_delay: expected"),
        ({"name": "a\nb"}, InvalidOption, "name: expected"),
        ({"spec": SpecFields("a::c")}, UnknownKind, "did you mean 'a::b'"),
    ],
)
def test_what_makes_no_sense_is_refused_with_one_line_and_nothing_is_written(
    desk: Desk, fields: dict[str, Any], error: type[RingqError], words: str
) -> None:
    with pytest.raises(error, match=re.escape(words)) as caught:
        desk.put(**fields)
    assert "\n" not in str(caught.value)
    assert Query(desk.database).schedules() == []


def test_an_unknown_name_is_told_with_the_one_that_may_be_meant(desk: Desk) -> None:
    desk.put("nightly")
    for message in (protocol.ChangeSchedule("nigthly", "pause"), protocol.RunSchedule("nigthly", bytes(16))):
        with pytest.raises(UnknownSchedule, match="there is no schedule 'nigthly'; did you mean nightly"):
            desk.ask(message)


def test_no_statement_about_schedules_reads_what_grows(tmp_path: Path) -> None:
    texts = {name: text for name, text in vars(schedules).items() if re.match(r"(SELECT|UPDATE|CLOSE)_", name)}
    assert len(texts) > 8
    with opened(tmp_path / "a.db") as store:
        for name, text in texts.items():
            rows = store._driver.execute(f"EXPLAIN QUERY PLAN {text}", (None,) * text.count("?"))
            for plan in (row[3] for row in rows):
                is_bounded = "scheduled_open" in plan or "SCAN schedule" in plan
                assert not re.match(r"SCAN (task|receipt|scheduled_task)\b", plan) or is_bounded, f"{name}: {plan}"
                assert "TEMP B-TREE" not in plan or name == "SELECT_OPEN_ENDS", f"{name}: {plan}"


STEPS = st.one_of(
    st.tuples(st.just("wait"), st.sampled_from([0.001, 1, 59.999, 60, 61, 150, 7200])),
    st.tuples(st.just("jump"), st.sampled_from([-600, -1, 1, 600])),
    st.tuples(st.sampled_from(["end", "fail", "restart", "crash", "pause", "resume", "run", "put"]), st.none()),
)


@settings(max_examples=60)
@example(False, 0, [("end", None), ("pause", None), ("jump", -600), ("resume", None), ("wait", 601)])
@given(st.booleans(), st.integers(0, 100_000), st.lists(STEPS, max_size=30))
def test_whatever_happens_a_schedule_has_one_task_at_a_time_and_each_occurrence_once(
    from_completion: bool, delay_us: int, steps: list[tuple[str, float | None]]
) -> None:
    rule = {"from_completion": from_completion, "delay_us": delay_us}
    with TemporaryDirectory() as folder:
        desk = Desk(Path(folder) / "t.db")
        desk.put(**rule)
        active, fired, is_paused, ran = set(desk.made), list(desk.made), False, set()
        for step, given in steps:
            before, desk.made = set(active), []
            if step in ("end", "fail") and active:
                task_id = min(active)
                active.discard(task_id)
                before.discard(task_id)
                desk.end(task_id, Status.COMPLETED if step == "end" else Status.FAILED)
            elif step == "run":
                ran.add(desk.ask(protocol.RunSchedule("s", os.urandom(16))).first_id)
            elif step in ("pause", "resume"):
                is_paused = step == "pause"
                desk.change(step)
            elif step == "put":
                desk.put(**rule)
            elif step == "restart":
                desk.restart(10)
            elif step == "crash":  # while a fire is not committed yet
                desk.clock.advance(60)
                desk.schedules.come_due()
                desk.restart(0)
            elif given is not None:
                (desk.clock.jump if step == "jump" else desk.clock.advance)(given)
            desk.turn()
            timed = [task_id for task_id in desk.made if task_id not in ran]
            assert not (timed and (is_paused or before)), f"{step}: {timed} beside {before}"
            fired += timed
            active |= set(desk.made)
        rows = dict(desk.store._read("SELECT task_id, occurrence_us FROM scheduled_task"))
        occurrences = [rows[task_id] for task_id in fired]
        # From completion, the same instant comes again with a clock that is set back.
        assert from_completion or occurrences == sorted(set(occurrences)), "an occurrence has two tasks"
        assert rows.keys() == set(fired) | ran
        assert desk.seen().occurrences == len(fired)
        desk.store.close()

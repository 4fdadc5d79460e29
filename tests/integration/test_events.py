"""What is told of a parent that does what parents do: each event once, in order, after its COMMIT, to whom it fits."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from plant import Plant

from ringq import events, protocol
from ringq.committed import Committed
from ringq.entries import Batch, Spec
from ringq.errors import InvalidOption
from ringq.events import Event, decode
from ringq.model import OnDuplicate, Reason, Status
from ringq.query import Query
from ringq.timeline import PAGE

DONE = (Status.COMPLETED, Reason.NONE, "1")
FAILED = (Status.FAILED, Reason.HANDLER_ERROR, '{"type":"ValueError","message":"no\\nway"}')


class Site:
    """A plant with one worker, and what it is asked for."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.plant = Plant(folder, **config)
        self._numbers = itertools.count(1)

    def submit(self, *specs: Spec, each: int = 1, **more: Any) -> None:
        spec_of = [n for n in range(len(specs)) for _ in range(each)]
        columns: Any = (list(specs), spec_of if len(specs) > 1 else None, ["{}"] * len(spec_of), None)
        self.plant.submit(Batch(next(self._numbers).to_bytes(16), *columns, lambda *_: None, lambda _: None, **more))
        self.turn()

    def run(self, outcome: tuple[Status, Reason, str], workers: int = 1) -> None:
        for slot in self.plant.fill(workers):
            self.plant.claim(slot.task_id)
            self.plant.receive(slot.task_id, *outcome)
        self.turn()

    def ask(self, message: protocol.Message) -> None:
        self.plant.ask(message)
        self.turn()

    def turn(self) -> None:
        """One transaction; then there is time enough to tell of it."""
        self.plant.commit()
        self.plant.clock.advance(0.1)
        self.plant.bus.step()

    def flush(self) -> None:
        """Let the timeline be written."""
        while (wait_ns := self.plant.bus.timeline.wait_ns(False)) is not None and wait_ns < 10_000_000_000:
            self.plant.clock.advance(wait_ns / 1e9)
            self.plant.bus.timeline.step(False)
            self.plant.commit()

    @property
    def kept(self) -> list[Event]:
        return Query(self.plant.config.database).events(after=0, limit=10_000)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def spec(kind: str = "media::thumb", group: str | None = None, **more: Any) -> Spec:
    return Spec(kind, "default", 128, group, None, **more)


def words(found: list[Event]) -> list[str]:
    return [event.word for event in found]


def test_a_task_is_submitted_dispatched_and_completed(site: Site) -> None:
    found = site.plant.read_events()
    site.submit(spec(group="g", label="cat", tags=(("team", "sales"),)))
    site.run(DONE)
    assert words(found) == ["submitted", "dispatched", "completed"]
    for event in found:
        assert (event.task, event.kind, event.domain, event.queue) == (1, "media::thumb", "media", "default")
        assert (event.group, event.label, event.tags, event.priority) == ("g", "cat", {"team": "sales"}, 128)
    assert found[-1].attempt == 1
    assert found[-1].duration_s == 50e-6


def test_a_batch_is_one_event_of_each_kind_of_task(site: Site) -> None:
    found = site.plant.read_events("submitted")
    site.submit(spec(), spec("mail::send"), each=3)
    assert [(event.task, event.count, event.kind) for event in found] == [(1, 3, "media::thumb"), (4, 3, "mail::send")]


def test_a_failure_says_whether_and_when_the_task_is_tried_again(site: Site) -> None:
    found = site.plant.read_events("failed", "dead_letter")
    site.submit(spec(retry="1 constant 5s"))
    site.run(FAILED)
    assert (found[0].will_retry, found[0].error, found[0].reason) == (True, "ValueError: no way", "handler_error")
    assert found[0].retry_at is not None
    assert (found[0].retry_at - found[0].at).total_seconds() == 5
    site.plant.clock.advance(6)
    site.plant.look_at_the_time()
    site.plant.commit()
    site.run(FAILED)
    assert words(found) == ["failed", "dead_letter"]
    assert (found[1].reason, found[1].attempt) == ("retry_limit", 2)


def test_a_failure_for_good_will_not_be_retried(site: Site) -> None:
    found = site.plant.read_events("failed")
    site.submit(spec())
    site.run(FAILED)
    assert [(event.will_retry, event.retry_at) for event in found] == [(False, None)]


def test_a_dead_letter_that_lives_again_is_told(site: Site) -> None:
    found = site.plant.read_events("revived")
    site.submit(spec(retry="1"))
    site.run(FAILED)
    site.run(FAILED)
    site.ask(protocol.RetryDead(protocol.Dead([1])))
    assert [event.task for event in found] == [1]


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        (Reason.PREEMPTED, "preempted"), (Reason.PAUSED, "paused"), (Reason.SNOOZED, "given_back"),
        (Reason.STOPPED, "given_back"), (Reason.CRASH, "failed"),
    ],
)  # fmt: skip
def test_an_attempt_that_was_stopped_is_no_failure(site: Site, reason: Reason, word: str) -> None:
    site.submit(spec())
    found = site.plant.read_events()
    (slot,) = site.plant.fill(1)
    site.plant.claim(slot.task_id)
    site.plant.interrupt(slot.task_id, reason)
    site.plant.commit()
    assert words(found)[:2] == ["dispatched", word]
    assert found[1].reason == reason.value


def test_a_cancel_and_a_supersede_are_told_of_who_ended(site: Site) -> None:
    site.submit(spec())
    found = site.plant.read_events("cancelled", "superseded")
    site.plant.cancel(1)
    site.turn()
    keyed: Any = {
        "keys": ["k"],
        "on_duplicate": [OnDuplicate.SUPERSEDE.code],
        "names": {"media::thumb": ["media::thumb"]},
    }
    site.submit(spec(), **keyed)
    site.submit(spec(), **keyed)
    assert [(event.word, event.task, event.key) for event in found] == [
        ("cancelled", 1, None), ("superseded", 2, "k"),
    ]  # fmt: skip


def test_pauses_of_everything_are_told_with_how_many_wait_and_run(site: Site) -> None:
    found = site.plant.read_events(*events.SCOPE_WORDS)
    site.submit(spec(group="g"), spec("mail::send"), each=2)
    (slot,) = site.plant.fill(1)
    site.plant.claim(slot.task_id)
    for scope, name in (("group", "g"), ("domain", "media"), ("queue", "default"), ("server", "")):
        for is_paused in (True, False):
            site.ask(protocol.SetPause(scope, name, is_paused))  # type: ignore[arg-type]
    told = [(event.word, event.scope, event.name, event.pending, event.running) for event in found]
    assert told == [
        ("paused", "group", "g", 1, 1), ("resumed", "group", "g", 1, 1),
        ("paused", "domain", "media", 1, 1), ("resumed", "domain", "media", 1, 1),
        ("paused", "queue", "default", 3, 1), ("resumed", "queue", "default", 3, 1),
        ("paused", "server", "", 3, 1), ("resumed", "server", "", 3, 1),
    ]  # fmt: skip


def test_other_limits_are_told_once_with_what_they_are_now(site: Site) -> None:
    found = site.plant.read_events("changed")
    for _ in range(2):
        site.ask(protocol.SetControl("group", "g", {"max_concurrency": 2, "weight": 3.0}))
        site.ask(protocol.SetQueue("bulk", {"max_workers": 1}))
    assert [(event.scope, event.name, event.settings) for event in found] == [
        ("group", "g", {"max_concurrency": 2, "weight": 3.0}), ("queue", "bulk", {"max_workers": 1}),
    ]  # fmt: skip


def test_tasks_that_belong_together_are_told_as_the_transaction_says(site: Site) -> None:
    site.submit(spec(), spec("mail::send"), each=2)
    found = site.plant.read_events()
    committed = Committed(spawned=[(2, 1)], waiting=[(1, 4)], unblocked=[3], finalizing=[4])
    site.plant.bus.take(committed)
    site.plant.bus.step()
    assert [(event.word, event.task, event.parent, event.children) for event in found] == [
        ("spawned", 2, 1, None), ("waiting", 1, None, 4), ("unblocked", 3, None, None), ("finalizing", 4, None, None),
    ]  # fmt: skip


@pytest.mark.parametrize("point", ["writer.before_commit"])
def test_what_was_rolled_back_is_not_told(site: Site, point: str) -> None:
    found = site.plant.read_events()
    site.plant.submit(Batch(bytes(16), [spec()], None, ["{}"], None, lambda *_: None, lambda _: None))
    site.plant.die_committing(point)
    assert found == []


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"kinds": ("media::thumb",)}, {1, 2}),
        ({"domains": ("mail",)}, {3, 4}),
        ({"groups": ("g",)}, {2, 4}),
        ({"domains": ("media",), "groups": ("g",)}, {2}),
        ({"tasks": (1, 4)}, {1, 4}),
        ({"tasks": (1, 4), "domains": ("media",)}, {1}),
        ({"domains": ("nobody",)}, set()),
    ],
)
def test_filters_compose(site: Site, filters: dict[str, Any], expected: set[int]) -> None:
    site.submit(spec(), spec(group="g"), spec("mail::send"), spec("mail::send", "g"))
    found = site.plant.read_events("completed", **filters)
    while site.plant.feed.backlog:
        site.run(DONE)
    assert {event.task for event in found} == expected


def test_of_what_a_filter_lets_through_only_what_is_sent_is_made(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.submit(spec(group="g"), spec("mail::send"), each=50)
    made: list[int] = []
    looked_up = site.plant.store.heads
    monkeypatch.setattr(site.plant.store, "heads", lambda ids: made.extend(ids) or looked_up(ids))
    by_kind = site.plant.read_events("unblocked", kinds=("media::thumb",), buffer=2)
    by_group = site.plant.read_events("unblocked", groups=("g",), buffer=2)
    by_task = site.plant.read_events("unblocked", tasks=(7, 60, 61), buffer=2)
    site.plant.bus.take(Committed(unblocked=list(range(1, 101))))
    site.plant.bus.step()
    assert [event.task for event in by_kind] == [event.task for event in by_group] == [None, 49, 50]
    assert [event.task for event in by_task] == [None, 60, 61]
    assert set(made) == {49, 50, 60, 61}


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ["g", "media", ""]), ({"groups": ("g",)}, ["g", ""]), ({"domains": ("media",)}, ["media", ""]),
        ({"groups": ("h",)}, [""]), ({"tasks": (1,)}, []), ({"domains": ("media",), "groups": ("g",)}, [""]),
    ],
)  # fmt: skip
def test_a_filter_lets_through_what_is_said_of_its_own_name_or_of_all(
    site: Site, filters: dict[str, Any], expected: list[str]
) -> None:
    found = site.plant.read_events("paused", **filters)
    for scope, name in (("group", "g"), ("domain", "media"), ("server", "")):
        site.ask(protocol.SetPause(scope, name, True))  # type: ignore[arg-type]
    assert [event.name for event in found] == expected


def test_a_slow_reader_loses_the_oldest_and_is_told_how_many(site: Site) -> None:
    is_clear, sent = [False], []
    wanted = protocol.Subscribe(("completed",), buffer=3)
    site.plant.bus.join("slow", wanted, sent.append, lambda: is_clear[0])
    quick = site.plant.read_events("completed", buffer=3)
    for _ in range(5):
        site.submit(spec())
        site.run(DONE)
        site.plant.clock.advance(1)
    assert [event.task for event in quick] == [1, 2, 3, 4, 5]
    is_clear[0] = True
    assert site.plant.bus.wait_ns() == 0
    site.plant.bus.step()
    first, frame = sent
    assert (first.lost, first.lines) == (0, b"")
    assert frame.lost == 2
    assert [event.task for event in decode(frame.lines)] == [3, 4, 5]


def test_all_readers_together_get_so_many_a_second(site: Site) -> None:
    readers = [site.plant.read_events("unblocked", buffer=3000) for _ in range(10)]
    site.plant.bus.take(Committed(unblocked=list(range(1, 2001))))
    site.plant.bus.step()
    assert [len(found) for found in readers] == [1000] * 10
    assert site.plant.bus.wait_ns() == 333_333_330  # for 10 times 1,000, of 30,000 a second
    site.plant.clock.advance(0.34)
    site.plant.bus.step()
    assert [len(found) for found in readers] == [2000] * 10


def test_without_readers_nothing_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path, timeline="none")
    for used in ("take", "step", "_spread"):
        monkeypatch.setattr(site.plant.bus, used, None)
    assert site.plant.dispatcher.heard is None
    site.plant.submit(Batch(bytes(16), [spec()], None, ["{}"], None, lambda *_: None, lambda _: None))
    site.plant.commit()
    (slot,) = site.plant.fill(1)
    site.plant.claim(slot.task_id)
    site.plant.receive(slot.task_id, *DONE)
    site.plant.commit()
    monkeypatch.undo()
    site.plant.bus.join("reader", protocol.Subscribe(), lambda _: None, lambda: True)
    assert site.plant.dispatcher.heard is not None
    site.plant.bus.leave("reader")
    assert (site.plant.bus.words, site.plant.dispatcher.heard) == (frozenset(), None)


def test_who_comes_later_is_not_told_what_was_before(tmp_path: Path) -> None:
    site = Site(tmp_path, timeline="none")
    site.submit(spec())
    site.ask(protocol.SetPause("group", "g", True))
    found = site.plant.read_events()
    site.ask(protocol.SetControl("group", "g", {"weight": 2.0}))
    site.submit(spec())
    assert [(event.word, event.task) for event in found] == [("changed", None), ("submitted", 2)]


def test_progress_comes_four_times_a_second_if_it_has_changed_and_somebody_asks(site: Site) -> None:
    site.submit(spec())
    everything, found = site.plant.read_events(), site.plant.read_events("progress")
    (slot,) = site.plant.fill(1)
    site.plant.claim(slot.task_id)
    for fraction in (0.25, 0.25, 0.5):
        site.plant.ring.shown[slot.task_id] = fraction, "reading"
        site.plant.bus.step()
        assert site.plant.bus.wait_ns() == 250_000_000
        site.plant.clock.advance(0.25)
    assert [(event.task, event.fraction, event.message, event.kind) for event in found] == [
        (1, 0.25, "reading", "media::thumb"), (1, 0.5, "reading", "media::thumb"),
    ]  # fmt: skip
    assert "progress" not in words(everything)


@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [
        (protocol.Subscribe(("complete",)), "there is no event 'complete'; did you mean"),
        (protocol.Subscribe(buffer=0), "expected 1 to 100,000 events, got 0"),
        (protocol.Subscribe(buffer=100_001), "expected 1 to 100,000 events"),
    ],
)
def test_who_asks_for_what_there_is_not_is_refused(site: Site, wanted: protocol.Subscribe, complaint: str) -> None:
    with pytest.raises(InvalidOption, match=complaint):
        site.plant.bus.join("reader", wanted, lambda _: None, lambda: True)
    assert site.plant.bus.readers == 0


# -- the timeline ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("none", []), ("notable", ["dead_letter", "paused"]),
        ("all", ["submitted", "dispatched", "completed", "submitted", "dispatched", "dead_letter", "paused"]),
    ],
)  # fmt: skip
def test_the_timeline_keeps_what_it_is_to(tmp_path: Path, level: str, expected: list[str]) -> None:
    site = Site(tmp_path, timeline=level)
    site.submit(spec())
    site.run(DONE)
    site.submit(spec(retry="0"))
    (slot,) = site.plant.fill(1)
    site.plant.claim(slot.task_id)
    site.plant.receive(slot.task_id, Status.DEAD_LETTER, Reason.UNKNOWN_KIND, "{}")
    site.plant.commit()
    site.ask(protocol.SetPause("group", "g", True))
    assert site.kept == []  # it is gathered first
    site.flush()
    assert words(site.kept) == expected


def test_the_timeline_is_written_at_the_end_without_waiting(site: Site) -> None:
    site.ask(protocol.SetPause("group", "g", True))
    site.plant.bus.timeline.step(is_stopping=True)
    site.plant.commit()
    assert words(site.kept) == ["paused"]
    assert site.plant.bus.timeline.wait_ns(True) is None


def test_old_events_and_those_that_are_too_many_are_forgotten_a_few_at_a_time_but_for_the_last(tmp_path: Path) -> None:
    site = Site(tmp_path, timeline_retention_s=100.0, timeline_rows_max=PAGE)
    turn = itertools.cycle((True, False))
    for _ in range(PAGE + 20):
        site.ask(protocol.SetPause("group", "g", next(turn)))
    site.flush()
    assert len(site.kept) == PAGE
    newest = site.kept[-1].id
    site.plant.clock.advance(200)
    site.flush()
    wait_ns = site.plant.bus.timeline.wait_ns(False)
    assert wait_ns is not None
    site.plant.clock.advance(wait_ns / 1e9)
    site.flush()
    assert [event.id for event in site.kept] == [newest]


def test_the_timeline_is_asked_by_page_and_by_filter(site: Site) -> None:
    for kind in ("media::thumb", "mail::send"):
        site.submit(spec(kind))
        site.run(FAILED)
    site.ask(protocol.SetPause("group", "g", True))
    site.flush()
    query = Query(site.plant.config.database)
    assert words(query.events()) == ["failed", "failed", "paused"]
    assert words(query.events(limit=1)) == ["paused"]
    (first,) = query.events(after=0, limit=1)
    assert words(query.events(after=first.id)) == ["failed", "paused"]
    assert [event.task for event in query.events(task=2)] == [2]
    assert [event.task for event in query.events(domain="media")] == [1]
    assert [event.task for event in query.events(kind="mail::send")] == [2]
    assert words(query.events("paused")) == ["paused"]
    with pytest.raises(InvalidOption, match="there is no event 'pause'; did you mean"):
        query.events("pause")


def test_what_cannot_be_written_now_is_written_later_and_of_too_much_the_oldest_is_lost(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ringq import timeline
    from ringq.errors import StorageFull

    site.ask(protocol.SetPause("group", "g", True))
    site.plant.clock.advance(3)

    def full(_: Any) -> None:
        raise StorageFull("the disk is full")

    monkeypatch.setattr(site.plant.store, "insert_events", full)
    site.plant.bus.timeline.step(False)
    site.plant.commit()
    assert site.plant.writer.trouble is not None
    monkeypatch.undo()
    monkeypatch.setattr(timeline, "HELD_MAX", 1)
    site.plant.clock.advance(3)
    site.ask(protocol.SetPause("group", "g", False))
    site.flush()
    assert [(event.word, event.count) for event in site.kept] == [("lost", 1), ("resumed", None)]

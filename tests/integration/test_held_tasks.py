"""Pauses, limits and weights on their way through a server: in every order, over deaths of the parent, in time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from plant import Plant

from ringq import changes, protocol
from ringq.admission import Admission
from ringq.committed import Said
from ringq.controls import LOOK_NS, Share
from ringq.entries import Batch, Spec
from ringq.errors import RingqError, UnknownDomain, UnknownKind
from ringq.model import PauseReason
from ringq.store.controls import PauseRow

HELD_BY: dict[tuple[Any, str], PauseReason] = {
    ("server", ""): PauseReason.GLOBAL,
    ("queue", "bulk"): PauseReason.QUEUE,
    ("domain", "life"): PauseReason.DOMAIN,
    ("group", "acme"): PauseReason.GROUP,
}
SETS = [*itertools.permutations(HELD_BY, 2), *itertools.permutations(HELD_BY, 3)]


class Desk(Plant):
    """A server, and what the one who publishes tasks has been told of changes."""

    def start(self, segment: Any) -> None:
        super().start(segment)
        self.heard: list[Said] = []

    def follow(self, queues: Sequence[str], controls: Sequence[Said]) -> None:
        super().follow(queues, controls)
        if hasattr(self, "heard"):
            self.heard += controls

    def submit_one(self, group: str | None = "acme") -> list[Any]:
        """What the answer says besides ids."""
        told: list[Any] = []
        spec = Spec("life::fine", "bulk", 128, group, None)
        submission = self.store.next_task_id.to_bytes(16, "big")
        self.submit(Batch(submission, [spec], None, ["{}"], None, lambda *came: told.extend(came), self.answers.append))
        self.commit()
        return told[2:]

    def say(self, message: protocol.Message, admission: Admission | None = None) -> Any:
        """The answer or the error; durable then."""
        now_us, answer = self.clock.now_us(), self.answers.append
        self.writer.change(changes.of(message, admission or Admission(), now_us, answer, answer))
        self.commit()
        return self.answers.pop()

    def pause(self, scope: Any, name: str, **more: Any) -> int:
        count: int = self.say(protocol.SetPause(scope, name, True, **more)).count
        return count

    def resume(self, scope: Any, name: str) -> int:
        count: int = self.say(protocol.SetPause(scope, name, False)).count
        return count

    def held(self) -> PauseReason:
        return self.controls.paused("bulk", "life", "acme")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.store.close()


@pytest.mark.parametrize("together", SETS, ids=lambda one: " ".join(scope for scope, _ in one))
def test_reasons_are_set_and_cleared_each_alone_over_deaths_of_the_parent(
    desk: Desk, together: Sequence[tuple[Any, str]]
) -> None:
    desk.submit_one()
    for kill_at, cleared in enumerate(itertools.permutations(together)):
        expected = PauseReason(0)
        for step, scoped in enumerate((*together, *cleared)):
            is_set = step < len(together)
            desk.clock.advance(0.001)
            assert (desk.pause if is_set else desk.resume)(*scoped) == 1
            expected ^= HELD_BY[scoped]
            if step == kill_at % (2 * len(together)):
                desk.kill(with_host=bool(step % 2))
            assert desk.held() == expected == desk.store.paused_by("bulk", "life::fine", "acme")
            assert desk.read("SELECT status FROM task_v WHERE id = 1") == [("paused" if expected else "pending",)]


def test_a_pause_whose_parent_dies_before_its_commit_was_never_made_and_after_it_is_there(desk: Desk) -> None:
    for point, expected in (("writer.before_commit", PauseReason(0)), ("writer.after_commit", PauseReason.GROUP)):
        message = protocol.SetPause("group", "acme", True)
        desk.writer.change(changes.of(message, Admission(), desk.clock.now_us(), lambda _: None, lambda _: None))
        desk.die_committing(point)
        desk.kill(with_host=False)
        assert desk.held() == expected
    message = protocol.SetPause("group", "acme", False)
    desk.writer.change(changes.of(message, Admission(), desk.clock.now_us(), lambda _: None, lambda _: None))
    desk.die_committing("writer.before_commit")
    assert desk.held() is PauseReason.GROUP  # also to those who publish, who rely on what is durable


def test_what_is_asked_for_twice_changes_nothing(desk: Desk) -> None:
    begun_us = desk.clock.now_us()
    assert desk.pause("group", "acme", until_us=begun_us + 60_000_000, running="finish") == 1
    desk.clock.advance(1)
    assert desk.pause("group", "acme", until_us=begun_us + 90_000_000) == 0
    assert desk.controls.pauses() == {("group", "acme"): PauseRow("group", "acme", begun_us, begun_us + 60_000_000)}
    assert desk.heard == [Said("group", "acme", stops=False)]
    assert desk.resume("group", "other") == 0
    assert desk.resume("group", "acme") == 1
    assert desk.resume("group", "acme") == 0
    assert len(desk.heard) == 2


def test_tasks_that_run_shall_stop_unless_they_may_finish(desk: Desk) -> None:
    desk.pause("domain", "life")
    desk.pause("queue", "bulk", running="finish")
    desk.resume("queue", "bulk")
    assert desk.heard == [Said("domain", "life", True), Said("queue", "bulk"), Said("queue", "bulk")]


def test_what_is_paused_for_a_time_goes_on_within_half_a_second_of_it(desk: Desk) -> None:
    assert desk.controls.step() is None
    until_us = desk.clock.now_us() + 3_000_000
    desk.pause("group", "acme", until_us=until_us)
    desk.pause("queue", "bulk", until_us=until_us + 1_000_000)
    desk.pause("domain", "life")
    assert desk.controls.step() == LOOK_NS  # the clock may be set
    desk.clock.advance(2.9)
    assert desk.controls.step() == pytest.approx(100_000_000, abs=1000)
    desk.clock.advance(0.1)
    desk.controls.step()
    desk.controls.step()  # not twice at a time
    assert desk.held() == PauseReason.GROUP | PauseReason.QUEUE | PauseReason.DOMAIN  # until it is durable
    desk.commit()
    assert desk.held() == PauseReason.QUEUE | PauseReason.DOMAIN
    desk.clock.advance(1)
    desk.controls.step()
    desk.commit()
    assert desk.held() == PauseReason.DOMAIN
    assert desk.controls.step() is None
    spans = desk.controls.spans("bulk", "life", "acme", desk.clock.now_us())
    assert {to_us and to_us - from_us for from_us, to_us in spans} == {3_000_000, 4_000_000, None}


def test_what_was_paused_until_a_time_at_which_no_server_ran_goes_on_with_the_next(desk: Desk) -> None:
    until_us = desk.clock.now_us() + 1_000_000
    desk.pause("group", "acme", until_us=until_us)
    desk.clock.advance(60)
    desk.kill(with_host=True)
    assert desk.held() == PauseReason.GROUP
    assert desk.submit_one() == []  # it is not said to wait for that
    desk.controls.step()
    desk.commit()
    assert desk.held() == PauseReason(0)
    assert desk.controls.spans("bulk", "life", "acme", desk.clock.now_us()) == [(until_us - 1_000_000, until_us)]


def test_who_pauses_anew_what_is_over_but_not_yet_noticed_begins_another_pause(desk: Desk) -> None:
    desk.pause("group", "acme", until_us=desk.clock.now_us() + 1)
    desk.clock.advance(5)
    assert desk.pause("group", "acme") == 1
    assert desk.controls.pauses()["group", "acme"].since_us == desk.clock.now_us()
    assert len(desk.controls.spans("bulk", "life", "acme", desk.clock.now_us())) == 1


def test_submissions_to_a_paused_group_are_stored_and_say_so(desk: Desk) -> None:
    assert desk.submit_one() == []
    desk.pause("queue", "bulk")
    assert desk.submit_one() == []
    desk.pause("group", "acme")
    assert desk.submit_one() == [None, [0]]
    assert desk.submit_one(None) == []
    assert desk.submit_one("other") == []
    assert desk.read("SELECT COUNT(*) FROM task WHERE id > 0") == [(5,)]


def test_the_operator_decides_about_limits_then_the_code(desk: Desk) -> None:
    reports: list[dict[str, Any]] = [
        {"name": "life::fine", "max_concurrency": 3, "domain_max_concurrency": 8},
        {"name": "mail::send", "max_concurrency": None, "domain_max_concurrency": None},
        {"name": "old::one"},  # of a worker with older code
    ]
    assert set(desk.controls.learn(reports)) == {Said("kind", "life::fine"), Said("domain", "life")}
    assert not desk.controls.learn(reports)
    for message in (
        protocol.SetControl("kind", "life::fine", {"max_concurrency": 0}),
        protocol.SetControl("group", "acme", {"weight": 3, "min_slots": 2}),
        protocol.SetControl("group", "beta", {"max_concurrency": 5, "min_slots": 1}),
        protocol.SetControl("server", "", {"max_concurrency": 6}),
    ):
        assert desk.say(message) == protocol.Changed(1)
        assert desk.say(message) == protocol.Changed(0)
    assert len(desk.heard) == 4
    for _ in range(2):
        limits = desk.controls.limits()
        assert (limits.server, limits.domains, limits.groups) == (6, {"life": 8}, {"beta": 5})
        assert limits.kinds == {"life::fine": 0}
        assert desk.controls.weights() == {"acme": Share(3.0, 2), "beta": Share(1.0, 1)}
        desk.kill(with_host=False)
        desk.controls.learn(reports)
    desk.say(protocol.SetControl("kind", "life::fine", {"max_concurrency": None}))
    desk.say(protocol.SetControl("group", "acme", {"weight": None, "min_slots": None}))
    assert desk.controls.limits().kinds == {"life::fine": 3}
    assert set(desk.controls.weights()) == {"beta"}
    desk.controls.learn([])
    assert (desk.controls.limits().kinds, desk.controls.limits().domains) == ({}, {})


def test_a_kind_or_domain_that_is_not_there_is_told_of_with_the_one_that_may_be_meant(desk: Desk) -> None:
    admission = Admission()
    admission.learn([{"name": "media::thumbnail", "names": ["media::thumbnail", "photos::shrink"]}])
    desk.submit_one()  # of life::fine, which no worker has any more
    cases: list[tuple[protocol.Message, type[RingqError], str]] = [
        (
            protocol.SetPause("domain", "medai", True),
            UnknownDomain,
            "there is no domain 'medai'; did you mean 'media'?",
        ),
        (
            protocol.SetControl("kind", "media::thumbnial", {"max_concurrency": 1}),
            UnknownKind,
            "there is no kind 'media::thumbnial'; did you mean 'media::thumbnail'?",
        ),
        (
            protocol.SetControl("domain", "x", {"max_concurrency": 1}),
            UnknownDomain,
            "there is no domain 'x'; there are: life, media, photos",
        ),
    ]
    for message, error, text in cases:
        answer = desk.say(message, admission)
        assert isinstance(answer, error)
        assert str(answer) == text
    assert (desk.heard, desk.controls.pauses(), desk.store.controls()) == ([], {}, {})
    for domain in ("media", "photos", "life"):
        assert desk.say(protocol.SetPause("domain", domain, True), admission) == protocol.Changed(1)
    assert desk.say(protocol.SetPause("domain", "anything", True)) == protocol.Changed(1)  # nobody knows what there is
    assert desk.say(protocol.SetPause("domain", "anything", False), admission) == protocol.Changed(1)
    assert desk.say(protocol.SetPause("group", "any", True), admission) == protocol.Changed(1)


def test_to_resume_a_queue_ends_its_break_too(desk: Desk) -> None:
    with desk.store.transaction():
        desk.store.set_queue("bulk", throttles=3, throttled_until_us=desk.clock.now_us() + 1_000_000)
    assert desk.resume("queue", "bulk") == 1
    assert desk.resume("queue", "bulk") == 0
    assert desk.store.queue("bulk").throttled_until_us is None

"""What the parent writes of rate limits, and when; and that an inline run lets everything pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from store_rows import opened

import ringq
from ringq import changes, protocol
from ringq.admission import Admission
from ringq.bucket import RateRow
from ringq.clock import ManualClock
from ringq.config import Config
from ringq.errors import RingqError, StorageFull
from ringq.rating import Rating
from ringq.store import Store
from ringq.testing import inline
from ringq.writer import Writer

REPORT = {"name": "media::thumbnail", "names": ["media::thumbnail", "photos::shrink"]}
KIND = "kind:media::thumbnail"


class Desk:
    """A writer and the buckets on one database, with a clock of their own."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.clock = ManualClock()
        self.begin()

    def begin(self) -> None:
        """A new server on the same database."""
        self.writer = Writer(self.store, Config(self.store.path), self.clock)
        self.rating = Rating(self.store, self.clock, self.writer.change)

    def commit(self) -> bool:
        """Whether there was something to write, and it was."""
        if self.writer.wait_ns(False) is None:
            return False
        for answer in self.writer.commit(lambda: None).answers:
            answer()
        return self.writer.trouble is None

    def ask(self, message: protocol.Message) -> Any:
        answers: list[Any] = []
        change = changes.of(message, Admission(), self.clock.now_us(), answers.append, answers.append)
        self.rating.change(change)
        self.commit()
        (answer,) = answers
        return answer

    def limit(self, scope: str, permits: float, interval_s: float, burst: float) -> None:
        fields = protocol.RateFields(permits, round(interval_s * 1e6), burst)
        assert self.ask(protocol.SetRate(scope, fields)) == protocol.Changed(1)
        self.rating.step(is_stopping=True)
        self.commit()

    def take(self, permits: float = 1, scope: str = "github") -> int:
        wait_us: int = self.ask(protocol.Acquire(scope, permits, bytes(16), 0)).wait_us
        return wait_us

    def stored(self, scope: str = "github") -> RateRow:
        row = self.store.rate(scope)
        assert row is not None
        return row


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with opened(tmp_path / "tasks.db") as store:
        yield Desk(store)


def test_levels_are_written_once_a_second_and_only_if_they_have_changed(desk: Desk) -> None:
    desk.limit("github", 1, 3600, 10)
    desk.clock.advance(5)
    assert desk.rating.wait_ns() is None
    desk.rating.step(is_stopping=False)
    assert not desk.commit()
    assert desk.take(2) == 0
    assert desk.rating.wait_ns() == 0
    desk.rating.step(is_stopping=False)
    assert desk.rating.wait_ns() is None  # it is on its way
    assert desk.commit()
    assert desk.stored().tokens == pytest.approx(8)
    desk.clock.advance(0.25)
    assert desk.take(2) == 0
    assert desk.rating.wait_ns() == 750_000_000
    desk.rating.step(is_stopping=False)
    assert not desk.commit()
    desk.clock.advance(0.75)
    desk.rating.step(is_stopping=False)
    assert desk.commit()
    assert desk.stored().tokens == pytest.approx(6, abs=0.01)


def test_at_a_stop_levels_are_written_at_once(desk: Desk) -> None:
    desk.limit("github", 1, 3600, 10)
    assert desk.take(2) == 0
    desk.rating.step(is_stopping=True)
    assert desk.commit()
    assert desk.stored().tokens == pytest.approx(8)


def test_levels_that_could_not_be_written_are_tried_again_but_do_not_delay_a_stop(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.limit("github", 1, 3600, 10)
    desk.clock.advance(5)
    assert desk.take(2) == 0
    with monkeypatch.context() as patch:

        def full(_rows: Any) -> None:
            raise StorageFull

        patch.setattr(desk.store, "write_levels", full)
        desk.rating.step(is_stopping=False)
        assert not desk.commit()
        assert desk.rating.wait_ns() == 1_000_000_000
        desk.rating.step(is_stopping=True)
        assert desk.writer.wait_ns(False) is None
    desk.clock.advance(2)
    desk.rating.step(is_stopping=False)
    assert desk.commit()
    assert desk.stored().tokens == pytest.approx(8, abs=0.01)


def test_a_new_rate_keeps_what_is_left_also_what_was_not_written_yet(desk: Desk) -> None:
    desk.limit("github", 1, 3600, 10)
    assert desk.take(7) == 0
    desk.limit("github", 2, 3600, 20)
    assert desk.stored()[1:4] == (2, 3_600_000_000, 20)
    assert desk.take(4) == pytest.approx(1_800_000_000, rel=0.01)
    assert desk.take(3) == 0
    desk.begin()
    assert desk.take(3) == 0  # a death: what was taken since the last write is there again
    desk.limit("github", 2, 3600, 1)
    assert desk.stored().tokens <= 1


def test_what_is_removed_while_its_level_is_written_stays_removed(desk: Desk) -> None:
    desk.limit("github", 1, 3600, 10)
    assert desk.take(7) == 0
    answers: list[Any] = []
    remove = protocol.SetRate("github", None)
    desk.rating.change(changes.of(remove, Admission(), desk.clock.now_us(), answers.append, answers.append))
    desk.rating.step(is_stopping=True)
    assert desk.commit()
    assert desk.store.rate("github") is None
    with pytest.raises(ringq.UnknownScope):
        desk.take()


def test_the_code_s_rate_holds_before_it_is_stored_and_until_somebody_says_another(desk: Desk) -> None:
    desk.rating.declare([{**REPORT, "rate": "3/h"}, {**REPORT, "name": "photos::shrink", "rate": "3/h"}])
    assert desk.rating.rates.admit("media::thumbnail", None, "default", 9, 1_000_000)[0] == 3
    assert desk.commit()
    assert desk.rating.rates.scopes == {KIND}
    assert desk.stored(KIND).declared
    desk.rating.declare([{**REPORT, "rate": "5/h"}])
    assert desk.commit()
    assert desk.stored(KIND).permits == 5
    desk.limit(KIND, 7, 1, 7)
    desk.begin()
    desk.rating.declare([{**REPORT, "rate": "9/h"}])
    desk.commit()
    assert (desk.stored(KIND).permits, desk.stored(KIND).declared) == (7, 0)
    assert desk.ask(protocol.SetRate(KIND, None)) == protocol.Changed(1)
    assert desk.commit()
    assert (desk.stored(KIND).permits, desk.stored(KIND).declared) == (9, 1)
    assert isinstance(desk.ask(protocol.SetRate(KIND, None)), RingqError)
    desk.rating.declare([REPORT])
    assert desk.commit()
    assert desk.store.rate(KIND) is None
    assert desk.rating.rates.scopes == set()


def test_a_rate_that_the_code_of_an_earlier_run_said_is_forgotten_when_it_says_it_no_more(desk: Desk) -> None:
    desk.rating.declare([{**REPORT, "rate": "3/h"}])
    assert desk.commit()
    desk.begin()
    assert desk.rating.rates.scopes == {KIND}
    desk.rating.declare([REPORT])
    assert desk.commit()
    assert desk.store.rate(KIND) is None
    assert desk.rating.rates.scopes == set()


# -- inline ---------------------------------------------------------------------------------------

app = ringq.App("web")


@app.task
def star(ctx: ringq.Context) -> str:
    ctx.acquire("unknown", 10**6, timeout=0)
    ctx.hold("unknown", 3600)
    return "done"


def test_in_an_inline_run_nobody_waits_but_mistakes_are_told(tmp_path: Path) -> None:
    with inline(app, tmp_path) as run:
        assert star.submit().result() == "done"
        run.client.set_rate("github", "1/d", burst=5)
        for _ in range(3):
            run.client.acquire("github", 5, timeout=0)
        wrong: list[tuple[type[Exception], Callable[[], None]]] = [
            (ringq.BurstExceeded, lambda: run.client.acquire("github", 6)),
            (ringq.UnknownScope, lambda: run.client.acquire("gitlab")),
        ]
        for kind, call in wrong:
            with pytest.raises(kind):
                call()

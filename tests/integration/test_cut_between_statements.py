"""The parent is killed between any two statements of what it writes: nothing is lost, and nothing is doubled.

A process of its own does the writing and is killed, with SIGKILL, before its n-th statement, for every n that there
is; COMMIT is one of them, and the last cut is behind it. Then another parent adopts what is left, whoever had no answer
asks again, and everything runs to its end.
"""

from __future__ import annotations

import os
import pickle
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from plant import Plant, Segment

from ringq import changes, protocol
from ringq.admission import Admission
from ringq.entries import Batch, Spec
from ringq.errors import NotDead, UnknownTask
from ringq.firing import Schedules
from ringq.model import OnDuplicate, Reason, Status
from ringq.protocol import Dead, ScheduleFields, Selection, SpecFields

KIND = "media::scan"
SUPERSEDE = OnDuplicate.SUPERSEDE
CUTS_MAX = 100  # of one situation: it has some 20


class Bench(Plant):
    """A plant with schedules, whose tasks are all of one kind."""

    def start(self, segment: Segment | None) -> None:
        super().start(segment)
        self.admission = Admission()
        self.admission.learn([{"name": KIND, "queue": None, "priority": None, "group": None, "run_timeout_ms": None}])
        self.schedules = Schedules(self.store, self.admission, self.clock, lambda _: None)

    # -- what is asked for --------------------------------------------------------------------

    def give(
        self, number: int, key: str | None = None, mode: OnDuplicate = OnDuplicate.SKIP, retry: Any = None
    ) -> None:
        """A submission, which its number tells from others: one that is asked for again is the same."""
        self.writer.submit(
            Batch(
                number.to_bytes(16, "big"), [Spec(KIND, "default", 128, None, None, retry)], [0], ["{}"], None,
                lambda *_: None, self.answers.append, keys=[key], on_duplicate=[mode.code],
            )
        )  # fmt: skip
        self.turn()

    def say(self, message: Any) -> None:
        now_us = self.clock.now_us()
        self.writer.change(changes.of(message, self.admission, now_us, self.answers.append, self.answers.append))
        self.turn()

    def put(self, **fields: Any) -> None:
        self.say(protocol.PutSchedule(ScheduleFields("s", SpecFields(KIND), "{}", occurrences_max=3, **fields)))

    # -- what happens -------------------------------------------------------------------------

    def turn(self) -> None:
        """Turns of the loop, until there is nothing to write."""
        while True:
            self.look_at_the_time()
            if self.schedules.come_due():
                self.writer.change(self.schedules)
            if self.writer.wait_ns(saturated=False) != 0:
                return
            self.commit()

    def begin(self) -> None:
        """Workers have everything that may start."""
        self.fill(9)
        for task_id in self.ring.by_task:
            self.claim(task_id)

    def end(self, status: Status = Status.COMPLETED) -> None:
        """What workers have has ended; nothing of it is written yet."""
        for slot in self.ring.by_task.values():
            reason = Reason.NONE if status is Status.COMPLETED else Reason.HANDLER_ERROR
            self.receive(slot.task_id, status, reason, "1" if status is Status.COMPLETED else "{}")

    def bury(self) -> None:
        for _ in range(3):
            self.begin()
            for task_id in self.ring.by_task:
                self.interrupt(task_id, Reason.CRASH)
            self.turn()

    def finish(self) -> None:
        for _ in range(8):
            self.turn()
            self.begin()
            self.end()
            self.turn()
            self.clock.advance(20)

    def outcome(self) -> dict[str, list[Any]]:
        """All there is; of the record, not what a death adds to it."""
        left = ("active_key", "follower", "delayed", "cancel_request", "lease", "straggler")
        questions = {
            "tasks": "SELECT task.id, status, reason FROM task LEFT JOIN receipt ON task_id = task.id ORDER BY 1",
            "attempts": "SELECT task_id, reason, status FROM attempt WHERE reason <> 5 ORDER BY 1, lease",
            "counted": "SELECT status, sum(count) FROM statistic WHERE count <> 0 GROUP BY 1 ORDER BY 1",
            "keys": "SELECT task_id, key FROM task_key ORDER BY 1",
            "fires": "SELECT task_id, occurrence_us FROM scheduled_task ORDER BY 1",
            "schedules": "SELECT name, occurrences, last_task_id, ended FROM schedule ORDER BY 1",
            "left": " UNION ALL ".join(f"SELECT task_id FROM {table}" for table in left),
        }
        return {name: self.read(sql) for name, sql in questions.items()}


@dataclass(frozen=True)
class Situation:
    """`before`, what there is; `asks`, what is written while the parent dies; `ended`, how the tasks have ended then.

    `asks_again`: a client did, and has no answer. `unasked`: how the tasks end if the parent had died before it heard
    of it, where that is something else.
    """

    before: Callable[[Bench], None]
    asks: Callable[[Bench], None]
    ended: list[Status]
    asks_again: bool = True
    unasked: list[Status] | None = None


COMPLETED, CANCELLED, SUPERSEDED = Status.COMPLETED, Status.CANCELLED, Status.SUPERSEDED


def runs(bench: Bench, *keys: str | None) -> None:
    for number, key in enumerate(keys or ["x"], 1):
        bench.give(number, key)
        bench.begin()


def is_paused(bench: Bench) -> None:
    """Nothing that is pending is published."""
    bench.say(protocol.SetPause("queue", "default", True))


def waits(bench: Bench) -> None:
    is_paused(bench)
    bench.give(1, "x")


def one_behind_another(bench: Bench) -> None:
    runs(bench)
    bench.give(2, "x")


def is_dead(bench: Bench) -> None:
    bench.give(1, "x")
    bench.bury()


def has_failed(bench: Bench) -> None:
    bench.give(1, "x", retry="2 constant 5s")
    bench.begin()
    bench.end(Status.FAILED)


def has_failed_with_one_behind(bench: Bench) -> None:
    bench.give(1, "x", retry="2")
    bench.begin()
    bench.give(2, "x")
    bench.end(Status.FAILED)


def is_due(bench: Bench, **fields: Any) -> None:
    """A schedule, whose next fire is due now."""
    bench.put(**fields)
    bench.clock.advance(60)


def has_completed(bench: Bench, **fields: Any) -> None:
    """The task of a schedule."""
    bench.put(**fields)
    bench.begin()
    bench.end()


SITUATIONS = {
    # After the death the first one starts anew: that run begins after the second was asked for, and is it.
    "requeue": Situation(runs, lambda b: b.give(2, "x"), [COMPLETED] * 2, unasked=[COMPLETED]),
    "requeue once more": Situation(
        one_behind_another, lambda b: b.give(3, "x", SUPERSEDE), [COMPLETED, SUPERSEDED, COMPLETED],
        unasked=[SUPERSEDED, SUPERSEDED, COMPLETED],
    ),
    "supersede": Situation(waits, lambda b: b.give(2, "x", SUPERSEDE), [SUPERSEDED, COMPLETED]),
    "the end of one with another behind it": Situation(
        lambda b: (one_behind_another(b), b.end()), lambda b: b.turn(), [COMPLETED] * 2, asks_again=False
    ),
    "cron fire": Situation(
        lambda b: is_due(b, cron="* * * * *"), lambda b: b.turn(), [COMPLETED] * 3, asks_again=False
    ),
    "interval fire": Situation(
        lambda b: is_due(b, every_us=60_000_000, delay_us=60_000_000), lambda b: b.turn(), [COMPLETED] * 3,
        asks_again=False,
    ),
    "successor of a fire": Situation(
        lambda b: has_completed(b, every_us=10_000_000, from_completion=True), lambda b: b.turn(), [COMPLETED] * 3,
        asks_again=False,
    ),
    "run now": Situation(
        lambda b: b.put(every_us=60_000_000, delay_us=3600_000_000),
        lambda b: b.say(protocol.RunSchedule("s", bytes(16))), [COMPLETED],
    ),
    "retry": Situation(has_failed, lambda b: b.turn(), [COMPLETED], asks_again=False),
    "retry with one behind it": Situation(
        has_failed_with_one_behind, lambda b: b.turn(), [COMPLETED] * 2, asks_again=False
    ),
    "retry of a dead letter": Situation(is_dead, lambda b: b.say(protocol.RetryDead(Dead([1]))), [COMPLETED]),
    "purge": Situation(is_dead, lambda b: b.say(protocol.PurgeDead(Dead([1]))), []),
    "cancel": Situation(waits, lambda b: b.say(protocol.Cancel(Selection([1]))), [CANCELLED]),
    "cancel while it runs": Situation(runs, lambda b: b.say(protocol.Cancel(Selection([1]))), [CANCELLED]),
    "cancel with one behind it": Situation(
        one_behind_another, lambda b: b.say(protocol.Cancel(Selection([1]))), [CANCELLED, COMPLETED]
    ),
    "cancel of all": Situation(
        one_behind_another, lambda b: b.say(protocol.Cancel(Selection(kind=KIND, limit=10))), [CANCELLED] * 2
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SITUATIONS)
def test_killed_before_any_statement_nothing_is_lost_and_nothing_doubled(tmp_path: Path, name: str) -> None:
    situation = SITUATIONS[name]
    outcomes, is_cut = [], True
    for cut in range(1, CUTS_MAX):
        folder = tmp_path / str(cut)
        folder.mkdir()
        is_cut = die(folder, situation, cut)
        outcomes.append(live_again(folder, situation))
        if not is_cut:
            break
    assert not is_cut, "it has no end"
    assert len(outcomes) > 4, "nothing was cut: BEGIN, two statements, COMMIT"
    done, before = outcomes[-1], outcomes[0]
    assert [Status.of(code) for _, code, _ in done["tasks"]] == situation.ended
    assert [Status.of(code) for _, code, _ in before["tasks"]] == (situation.unasked or situation.ended)
    assert done["left"] == before["left"] == []
    if situation.unasked is None:
        assert done == before
    assert [outcome for outcome in outcomes if outcome not in (before, done)] == []
    assert len({task_id for task_id, _ in done["fires"]}) == len({at for _, at in done["fires"]}) == len(done["fires"])


def die(folder: Path, situation: Situation, cut: int) -> bool:
    """Have a process write, and die before so many statements; False if there were not so many."""
    pid = os.fork()
    if not pid:
        try:
            bench = Bench(folder)
            situation.before(bench)
            (folder / "left").write_bytes(pickle.dumps((Segment(bench.ring), bench.clock)))
            statements = iter(range(1, CUTS_MAX + 1))
            bench.store._driver.set_trace_callback(
                lambda _: os.kill(os.getpid(), signal.SIGKILL) if next(statements) == cut else None
            )
            situation.asks(bench)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.waitstatus_to_exitcode(status) == 0, "it failed by itself"
    return False


def live_again(folder: Path, situation: Situation) -> dict[str, list[Any]]:
    """Another parent, and the end of everything."""
    segment, clock = pickle.loads((folder / "left").read_bytes())
    bench = Bench(folder, clock=clock, segment=segment)
    if situation.asks_again:
        situation.asks(bench)
    bench.say(protocol.SetPause("queue", "default", False))
    bench.finish()
    refused = [answer for answer in bench.answers if isinstance(answer, Exception)]
    assert all(isinstance(error, (NotDead, UnknownTask)) for error in refused), "else it is as if it was asked for once"
    outcome = bench.outcome()
    bench.store.close()
    return outcome

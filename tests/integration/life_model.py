"""What should become of tasks, in plain Python: the promises of docs/LIFE_OF_A_TASK.md without a database.

One call of `Model.commit` is one transaction of the server; its parts come in the order in which the writer has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ringq.lifecycle import is_legal
from ringq.model import CancelOutcome, OnDuplicate, Outcome, PauseReason, Reason, Status

PENDING, RUNNING = Status.PENDING, Status.RUNNING
FAILURES = (Reason.HANDLER_ERROR, Reason.RUN_TIMEOUT, Reason.MEMORY_LIMIT, Reason.RETRY_LATER)
STOPS = (Reason.PAUSED, Reason.PREEMPTED)
GIVEN_BACK = (Reason.SNOOZED, Reason.THROTTLED, *STOPS)
CRASHES_MAX = LOST_MAX = 3
COOLDOWN_US = 60_000_000
AGAIN_US = 250_000  # until what a worker has without a durable lease is looked at again
Name = tuple[str, str]  # kind and key
Tags = tuple[tuple[str, str], ...]


@dataclass
class Task:
    """`place`: where a task that has not ended is: pending, delayed, waiting (behind another), published,
    running, dropped (cancelled, and its worker is gone), late (its time was over when its worker was gone).
    """

    id: int
    kind: str
    queue: str
    priority: int
    name: Name | None
    delays: tuple[int, ...] | None  # before each retry, in us; None: as the queue says
    limits: Limits
    tags: Tags
    label: str | None
    submitted_us: int
    run_at_us: int | None
    renewed_us: int | None = None
    place: str = "pending"
    is_cancelled: bool = False
    lease: tuple[int, int] | None = None  # that is durable: the attempt's, and its number
    counted: int = 0
    crashes: int = 0
    lost: int = 0
    failures: int = 0
    status: Status | None = None
    reason: Reason = Reason.NONE
    end: tuple[int, int, int, int] = (0, 0, 0, 0)  # lease, number of the attempt, time, when that attempt began
    attempts: dict[int, Attempt] = field(default_factory=dict)  # by lease
    group: str | None = None


@dataclass
class Attempt:
    """That is over. `status`, if it ended its task, until somebody gave the dead letter another chance."""

    reason: Reason
    status: Status | None
    begun_us: int
    ended_us: int


@dataclass(frozen=True)
class Limits:
    """In time; None is none."""

    ttl_us: int | None = None
    ttl_from: int = 0
    total_us: int | None = None
    queue_us: int | None = None

    def __bool__(self) -> bool:
        return any((self.ttl_us, self.total_us, self.queue_us))


@dataclass(frozen=True)
class Wish:
    """One task of a submission."""

    kind: str
    queue: str
    priority: int
    key: str | None
    mode: OnDuplicate
    retry: str | None
    limits: Limits
    tags: Tags
    label: str | None
    run_at_us: int | None
    group: str | None = None


@dataclass(frozen=True)
class Ending:
    """What came of an attempt. `status` is None where no receipt was left."""

    task_id: int
    lease: int
    number: int
    status: Status | None
    reason: Reason
    ended_us: int
    begun_us: int
    after_us: int | None = None


Answer = tuple[Outcome, int, int]
DELAYS = {
    "0": (), "1": (0,), "2": (0, 0), "1 constant 1s": (1_000_000,),
    "3 exponential 1s..10s": (1_000_000, 2_000_000, 4_000_000),
}  # fmt: skip


class Model:
    """All tasks by id, and the few rules by which they move. `moves`: every line of the table that was gone over."""

    def __init__(self) -> None:
        self.tasks: dict[int, Task] = {}
        self.holder: dict[Name, int] = {}
        self.behind: dict[Name, int] = {}  # who waits for the holder
        self.expiries: set[tuple[int, int]] = set()
        self.cooling: dict[str, tuple[int, int]] = {}  # queue -> windows in a row, until when
        self.retry_of: dict[str, tuple[int, ...]] = {}
        self.paused: set[str] = set()
        self.halted: set[tuple[str, str]] = set()  # what else is: the server, domains, groups
        self.next_id = 1
        self.purged: set[int] = set()
        self.moves: set[tuple[Status | None, Status, Reason]] = set()
        self.now_us = 0
        self.closed_until: dict[
            str, int
        ] = {}  # as the dispatcher knows it: a clock that is set back closes no queue again
        self._takes_back = False

    # -- transactions -------------------------------------------------------------------------

    def commit(
        self, now_us: int, action: Callable[[], object] = lambda: None, endings: Iterable[Ending] = (),
        due: Iterable[int] = (), *, expires: bool = True,
    ) -> None:  # fmt: skip
        """`action`: what somebody asked for; `endings`: what came of attempts; `due`: delayed tasks whose time came."""
        self.now_us, self._takes_back = now_us, False
        action()
        self._end_late()
        if expires:
            self._expire()
        for task in self.active():
            if task.place == "dropped":
                self._finish(task, Status.CANCELLED, Reason.CANCELLED)
        endings = list(endings)
        for ending in [one for one in endings if one.status is None] + [one for one in endings if one.status]:
            self._end_attempt(ending)
        for task_id in due:
            if self.tasks[task_id].place == "delayed":
                self.tasks[task_id].place = "pending"
        if self._takes_back:
            for task in self.active():
                task.place = "pending" if task.place == "published" else task.place

    def active(self) -> list[Task]:
        return [task for task in self.tasks.values() if task.status is None]

    def look(self, now_us: int) -> None:
        """The time is this."""
        self.now_us = now_us
        for queue, until_us in list(self.closed_until.items()):
            if until_us <= now_us:
                del self.closed_until[queue]

    def restart(self) -> None:
        """Another parent: whatever was published is not any more."""
        self.closed_until = {queue: until_us for queue, (_, until_us) in self.cooling.items()}
        for task in self.active():
            if task.place in ("published", "running", "dropped", "late"):
                task.place = "dropped" if task.is_cancelled else "pending"

    def publish(self, task_id: int) -> None:
        self.tasks[task_id].place = "published"

    def claim(self, task_id: int) -> None:
        self.tasks[task_id].place = "running"
        self._move(PENDING, RUNNING, Reason.NONE)

    def drop(self, task_id: int) -> None:
        """The worker that had it is gone, and it had not begun."""
        task = self.tasks[task_id]
        is_late = any(at_us <= self.now_us for at_us, _ in self._limits(task))
        task.place = "dropped" if task.is_cancelled else "late" if is_late else "pending"

    def is_held(self, queue: str, *, also_cooling: bool) -> bool:
        is_cooling = queue in self.cooling and self.cooling[queue][1] > self.now_us
        return queue in self.paused or (also_cooling and is_cooling)

    def is_open(self, task: Task) -> bool:
        return not self.pauses(task) and task.queue not in self.closed_until

    def pauses(self, task: Task) -> PauseReason:
        """All that holds it."""
        named = [("server", ""), ("domain", task.kind.partition("::")[0]), ("group", task.group)]
        held = PauseReason.QUEUE if task.queue in self.paused else PauseReason(0)
        for of, reason in zip(named, (PauseReason.GLOBAL, PauseReason.DOMAIN, PauseReason.GROUP), strict=True):
            held |= reason if of in self.halted else PauseReason(0)
        return held

    # -- submissions --------------------------------------------------------------------------

    def submit(self, wishes: list[Wish]) -> list[Answer]:
        names = [None if wish.key is None else (wish.kind, wish.key) for wish in wishes]
        last = {name: place for place, name in enumerate(names)}
        decided: dict[int, Answer] = {}
        for place, (wish, name) in enumerate(zip(wishes, names, strict=True)):
            if name is None or last[name] == place:
                decided[place] = self._submit(wish, name)
        answers = []
        for place, name in enumerate(names):
            if place in decided:
                answers.append(decided[place])
            else:
                answers.append((Outcome.DUPLICATE, decided[last[name]][1], 0))
        return answers

    def _submit(self, wish: Wish, name: Name | None) -> Answer:
        holder = self.tasks[self.holder[name]] if name in self.holder else None
        if name is None or holder is None:
            return Outcome.INSERTED, self._insert(wish, name).id, 0
        follower = self.tasks[self.behind[name]] if name in self.behind else None
        newest = follower or holder
        is_out = holder.place in ("published", "running", "dropped", "late")
        if wish.mode is OnDuplicate.REJECT:
            return Outcome.REJECTED, newest.id, 0
        if wish.mode is OnDuplicate.SUPERSEDE:
            gone = [one for one in (follower, None if is_out else holder) if one is not None]
            self.behind.pop(name, None)
            for one in gone:
                self._finish(one, Status.SUPERSEDED, Reason.REPLACED)
            new = self._insert(wish, name, waits=is_out)
            return (Outcome.SUPERSEDED, new.id, gone[-1].id) if gone else (Outcome.REQUEUED, new.id, 0)
        if is_out and follower is None:
            return Outcome.REQUEUED, self._insert(wish, name, waits=True).id, 0
        if wish.priority < newest.priority:
            newest.priority = wish.priority
            return Outcome.UPGRADED, newest.id, 0
        return Outcome.DUPLICATE, newest.id, 0

    def _insert(self, wish: Wish, name: Name | None, waits: bool = False) -> Task:
        delays = None if wish.retry is None else DELAYS[wish.retry]
        task = Task(
            self.next_id, wish.kind, wish.queue, wish.priority, name, delays, wish.limits, wish.tags, wish.label,
            self.now_us, wish.run_at_us, group=wish.group,
        )  # fmt: skip
        self.next_id += 1
        self.tasks[task.id] = task
        self._move(None, PENDING, Reason.NONE)
        if waits:
            assert name is not None
            task.place, self.behind[name] = "waiting", task.id
        else:
            self._may_start(task)
            if name is not None:
                self.holder[name] = task.id
        limits = wish.limits
        for span_us in (None if limits.ttl_from else limits.ttl_us, limits.total_us):
            if span_us is not None:
                self.expiries.add((self.now_us + span_us, task.id))
        return task

    def _may_start(self, task: Task) -> None:
        task.place = "delayed" if task.run_at_us is not None and task.run_at_us > self.now_us else "pending"
        if task.limits.queue_us is not None:
            self.expiries.add((max(self.now_us, task.run_at_us or 0) + task.limits.queue_us, task.id))

    # -- what operators ask for ---------------------------------------------------------------

    def cancel(self, task_ids: Iterable[int], drained: dict[int, Ending]) -> dict[int, tuple[CancelOutcome, Status]]:
        """`drained`: what came of running tasks, and will be in this transaction."""
        self._end_late()
        told = {}
        for task_id in sorted(set(task_ids)):
            task = self.tasks[task_id]
            if task.status is not None:
                told[task_id] = CancelOutcome.TOO_LATE, task.status
            elif task.place not in ("running", "dropped"):
                self._finish(task, Status.CANCELLED, Reason.CANCELLED)
                told[task_id] = CancelOutcome.CANCELLED, Status.CANCELLED
            else:
                told[task_id] = CancelOutcome.CANCELLING, RUNNING
                ending = drained.get(task_id)
                if ending is not None and not task.is_cancelled:  # the second request is told as the first
                    is_over = ending.status is Status.COMPLETED
                    done = CancelOutcome.TOO_LATE if is_over else CancelOutcome.CANCELLED
                    told[task_id] = done, Status.COMPLETED if is_over else Status.CANCELLED
                task.is_cancelled = True
        return told

    def dead(self, kind: str | None = None, queue: str | None = None) -> list[int]:
        found = [task for task in self.tasks.values() if task.status is Status.DEAD_LETTER]
        found.sort(key=lambda task: (task.end[2], task.id))
        return [task.id for task in found if kind in (None, task.kind) and queue in (None, task.queue)]

    def keys_in_use(self, task_ids: Iterable[int]) -> list[int]:
        """Those of these dead letters that cannot be retried: another task, or another of these, has the key."""
        names, refused = set(self.holder), []
        for task_id in task_ids:
            name = self.tasks[task_id].name
            if name is not None and name in names:
                refused.append(task_id)
            elif name is not None:
                names.add(name)
        return refused

    def retry(self, task_ids: Iterable[int]) -> int:
        task_ids = list(task_ids)
        refused = self.keys_in_use(task_ids)
        for task_id in task_ids:
            if task_id in refused:
                continue
            task = self.tasks[task_id]
            lease, number, ended_us, begun_us = task.end
            if lease == 0 and task.attempts:
                task.attempts[max(task.attempts)].status = task.status
            task.attempts[lease] = Attempt(task.reason, task.status, begun_us, ended_us)
            task.status, task.reason, task.place, task.counted = None, Reason.NONE, "pending", number
            task.crashes = task.lost = task.failures = 0
            if task.name is not None:
                self.holder[task.name] = task_id
            task.renewed_us = self.now_us
            self.expiries |= {(at_us, task_id) for at_us, _ in self._limits(task)}
            self._move(Status.DEAD_LETTER, PENDING, Reason.NONE)
        return len(task_ids) - len(refused)

    def purge(self, task_ids: Iterable[int]) -> int:
        task_ids = list(task_ids)
        for task_id in task_ids:
            del self.tasks[task_id]
            self.purged.add(task_id)
        return len(task_ids)

    def give_up(self, task_ids: Iterable[int]) -> None:
        """Nobody has a handler of these tasks any more; but what is paused waits for its turn."""
        for task in [self.tasks[task_id] for task_id in task_ids]:
            if not self.pauses(task):
                self._finish(task, Status.DEAD_LETTER, Reason.UNKNOWN_KIND)

    def set_queue(self, queue: str, *, paused: bool | None = None, retry: str | None = None) -> None:
        is_other = paused is None or paused is not self.is_held(queue, also_cooling=not paused)
        if paused is not None:
            (self.paused.add if paused else self.paused.discard)(queue)
            if not paused:
                self.cooling.pop(queue, None)
                self.closed_until.pop(queue, None)
        if retry is not None:
            self.retry_of[queue] = DELAYS[retry]
        if is_other:
            self._follow(queue)

    def set_pause(self, scope: str, name: str, paused: bool) -> bool:
        """Of something other than a queue. Whether it was not so already."""
        if ((scope, name) in self.halted) is paused:
            return False
        (self.halted.add if paused else self.halted.discard)((scope, name))
        self._takes_back = True
        return True

    # -- attempts -----------------------------------------------------------------------------

    def _end_attempt(self, ending: Ending) -> None:
        task = self.tasks.get(ending.task_id)
        if task is None or task.status is not None or ending.lease in task.attempts:
            return  # it is known already
        end = (ending.lease, ending.number, ending.ended_us, ending.begun_us)
        if ending.status is Status.COMPLETED:
            self._finish(task, Status.COMPLETED, Reason.NONE, end)
        elif task.is_cancelled or ending.reason is Reason.CANCELLED:
            self._finish(task, Status.CANCELLED, Reason.CANCELLED, end)
        else:
            self._judge(task, ending, end)

    def _judge(self, task: Task, ending: Ending, end: tuple[int, int, int, int]) -> None:
        reason, delay_us = ending.reason, 0
        crashes = task.crashes + (reason is Reason.CRASH)
        lost = task.lost + (reason in (Reason.LOST, Reason.DAMAGED_RECEIPT))
        failures = task.failures + (reason in FAILURES)
        if reason in FAILURES:
            delays = self.retry_of.get(task.queue, ()) if task.delays is None else task.delays
            if not delays and reason is Reason.RETRY_LATER and not self._said(task):
                delays = (1_000_000, 2_000_000, 4_000_000)
            if not delays:
                final = Reason.HANDLER_ERROR if reason is Reason.RETRY_LATER else reason
                return self._finish(task, Status.FAILED, final, end)
            if failures > len(delays):
                return self._finish(task, Status.DEAD_LETTER, Reason.RETRY_LIMIT, end)
            delay_us = delays[failures - 1] if ending.after_us is None else ending.after_us
        elif reason is Reason.SNOOZED:
            delay_us = ending.after_us or 0
        elif reason is Reason.THROTTLED:
            self._throttle(task.queue, ending.after_us or 0)
        elif reason in (Reason.CRASH, Reason.LOST, Reason.DAMAGED_RECEIPT, Reason.STOPPED):
            if crashes >= CRASHES_MAX:
                return self._finish(task, Status.DEAD_LETTER, Reason.CRASH_LIMIT, end)
            if lost > LOST_MAX:
                return self._finish(task, Status.DEAD_LETTER, Reason.LOST_LIMIT, end)
        elif reason not in STOPS:
            return self._finish(task, Status.FAILED, reason, end)
        task.crashes, task.lost, task.failures = crashes, lost, failures
        task.counted += reason not in GIVEN_BACK
        task.attempts[ending.lease] = Attempt(reason, None, ending.begun_us, ending.ended_us)
        task.lease = None
        self._move(RUNNING, PENDING, reason)
        self._again(task, delay_us)
        return None

    def _again(self, task: Task, delay_us: int) -> None:
        task.place = "pending"
        if delay_us:
            task.place, task.run_at_us = "delayed", self.now_us + delay_us
        limits = self._limits(task)
        if limits and limits[0][0] <= self.now_us:
            self._finish(task, Status.EXPIRED, limits[0][1])
        else:
            self.expiries |= {(at_us, task.id) for at_us, _ in limits}

    def _limits(self, task: Task) -> list[tuple[int, Reason]]:
        """When it may not begin any more, and why, the soonest first."""
        since_us = task.submitted_us if task.renewed_us is None else task.renewed_us
        died = max((lease for lease, one in task.attempts.items() if one.status is not None), default=0)
        first_us = min((one.begun_us for lease, one in task.attempts.items() if lease > died), default=None)
        waits_us = max(since_us, task.run_at_us or 0, *(one.ended_us for one in task.attempts.values()))
        limits = (
            (first_us if task.limits.ttl_from else since_us, task.limits.ttl_us, Reason.TTL),
            (since_us, task.limits.total_us, Reason.TOTAL_TIMEOUT),
            (waits_us, task.limits.queue_us, Reason.QUEUE_TIMEOUT),
        )
        return sorted((from_us + span, why) for from_us, span, why in limits if span and from_us is not None)

    def _expire(self) -> None:
        rows = sorted(row for row in self.expiries if row[0] <= self.now_us)
        self.expiries.difference_update(rows)
        for task_id, noted_us in {task_id: at_us for at_us, task_id in rows}.items():
            task = self.tasks.get(task_id)
            if task is None or task.status is not None or task.is_cancelled:
                continue
            over = [limit for limit in self._limits(task) if limit[0] <= self.now_us]
            if task.place == "waiting":  # for another task, not for a worker
                over = [limit for limit in over if limit[1] is not Reason.QUEUE_TIMEOUT]
            if over and task.place != "running":
                self._finish(task, Status.EXPIRED, next((why for at_us, why in over if at_us == noted_us), over[0][1]))
            elif over and task.lease is None:
                self.expiries.add((self.now_us + AGAIN_US, task_id))

    def _end_late(self) -> None:
        for task in self.active():
            if task.place == "late":
                self._finish(task, Status.EXPIRED, self._limits(task)[0][1])

    def _throttle(self, queue: str, hint_us: int) -> None:
        windows, until_us = self.cooling.get(queue, (0, 0))
        if self.now_us < until_us:
            self.cooling[queue] = windows, max(until_us, self.now_us + hint_us)
        else:
            self.cooling[queue] = windows + 1, self.now_us + max(COOLDOWN_US, hint_us)
        self._follow(queue)

    def _follow(self, queue: str) -> None:
        """Another rule for this queue: what no worker has yet is taken back and published as that says."""
        self._takes_back = True
        if queue in self.cooling:
            self.closed_until[queue] = self.cooling[queue][1]

    # -- ends ---------------------------------------------------------------------------------

    def _finish(self, task: Task, status: Status, reason: Reason, end: tuple[int, int, int, int] | None = None) -> None:
        """The one way in which a task ends. Without `end`, no attempt has ended it."""
        self._move(PENDING if end is None else RUNNING, status, reason)
        task.end = (0, task.counted, self.now_us, self.now_us) if end is None else end
        task.status, task.reason, task.place = status, reason, "ended"
        task.is_cancelled, task.lease = False, None
        if task.name is None:
            return
        if self.behind.get(task.name) == task.id:
            del self.behind[task.name]
        elif self.holder.get(task.name) == task.id:
            del self.holder[task.name]
            if task.name in self.behind:
                follower = self.tasks[self.behind.pop(task.name)]
                self.holder[task.name] = follower.id
                self._may_start(follower)

    def _said(self, task: Task) -> bool:
        """Whether somebody said how often the task is tried again."""
        return task.delays is not None or task.queue in self.retry_of

    def _move(self, source: Status | None, target: Status, reason: Reason) -> None:
        assert is_legal(source, target, reason), (source, target, reason)
        self.moves.add((source, target, reason))

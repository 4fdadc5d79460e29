"""Values: how waiting makes a task more urgent - effective priorities from ages, and the ages of tasks. Pure."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final, Self

from ringq.errors import InvalidOption, span_s
from ringq.model import HIGH, IDLE
from ringq.retry import read_span, span_text

ID_MAX: Final = (1 << 63) - 1
FOR_EVER_US: Final = (1 << 63) - 1
DROPPED_MAX: Final = 4096  # a deletion at the front of an array moves all the rest
_HINT = "write on, or any of: grace 5m interval 1m ceiling 64 urgent 64"


@dataclass(frozen=True, slots=True)
class Aging:
    """How pending tasks become more urgent with age: after `grace_s`, by one for each `interval_s`, up to `ceiling`.

    `grace_s`: 0 to 366 days. `interval_s`: from a microsecond on, up to 366 days. `ceiling`: the most urgent priority
    that age leads to, 0 to 255. `urgent`: tasks whose effective priority is this or more urgent may take slots that
    weights would give to others; `ceiling` to 255, None for nobody. Raises InvalidOption.

    The semantics are those of taskmill 0.7, where a task that is more urgent than the ceiling would become less so
    from the beginning: here it stays as it is.
    """

    grace_s: float = 300.0
    interval_s: float = 60.0
    ceiling: int = HIGH
    urgent: int | None = None
    _grace_us: int = field(init=False, repr=False, compare=False)
    _interval_us: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("grace", "interval"):
            microseconds = round(span_s(f"aging: {name}", getattr(self, f"{name}_s")) * 1e6)
            object.__setattr__(self, f"_{name}_us", microseconds)
            object.__setattr__(self, f"{name}_s", microseconds / 1e6)
        if self._interval_us == 0:
            raise InvalidOption("aging: interval: expected more than 0, got 0s")
        if not _is_priority(self.ceiling):
            raise InvalidOption(f"aging: ceiling: expected a priority, 0 to {IDLE}, got {self.ceiling!r:.80}")
        if self.urgent is not None and not (_is_priority(self.urgent) and self.urgent >= self.ceiling):
            raise InvalidOption(
                f"aging: urgent: expected a priority from the ceiling on, {self.ceiling} to {IDLE}, "
                f"got {self.urgent!r:.80}"
            )

    @classmethod
    def read(cls, written: str) -> Self:
        """From text: `on`, or what differs from that, as in `grace 5m interval 1m ceiling 64 urgent 64`.

        Raises InvalidOption.
        """
        words = written.split() if isinstance(written, str) else []
        if words == ["on"]:
            return cls()
        given: dict[str, Any] = {}
        for name, value in zip(words[::2], words[1::2], strict=False):
            if name in given:
                raise InvalidOption(f"aging: {name} is said twice in {written!r:.100}; {_HINT}")
            if name in ("grace", "interval"):
                given[name] = read_span(f"aging: {name}", value)
            elif name in ("ceiling", "urgent") and value.isascii() and value.isdecimal() and len(value) < 4:
                given[name] = int(value)
            elif name in ("ceiling", "urgent"):
                raise InvalidOption(f"aging: {name}: expected a priority, 0 to {IDLE}, got {value!r:.80}")
            else:
                raise InvalidOption(f"aging: {name!r:.80} is no part of it; {_HINT}")
        if not given or len(words) % 2:
            raise InvalidOption(f"aging: expected pairs of a word and a value, got {written!r:.100}; {_HINT}")
        return cls(**{name if name in ("ceiling", "urgent") else f"{name}_s": value for name, value in given.items()})

    def __str__(self) -> str:
        """As `read` takes it."""
        urgent = "" if self.urgent is None else f" urgent {self.urgent}"
        return f"grace {span_text(self.grace_s)} interval {span_text(self.interval_s)} ceiling {self.ceiling}{urgent}"

    def effective(self, priority: int, age_us: int) -> int:
        """What a task of this stored priority counts as at this age."""
        beyond_us = age_us - self._grace_us
        if beyond_us < self._interval_us or priority <= self.ceiling:
            return priority
        return max(priority - beyond_us // self._interval_us, self.ceiling)

    def age_at(self, priority: int, effective: int) -> int | None:
        """The smallest age in microseconds at which it is as urgent as `effective`, or more; None if it never is."""
        if priority <= effective:
            return 0
        if effective < self.ceiling:
            return None
        return self._grace_us + (priority - effective) * self._interval_us


class Ages:
    """When tasks were submitted, without a place for each: 16 bytes for those of one commit.

    Times never go back from one id to the next. When the wall clock is set back, new tasks count as submitted at the
    latest time that was known, so that of two tasks the older one is never the less urgent one.
    """

    def __init__(self) -> None:
        self._first_ids = array("q")
        self._times_us = array("q")
        self._head = 0  # of what is not forgotten

    def __len__(self) -> int:
        """How many different times are kept."""
        return len(self._first_ids) - self._head

    def append(self, first_id: int, submitted_us: int) -> None:
        """The tasks from `first_id` on, which is larger than any before, were submitted at this time (wall clock)."""
        if len(self):
            assert first_id > self._first_ids[-1], "ids ascend"
            if submitted_us <= self._times_us[-1]:
                return
        self._first_ids.append(first_id)
        self._times_us.append(submitted_us)

    def submitted_us(self, task_id: int) -> int:
        """When this task was submitted; one older than all that is known, with the oldest of these.

        Raises LookupError while nothing is known.
        """
        if not len(self):
            raise LookupError(f"nothing is known of task {task_id}")
        return self._times_us[max(self._head, bisect_right(self._first_ids, task_id, self._head) - 1)]

    def last_id_submitted_before(self, us: int) -> int:
        """The tasks up to this id, and only these, were submitted before `us`: 0 for none, ID_MAX for all."""
        place = bisect_left(self._times_us, us, self._head)
        if place == self._head:
            return 0
        return self._first_ids[place] - 1 if place < len(self._first_ids) else ID_MAX

    def forget_below(self, task_id: int) -> None:
        """Nobody will ask for tasks with smaller ids any more."""
        self._head = max(self._head, bisect_right(self._first_ids, task_id, self._head) - 1)
        if self._head >= DROPPED_MAX or 2 * self._head > len(self._first_ids):
            del self._first_ids[: self._head]
            del self._times_us[: self._head]
            self._head = 0


class PausedSpans:
    """When the tasks of one lane were held by any pause: the time that does not count as waiting.

    To be made anew when a pause that concerns the lane begins or ends. As spans come from what is stored, a server
    that dies while something is paused has nothing to make up for: its successor finds the pause still open.
    """

    __slots__ = ("_from_us", "_paused_before_us", "_to_us")

    def __init__(self, spans: Iterable[tuple[int, int | None]] = ()) -> None:
        """`spans`: [from, to) in microseconds of the wall clock, of all scopes in any order; None: not over yet.

        One that ends before it begins, as the clock was set back meanwhile, is none.
        """
        merged: list[tuple[int, int]] = []
        for from_us, to_us in sorted((begin, FOR_EVER_US if end is None else end) for begin, end in spans):
            if merged and from_us <= merged[-1][1]:
                merged[-1] = merged[-1][0], max(merged[-1][1], to_us)
            elif from_us < to_us:
                merged.append((from_us, to_us))
        self._from_us = [from_us for from_us, _ in merged]
        self._to_us = [to_us for _, to_us in merged]
        self._paused_before_us = list(accumulate((to_us - from_us for from_us, to_us in merged), initial=0))

    def paused_us(self, since_us: int, now_us: int) -> int:
        """For how long anything held them from `since_us` to `now_us`; 0 if that is no time at all."""
        if not self._from_us or now_us <= since_us:
            return 0
        return self._upto_us(now_us) - self._upto_us(since_us)

    def age_us(self, submitted_us: int, now_us: int) -> int:
        """What a task has of age: the time since its submission, without the pauses. Below 0 if the clock went back."""
        return now_us - submitted_us - self.paused_us(submitted_us, now_us)

    def latest_us(self, age_us: int, now_us: int) -> int:
        """The latest submission that has this age (0 or more) now: those before it are as old, or older."""
        latest_us = now_us - age_us
        for from_us, to_us in zip(reversed(self._from_us), reversed(self._to_us), strict=True):
            if from_us >= now_us:
                continue
            if min(to_us, now_us) <= latest_us:
                break
            latest_us -= min(to_us, now_us) - from_us
        return latest_us

    def _upto_us(self, us: int) -> int:
        place = bisect_right(self._from_us, us) - 1
        if place < 0:
            return 0
        return self._paused_before_us[place] + min(us, self._to_us[place]) - self._from_us[place]


def _is_priority(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= IDLE

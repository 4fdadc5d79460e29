"""Submit and run: schedules as they are written down - above a task in the App's code, or given to a client."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, Unpack

from ringq.codec import by_name
from ringq.config import NAME_CHARS_MAX
from ringq.errors import SPAN_S_MAX, InvalidKind, InvalidOption
from ringq.kinds import options
from ringq.kinds.limits import limits_of
from ringq.kinds.options import SharedOptions
from ringq.kinds.serial import in_line, lined
from ringq.kinds.submission import encoded
from ringq.kinds.task import Task
from ringq.kinds.waits import DependencyOptions, said_of, stored_only
from ringq.protocol import ScheduleFields

if TYPE_CHECKING:
    from ringq.kinds.app import App

T = TypeVar("T", bound=Task[..., Any])


class ScheduleOptions(SharedOptions, DependencyOptions, total=False):
    """The options of a schedule, as `Client.schedule` says."""

    jitter: float | timedelta
    initial_delay: float | timedelta
    catch_up: Literal["skip", "one", "all"] | int
    max_occurrences: int | None
    skip_if_running: bool
    end_on_failure: bool
    label: str | None
    serial_key: str | None


class Declaring(Protocol):
    """What the decorators below need of a domain."""

    _app: App


class Scheduling:
    """Schedules that stand in the code, above the task that they submit."""

    def cron(
        self: Declaring, line: str, *, zone: str = "UTC", name: str | None = None,
        payload: Mapping[str, Any] | None = None, **given: Unpack[ScheduleOptions],
    ) -> Callable[[T], T]:  # fmt: skip
        """Submit the task below whenever a cron line says so: `@app.cron("0 3 * * *", zone="Europe/Berlin")`.

        `line`: minute, hour, day, month, weekday, with seconds before them if there are six; as Debian's cron it runs
        once what a change of the zone leaves out or repeats, unless minute or hour begin with a star. `zone`: the IANA
        name of a time zone. `name`: of the schedule, the task's kind if not given. `payload`: the task's arguments by
        name. The other options are those of `Client.schedule`.

        Returns a decorator that gives the task back as it was. The server follows what the code says when its workers
        have imported it; what an operator has decided (a pause) stays, and a schedule that is taken out of the code
        fires no more.

        Raises InvalidOption, InvalidPayload; InvalidKind for what is no task, or a name that is taken.
        """
        return _declaring(self._app, name, payload, {"cron": line, "zone": zone}, given)

    def every(
        self: Declaring, interval: float | timedelta, *, from_completion: bool = False, name: str | None = None,
        payload: Mapping[str, Any] | None = None, **given: Unpack[ScheduleOptions],
    ) -> Callable[[T], T]:  # fmt: skip
        """Submit the task below again and again: `@app.every(60)`. The first time at once, or after `initial_delay`.

        `interval`: seconds or timedelta, 10 ms to 366 days, from start to start, without drift; or with
        `from_completion` from the end of one task to the next. The rest is as `cron` says.
        """
        return _declaring(self._app, name, payload, {"every": interval, "from_completion": from_completion}, given)


def schedule_fields(
    name: str, kind: str | Task[..., Any], payload: Mapping[str, Any] | str | None, given: ScheduleOptions, *,
    cron: str | None = None, every: float | timedelta | None = None, zone: str = "UTC", from_completion: bool = False,
) -> ScheduleFields:  # fmt: skip
    """A schedule as the protocol carries it, checked. Raises InvalidOption, InvalidPayload, PayloadTooLarge."""
    from ringq import schedule  # noqa: PLC0415 - a worker without schedules does without cron lines and zones

    options.check_names("schedule", given, ScheduleOptions.__annotations__)
    if not isinstance(name, str) or not 0 < len(name) <= NAME_CHARS_MAX or not name.isprintable():
        raise InvalidOption(f"name: expected 1 to {NAME_CHARS_MAX} printable characters, got {name!r:.100}")
    most = given.get("max_occurrences")
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or not 0 < most < 2**63):
        raise InvalidOption(f"max_occurrences: expected 1 or more, got {most!r}")
    catch_up = schedule.catch_up_of(given.get("catch_up", "one"))
    if catch_up > 1 and given.get("skip_if_running", True):
        text = "catch_up: several missed fires are made up at once: that takes skip_if_running=False (--overlap)"
        raise InvalidOption(text)
    timing = schedule.Timing(
        cron, None if every is None else _span_us("every", every, schedule.EVERY_US_MIN / 1e6), zone,
        _span_us("jitter", given.get("jitter", 0)), from_completion,
    )  # fmt: skip
    schedule.zone_of(zone)
    schedule.check(timing, time.time_ns() // 1000)
    spec = options.spec_of(
        options.check_kind(kind.kind if isinstance(kind, Task) else kind), queue=given.get("queue"),
        priority=given.get("priority"), group=given.get("group"), run_timeout=given.get("run_timeout"),
        retry=given.get("retry"), ttl=given.get("ttl"), ttl_from=given.get("ttl_from"), tags=given.get("tags"),
        label=given.get("label"), **limits_of(given),
    )  # fmt: skip
    spec = in_line(spec, given.get("serial_key"))
    arguments = {} if payload is None else payload
    if isinstance(kind, Task) and kind.serial_key is not None:
        spec = lined(spec, kind.serial_key, (), by_name(kind.kind, arguments))
    task = kind if isinstance(kind, Task) else None
    written, waits = encoded(spec.kind, task, arguments, said_of(spec.kind, given))
    return ScheduleFields(
        name, spec, written,
        cron, timing.every_us, zone, timing.jitter_us, from_completion,
        _span_us("initial_delay", given.get("initial_delay", 0)), catch_up, bool(given.get("skip_if_running", True)),
        bool(given.get("end_on_failure", False)), most, *stored_only(spec.kind, waits),
    )  # fmt: skip


def _declaring(
    app: App, name: str | None, payload: Mapping[str, Any] | None, rule: dict[str, Any], given: ScheduleOptions
) -> Callable[[T], T]:
    def declare(task: T) -> T:
        if not isinstance(task, Task):
            raise InvalidKind(f"a schedule belongs above a task, as @app.cron(...) above @app.task, got {task!r:.100}")
        app.declare(schedule_fields(task.kind if name is None else name, task, payload, given, **rule))
        return task

    return declare


def _span_us(option: str, span: Any, least: float = 0.0) -> int:
    seconds = options.span_s(option, span, least)
    if seconds > SPAN_S_MAX:
        raise InvalidOption(f"{option}: expected at most 366 days, got {span!r}")
    return round(seconds * 1e6)

"""Submit and answer: the client's verbs for schedules."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal, Protocol, Unpack

from ringq import protocol
from ringq.client import changing
from ringq.client.changing import change
from ringq.client.steps import Verb
from ringq.kinds import Submitted, Task
from ringq.kinds.schedules import ScheduleOptions, schedule_fields
from ringq.loading import refuse_while_importing


class Asking(changing.Asking, Protocol):
    """What the verbs below need of a client."""

    def handle(self, task_id: int) -> Submitted[Any]: ...


class Schedules:
    """What is submitted again and again. While no server runs nothing fires, yet all of this works."""

    @Verb
    async def schedule(
        self: Asking, name: str, kind: str | Task[..., Any], payload: Mapping[str, Any] | str | None = None, *,
        cron: str | None = None, every: float | timedelta | None = None, zone: str = "UTC",
        from_completion: bool = False, **given: Unpack[ScheduleOptions],
    ) -> None:  # fmt: skip
        """Submit `kind` with `payload` again and again, until `unschedule(name)`.

        One of this name is changed to what is said here; what it has done so far, and a pause, stay.

        `name`: 1 to 200 printable characters. `kind`, `payload`: as for `submit`. Either `cron`: a line of five fields
        or of six, with seconds, in `zone`, the IANA name of a time zone; as Debian's cron it runs once what a change of
        the zone leaves out or repeats, unless minute or hour begin with a star. Or `every`: seconds or timedelta, 10 ms
        to 366 days, from start to start without drift, the first time after `initial_delay` (at once if not given);
        with `from_completion` from the end of one task to the next.

        `jitter`: seconds or timedelta, up to a day, by which a fire may be late, different for each. `catch_up`: what
        is made up of fires that were missed while no server ran: "one", the latest; "skip", none that is more than a
        minute late; "all", the 100 latest, or a number up to 1,000. `skip_if_running`: not while the schedule's last
        task has not ended; several missed fires can be made up only without it. `max_occurrences`: it ends after so
        many fires. `end_on_failure`: it ends when a task of it has failed for good. The others are options of each
        task, as for `submit`; `depends_on`, handles or ids, is asked anew for each of them.

        Raises InvalidOption, InvalidPayload, PayloadTooLarge; UnknownKind for a kind that nobody has; InvalidDependency
        for a task that there is not; InvalidSchedule for one that stands in the code of the App; and what `submit_many`
        raises about the server and the database.
        """
        refuse_while_importing()
        fields = schedule_fields(
            name, kind, payload, given, cron=cron, every=every, zone=zone, from_completion=from_completion
        )
        report = [kind.report] if isinstance(kind, Task) else []
        await change(self, protocol.PutSchedule(fields), protocol.Changed, report)

    @Verb
    async def unschedule(self: Asking, name: str) -> None:
        """Delete a schedule; the tasks that it made stay.

        Raises UnknownSchedule; InvalidSchedule for one that stands in the code of the App: pause that one; and what
        `submit_many` raises about the server and the database.
        """
        await _to(self, name, "delete")

    @Verb
    async def pause_schedule(self: Asking, name: str) -> None:
        """Let a schedule rest until `resume_schedule`; what runs goes on. Raises as `unschedule`."""
        await _to(self, name, "pause")

    @Verb
    async def resume_schedule(self: Asking, name: str) -> None:
        """Let a schedule fire again from now on, one that ended with a failure too. Nothing is made up.

        Raises as `unschedule`, and InvalidSchedule if it has fired as often as it may.
        """
        await _to(self, name, "resume")

    @Verb
    async def run_schedule(self: Asking, name: str) -> Submitted[Any]:
        """Make a task of a schedule now, also while it is paused or its last one runs; a handle of it.

        The next fire is when it would have been. Raises as `unschedule`, and UnknownKind.
        """
        message = protocol.RunSchedule(name, protocol.submission_id())
        return self.handle((await change(self, message, protocol.Submitted)).first_id)


async def _to(client: Asking, name: str, what: Literal["pause", "resume", "delete"]) -> None:
    await change(client, protocol.ChangeSchedule(name, what), protocol.Changed)

"""Submit and answer: the client's question how far running tasks are."""

from __future__ import annotations

from typing import Any, overload

from ringq import protocol
from ringq.client.changing import Asking
from ringq.client.steps import finish
from ringq.kinds import Stored, options
from ringq.progress import TaskProgress, progress_of, unpacked


class Running:
    """What goes on now, for who blocks."""

    @overload
    def progress(self: Asking) -> list[TaskProgress]: ...
    @overload
    def progress(self: Asking, task: Stored[Any] | int) -> TaskProgress | None: ...
    def progress(self: Asking, task: Stored[Any] | int | None = None) -> list[TaskProgress] | TaskProgress | None:
        """How far the tasks are that run now, by worker; or this one, given as a handle or an id: None if it does not.

        Answered from the memory that workers and server share, so that it may be asked often: to tell of 64 tasks takes
        the server 20 us of work, 120 to 180 us with cold caches (`scripts/perf progress`).

        Raises ServerUnavailable, ClientClosed; InvalidOption for what can be no task.
        """
        found = finish(told, self, 0 if task is None else options.task_id_of(task))
        return found if task is None else next(iter(found), None)


async def told(client: Asking, task_id: int) -> list[TaskProgress]:
    """How far this task is, or with 0 all are."""
    reply = await client._reply(protocol.Progress(task_id), protocol.ProgressReply)
    return [
        progress_of(
            row, reply.now_ns, *reply.kinds[row[3]],
            label=reply.labels.get(row[1]), bps=reply.rates.get(row[2], 0.0),
        )
        for row in unpacked(reply.shown)
    ]  # fmt: skip

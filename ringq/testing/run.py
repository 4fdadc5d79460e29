"""Face: an inline run - the code under test submits, the test looks at it and runs it, all in this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ringq.client import Client, connect
from ringq.client.line import answered_here
from ringq.config import socket_path
from ringq.errors import InvalidOption, RunsOn
from ringq.kinds import App, Task
from ringq.maps import Maps
from ringq.model import TaskRecord
from ringq.query import LIMIT_MAX
from ringq.store.lock import forget
from ringq.testing import submitted
from ringq.testing.link import InlineLink, Rows
from ringq.testing.manual import InlineClock
from ringq.testing.place import new_database
from ringq.testing.runs import Runs

TASKS_MAX = 10_000


def inline(app: App | Task[..., Any], folder: str | os.PathLike[str] | None = None) -> Inline:
    """An inline run of `app`, to be used in a `with` block; inside it `task.submit(...)` goes there.

    `app`: the App whose handlers are run, or one of its tasks. `folder`: where a new database is made for it, None for
    a folder of its own that is removed afterwards.

    Raises InvalidOption for what is no App.
    """
    found = app.app if isinstance(app, Task) else app
    if not isinstance(found, App):
        raise InvalidOption(f"inline: expected a ringq.App or one of its tasks, got {app!r}")
    return Inline(found, folder)


class Inline:
    """What was submitted, and the means to run it. Made by `ringq.testing.inline`.

    Submitting, arguments, results, records and errors are those of production, in a database that lasts as long as
    the block. A task runs when `run_all` or `run_next` is called, or when somebody waits for one: then those before
    it run too, in the order in which a server with one worker would take them. Limits in time go by
    `clock`: what has not begun in time expires, and a handler in which the clock is moved is told. Nothing kills it.

    Attributes, inside the block: `app`; `database`, its path; `client`, a client of it; `clock`, which stands still.
    """

    app: App
    client: Client
    clock: InlineClock
    database: Path

    def __init__(self, app: App, folder: str | os.PathLike[str] | None) -> None:
        self.app = app
        self._folder = folder
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            self.database = undo.enter_context(new_database(self._folder)).resolve()
            self.clock = InlineClock()
            undo.enter_context(self.clock.in_place_of_the_system())
            undo.callback(forget, self.database)
            self._runs = Runs(self.app, self.database, self.clock)
            path, maps = str(socket_path(self.database)), Maps(Rows(self._runs))
            answered_here[path] = lambda _: InlineLink(self._runs, maps)
            undo.callback(partial(answered_here.pop, path))
            self.client = undo.enter_context(connect(self.database, reconnect=0))
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    def __repr__(self) -> str:
        return f"<inline run of {self.app!r}>"

    # -- run --------------------------------------------------------------------------------------

    def run_all(self, *, raises: bool = True, limit: int = TASKS_MAX) -> list[TaskRecord]:
        """Run tasks until none is left that may run now, those included that handlers submit meanwhile.

        `raises`: raise what a handler raised, once its task has ended so and is recorded; what comes after it stays
        pending. That is the default because a failure nobody has thought of must not let a test pass: one that
        expects it says False, and looks at the record. `limit`: attempts, 1 or more, after which it gives up.

        Returns the records of the tasks that ended, in the order in which they did. Raises RunsOn if the limit was
        reached and there is more to run.
        """
        first = len(self._runs.ended)
        for count, run in enumerate(iter(self._runs.run_next, None)):
            if raises and run.has_ended and run.error is not None:
                raise run.error
            if count + 1 >= limit and self._runs.has_next():
                raise RunsOn(
                    f"{count + 1:,} attempts were run, and there is more: does a task submit itself without end? If "
                    "so many are meant, give run_all a higher limit"
                )
        return [self.client.query.task(task_id) for task_id in self._runs.ended[first:]]

    def run_next(self, *, raises: bool = True) -> TaskRecord | None:
        """Run one attempt: that of the most urgent task, the oldest of those. `raises`: as for `run_all`.

        Returns its task's record; None if nothing may run now.
        """
        run = self._runs.run_next()
        if run is None or not run.task_id:
            return None
        if raises and run.has_ended and run.error is not None:
            raise run.error
        return self.client.query.task(run.task_id)

    # -- look -------------------------------------------------------------------------------------

    def submitted(self, kind: Task[..., Any] | str | None = None) -> list[TaskRecord]:
        """Every task so far, run or not, the oldest first; of one kind, if it is given."""
        return list(self._pages(kind))[::-1]

    def pending(self) -> list[TaskRecord]:
        """The tasks that have not ended, the oldest first; those too whose time has not come."""
        return [record for record in self.submitted() if not record.status.is_terminal]

    def assert_submitted(self, kind: Task[..., Any] | str, /, **arguments: Any) -> list[TaskRecord]:
        """Tell that this was submitted, at least once; run or not.

        `arguments`: those named must have these values, compared as JSON; one that was not given has its default.

        Returns the records of all that fit, to look at their number or options. Raises AssertionError that shows what
        was submitted instead, InvalidOption for an argument that the handler does not have.
        """
        records = self.submitted()
        found = submitted.matching(records, kind, arguments)
        if not found:
            call = submitted.call_text(kind, arguments)
            raise AssertionError(f"{call} was not submitted; {submitted.listing(records)}")
        return found

    def assert_not_submitted(self, kind: Task[..., Any] | str, /, **arguments: Any) -> None:
        """Tell that nothing like this was submitted; `arguments` as for `assert_submitted`.

        Raises AssertionError that shows what was, InvalidOption for an argument that the handler does not have.
        """
        found = submitted.matching(self.submitted(), kind, arguments)
        if found:
            call = submitted.call_text(kind, arguments)
            raise AssertionError(f"{call} was to be submitted by nobody; {submitted.listing(found)}")

    def _pages(self, kind: Task[..., Any] | str | None) -> Iterator[TaskRecord]:
        after = None
        while page := self.client.query.tasks(kind=kind, after=after, limit=LIMIT_MAX):
            yield from page
            after = page[-1].id
            if after == 1:
                return

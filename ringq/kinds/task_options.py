"""Submit: a task with options for some of its calls."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from ringq.codec import by_name
from ringq.errors import InvalidPayload
from ringq.kinds import binding, options
from ringq.kinds.options import Once
from ringq.kinds.serial import lined
from ringq.kinds.submission import Submission, encoded, prepared
from ringq.kinds.submitted import Submitted
from ringq.kinds.traits import Derived
from ringq.kinds.waits import Waits, awaiting
from ringq.protocol import SpecFields

if TYPE_CHECKING:
    from ringq.kinds.task import Task

P = ParamSpec("P")
R = TypeVar("R")


class TaskOptions(Generic[P, R]):
    """A task with options, from `task.options(...)`. May be used for many submissions."""

    __slots__ = ("_derived", "_once", "_run_after", "_run_at", "_spec", "_waits", "task")

    def __init__(
        self,
        task: Task[P, R],
        spec: SpecFields,
        run_at: datetime | None,
        run_after: float | timedelta | None,
        once: Once | None,
        derived: Derived | None,
        waits: Waits | None,
    ) -> None:
        """Made by `task.options(...)`."""
        self.task = task
        self._spec = spec
        self._run_at = run_at
        self._run_after = run_after
        self._once = once
        self._derived = derived
        self._waits = waits

    def __repr__(self) -> str:
        return f"<options of {self.task.kind}>"

    @property
    def spec(self) -> SpecFields:
        """Kind and options as the protocol carries them."""
        return self._spec

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Submitted[R]:
        """Store a call with these options; as `Task.submit`."""
        submission = self.submission(*args, **kwargs)  # wrong arguments are told of before a missing client
        return binding.current()._submit_one(submission)

    def submission(self, *args: P.args, **kwargs: P.kwargs) -> Submission[R]:
        """A call with these options for `Client.submit_many`; as `Task.submission`."""
        task, waits = self.task, self._waits
        try:
            payload = task._arguments.encode(args, kwargs)
        except InvalidPayload as error:
            payload, waits = awaiting(task.kind, (*args, *kwargs.values()), task.encoder(args, kwargs), waits, error)
        return self._prepared(payload, waits, args, kwargs)

    def submission_of(self, payload: Mapping[str, Any] | str) -> Submission[R]:
        """A call with the arguments in `payload` and these options; as `Task.submission_of`."""
        text, waits = encoded(self.task.kind, self.task, payload, self._waits)
        return self._prepared(text, waits, (), by_name(self.task.kind, payload))

    def _prepared(
        self, payload: str, waits: Waits | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Submission[R]:
        is_at_once = self._run_at is None and self._run_after is None
        at = None if is_at_once else options.instant_us(self._run_at, self._run_after)
        once = self._once if self._derived is None else self._derived.once(args, kwargs)
        spec = lined(self._spec, self.task.serial_key, args, kwargs)
        return prepared(spec, payload, at, self.task._results, self.task.report, once, waits)

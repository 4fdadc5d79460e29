"""Submit and run: the registry - an App, its domains, and the decorator that makes a function a kind."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from ringq.context import Context
from ringq.errors import InvalidKind
from ringq.kinds import options
from ringq.kinds.handler import Handler, place_of
from ringq.kinds.report import KindReport
from ringq.kinds.task import AsyncTask, Task, make_task

P = ParamSpec("P")
R = TypeVar("R")


class TaskDecorator(Protocol):
    """What `task(...)` with options returns: the decorator proper."""

    @overload
    def __call__(self, function: Callable[Concatenate[Context, P], Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Context, P], R], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class Domain:
    """A namespace of kinds and the defaults they share. Made by `App.domain`.

    Attributes: `name`, the first half of its kinds.
    """

    def __init__(
        self,
        app: App,
        name: str,
        *,
        queue: str | None = None,
        priority: int | None = None,
        run_timeout: float | timedelta | None = None,
    ) -> None:
        """Raises InvalidKind for the name, InvalidOption for the defaults."""
        self.name = options.check_name("domain", name)
        self._app = app
        self._spec = options.spec_of(name, queue=queue, priority=priority, group=None, run_timeout=run_timeout)

    def __repr__(self) -> str:
        return f"<domain {self.name}>"

    @overload
    def task(self, function: Callable[Concatenate[Context, P], Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def task(self, function: Callable[Concatenate[Context, P], R], /) -> Task[P, R]: ...
    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(
        self,
        function: None = None,
        /,
        *,
        name: str | None = None,
        queue: str | None = None,
        priority: int | None = None,
        group: str | None = None,
        run_timeout: float | timedelta | None = None,
    ) -> TaskDecorator: ...
    def task(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        queue: str | None = None,
        priority: int | None = None,
        group: str | None = None,
        run_timeout: float | timedelta | None = None,
    ) -> Any:
        """Make a function a kind of this domain: `@domain.task`, or `@domain.task(queue="bulk")`.

        The function gets a Context iff its first parameter is annotated `ringq.Context`, or is called `ctx`
        and not annotated. (A type checker takes a first parameter annotated `Any` or `object` for one:
        annotate it more narrowly.) Its other parameters may have any hint that JSON can carry; what has none
        is plain JSON.

        `name`: the second half of the kind, the function's own name if not given. `queue`: the lane, up to
        200 characters without comma or colon. `priority`: 0 (most urgent) to 255. `group`: a label, up to 200
        characters. `run_timeout`: seconds or timedelta an attempt may take, from 1 ms to 366 days. What is
        not given is decided by the domain, the queue, the server.

        Raises InvalidKind for a function that workers could not call, a name that is no name or taken;
        InvalidOption for an option out of range.
        """
        if function is not None and not callable(function):
            raise InvalidKind(f"{self.name}: options of a task are given by keyword, got {function!r}")

        def decorate(function: Callable[..., Any]) -> Task[..., Any]:
            own = name if name is not None else getattr(function, "__name__", None)
            kind = f"{self.name}{options.SEPARATOR}{options.check_name(f'task of {self.name}', own)}"
            spec = options.spec_of(kind, queue=queue, priority=priority, group=group, run_timeout=run_timeout)
            handler = Handler(kind, function)
            report = KindReport(
                name=kind,
                queue=_first(spec.queue, self._spec.queue),
                priority=_first(spec.priority, self._spec.priority),
                group=spec.group,
                run_timeout_ms=_first(spec.run_timeout_ms, self._spec.run_timeout_ms),
                parameters=handler.arguments.schema(),
            )
            return self._app.add(make_task(handler, report))

        return decorate if function is None else decorate(function)


class App(Domain):
    """The handlers of one application. It is a domain itself: `@app.task` makes kinds of its own name.

    A worker imports the App, as `ringq serve module:app` names it, and with it every module that decorates.
    """

    def __init__(self, name: str) -> None:
        """`name`: a letter or _, then letters, digits, _ . or -, at most 200. Raises InvalidKind."""
        self._domains: dict[str, Domain] = {}
        self._tasks: dict[str, Task[..., Any]] = {}
        super().__init__(self, name)
        self._domains[name] = self

    def __repr__(self) -> str:
        return f"<app {self.name}: {len(self._tasks)} kinds>"

    def domain(
        self,
        name: str,
        *,
        queue: str | None = None,
        priority: int | None = None,
        run_timeout: float | timedelta | None = None,
    ) -> Domain:
        """A new domain with defaults for its kinds; they have the ranges of `task`'s options.

        Raises InvalidKind for a name that is no name or taken, InvalidOption for a default out of range.
        """
        domain = Domain(self, name, queue=queue, priority=priority, run_timeout=run_timeout)
        if name in self._domains:
            raise InvalidKind(f"domain {name!r} exists already: make it once and import it where it is used")
        self._domains[name] = domain
        return domain

    def kinds(self) -> dict[str, Task[..., Any]]:
        """Every task by its kind, in the order of decoration."""
        return dict(self._tasks)

    def reports(self) -> list[dict[str, Any]]:
        """What the worker tells its parent: one `KindReport` per kind, as plain JSON values."""
        return [task.report.as_dict() for task in self._tasks.values()]

    def add(self, task: Task[..., Any]) -> Task[..., Any]:
        """Register a task. Raises InvalidKind, naming both places, if its kind is taken."""
        taken = self._tasks.get(task.kind)
        if taken is not None:
            places = f"at {place_of(taken.function)} and at {place_of(task.function)}"
            raise InvalidKind(f"{task.kind} is defined twice, {places}: give one of them another name=")
        self._tasks[task.kind] = task
        return task


def _first(own: Any, shared: Any) -> Any:
    return own if own is not None else shared

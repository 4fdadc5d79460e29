"""Submit and run: the registry - an App, its domains, and the decorator that makes a function a kind."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, Unpack, overload

from ringq.budgets import IoBudget
from ringq.context import Context
from ringq.errors import InvalidKind
from ringq.kinds import options
from ringq.kinds.controls import max_concurrency_of
from ringq.kinds.defaults import defaults_of, report_of
from ringq.kinds.handler import Handler, place_of, reference
from ringq.kinds.hooks import Hooking
from ringq.kinds.options import DomainOptions, DuplicateMode
from ringq.kinds.report import io_of, preemptible_of
from ringq.kinds.routes import Route, Routes
from ringq.kinds.schedules import Scheduling
from ringq.kinds.serial import SerialKey
from ringq.kinds.state import Stateful, States
from ringq.kinds.task import AsyncTask, Task, make_task
from ringq.kinds.traits import DerivedKey, Traits, traits_of
from ringq.protocol import ScheduleFields, SpecFields, plain_schedule

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


class Domain(Scheduling, Stateful):
    """A namespace of kinds and the defaults they share. Made by `App.domain`.

    Attributes: `name`, the first half of its kinds; `states`, those of this process.
    """

    def __init__(
        self, app: App, name: str, *, max_concurrency: int | None = None, **defaults: Unpack[DomainOptions]
    ) -> None:
        """Raises InvalidKind for the name, InvalidOption for the others."""
        self.name = options.check_name("domain", name)
        self._max_concurrency = max_concurrency_of(max_concurrency)
        self._app = app
        self.states = States(name, None if app is self else app.states)
        self._spec = defaults_of(f"domain {name}", name, defaults)
        self._preemptible = preemptible_of(defaults.get("preemptible"))
        self._io = io_of(defaults.get("io"))

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
        permanent: type[BaseException] | Iterable[type[BaseException]] = (),
        aliases: Iterable[str] = (),
        key: DerivedKey | None = None,
        on_duplicate: DuplicateMode | None = None,
        max_concurrency: int | None = None,
        serial_key: SerialKey | None = None,
        rate: str | None = None,
        fail_fast: bool = True,
        **defaults: Unpack[DomainOptions],
    ) -> TaskDecorator: ...
    def task(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        permanent: type[BaseException] | Iterable[type[BaseException]] = (),
        aliases: Iterable[str] = (),
        key: DerivedKey | None = None,
        on_duplicate: DuplicateMode | None = None,
        max_concurrency: int | None = None,
        serial_key: SerialKey | None = None,
        rate: str | None = None,
        fail_fast: bool = True,
        **defaults: Unpack[DomainOptions],
    ) -> Any:
        """Make a function a kind of this domain: `@domain.task`, or `@domain.task(queue="bulk")`.

        The function gets a Context iff its first parameter is annotated `ringq.Context`, or is called `ctx`
        and not annotated. (A type checker takes a first parameter annotated `Any` or `object` for one:
        annotate it more narrowly.) Its other parameters may have any hint that JSON can carry; what has none
        is plain JSON. The same holds for what it returns: for an array, `array.tolist()` or the path of a file; single
        numbers of numpy arrive as numbers. An `async def` function has an event loop of its own for each attempt.

        `name`: the second half of the kind, the function's own name if not given. `queue`: the lane, up to
        200 characters without comma or colon. `priority`: 0 (most urgent) to 255. `group`: a label, up to 200
        characters. `run_timeout`: seconds or timedelta an attempt may take, from 1 ms to 366 days. `retry`: what
        happens after a failure: a Retry, a number, or text as "5 exponential 1s..1h"; if nobody says, nothing.
        `ttl`: seconds or timedelta after which an attempt may not begin any more, counted as `ttl_from` says: from the
        "submission" or from the first "attempt". Limits: as `LimitOptions` says. `permanent`: types of exceptions
        after which it is not tried again, as `ValueError` or a tuple of types. `aliases`: whole kinds, as
        "photos::shrink", that it had before it was renamed: tasks that were stored under them run here. `key`: PAYLOAD,
        or a function of the same arguments that returns the key of a submission, or None for none; it is called where
        the task is submitted, by programs that have this task at hand. `on_duplicate`: "skip" (else), "supersede" or
        "reject". `serial_key`: a function of the same arguments, called likewise, that returns the serial key of a
        submission, or None for none: tasks that have the same one run one at a time, in order. `tags`: texts by which
        its tasks are found, beside those of the domain and of the call. `max_concurrency`: how many of its tasks run at
        a time, from 0 on, and `rate`: how often they may start, "10/s" or "100/m burst 20", unless an operator has said
        otherwise. `preemptible`: False for one that runs to its end though more urgent tasks wait. `io`: an IoBudget,
        the bytes of disk and network that an attempt is expected to use; it starts while there is room for them.
        `fail_fast`: False for one that waits for all its children, though some have not completed; else the first of
        these ends the others, and the task. What is not given is decided by the domain, the server.

        Raises InvalidKind for a function that workers could not call, a name that is no name or taken;
        InvalidOption for an option out of range.
        """
        if function is not None and not callable(function):
            raise InvalidKind(f"{self.name}: options of a task are given by keyword, got {function!r}")
        traits = traits_of(permanent, aliases, key, on_duplicate, serial_key, rate, fail_fast)
        limit = max_concurrency_of(max_concurrency)
        may_be = preemptible_of(defaults.get("preemptible"), self._preemptible)
        io = io_of(defaults.get("io"), self._io)

        def decorate(function: Callable[..., Any]) -> Task[..., Any]:
            kind = self._kind_of(function, name)
            spec = defaults_of(kind, kind, defaults)
            return self._app.add(self._made(function, spec, traits, limit, may_be, io))

        return decorate if function is None else decorate(function)

    def _kind_of(self, function: Callable[..., Any], name: str | None) -> str:
        own = name if name is not None else getattr(function, "__name__", None)
        return f"{self.name}{options.SEPARATOR}{options.check_name(f'task of {self.name}', own)}"

    def _made(
        self, function: Callable[..., Any], spec: SpecFields, traits: Traits, limit: int | None, preemptible: bool,
        io: IoBudget | None,
    ) -> Task[..., Any]:  # fmt: skip
        handler = Handler(spec.kind, function)
        report = report_of(handler, spec, self._spec, traits.aliases, preemptible)
        own = replace(
            report, rate=traits.rate, io=io, max_concurrency=limit, domain_max_concurrency=self._max_concurrency
        )
        task = make_task(handler, own, traits)
        task.states = self.states
        return task


class App(Domain, Hooking):
    """The handlers of one application. It is a domain itself: `@app.task` makes kinds of its own name.

    A worker imports the App, as `ringq serve module:app` names it, and with it every module that decorates.

    Attributes: `settings`, those given, by their names in the configuration.
    """

    def __init__(
        self,
        name: str,
        *,
        workers: int | Literal["auto"] | None = None,
        durability: Literal["full", "normal"] | None = None,
        drain_timeout: float | str | timedelta | None = None,
        route: Route | None = None,
        max_concurrency: int | None = None,
        **defaults: Unpack[DomainOptions],
    ) -> None:
        """`name`: a letter or _, then letters, digits, _ . or -, at most 200.

        Defaults for the kinds of the App's own domain, with the ranges of `task`'s options: `queue`, `priority`,
        `group`, `run_timeout`, `retry`, `ttl`, `ttl_from`, `tags`, `preemptible`, `io`, and other
        `LimitOptions`.
        `max_concurrency`: how many tasks of that domain run at a time, from 0 on, unless an operator has said another
        number.

        Settings for a server of this App that no flag, variable or file decides: `workers`, 1 to 255, or "auto" for one
        a core; `durability`, full (survives power loss) or normal (survives crashes of processes);
        `drain_timeout`, seconds, timedelta or text as "1m" that running attempts get when the server stops, 0 to a day.

        `route`: the queue of all kinds here, included ones too, for which nobody else says one: by how they begin, as
        `{"media::": "bulk"}`, the longest that fits; or a function of a kind that returns its queue, or None.

        Raises InvalidKind for the name, InvalidOption for the others.
        """
        self.module: str = sys._getframe(1).f_globals.get("__name__", "")  # by which workers may find it
        self._domains: dict[str, Domain] = {}
        self._tasks: dict[str, Task[..., Any]] = {}
        self._taken_in_by: list[App] = []
        self._schedules: dict[str, ScheduleFields] = {}
        self._routes = Routes(route)
        Hooking.__init__(self)
        self.settings = options.settings_of(workers=workers, durability=durability, drain_timeout=drain_timeout)
        super().__init__(self, name, max_concurrency=max_concurrency, **defaults)
        self._domains[name] = self

    def __reduce__(self) -> tuple[Any, ...]:
        return reference(self, self.module, "pass its name, and import it there")

    def __repr__(self) -> str:
        return f"<app {self.name}: {len(self._tasks)} kinds>"

    def domain(self, name: str, *, max_concurrency: int | None = None, **defaults: Unpack[DomainOptions]) -> Domain:
        """A new domain with defaults for its kinds; they have the ranges of `task`'s options.

        `queue`, `priority`, `group`, `run_timeout`, `retry`, `ttl`, `ttl_from` and other `LimitOptions`: for kinds that
        do not say, and `preemptible` and `io`; `tags`: join those of the kinds. `max_concurrency`: how many tasks of
        the domain run at a time, from 0 on, unless an operator has said otherwise.

        Raises InvalidKind for a name that is no name or taken, InvalidOption for a default out of range.
        """
        domain = Domain(self, name, max_concurrency=max_concurrency, **defaults)
        if name in self._domains:
            raise InvalidKind(f"domain {name!r} exists already: make it once and import it where it is used")
        self._domains[name] = domain
        return domain

    def include(self, other: App) -> None:
        """Take in the kinds of another App, under their own names, and with its states: `app.include(echo.app)`.

        `other`: what it decorates later is taken in as well. Its handlers have its states, those of this App have this
        one's. Its settings are not taken over. Twice is once.

        Raises InvalidKind, naming both places and taking in nothing, if a kind of it is taken; or if it includes this
        App itself.
        """
        if not isinstance(other, App):
            raise InvalidKind(f"{self.name}: include takes a ringq.App, got {other!r}")
        if other in self._takers():
            raise InvalidKind(f"{self.name} cannot include {other.name}, which is or includes {self.name}")
        if self in other._takers():
            return
        for task in other._tasks.values():
            self._check(task)
        other._taken_in_by.append(self)
        self.states.include(other.states)
        for app in self._takers():
            app._hooks += [hook for hook in other._hooks if hook not in app._hooks]
        for task in other._tasks.values():
            self._register(task)

    def kinds(self) -> dict[str, Task[..., Any]]:
        """Every task by its kind, and by its aliases, in the order of decoration; those of an included App from its
        place on.
        """
        return dict(self._tasks)

    def reports(self) -> list[dict[str, Any]]:
        """What the worker tells its parent: one `KindReport` per kind and alias, as plain JSON values; with its
        schedules, and with the first how many hooks there are.
        """
        reports = {name: {**self._routes.report(task.report), "name": name} for name, task in self._tasks.items()}
        for schedule in self._schedules.values():
            reports[schedule.spec.kind].setdefault("schedules", []).append(plain_schedule(schedule))
        if reports and self._hooks:
            next(iter(reports.values()))["hooks"] = len(self._hooks)
        return list(reports.values())

    def schedules(self) -> dict[str, ScheduleFields]:
        """Every schedule that stands above a task, by its name."""
        return dict(self._schedules)

    def declare(self, schedule: ScheduleFields) -> None:
        """Take a schedule. Raises InvalidKind if its name is taken, or its task belongs to another App."""
        kind = schedule.spec.kind
        if kind not in self._tasks:
            raise InvalidKind(f"{kind} is no task of {self!r}: its schedules belong to its own App")
        if schedule.name in self._schedules:
            raise InvalidKind(f"there is a schedule {schedule.name!r} already: give one of them another name=")
        self._schedules[schedule.name] = schedule

    def add(self, task: Task[..., Any]) -> Task[..., Any]:
        """Register a task. Raises InvalidKind, naming both places, if its kind is taken."""
        self._check(task)
        self._register(task)
        task.app = self
        return task

    def _takers(self) -> list[App]:
        """This App and all that have taken it in, each once."""
        found = [self]
        for app in found:
            found += [taker for taker in app._taken_in_by if taker not in found]
        return found

    def _check(self, task: Task[..., Any]) -> None:
        for app, name in itertools.product(self._takers(), (task.kind, *task.aliases)):
            app._routes.learn(task.kind)
            taken = app._tasks.get(name)
            if taken is not None and taken is not task:
                places = f"at {place_of(taken.function)} and at {place_of(task.function)}"
                raise InvalidKind(f"{name} is defined twice, {places}: give one of them another name=")

    def _register(self, task: Task[..., Any]) -> None:
        for app, name in itertools.product(self._takers(), (task.kind, *task.aliases)):
            app._tasks[name] = task

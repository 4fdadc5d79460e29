"""Submit and run: the object a decorated handler becomes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, Unpack, overload

from ringq.codec import ChunkCodec, by_name
from ringq.context import Context
from ringq.errors import InvalidKind, InvalidPayload, InvalidSubmission
from ringq.kinds import binding, options
from ringq.kinds.finalizer import Finalizer
from ringq.kinds.handler import Handler, reference
from ringq.kinds.options import DuplicateMode, Payload, TtlFrom
from ringq.kinds.report import KindReport
from ringq.kinds.serial import in_line, lined
from ringq.kinds.state import States
from ringq.kinds.submission import Submission, encoded, prepared
from ringq.kinds.submitted import Submitted
from ringq.kinds.task_options import TaskOptions
from ringq.kinds.traits import Traits, mode_of
from ringq.kinds.waits import CallOptions, awaiting, others_of, said_of
from ringq.protocol import SpecFields
from ringq.retry import Retry

if TYPE_CHECKING:
    from ringq.kinds.app import App

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])


class Task(Generic[P, R]):
    """A handler that can be called, and submitted.

    Calling it calls the function, here and now, with an inert Context if it wants one and is not given one.

    Attributes: `kind`, as in `media::thumbnail`; `function`, the handler as it was written; `report`, its
    defaults; `permanent`, what it may raise that no retry would help; `aliases`, kinds it had before; `derived`, how it
    makes keys; `serial_key`, how it makes serial keys; `cancel_hook`, what `on_cancel` was given; `finalizer`,
    what `finalize` was; `fail_fast`, whether the first child that does not complete ends a task; `app`, where it is
    registered; `states`, what a Context gives its functions: those of its domain, and of the App.
    """

    app: App
    states: States

    def __init__(self, handler: Handler, report: KindReport, traits: Traits) -> None:
        """Made by `@app.task` and `@domain.task`."""
        functools.update_wrapper(self, handler.function)
        self.kind = report.name
        self.function = handler.function
        self.report = report
        self.place = handler.place
        self.wants_context = handler.wants_context
        self._is_async = handler.is_async
        self.plain_function = handler.plain_function
        self._arguments = handler.arguments
        self._results = self._returned = handler.results
        self.permanent, self.aliases, self.derived, self.serial_key, _, self.fail_fast = traits
        self.cancel_hook: Handler | None = None
        self.finalizer: Finalizer | None = None
        self._spec = SpecFields(report.name)

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def __call__(self, context: Context, /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[misc]
        """Call the handler as the plain function it is; a Context before its other arguments is passed on."""
        if not self.wants_context:
            return self.function(*args, **kwargs)
        is_given = bool(args) and isinstance(args[0], Context)
        context = args[0] if is_given else Context(kind=self.kind)
        context.offer(self.states)
        return self.function(context, *args[is_given:], **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return reference(self, self.__module__, "pass its kind, task.kind, instead")

    def __repr__(self) -> str:
        return f"<task {self.kind} at {self.place}>"

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Submitted[R]:
        """Store a call of this handler; returns after it is on disk.

        Uses the innermost `with ringq.connect(...)`, else the database in RINGQ_DB. Raises InvalidPayload or
        PayloadTooLarge if the arguments do not fit, NotBound without a client, and what `Client.submit_many`
        raises.
        """
        submission = self.submission(*args, **kwargs)  # wrong arguments are told of before a missing client
        return binding.current()._submit_one(submission)

    def submission(self, *args: P.args, **kwargs: P.kwargs) -> Submission[R]:
        """The same call for `Client.submit_many`, with its payload checked and encoded.

        Raises InvalidPayload or PayloadTooLarge if the arguments do not fit.
        """
        waits = None
        try:
            payload = self._arguments.encode(args, kwargs)
        except InvalidPayload as error:
            payload, waits = awaiting(self.kind, (*args, *kwargs.values()), self.encoder(args, kwargs), None, error)
        once = None if self.derived is None else self.derived.once(args, kwargs)
        spec = self._spec if self.serial_key is None else lined(self._spec, self.serial_key, args, kwargs)
        return prepared(spec, payload, None, self._results, self.report, once, waits)

    def options(
        self,
        *,
        queue: str | None = None,
        priority: int | None = None,
        group: str | None = None,
        run_timeout: float | timedelta | None = None,
        retry: Retry | str | int | None = None,
        ttl: float | timedelta | None = None,
        ttl_from: TtlFrom | None = None,
        tags: Mapping[str, str] | None = None,
        label: str | None = None,
        run_at: datetime | None = None,
        run_after: float | timedelta | None = None,
        key: str | Payload | None = None,
        on_duplicate: DuplicateMode | None = None,
        serial_key: str | None = None,
        **more: Unpack[CallOptions],
    ) -> TaskOptions[P, R]:
        """This task with options for one or more submissions; they win over those of kind and domain.

        `queue`: the lane, up to 200 characters without comma or colon. `priority`: 0 (most urgent) to 255.
        `group`: a label, up to 200 characters. `run_timeout`: seconds or timedelta an attempt may take, from
        1 ms to 366 days. `retry`: a Retry, a number, or text as "5 exponential 1s..1h". `run_at`: an aware datetime
        before which it does not run; or `run_after`: seconds or timedelta, counted from the moment of each submission.
        `key`: 1 to 200 characters that no other active task of the kind has, or PAYLOAD for the arguments themselves;
        `on_duplicate`: what becomes of a submission if one has it, "skip" (else), "supersede" or "reject".
        `serial_key`: 1 to 200 characters; tasks that have the same one run one at a time, in order. `tags`: texts by
        which it is found, beside those of kind and domain, up to 32 in all; keys of up to 64 bytes, values of up to
        256. `label`: what it is called where tasks are listed, up to 256 bytes. `more`: as `LimitOptions` and
        `DependencyOptions` say.

        Raises InvalidOption naming option and range.
        """
        spec = options.spec_of(
            self.kind,
            queue=queue,
            priority=priority,
            group=group,
            run_timeout=run_timeout,
            retry=retry,
            ttl=ttl,
            ttl_from=ttl_from,
            tags=tags,
            label=label,
            **others_of(more),
        )
        spec = in_line(spec, serial_key)
        options.instant_us(run_at, run_after)  # wrong values are told of here, where they stand
        derived = None if key is not None or self.derived is None else self.derived.but(on_duplicate)
        mode = mode_of(key, on_duplicate, self.derived)
        once = options.once_of(key, mode) if derived is None else None
        return TaskOptions(self, spec, run_at, run_after, once, derived, said_of(self.kind, more))

    def on_cancel(self, function: F) -> F:
        """Have `function` called when a running attempt was cancelled, to tidy up: a decorator.

        It is called in the worker, with the arguments of the call, after the handler has ended and before the task has;
        it may have a Context and be `async`, whatever the handler is. It has 30 s, then it is ended as a handler is.
        What it returns is ignored, what it raises is printed. It is not called for a task that had not begun or has
        completed, nor if its worker was killed; nor for the calls of a map.

        Raises InvalidKind if there is one already, for parameters other than the handler's, and for a function that
        workers could not call.
        """
        name = f"{self.kind}: on_cancel"
        if self.cancel_hook is not None:
            raise InvalidKind(f"{name} was given {self.cancel_hook.place} already")
        hook = Handler(self.kind, function)
        if hook.arguments.schema() != self._arguments.schema():
            raise InvalidKind(f"{name} takes a function with the handler's parameters, hints and defaults included")
        self.cancel_hook = hook
        return function

    @overload
    def finalize(self, function: Callable[Q, Coroutine[Any, Any, R]]) -> Callable[Q, Coroutine[Any, Any, R]]: ...
    @overload
    def finalize(self, function: Callable[Q, R]) -> Callable[Q, R]: ...
    def finalize(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Have `function` called when the children that the handler has spawned have ended: a decorator.

        `function`: takes (memo, results), or a Context before them: what the handler has returned, and the results of
        the children in the order in which they were spawned, each as its hint says, the latter `list[...]`. None stands
        for a child that has not completed, as is possible with `fail_fast=False`. It may be `async`. Its result is the
        task's. It is tried again as the handler would be, which is not called again. The handler has to spawn in each
        attempt: `ctx.spawn_many([])` if there is nothing to do.

        To type checkers both return the same: let the handler return `Any` if its memo is of another type. Raises
        InvalidKind if there is one already, if the handler takes no Context, for what workers could not call so.
        """
        name = f"{self.kind}: finalize"
        if self.finalizer is not None:
            raise InvalidKind(f"{name} was given {self.finalizer.place} already")
        if not self.wants_context:
            raise InvalidKind(f"{name} is for handlers that spawn: let its first parameter be ctx, a ringq.Context")
        self.finalizer = Finalizer(self.kind, function, name)
        self._returned, self._results = self._results.named("memo"), self.finalizer.results
        return function

    # -- for the client ---------------------------------------------------------------------------

    def submission_of(self, payload: Mapping[str, Any] | str) -> Submission[R]:
        """A call with the arguments in `payload`. Raises InvalidPayload or PayloadTooLarge."""
        text, waits = encoded(self.kind, self, payload, None)
        once = None if self.derived is None else self.derived.once((), by_name(self.kind, payload))
        spec = lined(self._spec, self.serial_key, (), by_name(self.kind, payload))
        return prepared(spec, text, None, self._results, self.report, once, waits)

    def encode(self, payload: Mapping[str, Any] | str) -> str:
        """Arguments by name as payload. Raises InvalidPayload or PayloadTooLarge."""
        if isinstance(payload, str):
            raise InvalidPayload(f"{self.kind}: JSON text goes with a kind as text, got the task itself")
        return self._arguments.encode((), by_name(self.kind, payload))

    def encoder(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Callable[[Callable[..., int]], str]:
        """Makes the payload of a call that takes results of other tasks, given what numbers these."""
        return functools.partial(self._arguments.encode_awaiting, args, dict(kwargs))

    @property
    def results(self) -> Any:
        """The codec of its results."""
        return self._results

    def text_reader(self) -> Callable[[str], Any]:
        """Makes text a value of its first parameter, as `ArgumentsCodec.text_reader` says."""
        return self._arguments.text_reader()

    # -- for the worker ---------------------------------------------------------------------------

    def run(self, context: Context | None, payload: bytes) -> bytes:
        """An attempt: from the payload to the result as JSON.

        Raises InvalidPayload if the arguments do not fit, and what `invoke` and `encode_result` raise.
        """
        if self.plain_function is not None:
            return self._results.encode(self.plain_function(*self._arguments.decode_values(payload)))
        return self._returned.encode(self.invoke(context, self._arguments.decode(payload)))

    def run_finalize(self, context: Context, memo: str, results: Iterable[tuple[int, str | None]]) -> bytes:
        """Call the function of `finalize`; the result as JSON. Raises as `Finalizer.call`, and InvalidResult."""
        assert self.finalizer is not None
        context.offer(self.states)
        value = self.finalizer.call(context, memo, results)
        return self._results.encode(_awaited(value) if self.finalizer.is_async else value)

    @functools.cached_property
    def chunks(self) -> ChunkCodec:
        """The codec of many calls in one payload. Raises InvalidSubmission for a kind with `finalize`."""
        if self.finalizer is not None:
            raise InvalidSubmission(f"{self.kind} has children to wait for: submit each call, a map has none")
        return ChunkCodec(self._arguments, self._results)

    def invoke(self, context: Context | None, arguments: dict[str, Any], args: tuple[Any, ...] = ()) -> Any:
        """Call the handler; an `async def` one in an event loop of its own. Raises whatever it raises.

        `context` is passed on if the handler wants one; None then gives it an inert one. `args`: arguments by position.
        """
        if self.wants_context:
            context = context or Context(kind=self.kind)
            context.offer(self.states)
            value = self.function(context, *args, **arguments)
        else:
            value = self.function(*args, **arguments)
        return _awaited(value) if self._is_async else value

    def answer_cancel(self, context: Context, payload: bytes) -> None:
        """Call the function of `on_cancel`. Raises whatever it raises, InvalidPayload."""
        hook = self.cancel_hook
        assert hook is not None
        context.offer(self.states)
        value = hook.function(*([context] if hook.wants_context else []), **hook.arguments.decode(payload))
        if hook.is_async:
            _awaited(value)

    def encode_result(self, value: Any) -> bytes:
        """A result as JSON. Raises InvalidResult if it does not fit its hint, is not JSON or too large."""
        return self._results.encode(value)


class AsyncTask(Task[P, R]):
    """A Task of an `async def` handler: calling it gives a coroutine; its result is what that returns."""

    @overload  # type: ignore[override]
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...
    @overload
    def __call__(self, context: Context, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[misc]
        """Call the handler as the plain coroutine function it is."""
        return super().__call__(*args, **kwargs)


def _awaited(coroutine: Any) -> Any:
    from ringq.kinds import loop  # noqa: PLC0415 - asyncio is a fifth of a worker's start, for those who need it

    return loop.run(coroutine)


def make_task(handler: Handler, report: KindReport, traits: Traits) -> Task[..., Any]:
    """The Task of a handler."""
    return (AsyncTask if handler.is_async else Task)(handler, report, traits)

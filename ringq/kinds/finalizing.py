"""Submit and run: the part of a task that is about its children - what is called when they have ended."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

from ringq.codec import ResultCodec
from ringq.context import Context
from ringq.errors import InvalidKind
from ringq.kinds.finalizer import Finalizer

if TYPE_CHECKING:
    from ringq.kinds.app import App

Q = ParamSpec("Q")
R = TypeVar("R")


class Finalizing(Generic[R]):
    """What becomes of a task whose handler has spawned children."""

    app: App
    kind: str
    wants_context: bool
    finalizer: Finalizer | None
    _results: ResultCodec  # of the task
    _returned: ResultCodec  # of the handler: where there is a finalizer, of its memo

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

    def run_finalize(self, context: Context, memo: str, results: Iterable[tuple[int, str | None]]) -> bytes:
        """Call the function of `finalize`; the result as JSON. Raises as `Finalizer.call`, and InvalidResult."""
        assert self.finalizer is not None
        context.offer(self.app.states)
        value = self.finalizer.call(context, memo, results)
        return self._results.encode(awaited(value) if self.finalizer.is_async else value)


def awaited(coroutine: Any) -> Any:
    """What a coroutine returns, run to its end here."""
    from ringq.kinds import loop  # noqa: PLC0415 - asyncio is a fifth of a worker's start, for those who need it

    return loop.run(coroutine)

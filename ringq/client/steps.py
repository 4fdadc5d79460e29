"""Submit and answer: the steps of a client are written once, as coroutines; who blocks and who awaits takes the same.

    Verb ──► ask, watch, map: coroutines ──► Line ──► Link
                                                       │
                        ringq.Client: a socket that blocks; no coroutine ever suspends, `finish` runs it in one go
                    ringq.aio.Client: a channel of a connection in an event loop, which runs them as any other

Why so, and what it costs: docs/adr/0018.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")

Steps = Coroutine[Any, Any, R]


def finish(steps: Callable[P, Steps[R]], *args: P.args, **kwargs: P.kwargs) -> R:
    """What a coroutine function returns that never suspends, since whatever it awaits blocks.

    It is called here: a Ctrl-C between two lines of the caller would leave a coroutine that was never begun.
    """
    coroutine = steps(*args, **kwargs)
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: R = end.value
        return result
    coroutine.close()
    raise RuntimeError(f"{steps!r} has suspended: it awaits what only an event loop can give")


class Blocking:
    """A client whose verbs return when they are done."""


class Awaiting:
    """A client whose verbs are awaited."""


class Verb(Generic[C, P, R]):
    """A verb of both clients, written as a coroutine: who is `Blocking` calls it, who is `Awaiting` awaits it."""

    def __init__(self, steps: Callable[Concatenate[C, P], Steps[R]]) -> None:
        @functools.wraps(steps)
        def blocking(*args: Any, **kwargs: Any) -> R:
            return finish(steps, *args, **kwargs)

        self._steps = steps
        self._blocking = blocking
        functools.update_wrapper(self, steps)

    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    @overload
    def __get__(self, client: Blocking, owner: type) -> Callable[P, R]: ...
    @overload
    def __get__(self, client: Awaiting, owner: type) -> Callable[P, Steps[R]]: ...
    def __get__(self, client: Blocking | Awaiting | None, owner: type) -> Any:
        if client is None:
            return self
        return MethodType(self._steps if isinstance(client, Awaiting) else self._blocking, client)

    def __call__(self, client: Any, *args: P.args, **kwargs: P.kwargs) -> Any:
        """The verb of this client, as `Client.verb(client, ...)`."""
        return self.__get__(client, type(client))(*args, **kwargs)

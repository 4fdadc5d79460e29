"""Start and run: states - what an initialiser makes once per process and every handler in it may use."""

from __future__ import annotations

import atexit
import inspect
import os
import sys
import threading
import traceback
import typing
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakSet

from ringq.codec import hints
from ringq.context import pick
from ringq.errors import InvalidKind, StateFailed
from ringq.kinds.handler import place_of

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Initialiser:
    """A function that makes a state, or yields it and cleans up after that.

    Attributes: `name`, as in messages; `function`; `gives`, the type its hint names, None if it names none; `place`,
    where it is defined, as `file:line`; `yields`, whether it is a generator function.
    """

    name: str
    function: Callable[[], Any]
    gives: type[Any] | None
    place: str
    yields: bool

    @classmethod
    def of(cls, function: Any) -> Initialiser:
        """Raises InvalidKind, saying what to change, if a worker could not call it."""
        name = f"state {getattr(function, '__name__', repr(function))}"
        _check(name, function)
        yields = inspect.isgeneratorfunction(function)
        hint = hints.resolve(name, function).get("return", Any)
        if hint is type(None):
            raise InvalidKind(f"{name}: its hint says that it gives None: return or yield the object")
        return cls(name, function, _type_of(hint, yields=yields), place_of(function), yields)


class States:
    """The states of one App, in the present process."""

    def __init__(self) -> None:
        self._declared: list[Initialiser] = []
        self._made: dict[Initialiser, Any] = {}
        self._inherited: list[Any] = []
        self._included: list[States] = []
        self._lock = threading.RLock()
        _everywhere.add(self)

    def declare(self, function: Callable[[], Any]) -> None:
        """Add an initialiser. Raises InvalidKind if it cannot be called, or another gives the same type."""
        initialiser = Initialiser.of(function)
        for other in self._declared:
            if initialiser.gives is not None and other.gives is initialiser.gives:
                _refuse_twice(initialiser.gives, other, initialiser)
        self._declared.append(initialiser)

    def include(self, other: States) -> None:
        """Start another App's states with these, after them. Its handlers alone find them."""
        self._included.append(other)

    def start(self) -> None:
        """Make every state, in the order of declaration.

        Raises StateFailed naming the initialiser that raised, InvalidKind if two give the same type.
        """
        for initialiser in self._declared:
            try:
                self._make(initialiser)
            except StateFailed:
                raise
            except BaseException as error:
                raise StateFailed(f"{initialiser.name}: {type(error).__name__}: {error}") from error
        self._types()
        for states in self._included:
            states.start()

    def get(self, type_: type[T]) -> T:
        """The state of that type; made now if this process has none. Raises UnknownState."""
        with self._lock:
            types = self._types()
            state: T = self._make(types[pick(type_, types)])
            return state

    def forget(self) -> None:
        """This process is a child that got the states by fork: it makes its own.

        The parent's are kept, unused, while the child lives: if they were dropped, their generators would be closed,
        and with them a connection or a device that the parent still uses.
        """
        self._inherited.append(self._made)
        self._made = {}
        self._lock = threading.RLock()

    def _types(self) -> dict[type[Any], Initialiser]:
        types: dict[type[Any], Initialiser] = {}
        for initialiser in self._declared:
            type_ = initialiser.gives or type(self._make(initialiser))
            if type_ in types:
                _refuse_twice(type_, types[type_], initialiser)
            types[type_] = initialiser
        return types

    def _make(self, initialiser: Initialiser) -> Any:
        with self._lock:
            if initialiser not in self._made:
                self._made[initialiser] = _call(initialiser)
            return self._made[initialiser]


def _call(initialiser: Initialiser) -> Any:
    given = initialiser.function()
    state = next(given, None) if initialiser.yields else given
    if state is None:
        raise StateFailed(f"{initialiser.name}: it gives None: return or yield the object")
    if initialiser.yields:
        # It calls in reverse order, in a worker as in any other process, and before what the app registered at import.
        atexit.register(_tear_down, initialiser.name, given, os.getpid())
    return state


def _tear_down(name: str, generator: Generator[Any, None, None], pid: int) -> None:
    if os.getpid() != pid:  # of a process forked from the one that made it
        return
    try:
        next(generator)
    except StopIteration:
        return
    except BaseException as error:
        sys.stderr.write(f"{name}: its teardown raised {type(error).__name__}: {error}\n")
        traceback.print_tb(error.__traceback__)
        return
    sys.stderr.write(f"{name}: it yields more than once; what comes after the second yield is not run\n")


def _check(name: str, function: Any) -> None:
    if not inspect.isroutine(function) or inspect.isbuiltin(function):
        raise InvalidKind(f"{name}: a state is made by a function: declare one that returns or yields it")
    plain: Any = inspect.unwrap(function)
    if inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain):
        raise InvalidKind(f"{name}: an initialiser cannot be async: use asyncio.run inside a plain function")
    if inspect.isgeneratorfunction(plain) and not inspect.isgeneratorfunction(function):
        raise InvalidKind(f"{name}: leave @contextmanager out: a function that yields the state is all it takes")
    parameters = list(inspect.signature(function).parameters)
    if parameters:
        raise InvalidKind(f"{name}: an initialiser takes no parameters, this one has {', '.join(parameters)}")


def _type_of(hint: Any, *, yields: bool) -> type[Any] | None:
    if yields:
        hint = next(iter(typing.get_args(hint)), Any)
    hint = typing.get_origin(hint) or hint
    return hint if isinstance(hint, type) and hint not in (Any, object) else None


def _refuse_twice(type_: type[Any], one: Initialiser, other: Initialiser) -> typing.NoReturn:
    places = f"at {one.place} and at {other.place}"
    raise InvalidKind(f"two states are a {type_.__qualname__}, {places}: give one of them a class of its own")


def _forget_everywhere() -> None:
    for states in list(_everywhere):
        states.forget()


_everywhere: WeakSet[States] = WeakSet()
os.register_at_fork(after_in_child=_forget_everywhere)

"""Start and run: states - what an initialiser makes once per process, for the handlers of an App or of one domain."""

from __future__ import annotations

import atexit
import inspect
import os
import sys
import threading
import traceback
import typing
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakSet

from ringq.codec import hints
from ringq.context import found_among, listed, no_state
from ringq.errors import InvalidKind, InvalidOption, StateFailed
from ringq.kinds.handler import place_of

T = TypeVar("T")
F = TypeVar("F", bound=Callable[[], Any])


class Stateful:
    """A scope of states, and what the tests of its handlers put in their place: an App, or a domain of it."""

    states: States

    def state(self, function: F) -> F:
        """Declare what the handlers of this scope share in a process, as a model or a pool of connections: of all
        domains by `@app.state`, of one by `@media.state`.

        `function`: takes no parameters and returns the object; or yields it once, and cleans up after that. A handler
        gets it as `ctx.state(Model)`, where `Model` is the type in the function's hint: `-> Model`, or
        `-> Iterator[Model]` if it yields; without a hint, the object's own type. What a domain declares goes before
        what its App does, and no other domain sees it.

        Each worker calls it once, before it takes tasks, in the order of declaration; a server whose worker it fails
        in does not start. What follows the `yield` is called when a worker leaves in good order (the server stops, or
        replaces it), in reverse order; all of it, with what the app registered with atexit, may take 5 s. It is not
        called when the process dies: by kill -9, a crash, or a run time limit that had to end the process.

        Returns the function as it was. Raises InvalidKind for one that workers could not call, or if two of one scope
        give one type.
        """
        self.states.declare(function)
        return function

    @contextmanager
    def override(self, type_: type[Any], value: T) -> Iterator[T]:
        """Have handlers of this scope get `value` for a type, in this process, as long as the block lasts.

        For tests: `with app.override(Model, Fake()) as fake:`. The type need not be declared, and what declares it is
        not called. All threads see it; of several for one type the innermost counts. A state that the domain itself
        has still goes before what the App is given, and `ringq.Context(state=...)` before both.

        `with` gives `value`. Raises InvalidOption if `type_` is no type.
        """
        if not isinstance(type_, type):
            raise InvalidOption(f"override: expected a type, as in override(Model, fake), got {type_!r}")
        given = self.states.give(type_, value)
        try:
            yield value
        finally:
            self.states.take_back(given)


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
    def of(cls, function: Any, where: str = "") -> Initialiser:
        """Raises InvalidKind, saying what to change, if a worker could not call it. `where`: follows its name."""
        name = f"state {getattr(function, '__name__', repr(function))}{where}"
        _check(name, function)
        yields = inspect.isgeneratorfunction(function)
        hint = hints.resolve(name, function).get("return", Any)
        if hint is type(None):
            raise InvalidKind(f"{name}: its hint says that it gives None: return or yield the object")
        return cls(name, function, _type_of(hint, yields=yields), place_of(function), yields)


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """What stands for a type in a test."""

    type_: type[Any]
    value: Any


class States:
    """The states of one App, or of one domain of it, in the present process."""

    def __init__(self, name: str, app: States | None = None) -> None:
        """`app`: the states of the App, if these are a domain's."""
        self._name = name
        self._app = app
        self._declared: list[Initialiser] = []
        self._made: dict[Initialiser, Any] = {}
        self._inherited: list[Any] = []
        self._given: list[Given] = []
        if app is not None:
            app._domains.append(self)
            return
        self._domains: list[States] = []
        self._in_order: list[tuple[States, Initialiser]] = []
        self._included: list[States] = []
        self._lock = threading.RLock()  # for those of the domains too: they may ask for each other's
        _everywhere.add(self)

    def declare(self, function: Callable[[], Any]) -> None:
        """Add an initialiser. Raises InvalidKind if it cannot be called, or another here gives the same type."""
        initialiser = Initialiser.of(function, "" if self._app is None else f" of {self._name}")
        for other in self._declared:
            if initialiser.gives is not None and other.gives is initialiser.gives:
                _refuse_twice(initialiser.gives, other, initialiser)
        self._declared.append(initialiser)
        self._root._in_order.append((self, initialiser))

    def include(self, other: States) -> None:
        """Start another App's states with these, after them. Its handlers alone find them."""
        self._included.append(other)

    def start(self) -> None:
        """Make every state of an App and its domains, in the order of declaration.

        Raises StateFailed naming the initialiser that raised, InvalidKind if two of one scope give the same type.
        """
        for states, initialiser in self._in_order:
            try:
                states._make(initialiser)
            except StateFailed:
                raise
            except BaseException as error:
                raise StateFailed(f"{initialiser.name}: {type(error).__name__}: {error}") from error
        for states in (self, *self._domains):
            states._types()
        for states in self._included:
            states.start()

    def get(self, type_: type[T]) -> T:
        """The state of that type, the domain's before the App's; made now if there is none. Raises UnknownState."""
        with self._root._lock:
            for states in self._scopes:
                meant = states._meant(type_)
                if meant is not None:
                    state: T = states._state(meant)
                    return state
            known = [(states._name, states._known()) for states in self._scopes]
        there = "; ".join(f"{listed(types)} in {name}" for name, types in known if types)
        raise no_state(type_, there, "@app.state" if self._app is None else "@app.state or its domain's")

    def give(self, type_: type[Any], value: Any) -> Given:
        """From now on this is the state of that type, whatever was declared."""
        given = Given(type_, value)
        with self._root._lock:
            self._given.append(given)
        return given

    def take_back(self, given: Given) -> None:
        """It is so no longer."""
        with self._root._lock:
            self._given.remove(given)

    def forget(self) -> None:
        """This process is a child that got the states by fork: it makes its own.

        The parent's are kept, unused, while the child lives: if they were dropped, their generators would be closed,
        and with them a connection or a device that the parent still uses.
        """
        for states in (self, *self._domains):
            states._inherited.append(states._made)
            states._made = {}
        self._lock = threading.RLock()

    @property
    def _root(self) -> States:
        return self if self._app is None else self._app

    @property
    def _scopes(self) -> tuple[States, ...]:
        return (self,) if self._app is None else (self, self._app)

    def _meant(self, type_: type[Any]) -> type[Any] | None:
        if any(given.type_ is type_ for given in self._given):  # without making what tells its type only then
            return type_
        return found_among(type_, self._known())

    def _state(self, type_: type[Any]) -> Any:
        for given in reversed(self._given):
            if given.type_ is type_:
                return given.value
        return self._make(self._types()[type_])

    def _known(self) -> list[type[Any]]:
        return list(dict.fromkeys([*self._types(), *(given.type_ for given in self._given)]))

    def _types(self) -> dict[type[Any], Initialiser]:
        types: dict[type[Any], Initialiser] = {}
        for initialiser in self._declared:
            type_ = initialiser.gives or type(self._make(initialiser))
            if type_ in types:
                _refuse_twice(type_, types[type_], initialiser)
            types[type_] = initialiser
        return types

    def _make(self, initialiser: Initialiser) -> Any:
        with self._root._lock:
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

"""Submit and run: a user's function as a handler - what it takes and returns, whether it wants a Context."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any

from ringq.codec import REQUIRED, ArgumentsCodec, Parameter, ResultCodec, hints
from ringq.context import Context
from ringq.errors import InvalidKind, InvalidOption

_BY_NAME = "arguments are stored by name"


class Handler:
    """A function that can be called by a worker.

    Attributes: `function`; `wants_context`; `is_async`; `arguments` and `results`, its codecs; `place`, where
    it is defined, as `file:line`; `plain_function`, the function if all it takes are its arguments in their order,
    else None.
    """

    __slots__ = ("arguments", "function", "is_async", "place", "plain_function", "results", "wants_context")

    def __init__(self, kind: str, function: Callable[..., Any]) -> None:
        """Raises InvalidKind, saying what to change, if workers could not call it."""
        _check_callable(kind, function)
        self.function = function
        self.is_async = inspect.iscoroutinefunction(inspect.unwrap(function))
        self.place = place_of(function)
        found = hints.resolve(kind, function)
        parameters = _signature(kind, function)
        self.wants_context = _wants_context(parameters, found)
        if self.wants_context:
            del parameters[0]
        extra = None
        described = []
        for parameter in parameters:
            _check_parameter(kind, parameter, found)
            hint = found.get(parameter.name, Any)
            if parameter.kind is parameter.VAR_KEYWORD:
                extra = hint
                continue
            default = REQUIRED if parameter.default is parameter.empty else parameter.default
            positional = parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            described.append(Parameter(parameter.name, hint, default, positional))
        self.arguments = ArgumentsCodec(kind, described, extra)
        self.results = ResultCodec(kind, found.get("return", Any))
        self.plain_function = None if self.wants_context or self.is_async else _plain(function, self.arguments)


def _plain(function: Callable[..., Any], arguments: ArgumentsCodec) -> Callable[..., Any] | None:
    """Calling by position is 0.2 us faster than by name. It is the same where the function's own parameters are those
    of its signature: not behind a decorator, which may look at the names.
    """
    if type(function) is not FunctionType:
        return None
    code = function.__code__
    takes_more = code.co_kwonlyargcount or code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS)
    names = code.co_varnames[: code.co_argcount]
    return function if not takes_more and arguments.are(names) else None


def place_of(function: Callable[..., Any]) -> str:
    """Where a function is defined, as `file:line`."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(function)


def reference(one: object, module: str, advice: str) -> tuple[Any, ...]:
    """How pickle finds a task or an App again: by the name it has in its module, as a function.

    Raises InvalidOption if it has none there: a copy of it would be another one.
    """
    for name, value in vars(sys.modules.get(module)).items() if module in sys.modules else ():
        if value is one:
            return _named, (module, name)
    raise InvalidOption(f"{one!r} cannot be pickled, since no name at the top level of {module} is it: {advice}")


def _named(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def _check_callable(kind: str, function: Any) -> None:
    if not callable(function) or inspect.isclass(function):
        raise InvalidKind(f"{kind}: a handler is a function, got {function!r}")
    plain = inspect.unwrap(function)
    if inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain):
        raise InvalidKind(f"{kind}: a handler that yields has no result to store: return a list")


def _signature(kind: str, function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        raise InvalidKind(f"{kind}: {function!r} has no signature: wrap it in a function") from None


def _wants_context(parameters: list[inspect.Parameter], found: dict[str, Any]) -> bool:
    if not parameters:
        return False
    first = parameters[0]
    if first.kind not in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD):
        return False
    return found[first.name] is Context if first.name in found else first.name == "ctx"


def _check_parameter(kind: str, parameter: inspect.Parameter, found: dict[str, Any]) -> None:
    name = parameter.name
    if parameter.kind is parameter.VAR_POSITIONAL:
        raise InvalidKind(f"{kind}: {_BY_NAME}, so *{name} cannot be: take a list, `{name}: list[...]`")
    if parameter.kind is parameter.POSITIONAL_ONLY:
        raise InvalidKind(f"{kind}: {_BY_NAME}, so '{name}' cannot be positional-only: remove the `/`")
    if found.get(name) is Context:
        raise InvalidKind(f"{kind}: the Context is always the first parameter, so '{name}' must come first")
    if name in ("self", "cls") and name not in found:
        raise InvalidKind(f"{kind}: a method cannot be a handler: use a function outside the class")

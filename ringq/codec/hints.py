"""Submit and run: what the hints of a handler say about its arguments, read once at decoration."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Any, NoReturn

import msgspec
import msgspec.inspect

from ringq.errors import InvalidKind

SUPPORTED = (
    "None, bool, int, float, str, bytes, list, tuple, set, dict, datetime, date, time, timedelta, Decimal, "
    "UUID, Path, Enum, Literal, dataclass, TypedDict, NamedTuple, msgspec.Struct, Any, and unions that JSON "
    "can tell apart"
)


def resolve(kind: str, function: Callable[..., Any]) -> dict[str, Any]:
    """The evaluated hints of `function` by parameter name, `return` among them; without a hint no entry.

    Raises InvalidKind naming the parameter whose hint cannot be evaluated.
    """
    function = inspect.unwrap(function)
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception as error:  # a hint is an expression: it may raise anything
        _name_the_culprit(kind, function, error)


def is_loose(kind: str, name: str, hint: Any) -> bool:
    """Whether values of this hint are, at some depth, plain JSON without a type of their own.

    Raises InvalidKind naming the parameter (`return` is the result) if JSON cannot carry the hint.
    """
    try:
        msgspec.json.Decoder(hint)
        parts = list(_parts(msgspec.inspect.type_info(hint)))
    except Exception as error:  # msgspec evaluates the hints inside dataclasses and the like here
        _refuse(kind, name, str(error).replace("`", "'"))
    for part in parts:
        if isinstance(part, msgspec.inspect.CustomType) and not is_path(part.cls) and part.cls is not object:
            _refuse(kind, name, f"JSON cannot carry {getattr(part.cls, '__qualname__', part.cls)}")
    return any(isinstance(part, msgspec.inspect.AnyType) or getattr(part, "cls", None) is object for part in parts)


def is_path(hint: object) -> bool:
    """Whether a hint is a pathlib class: carried as text."""
    return isinstance(hint, type) and issubclass(hint, PurePath)


def _parts(root: msgspec.inspect.Type) -> Iterator[msgspec.inspect.Type]:
    seen: set[int] = set()  # a class may contain itself
    stack: list[Any] = [root]
    while stack:
        part = stack.pop()
        if isinstance(part, tuple):
            stack.extend(part)
        elif isinstance(part, msgspec.inspect.Field):
            stack.append(part.type)
        elif isinstance(part, msgspec.inspect.Type) and id(part) not in seen:
            seen.add(id(part))
            yield part
            stack.extend(getattr(part, field) for field in part.__struct_fields__)


def _name_the_culprit(kind: str, function: Callable[..., Any], cause: Exception) -> NoReturn:
    advice = "define or import it at module level, before the handler and outside `if TYPE_CHECKING`"
    for name, hint in getattr(function, "__annotations__", {}).items():
        alone = types.SimpleNamespace(__annotations__={name: hint})
        try:
            typing.get_type_hints(alone, globalns=getattr(function, "__globals__", {}))
        except Exception as error:
            where = _place(name)
            raise InvalidKind(f"{kind}: {where}: the hint {hint!r} cannot be evaluated ({error}): {advice}") from None
    raise InvalidKind(f"{kind}: its hints cannot be evaluated ({cause}): {advice}") from None


def _refuse(kind: str, name: str, why: str) -> NoReturn:
    raise InvalidKind(f"{kind}: {_place(name)}: {why}; supported are {SUPPORTED}") from None


def _place(name: str) -> str:
    return "result" if name == "return" else f"parameter '{name}'"

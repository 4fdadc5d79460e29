"""Submit and run: what JSON cannot carry - where in a value it is, what it is, and what to give instead."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import numbers
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from datetime import date, time
from typing import Any, Final

from ringq.codec.awaited import ResultOf

ARRAY_LIBRARIES: Final = ("numpy", "torch", "pandas", "polars", "jax", "jaxlib", "tensorflow", "cupy")

_STEPS_MAX = 200
_SAVED = "or save it to a file and {verb} its path, or {verb} base64 text of its bytes"
_OF_ARRAYS = {  # by the method that gives the plain values, in the order of preference
    "to_dicts": "{verb} frame.to_dicts(), " + _SAVED,
    "tolist": "{verb} array.tolist(), " + _SAVED,
    "to_dict": '{verb} frame.to_dict("records"), ' + _SAVED,
}
_OF_CLASSES: tuple[tuple[Any, str], ...] = (
    (ResultOf, "{verb} it as an argument of its own, or in a list that is one"),
    (Mapping, "{verb} dict(...) of it"),
    (Coroutine, "await it in an `async def` function, and {verb} what it gives"),
    (io.IOBase, "{verb} the path of the file, or what is in it"),
    (BaseException, "{verb} str(error)"),
    ((date, time), "{verb} its .isoformat()"),
    (numbers.Complex, "{verb} float(...), str(...) or a list of its parts"),
    (Iterable, "{verb} list(...) of it"),
    (Callable, "{verb} what it gives when called"),
)


def locate(where: str, value: Any, fits: Callable[[Any], bool]) -> tuple[str, Any]:
    """The innermost part of a value that does not fit, and its place, as in `[3].pixels`.

    `where`: the place of the value itself, may be empty. Costs up to one encoding per level: for errors only.
    """
    with contextlib.suppress(Exception):  # of a value that raises when it is looked at: it is the culprit
        for _ in range(_STEPS_MAX):
            where, value = next((place, part) for place, part in _parts(where, value) if not fits(part))
    return where, value


def explain(value: Any, verb: str) -> str:
    """Why a value is not JSON, and what to `verb` (return, pass) instead, in one line."""
    kind = type(value)
    if issubclass(kind, dict):
        key = next((key for key in value if not isinstance(key, str | int | float)), None)
        return f"the key {key!r} is not text"
    library = kind.__module__.partition(".")[0]
    of = f" of {library}" if library in ARRAY_LIBRARIES else ""
    return f"{kind.__qualname__}{of} is not JSON: {_advice(kind, of).format(verb=verb)}"


def member(place: str, name: Any) -> str:
    """The place of what is called `name` in the value at `place`."""
    return f"{place}.{name}" if place else str(name)


def _advice(kind: type, of_array_library: str) -> str:
    # The class is looked at, never the value: what that does when an attribute is asked for is its own affair.
    if of_array_library:
        if not hasattr(kind, "__len__"):  # one value, as numpy.datetime64
            return "{verb} str(...) of it, or a number"
        for method, advice in _OF_ARRAYS.items():
            if hasattr(kind, method):
                return advice
    if kind.__module__.partition(".")[0] == "PIL":
        return "save it to a file and {verb} its path"
    for classes, advice in _OF_CLASSES:
        if issubclass(kind, classes):
            return advice
    return "{verb} a dict or a dataclass of what is in it"


def _parts(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((member(place, key), part) for key, part in value.items())
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from ((f"{place}[{index}]", part) for index, part in enumerate(value))
    elif not isinstance(value, type):
        names = getattr(type(value), "__struct_fields__", ())
        if dataclasses.is_dataclass(value):
            names = [field.name for field in dataclasses.fields(value)]
        yield from ((member(place, name), getattr(value, name, None)) for name in names)

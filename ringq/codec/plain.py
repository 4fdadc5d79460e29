"""Submit and run: Python values as JSON text, and every reason why JSON would not give them back."""

from __future__ import annotations

import math
import re
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import PurePath
from typing import Any, Final, TypeVar
from uuid import UUID

import msgspec

from ringq.codec import hints
from ringq.errors import RingqError

T = TypeVar("T")

DEPTH_MAX: Final = 200
"""Nesting allowed in payloads and results: well below where Python's recursion limit stops either end."""
SCALARS: Final = (str, int, float, bool, type(None))
ARRAY_LIBRARIES: Final = ("numpy", "torch", "pandas", "polars", "jax", "jaxlib", "tensorflow", "cupy")

_AT = re.compile(r"(?P<what>.*) - at `\$\.?(?P<where>.*)`$", re.DOTALL)


class LossError(RingqError):
    """JSON cannot carry the value as it is. Never leaves the codec."""


def encode(value: Any) -> bytes:
    """The value as JSON. Raises LossError; `refuse_non_finite` and `refuse_changed_keys` find the rest."""
    try:
        encoded = _ENCODER.encode(value)
    except UnicodeEncodeError:
        raise LossError("text with a lone surrogate (a file name that is not UTF-8?) is not JSON") from None
    except RecursionError:
        raise LossError(f"nested more than {DEPTH_MAX} deep") from None
    except Exception as error:  # values may have properties of their own, which may raise anything
        raise LossError(str(error)) from None
    # Each level takes two bytes at least: short texts need no closer look.
    if len(encoded) > 2 * DEPTH_MAX and encoded.count(b"[") + encoded.count(b"{") > DEPTH_MAX:
        _refuse_deep(encoded)
    return encoded


def encode_json(value: Any) -> bytes:
    """Records, dicts and lists of ringq's own as JSON. Raises TypeError or ValueError as msgspec does."""
    return msgspec.json.encode(value)


def decode_json(text: str | bytes, type_: type[T]) -> T:
    """The JSON text as a value of `type_`. Raises ValueError if it is not JSON or does not fit."""
    return msgspec.json.decode(text, type=type_)


def decoder(hint: Any) -> msgspec.json.Decoder[Any]:
    """A decoder for a hint, pathlib classes included."""
    return msgspec.json.Decoder(hint, dec_hook=_from_plain)


def refuse_non_finite(where: str, value: Any) -> None:
    """Raise LossError if there is a NaN or infinity in the value: msgspec writes null for them."""
    stack = [(where, _simplify(value))]
    while stack:
        path, found = stack.pop()
        if isinstance(found, float):
            if not math.isfinite(found):
                raise LossError(_at(path, f"{found} is not JSON; use None or text"))
        elif isinstance(found, dict):
            stack.extend((_member(path, key), child) for key, child in found.items())
        elif isinstance(found, (list, tuple, set, frozenset)):
            stack.extend((f"{path}[{index}]", child) for index, child in enumerate(found))


def refuse_changed_keys(where: str, value: Any, decoded: Any) -> None:
    """Raise LossError if keys that are no text arrive as text, because no hint turns them back."""
    stack = [(where, _simplify(value), decoded)]
    while stack:
        path, before, after = stack.pop()
        if isinstance(before, dict) and isinstance(after, dict):
            for key, child in before.items():
                if key not in after:
                    raise LossError(_at(path, f"the key {key!r} is not text, so JSON would change it"))
                stack.append((_member(path, key), child, after[key]))
        elif isinstance(before, (list, tuple)) and isinstance(after, (list, tuple)):
            pairs = enumerate(zip(before, after, strict=False))
            stack.extend((f"{path}[{index}]", left, right) for index, (left, right) in pairs)


def split_place(message: str) -> tuple[str, str]:
    """What msgspec complains about, and where: `items[0].size`, empty at the top."""
    found = _AT.match(message)
    return (found["what"], found["where"]) if found else (message, "")


def in_words(what: str) -> str:
    """A complaint of msgspec in the style of ours."""
    what = what.replace("`", "")
    return what[:1].lower() + what[1:]


def schema(hint: Any) -> dict[str, Any]:
    """The JSON Schema of a hint; just "an object" where one cannot be made."""
    try:
        return msgspec.json.schema(hint, schema_hook=_schema_of)
    except Exception:  # it can be decoded, so it is good enough to run
        return {"type": "object"}


def _to_plain(value: Any) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    for plain in (str, int, float):  # their heirs, which msgspec takes for strangers
        if isinstance(value, plain):
            return plain(value)
    kind = type(value)
    library = kind.__module__.partition(".")[0]
    if library in ARRAY_LIBRARIES:
        advice = "use .tolist() or .item(), the path of a file, or base64 text"
        raise TypeError(f"{kind.__qualname__} of {library} is not JSON: {advice}")
    raise TypeError(f"{kind.__qualname__} is not JSON")


def _from_plain(hint: type, value: Any) -> Any:
    if hint is object:
        return value
    if hints.is_path(hint) and isinstance(value, str):
        return hint(value)
    raise ValueError(f"Expected `{hint.__name__}`, got `{type(value).__name__}`")


def _schema_of(hint: type) -> dict[str, Any]:
    if hint is object:
        return {}
    if hints.is_path(hint):
        return {"type": "string", "format": "path"}
    raise NotImplementedError


_KEPT = (bytes, datetime, date, time, timedelta, Decimal, UUID)  # so that as keys they are seen to be no text
_ENCODER = msgspec.json.Encoder(enc_hook=_to_plain)


def _simplify(value: Any) -> Any:
    return msgspec.to_builtins(value, builtin_types=_KEPT, enc_hook=_to_plain, str_keys=False)


def _refuse_deep(encoded: bytes) -> None:
    too_deep = LossError(f"nested more than {DEPTH_MAX} deep")
    try:
        level: list[Any] = [msgspec.json.decode(encoded)]
    except RecursionError:
        raise too_deep from None
    for _ in range(DEPTH_MAX + 1):
        containers = [value for value in level if isinstance(value, (list, dict))]
        level = [child for one in containers for child in (one.values() if isinstance(one, dict) else one)]
        if not level:
            return
    raise too_deep


def _member(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _at(path: str, what: str) -> str:
    return f"{path}: {what}" if path else what

"""Submit and run: Python values as JSON text, and every reason why JSON would not give them back."""

from __future__ import annotations

import math
import re
import sys
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import PurePath
from typing import Any, Final, TypeVar
from uuid import UUID

import msgspec

from ringq.codec import advice, hints
from ringq.errors import RingqError

T = TypeVar("T")

DEPTH_MAX: Final = 200
"""Nesting allowed in payloads and results: well below where Python's recursion limit stops either end."""
SCALARS: Final = (str, int, float, bool, type(None))

_AT = re.compile(r"(?P<what>.*) - at `\$\.?(?P<where>.*)`$", re.DOTALL)


class LossError(RingqError):
    """JSON cannot carry the value as it is. Never leaves the codec."""


def encode(value: Any, where: str = "", verb: str = "return") -> bytes:
    """The value as JSON. `refuse_non_finite` and `refuse_changed_keys` find what it would still lose.

    Raises LossError: the place, seen from `where`, and what to `verb` instead.
    """
    try:
        encoded = _encode(value)
    except RecursionError:
        raise LossError(_at(where, f"nested more than {DEPTH_MAX} deep")) from None
    except Exception as error:  # values may have properties of their own, which may raise anything
        place, culprit = advice.locate(where, value, _fits)
        raise LossError(_at(place, _complaint(error, culprit, verb))) from None
    # Each level takes two bytes at least: short texts need no closer look.
    if len(encoded) > 2 * DEPTH_MAX and encoded.count(b"[") + encoded.count(b"{") > DEPTH_MAX:
        _refuse_deep(encoded, where)
    return encoded


def encode_json(value: Any) -> bytes:
    """Records, dicts and lists of ringq's own as JSON. Raises TypeError or ValueError as msgspec does."""
    return msgspec.json.encode(value)


def decode_json(text: str | bytes, type_: type[T]) -> T:
    """The JSON text as a value of `type_`. Raises ValueError if it is not JSON or does not fit."""
    return msgspec.json.decode(text, type=type_)


def decoder(hint: Any, *, strict: bool = True) -> msgspec.json.Decoder[Any]:
    """A decoder for a hint, pathlib classes included. `strict=False`: it also reads numbers and the like from text."""
    return msgspec.json.Decoder(hint, strict=strict, dec_hook=_from_plain)


def refuse_non_finite(where: str, value: Any) -> None:
    """Raise LossError if there is a NaN or infinity in the value: msgspec writes null for them."""
    stack = [(where, _simplify(value))]
    while stack:
        path, found = stack.pop()
        if isinstance(found, float):
            if not math.isfinite(found):
                raise LossError(_at(path, f"{found} is not JSON; use None or text"))
        elif isinstance(found, dict):
            stack.extend((advice.member(path, key), child) for key, child in found.items())
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
                stack.append((advice.member(path, key), child, after[key]))
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


class _Stranger(TypeError):
    """A value of a class that JSON does not know."""


def _to_plain(value: Any) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    plain: Any
    for plain in (str, int, float, bytes):  # their heirs, which msgspec takes for strangers
        if isinstance(value, plain):
            return plain(value)
    # What numpy computes is nearly a Python number: losing an hour's result for it would help nobody. Those that
    # Python has no equal of (longdouble, complex, datetime64) give something else, and are refused.
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic) and value.dtype.kind in "biuf":
        number = value.item()
        if type(number) in (bool, int, float):
            return number
    raise _Stranger


def _fits(value: Any) -> bool:
    try:
        _encode(value)
    except Exception:
        return False
    return True


def _complaint(error: Exception, culprit: Any, verb: str) -> str:
    if isinstance(error, UnicodeEncodeError):
        return "text with a lone surrogate (a file name that is not UTF-8?) is not JSON"
    if isinstance(error, _Stranger) or isinstance(culprit, dict):
        return advice.explain(culprit, verb)
    return str(error)


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
_encode = msgspec.json.Encoder(enc_hook=_to_plain).encode
write: Final = _encode
"""`encode` without its checks and its words."""


def _simplify(value: Any) -> Any:
    return msgspec.to_builtins(value, builtin_types=_KEPT, enc_hook=_to_plain, str_keys=False)


def _refuse_deep(encoded: bytes, where: str) -> None:
    too_deep = LossError(_at(where, f"nested more than {DEPTH_MAX} deep"))
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


def _at(path: str, what: str) -> str:
    return f"{path}: {what}" if path else what

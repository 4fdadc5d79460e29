"""Run: what a raised exception leaves behind, as plain bounded text."""

from __future__ import annotations

import re
import traceback
from types import TracebackType
from typing import Annotated, Any, Final

import msgspec

from ringq.errors import SPAN_S_MAX, RetryLater, Snooze, Throttled

TRACEBACK_BYTES_MAX: Final = 16 * 1024
MESSAGE_CHARS_MAX: Final = 4_000
_ABOVE: Final = re.compile(r"(ringq(?!\.contrib\.)|asyncio)(\..*)?")
_FRAMES_MAX: Final = 64
_LINE_CHARS_MAX: Final = 2_000
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def error_details(error: BaseException) -> dict[str, str]:
    """`type`, `message` and `traceback` of an exception, as plain text that is safe to print and to store.

    The traceback has at most 16 KiB; what is cut are the outermost frames. Frames of ringq itself above the
    handler are left out. Never raises, whatever the exception does when it is looked at.
    """
    return {
        "type": _attempt(lambda: _type_name(error), "unknown"),
        "message": _attempt(lambda: _safe(str(error), MESSAGE_CHARS_MAX), "(its message cannot be read)"),
        "traceback": _attempt(lambda: _traceback(error), "(its traceback cannot be formatted)"),
    }


def encode_error(error: BaseException) -> bytes:
    """`error_details` as JSON, with `after_s` if the handler said when to be called again. Never raises."""
    details: dict[str, Any] = error_details(error)
    if isinstance(error, RetryLater | Snooze | Throttled) and error.after_s is not None:
        details["after_s"] = error.after_s
    return msgspec.json.encode(details)


def asked_delay_s(error: str | None) -> float | None:
    """The `after_s` of what `encode_error` made; None if there is none, or the text is something else."""
    try:
        return None if error is None else _AFTER.decode(error).after_s
    except msgspec.DecodeError:
        return None


class _After(msgspec.Struct):
    after_s: Annotated[float, msgspec.Meta(ge=0.0, le=SPAN_S_MAX)] | None = None


_AFTER: Final = msgspec.json.Decoder(_After)


def _attempt(read: Any, otherwise: str) -> str:
    try:
        text: str = read()
        return text
    except BaseException:  # an exception's own methods may raise anything, SystemExit too
        return otherwise


def _type_name(error: BaseException) -> str:
    kind = type(error)
    place = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
    return _safe(f"{place}{kind.__qualname__}", 200)


def _traceback(error: BaseException) -> str:
    found = traceback.TracebackException(
        type(error), error, _below_ringq(error.__traceback__), limit=-_FRAMES_MAX, compact=True
    )
    text = "".join(_safe(line, _LINE_CHARS_MAX, "\n") for line in found.format())
    encoded = text.encode()
    if len(encoded) <= TRACEBACK_BYTES_MAX:
        return text
    mark = "[outer frames are cut off]\n"
    kept = encoded[len(mark) - TRACEBACK_BYTES_MAX :].decode(errors="ignore")
    return mark + kept[kept.find("\n") + 1 :]


def _below_ringq(trace: TracebackType | None) -> TracebackType | None:
    """Where the handler begins: below ringq, and below the event loop of an `async def` handler."""
    found = trace
    while found is not None and _ABOVE.fullmatch(str(found.tb_frame.f_globals.get("__name__", ""))):
        found = found.tb_next
    return found or trace


def _safe(text: str, chars_max: int, end: str = "") -> str:
    if len(text) > chars_max:
        text = f"{text[:chars_max]} [{len(text) - chars_max:,} more characters]{end}"
    return _CONTROL.sub("\ufffd", text.encode(errors="replace").decode())

"""Edge: how values of settings are written. Each function raises ValueError that says what is wrong with a value."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path, PurePosixPath

from ringq.aging import Aging
from ringq.bucket import Rate
from ringq.config import WORKERS_MAX
from ringq.errors import InvalidOption
from ringq.pressure import Policy
from ringq.retry import UNITS_S, Retry

Queues = tuple[tuple[str, int | None], ...]

RETENTION_S_MAX = 36_500 * 86_400.0

_SIZES_MIB = {
    f"{unit}{tail}": mib for unit, mib in (("k", 1 / 1024), ("m", 1), ("g", 1024)) for tail in ("", "b", "ib")
}
_RATE = re.compile(r"(?P<permits>[^ /]+?) ?(?:/| per ) ?(?P<interval>[^ /]+)(?: burst (?P<burst>[^ ]+))?", re.ASCII)
_BOOLEANS = {**dict.fromkeys(["1", "true", "yes", "on"], True), **dict.fromkeys(["0", "false", "no", "off"], False)}


def app(written: object) -> str:
    """`module:attribute`, or `script.py:attribute` for a file that exists."""
    if not isinstance(written, str):
        raise ValueError(f"{written!r} does not name an app; write e.g. photos:app")
    script, _, name = written.rpartition(":")
    if name.isidentifier() and Path(script).is_file():
        return written
    module, _, attribute = written.partition(":")
    names = module.split(".")
    if module and attribute and all(part.isidentifier() for part in names) and not module.endswith(".py"):
        return written
    file = PurePosixPath(module.removesuffix(".py"))
    above = file.is_absolute() or ".." in file.parts
    name = ".".join([file.name] if above else file.parts)
    if name and all(part.isidentifier() for part in name.split(".")):
        place = f", in the folder {file.parent}" if above else ""
        raise ValueError(
            f"{written!r} does not name a module and its app; write e.g. {name}:{attribute or 'app'}{place}"
        )
    raise ValueError(f"{written!r} does not name an app; write e.g. photos:app")


def path(written: object) -> Path:
    """The path of a file."""
    if isinstance(written, Path):
        return written
    if not isinstance(written, str) or not written or "\0" in written:
        raise ValueError(f"{written!r} is no path of a file; write e.g. tasks.db")
    return Path(written)


def workers(written: object) -> int:
    """A number of workers; 0 for `auto`, as many as there are usable cores."""
    if written == "auto":
        return 0
    text = _text(written)
    if not (text.isascii() and text.isdecimal()) or len(text) > 9 or not 1 <= int(text) <= WORKERS_MAX:
        raise ValueError(f"{written!r} is neither auto nor 1 to {WORKERS_MAX}")
    return int(text)


def queues(written: object) -> Queues:
    """Queues to serve, each with an optional number of tasks that may run at a time.

    As text `default,bulk:2`; in a file also as a list of such parts, or as a table {default = true, bulk = 2}.
    """
    hint = "write NAME or NAME:MAX_RUNNING, e.g. default,bulk:2"
    if isinstance(written, dict):
        written = [name if cap is True else f"{name}:{_text(cap)}" for name, cap in written.items()]
    parts = (written.split(",") if written else []) if isinstance(written, str) else written
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise ValueError(f"{written!r} is no list of queues; {hint}")
    found: dict[str, int | None] = {}
    for part in parts:
        name, colon, cap = part.strip().partition(":")
        wrong = None
        if not name:
            wrong = f"{part!r} has no name"
        elif name in found:
            wrong = f"{name!r} is named twice"
        elif colon and not (cap.isascii() and cap.isdecimal()):
            wrong = f"{cap!r} in {part!r} is no number of tasks"
        if wrong:
            raise ValueError(f"{wrong}; {hint}")
        found[name] = int(cap) if colon else None
    return tuple(found.items())


def span(written: object) -> float:
    """Seconds, from a number with or without a unit: 500ms, 90s, 15m, 2h, 7d."""
    if isinstance(written, timedelta):
        written = written.total_seconds()
    seconds = _measure(_text(written), UNITS_S, "s")
    if seconds is None:
        raise ValueError(f"{written!r} is no span; write seconds or e.g. 500ms, 15m, 2h")
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{written!r} is no span of 0 or more")
    return seconds


def span_or_forever(written: object) -> float:
    """Seconds as `span`, or `forever`: infinitely many."""
    if written == math.inf or (isinstance(written, str) and written.strip().lower() == "forever"):
        return math.inf
    try:
        return span(written)
    except ValueError as error:
        raise ValueError(f"{error}, or forever") from None


def retention(written: object) -> float:
    """How long something is kept: `span_or_forever`, at least a second, at most a hundred years."""
    seconds = span_or_forever(written)
    if not (1 <= seconds <= RETENTION_S_MAX or seconds == math.inf):
        raise ValueError(f"{written!r} is not 1s to 36500d, nor forever")
    return seconds


def size_mib(written: object) -> int:
    """MiB, from a number with or without a unit: 512, 512MB, 1.5GB. Units are powers of 1024, with or without an i."""
    size = _measure(_text(written).lower(), _SIZES_MIB, "m")
    if size is None or not (size == 0 or 1 <= size < math.inf):
        raise ValueError(f"{written!r} is no size; write MiB or e.g. 512MB, 2GB (0: never)")
    return round(size)


def count(written: object) -> int:
    """A whole number from 0 on."""
    text = _text(written)
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise ValueError(f"{written!r} is no whole number of 0 (never) or more")
    return int(text)


def priority(written: object) -> int:
    """A number from 0, the most urgent, to 255."""
    text = _text(written)
    if not (text.isascii() and text.isdecimal() and len(text) < 4 and int(text) <= 255):
        raise ValueError(f"{written!r} is no priority; write 0 (most urgent) to 255")
    return int(text)


def word(written: object) -> str:
    """A word, without the blanks around it."""
    text = _text(written).strip()
    if not text and written != "":
        raise ValueError(f"{written!r} is no word")
    return text


def boolean(written: object) -> bool:
    """True or false; as text also yes and no, on and off, 1 and 0."""
    value = written if isinstance(written, bool) else _BOOLEANS.get(_text(written).strip().lower())
    if value is None:
        raise ValueError(f"{written!r} is neither true nor false")
    return value


def retry(written: object) -> str:
    """What happens after a failed attempt, as `Retry.read` takes it."""
    try:
        return str(Retry.read(_text(written)))
    except InvalidOption as error:
        raise ValueError(str(error).removeprefix("retry: ")) from None


def rate(written: object, burst: float | None = None) -> Rate:
    """So many permits an interval: `10/s`, `100/m burst 20`, `5 per 30s`. `burst`: instead of what is written.

    Without a burst, as many as one interval permits, at least 1.
    """
    text = " ".join(written.split()) if isinstance(written, str) else ""
    found = _RATE.fullmatch(text)
    permits = None if found is None else _measure(found["permits"], {"": 1.0}, "")
    if found is None or permits is None:
        raise ValueError(f"{written!r} is no rate; write e.g. 10/s, 5 per 30s, or 100/m burst 20")
    interval = found["interval"]
    try:
        interval_s = span(f"1{interval}" if interval in UNITS_S else interval)
    except ValueError:
        raise ValueError(f"{written!r}: {interval!r} is no interval; write e.g. s, m, h, or 30s") from None
    if burst is None and found["burst"] is not None:
        burst = _measure(found["burst"], {"": 1.0}, "")
        if burst is None:
            raise ValueError(f"{written!r}: {found['burst']!r} is no burst; write a number of 1 or more")
    return Rate.of(permits, round(interval_s * 1e6), burst)


def aging(written: object) -> str:
    """How waiting makes tasks more urgent, as `Aging.read` takes it; `off`: it does not, which is an empty text."""
    text = _text(written).strip()
    try:
        return "" if text == "off" else str(Aging.read(text))
    except InvalidOption as error:
        raise ValueError(str(error).removeprefix("aging: ")) from None


def pressure(written: object) -> str:
    """Which priorities stop at which pressure, as `Policy.read` takes it; a bare false of the file is off."""
    if isinstance(written, bool):
        return pressure("on" if written else "off")
    try:
        policy = Policy.read(written if isinstance(written, str) else repr(written))
    except InvalidOption as error:
        raise ValueError(str(error).removeprefix("pressure: ")) from None
    return "off" if policy is None else str(policy)


def sources(written: object) -> tuple[str, ...]:
    """`module:attribute` of each, as text with commas or as a list."""
    parts = (written.split(",") if written else []) if isinstance(written, str) else written
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise ValueError(f"{written!r} is no list of sources; write e.g. plant:battery")
    found = [part.strip() for part in parts]
    for part in found:
        module, _, attribute = part.partition(":")
        if not all(name.isidentifier() for name in (*module.split("."), attribute)):
            raise ValueError(f"{part!r} names no source; write its module and attribute, e.g. plant:battery")
        if found.count(part) > 1:
            raise ValueError(f"{part!r} is named twice")
    return tuple(found)


def bandwidth_mib(written: object) -> float:
    """MiB a second, from a number with or without a unit: 100, 100MB, 1.5GB/s."""
    text = _text(written).lower().strip().removesuffix("/s")
    rate = _measure(text, _SIZES_MIB, "m")
    if rate is None or not 0 <= rate < math.inf:
        raise ValueError(f"{written!r} is no bandwidth; write MiB a second or e.g. 100MB (0: any)")
    return rate


def one_of(*words: str) -> Callable[[object], str]:
    """One of these words."""

    def parse(written: object) -> str:
        if not isinstance(written, str) or written.lower() not in words:
            raise ValueError(f"{written!r} is not {', '.join(words[:-1])} or {words[-1]}")
        return written.lower()

    return parse


def _text(written: object) -> str:
    """What was written as text; a number of the file as its digits; nothing for what is neither."""
    if isinstance(written, str):
        return written
    return str(written) if isinstance(written, int | float) and not isinstance(written, bool) else ""


def _measure(text: str, units: Mapping[str, float], default: str) -> float | None:
    """A number with one of these units; None for what is none."""
    text = text.strip()
    unit = text.lstrip("0123456789.+-eE")
    try:
        return float(text.removesuffix(unit)) * units[unit.strip() or default]
    except (ValueError, KeyError):
        return None

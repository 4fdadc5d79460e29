"""Edge: what a queue or the server says of tasks of whom nobody nearer does - as it is written, stored and shown.

written: `run_timeout=30s` … stored: {"run_timeout_ms": 30000}, by fields … shown: {"run_timeout": 30.0}
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from ringq import notation
from ringq.config import KIB, MEMORY_KIB_MAX, MEMORY_KIB_MIN, NAME_CHARS_MAX
from ringq.errors import SPAN_S_MAX
from ringq.spelling import meant
from ringq.tags import problem

SPANS: Final = ("run_timeout", "ttl", "total_timeout", "queue_timeout", "kill_after")
SINCE: Final = ("submission", "attempt")
FIELDS: Final = {
    "priority": "priority",
    "group": "group",
    "run_timeout": "run_timeout_ms",
    "ttl": "ttl_ms",
    "ttl_from": "ttl_from",
    "total_timeout": "total_timeout_ms",
    "queue_timeout": "queue_timeout_ms",
    "kill_after": "kill_after_ms",
    "memory_limit": "memory_limit_kib",
    "tags": "tags",
}
"""What a queue may say, with the field of a submission that has it. The server may say the queue, too."""


def of_server(written: object) -> tuple[tuple[str, Any], ...]:
    """What the server says, from text as `priority=64,tags.team=sales` or a table of options; as it is stored.

    Raises ValueError.
    """
    if isinstance(written, tuple):
        return written
    options = options_of(written) if isinstance(written, str) else written
    if not isinstance(options, Mapping):
        raise ValueError(f"{written!r} is no table of options; write e.g. priority=64,run_timeout=30s")
    return tuple(stored({key.replace("-", "_"): value for key, value in options.items()}, server=True).items())


def options_of(text: str) -> dict[str, Any]:
    """Options by name, from `priority=64,run_timeout=30s,tags.team=sales`; None for `none`. Raises ValueError."""
    found: dict[str, Any] = {}
    tags: dict[str, Any] = {}
    for part in text.split(",") if text.strip() else ():
        name, equals, value = (piece.strip() for piece in part.partition("="))
        option, dot, tag = name.partition(".")
        if not equals or not option or (dot and option != "tags"):
            raise ValueError(f"{part.strip()!r} is no option; write e.g. priority=64,run_timeout=30s,tags.team=sales")
        given = tags if dot else found
        if (tag if dot else option) in given:
            raise ValueError(f"{name} is given twice")
        given[tag if dot else option] = None if value == "none" and not dot else value
    if tags and "tags" in found:
        raise ValueError("tags is given twice")
    return {**found, "tags": tags} if tags else found


def stored(options: Mapping[str, Any], *, server: bool = False) -> dict[str, Any]:
    """The options as they are stored; None stays None, which takes it back.

    Raises ValueError for one that cannot be said here, and for a value that is wrong.
    """
    fields = {"queue": "queue", **FIELDS} if server else FIELDS
    found = {}
    for name, value in options.items():
        if name not in fields:
            others = meant(name, fields) or f"; there are {', '.join(fields)}"
            raise ValueError(f"there is no default {name!r}{others}")
        try:
            found[fields[name]] = None if value is None else _value(name, value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return found


def shown(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Stored ones by the names of options: spans in seconds, sizes in MiB."""
    names = {field: name for name, field in FIELDS.items()}
    found = {names.get(field, field): value for field, value in fields.items()}
    for name, value in found.items():
        if name in SPANS:
            found[name] = value / 1000
        elif name == "memory_limit":
            found[name] = value / KIB
        elif name == "ttl_from":
            found[name] = SINCE[value]
    return found


def as_text(options: Mapping[str, Any]) -> str:
    """Shown ones as `options_of` takes them."""
    pairs = [(name, value) for name, value in options.items() if name != "tags"]
    pairs += [(f"tags.{key}", value) for key, value in options.get("tags", {}).items()]
    return ",".join(f"{name}={value:.15g}" if isinstance(value, float) else f"{name}={value}" for name, value in pairs)


def joined(before: str | None, changes: Mapping[str, Any]) -> str | None:
    """The text to store after these changes of stored ones; None if nothing is said any more."""
    after = {**loaded(before), **changes}
    said = {field: value for field, value in after.items() if value is not None}
    return json.dumps(said, ensure_ascii=False) if said else None


def loaded(text: str | None) -> dict[str, Any]:
    """Stored ones from their text."""
    found: dict[str, Any] = {} if text is None else json.loads(text)
    return found


def check(fields: object) -> None:
    """Raise ValueError for what a stranger sends as stored ones, and is none."""
    if not isinstance(fields, dict):
        raise ValueError(f"{fields!r} is no table of options")
    numbers = {field for field in FIELDS.values() if field not in ("group", "tags")}
    for field, value in fields.items():
        is_number = isinstance(value, int) and not isinstance(value, bool)
        if field not in FIELDS.values() or (value is not None and (field in numbers) != is_number):
            raise ValueError(f"{field} cannot be {value!r}")
        if field == "ttl_from" and value not in (None, 0, 1):
            raise ValueError(f"{field} cannot be {value!r}")
    stored(shown({field: value for field, value in fields.items() if value is not None}))


def _value(name: str, value: Any) -> Any:
    if name in SPANS:
        seconds = notation.span(value)
        if not 0.001 <= seconds <= SPAN_S_MAX:
            raise ValueError(f"{value!r} is not 1ms to 366d")
        return math.ceil(round(seconds * 1000, 6))
    match name:
        case "priority":
            text = "" if isinstance(value, bool) else str(value)
            if not (text.isascii() and text.isdecimal() and len(text) < 4 and int(text) <= 255):
                raise ValueError(f"{value!r} is not 0 (most urgent) to 255")
            return int(text)
        case "ttl_from":
            return SINCE.index(notation.one_of(*SINCE)(value))
        case "memory_limit":
            kib = notation.size_mib(value) * KIB
            if not MEMORY_KIB_MIN <= kib <= MEMORY_KIB_MAX:
                raise ValueError(f"{value!r} is less than {MEMORY_KIB_MIN // KIB} MiB, or too much")
            return kib
        case "tags":
            return _tags(value)
        case _:
            return _name(value, ",:" if name == "queue" else "")


def _tags(tags: Any) -> dict[str, str]:
    if not isinstance(tags, Mapping):
        raise ValueError(f"{tags!r} is no table of texts; write e.g. tags.customer=acme")
    wrong = problem(tags.items())
    if wrong is not None:
        raise ValueError(wrong.removeprefix("tags: "))
    return dict(tags)


def _name(name: Any, without: str) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= NAME_CHARS_MAX or not name.isprintable():
        raise ValueError(f"expected 1 to {NAME_CHARS_MAX} printable characters, got {name!r:.80}")
    if set(name) & set(without):
        raise ValueError(f"a name has no comma or colon, got {name!r}")
    return name

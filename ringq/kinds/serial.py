"""Submit: serial keys - which tasks run one at a time, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ringq.errors import InvalidOption
from ringq.kinds.options import check_label
from ringq.protocol import SpecFields

SerialKey = Callable[..., str | None]


def line_of(serial_key: Any) -> SerialKey | None:
    """How a kind makes serial keys of arguments; None if it makes none. Raises InvalidOption."""
    if serial_key is not None and not callable(serial_key):
        raise InvalidOption(f"serial_key: expected a function of the arguments, got {serial_key!r}")
    made: SerialKey | None = serial_key
    return made


def in_line(spec: SpecFields, serial_key: Any) -> SpecFields:
    """The same options with this serial key. Raises InvalidOption for what can be none."""
    if serial_key is None:
        return spec
    check_label("serial_key", serial_key)
    return msgspec.structs.replace(spec, serial_key=serial_key)


def lined(
    spec: SpecFields, serial_key: SerialKey | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> SpecFields:
    """These options for a call with these arguments: its own serial key, else that of its kind.

    Raises InvalidOption for what the kind's function returns and is none, and what it raises.
    """
    if serial_key is None or spec.serial_key is not None:
        return spec
    return in_line(spec, serial_key(*args, **kwargs))

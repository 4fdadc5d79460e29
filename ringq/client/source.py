"""Submit: the calls of a map, read from the caller's iterable as far as they are wanted."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from ringq.codec import Call
from ringq.errors import InvalidOption, InvalidPayload

READ_S = 0.005  # a slow iterable is not waited for until a chunk is full: what came in this time goes
IDLE: Final = object()
"""What an iterable may give instead of blocking: nothing is at hand now."""


class Source:
    """Attributes: `index`, how many calls were read; `has_ended`; `is_idle`, the last read ended by IDLE; `error`, what
    the iterable raised.
    """

    def __init__(self, iterable: Iterable[Any], *, star: bool) -> None:
        """`star`: each entry holds all arguments of a call, else it is the first. Raises InvalidOption."""
        try:
            self._entries: Iterator[Any] = iter(iterable)
        except TypeError:
            raise InvalidOption(f"map: expected an iterable of inputs, got {iterable!r}") from None
        self._star = star
        self._length = _length(iterable)
        self.index = 0
        self._held: list[Call | InvalidPayload] = []  # read, and not given away yet
        self.has_ended = self.is_idle = False
        self.error: Exception | None = None

    @property
    def left(self) -> int | None:
        """How many calls are still to come, if the iterable tells."""
        return None if self._length is None else max(0, self._length - self.index)

    def read(self, count: int, *, whole: bool = False) -> list[Call | InvalidPayload]:
        """The next `count` calls; fewer if the iterable ends, raises or is slow. What it raises is in `error`.

        `whole`: a slow one is waited for; if it is idle, none are given, until all are there. Nothing that was read is
        lost by what is no Exception, as Ctrl-C.
        """
        calls = self._held
        until = math.inf if whole else time.monotonic() + READ_S
        self.is_idle = False
        try:
            while len(calls) < count and not self.has_ended:
                entry = next(self._entries)
                if entry is IDLE:
                    self.is_idle = True
                    break
                calls.append(_spread(entry) if self._star else (entry,))
                if time.monotonic() >= until:
                    break
        except StopIteration:
            self.has_ended = True
        except Exception as error:
            self.has_ended, self.error = True, error
        if whole and self.is_idle:
            return []
        calls, self._held = calls[:count], calls[count:]
        self.index += len(calls)
        return calls


def _spread(entry: Any) -> Call | InvalidPayload:
    if isinstance(entry, (tuple, list)):
        return tuple(entry)
    if isinstance(entry, Mapping):
        return entry
    return InvalidPayload(f"starmap: each input is a tuple or a dict of arguments, got {entry!r:.100}")


def _length(iterable: Iterable[Any]) -> int | None:
    try:
        return operator.length_hint(iterable, -1) if operator.length_hint(iterable, -1) >= 0 else None
    except Exception:  # a hint of the caller's own class: without it the map works as well
        return None

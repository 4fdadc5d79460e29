"""Submit: the calls of a map, read from the caller's iterable as far as they are wanted."""

from __future__ import annotations

import inspect
import math
import operator
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

from ringq.codec import Call
from ringq.errors import InvalidOption, InvalidPayload

READ_S = 0.005  # a slow iterable is not waited for until a chunk is full: what came in this time goes
IDLE: Final = object()
"""What an iterable may give instead of blocking: nothing is at hand now."""
_AT_HAND: Final[tuple[type[Any], ...]] = (type(iter([])), type(iter(())), type(iter(range(0))))
"""Iterators that run no code of the caller: they never block, are idle, raise or see Ctrl-C."""


class Source:
    """Reads an iterable. What it gave is kept until it is let go: it may be asked for again, after Ctrl-C or an error.

    Attributes: `is_star`, as given; `is_idle`, the last read ended by IDLE; `error`, what the iterable raised.
    """

    def __init__(self, iterable: Iterable[Any], *, star: bool) -> None:
        """`star`: each entry holds all arguments of a call, else it is the first. Raises InvalidOption."""
        try:
            self._entries: Iterator[Any] = iter(iterable)
        except TypeError:
            raise InvalidOption(f"map: expected an iterable of inputs, got {iterable!r}") from None
        self.is_star = star
        self._length = _length(iterable)
        self._held: tuple[int, list[Call | InvalidPayload]] = 0, []  # the number of the first, and the calls
        self._has_ended = False
        self.is_idle = False
        self.error: BaseException | None = None

    @property
    def read(self) -> int:
        """How many calls the iterable has given."""
        first, held = self._held
        return first + len(held)

    def left(self, first: int) -> int | None:
        """How many calls there are from `first` on, if the iterable tells."""
        return None if self._length is None else max(0, self._length - first)

    def has_ended(self, first: int) -> bool:
        """Whether there are none from `first` on."""
        return self._has_ended and self.read <= first

    def take(self, first: int, count: int, *, whole: bool = False) -> list[Call | InvalidPayload]:
        """Calls from `first` on, at most `count`; fewer if the iterable ends, raises or is slow.

        `whole`: a slow one is waited for; if it is idle, none are given, until all are there. What it raises is in
        `error`; what is no Exception, as Ctrl-C, is raised here, and nothing that was read is lost by it. It is the
        `error` as well if it ended a generator: that would go on as if there were no more.
        """
        start, held = self._held
        begin = first - start
        end = begin + count
        until = math.inf if whole else time.monotonic() + READ_S
        self.is_idle = False
        try:
            if self.is_star and held:
                held[-1] = _spread(held[-1])  # where Ctrl-C came before this
            if len(held) < end and not self._has_ended:
                if isinstance(self._entries, _AT_HAND) and not self.is_star:
                    # One by one, a call would take 0.11 us instead of 0.04.
                    held.extend(zip(islice(self._entries, end - len(held)), strict=True))
                    self._has_ended = len(held) < end
                else:
                    self._read(held, end, until)
        except Exception as error:
            self._has_ended, self.error = True, error
        except BaseException as error:
            if inspect.isgenerator(self._entries) and self._entries.gi_frame is None:
                self._has_ended, self.error = True, error
            raise
        if whole and self.is_idle:
            return []
        return held[begin:end]

    async def gather(self, count: int) -> None:
        """Have up to so many at hand for `take`; of an iterable that is awaited, which reads ahead no further."""

    async def arrival(self) -> None:
        """Return when there is something to `take` again, of an iterable that is awaited."""

    def close(self) -> None:
        """Read no more."""

    def let_go(self, first: int) -> None:
        """Those before `first` are not asked for again."""
        start, held = self._held
        self._held = first, held[first - start :]

    def _read(self, held: list[Call | InvalidPayload], end: int, until: float) -> None:
        star, monotonic = self.is_star, time.monotonic
        for entry in self._entries:
            if entry is IDLE:
                self.is_idle = True
                break
            held.append(entry if star else (entry,))  # CPython looks at signals after this, and not before
            if star:
                held[-1] = _spread(entry)
            if len(held) >= end or monotonic() >= until:
                break
        else:
            self._has_ended = True


def _spread(entry: Any) -> Call | InvalidPayload:
    if isinstance(entry, (tuple, list)):
        return tuple(entry)
    if isinstance(entry, (Mapping, InvalidPayload)):
        return entry
    return InvalidPayload(f"starmap: each input is a tuple or a dict of arguments, got {entry!r:.100}")


def _length(iterable: Iterable[Any]) -> int | None:
    try:
        return operator.length_hint(iterable, -1) if operator.length_hint(iterable, -1) >= 0 else None
    except Exception:  # a hint of the caller's own class: without it the map works as well
        return None

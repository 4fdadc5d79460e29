"""Cli: the inputs of `ringq map` - bytes of a pipe or a file, taken apart into the arguments of one call each."""

from __future__ import annotations

import json
import os
import select
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal

from ringq.cli.ndjson_input import BOM
from ringq.client.source import IDLE
from ringq.codec import decode_json, encode_json
from ringq.config import MIB, PAYLOAD_BYTES_MAX
from ringq.errors import InvalidSubmission

Form = Literal["lines", "null", "ndjson"]

BLOCK_BYTES: Final = 65_536  # what a pipe holds
AHEAD_BYTES_MAX: Final = 16 * MIB  # read before they are wanted: so the end, and with it the time left, is known early
IDLE_AFTER_S: Final = 0.02


class Inputs:
    """Iterable of calls; IDLE while none is at hand. Reads in a thread, since a pipe may be silent for hours."""

    def __init__(self, descriptor: int, name: str, form: Form, typed: Callable[[str], Any] = str) -> None:
        """Begins to read. `name`: of the source in messages. `typed`: makes a line the first argument."""
        self._descriptor = descriptor
        self._name = name
        self._form = form
        self._typed = typed
        self._end = b"\0" if form == "null" else b"\n"
        self._given: dict[int, bytes] = {}  # inputs of calls that were read and are not delivered
        self._index = 0
        self._line = 0
        self._turn = threading.Condition()
        self._parts: deque[tuple[list[bytes], int]] = deque()
        self._waiting_bytes = 0
        self._count = 0
        self._has_ended = False
        self._error: Exception | None = None
        threading.Thread(target=self._read, name="inputs", daemon=True).start()

    def __iter__(self) -> Iterator[Any]:
        """The arguments of each call, by position or by name.

        Raises InvalidSubmission for what is no JSON or longer than a call may be, OSError; after all before it.
        """
        while (lines := self._take()) is not None:
            if not lines:
                yield IDLE
            for line in lines:
                self._line += 1
                if self._is_input(line):
                    call = self._call(line)
                    self._given[self._index] = line
                    self._index += 1
                    yield call
        if self._error is not None:
            raise self._error

    @property
    def total(self) -> int | None:
        """How many there are; None while the end has not been read."""
        return self._count if self._has_ended and self._error is None else None

    def take(self, index: int) -> bytes:
        """Input `index` as it was given; can be taken once."""
        return self._given.pop(index)

    def as_json(self, line: bytes) -> bytes:
        """An input as JSON: the text of a line, or the value it is."""
        if self._form == "ndjson":
            return line.strip()
        try:
            return encode_json(line.decode())
        except UnicodeDecodeError:
            return json.dumps(self.text(line)).encode()  # a lone surrogate as an escape, as Python reads it again

    def text(self, line: bytes) -> str:
        """An input as text; bytes that are no UTF-8 as lone surrogates, as Python has them in names of files."""
        return line.decode(errors="surrogateescape")

    # -- inside -----------------------------------------------------------------------------------

    def _call(self, line: bytes) -> Any:
        if self._form != "ndjson":
            return (self._typed(self.text(line)),)
        try:
            value = decode_json(line, object)
        except UnicodeDecodeError as error:
            raise InvalidSubmission(f"{self._name}:{self._line} is not UTF-8: {error.reason}") from None
        except (ValueError, RecursionError) as error:
            raise InvalidSubmission(f"{self._name}:{self._line} is not JSON: {error}") from None
        return value if isinstance(value, (dict, list)) else (value,)

    def _is_input(self, line: bytes) -> bool:
        return bool(line.strip() if self._form == "ndjson" else line)

    def _take(self) -> list[bytes] | None:
        """The next lines; none if there are none for a moment; None at the end."""
        with self._turn:
            self._turn.wait_for(lambda: self._parts or self._has_ended, IDLE_AFTER_S)
            if not self._parts:
                return None if self._has_ended else []
            lines, size = self._parts.popleft()
            self._waiting_bytes -= size
            self._turn.notify()
        return lines

    # -- in the thread ----------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            for block in self._blocks():
                lines = block.replace(b"\r\n", b"\n").removesuffix(b"\r") if self._form == "lines" else block
                self._put(lines.split(self._end), len(block))
        except OSError as error:
            self._error = OSError(error.errno, error.strerror, self._name)
        except InvalidSubmission as error:
            self._error = error
        with self._turn:
            self._has_ended = True
            self._turn.notify()

    def _blocks(self) -> Iterator[bytes]:
        """Whole lines, many at a time, without the end of the last."""
        rest: list[bytes] = []
        rest_bytes = 0
        is_first = self._form != "null"
        while block := self._block():
            if is_first:
                block, is_first = block.removeprefix(BOM), False
            whole, end, tail = block.rpartition(self._end)
            if end:
                yield b"".join([*rest, whole])
                rest, rest_bytes = [], 0
            rest.append(tail)
            rest_bytes += len(tail)
            if rest_bytes > PAYLOAD_BYTES_MAX:
                raise InvalidSubmission(
                    f"{self._name}: an input is longer than {PAYLOAD_BYTES_MAX:,} bytes; is it really made of "
                    f"{'entries that end in NUL' if self._form == 'null' else 'lines'}?"
                )
        if rest_bytes:
            yield b"".join(rest)

    def _block(self) -> bytes:
        while True:
            try:
                return os.read(self._descriptor, BLOCK_BYTES)
            except BlockingIOError:  # whoever shares the pipe has made it so
                select.select([self._descriptor], [], [])

    def _put(self, lines: list[bytes], size: int) -> None:
        count = sum(map(self._is_input, lines))
        with self._turn:
            self._turn.wait_for(lambda: self._waiting_bytes < AHEAD_BYTES_MAX)
            self._parts.append((lines, size))
            self._waiting_bytes += size
            self._count += count
            self._turn.notify()

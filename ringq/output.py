"""Edge: what workers print, as both ends of their pipe see it - the marks between attempts, the accounts, safe text.

worker:  print … print  [mark of attempt 1]  print  [mark of attempt 2] …   ─► one pipe, in this order
parent:  lines to show, and at each mark the account of what that attempt printed: its first and its last 64 KiB
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass

HEAD_BYTES_MAX = TAIL_BYTES_MAX = 64 * 1024  # kept of an attempt's output
LINE_BYTES_MAX = 8 * 1024  # a longer one is shown in pieces
TOKEN_BYTES = 16
WORD_BYTES = 8
_MARK = struct.Struct("<QQI")  # task id, lease, kind number
_MARK_BYTES = TOKEN_BYTES + _MARK.size
STANDARD_FDS = (1, 2)


def new_token() -> bytes:
    """What the marks of one worker begin with. A NUL first: text nearly never ends with what may be half a mark."""
    return b"\0" + os.urandom(TOKEN_BYTES - 1)


# -- the parent's end -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Account:
    """What one attempt printed; without a mark (`lease` 0) it is for the reader to say whose it is."""

    task_id: int
    lease: int
    kind: int
    head: bytes
    tail: bytes  # what came after the head, or its end if `dropped_bytes` were too many
    dropped_bytes: int

    def last(self, bytes_max: int) -> bytes:
        """Its end, at most TAIL_BYTES_MAX bytes."""
        return (self.head + self.tail)[-bytes_max:]


@dataclass(frozen=True, slots=True)
class Passage:
    """Lines in a row, and the account that a mark behind them closed; None: there was no mark yet.

    The lines are as they were printed: a flood has more of them than anybody wants to see made safe.
    """

    lines: list[bytes]
    account: Account | None


class Transcript:
    """Reads what comes out of one worker's pipe. Holds at most head, tail and a line, whatever comes."""

    def __init__(self, token: bytes) -> None:
        self._token = token
        self._held = b""  # perhaps the beginning of a mark
        self._line = bytearray()
        self._head = bytearray()
        self._tail = bytearray()
        self._size = 0

    def feed(self, received: bytes) -> list[Passage]:
        """Take the next bytes; what they bring, in order."""
        if self._held:
            received = self._held + received
        passages = []
        start = 0
        while (at := received.find(self._token, start)) >= 0 and at + _MARK_BYTES <= len(received):
            lines = self._take(received[start:at])
            account = self._close(*_MARK.unpack_from(received, at + TOKEN_BYTES))
            passages.append(Passage(lines + self._end_line(), account))
            start = at + _MARK_BYTES
        end = at if at >= 0 else self._possible_mark(received, start)
        self._held = received[end:]
        lines = self._take(received[start:end])
        return [*passages, Passage(lines, None)] if lines else passages

    def finish(self) -> Passage:
        """Nothing comes any more: what is left, as the account of whatever was running."""
        lines = self._take(self._held)
        self._held = b""
        return Passage(lines + self._end_line(), self._close(0, 0, 0))

    def _possible_mark(self, received: bytes, start: int) -> int:
        """Where, from `start` on, a mark may begin that has not come completely; the end if nowhere."""
        at = received.find(self._token[:1], max(start, len(received) - TOKEN_BYTES + 1))
        while at >= 0 and not self._token.startswith(received[at:]):
            at = received.find(self._token[:1], at + 1)
        return at if at >= 0 else len(received)

    def _take(self, printed: bytes) -> list[bytes]:
        self._size += len(printed)
        room = HEAD_BYTES_MAX - len(self._head)
        self._head += printed[:room]
        if len(printed) > room:
            self._tail += printed[room:]
            del self._tail[:-TAIL_BYTES_MAX]
        *lines, rest = printed.split(b"\n")
        if lines:
            lines[0] = bytes(self._line) + lines[0]
            self._line.clear()
        self._line += rest
        return lines + self._end_line() if len(self._line) > LINE_BYTES_MAX else lines

    def _end_line(self) -> list[bytes]:
        line = bytes(self._line)
        self._line.clear()
        return [line] if line else []

    def _close(self, task_id: int, lease: int, kind: int) -> Account:
        dropped = self._size - len(self._head) - len(self._tail)
        account = Account(task_id, lease, kind, bytes(self._head), bytes(self._tail), dropped)
        self._head, self._tail, self._size = bytearray(), bytearray(), 0
        return account


def text_of(printed: bytes) -> str:
    """Bytes as text; those that are no UTF-8 as escapes."""
    return printed.decode("utf-8", "backslashreplace")


def shown(line: bytes) -> list[str]:
    """A line as it may be shown: without end, made safe, in pieces if it is very long."""
    line = line.removesuffix(b"\r")
    starts = range(0, max(1, len(line)), LINE_BYTES_MAX)
    return [printable(text_of(line[start : start + LINE_BYTES_MAX])) for start in starts]


def printable(text: str) -> str:
    """`text` with every character escaped that could move a cursor, start an escape sequence or forge a line."""
    return text if text.isprintable() else "".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in text)


# -- between the ends -------------------------------------------------------------------------


class Taken:
    """One word that parent and worker share: how many bytes of the pipe the parent has taken so far, twice that; one
    more while it takes some. Together with what lies unread in the pipe it tells how much was ever printed, by
    whatever way: print, C code, a process the handler started.

    The parent makes it odd before it reads. So a worker that finds bytes gone from the pipe also finds the word
    changed: FIONREAD and read() take turns by the pipe's mutex.
    """

    def __init__(self, fd: int, *, mine: bool) -> None:
        """Map the word of a memfd, to write it if it is `mine`."""
        self._map = mmap.mmap(fd, WORD_BYTES, prot=mmap.PROT_READ | (mmap.PROT_WRITE if mine else 0))
        self.word = memoryview(self._map).cast("Q")

    def close(self) -> None:
        """Give the mapping back."""
        self.word.release()
        self._map.close()


# -- the worker's end -------------------------------------------------------------------------


class Printed:
    """Ends each attempt's output with a mark, if there was any. `damage` says what a handler did that would lead the
    output of the next ones astray; None while all is well.

    Every attempt is looked at: 0.4 us, half of it two system calls. (A mark after each would cost its write and the
    parent's read; a flag set by print() would miss C code and child processes.)
    """

    def __init__(self, token: bytes, taken: Taken) -> None:
        """Take hold of the pipe, before the app is imported."""
        self._token = token
        self._word = taken.word
        self._pipe = os.dup(1)  # close-on-exec, and out of the way of handlers that redirect 1
        self._inode = os.fstat(self._pipe).st_ino
        self._printed_before: int | None = None
        self.damage: str | None = None

    def begin(self, unread: Callable[[int, int], int], kept: int) -> None:
        """The app was imported. What it did to standard output shall stay so; what it printed belongs to no attempt.

        `unread`: bytes that lie in a pipe, negative if it or the other descriptor is not open. `kept`: one that
        handlers must leave open, looked at after each attempt.
        """
        self._unread = unread
        self._kept, self._kept_inode = kept, _inode(kept)
        self._standard = {fd: inode for fd in STANDARD_FDS if (inode := _inode(fd)) is not None}
        self._looked_at = 1 if self._standard.get(1) == self._inode else self._pipe
        self._out, self._err = sys.stdout, sys.stderr
        self._flush_out, self._flush_err = (getattr(stream, "flush", int) for stream in (self._out, self._err))
        self.end(0, 0, 0)

    def end(self, task_id: int, lease: int, kind: int) -> None:
        """An attempt is over, its receipt not published yet. Never raises."""
        if sys.stdout is not self._out or sys.stderr is not self._err:
            self._put_back()
        try:
            self._flush_out()
            self._flush_err()
        except Exception:
            self._flush_again()
        unread = self._unread(self._looked_at, self._kept)
        if unread < 0 or (unread << 1) + self._word[0] != self._printed_before:  # as _printed_twice
            self._mark(_MARK.pack(task_id, lease, kind))

    def tell(self, line: str) -> None:
        """A line of the worker's own; sys.stderr may not be there any more."""
        with contextlib.suppress(OSError):
            os.write(self._pipe, f"{line}\n".encode(errors="replace"))

    def inspect(self) -> None:
        """Look whether the descriptors and the streams are what they were, and set `damage`. Never raises."""
        kept = _inode(self._kept)
        if kept is None:
            self.damage = "closed descriptors that are not its own"
        elif kept != self._kept_inode:
            self.damage = "put another file in the place of ringq's descriptors"
        elif any(_inode(fd) != inode for fd, inode in self._standard.items()):
            self.damage = "closed or redirected standard output and did not put it back"
        elif any(getattr(stream, "closed", False) for stream in (self._out, self._err)):
            self.damage = "closed sys.stdout or sys.stderr"

    def _printed_twice(self) -> int:
        """Twice the bytes that were ever printed. Odd, and so never what it was, while the parent reads.

        The pipe first: if the parent reads between the two looks the sum is too large, never too small.
        """
        return (self._unread(self._looked_at, self._kept) << 1) + self._word[0]

    def _mark(self, mark: bytes) -> None:
        self.inspect()
        self._printed_before = None  # so that the next attempt gets a mark in any case
        if _inode(self._pipe) != self._inode:
            return
        with contextlib.suppress(OSError):
            os.set_blocking(self._pipe, True)  # shared with children, of which some turn it off
            os.write(self._pipe, self._token + mark)  # less than PIPE_BUF: in one piece
            taken = self._word[0]
            printed = self._printed_twice()
            if self._word[0] == taken and not taken & 1:
                self._printed_before = printed

    def _put_back(self) -> None:
        """The handler has left other streams in the place of standard output; the next one starts with ours."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        sys.stdout, sys.stderr = self._out, self._err

    def _flush_again(self) -> None:
        with contextlib.suppress(OSError):
            os.set_blocking(self._pipe, True)
        for stream in (self._out, self._err):
            with contextlib.suppress(Exception):
                stream.flush()
        self.inspect()


def _inode(fd: int) -> int | None:
    """Of the file behind a descriptor; None if it is closed."""
    try:
        return os.fstat(fd).st_ino
    except OSError:
        return None

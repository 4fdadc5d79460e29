"""What workers print: the marks between attempts, the accounts of them, and text that steers no terminal."""

from __future__ import annotations

import fcntl
import io
import os
import struct
import sys
import tempfile
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from random import Random
from typing import Any
from unittest.mock import Mock

import pytest

from ringq.clock import ManualClock
from ringq.echo import SHOWN_LINES_MAX, WINDOW_NS, Echo
from ringq.output import (
    HEAD_BYTES_MAX,
    LINE_BYTES_MAX,
    TAIL_BYTES_MAX,
    WORD_BYTES,
    Account,
    Passage,
    Printed,
    Taken,
    Transcript,
    new_token,
    printable,
    shown,
    text_of,
)
from ringq.process import Exit

TOKEN = b"\0" + bytes(range(100, 115))


def mark(task_id: int, lease: int = 1 << 32, kind: int = 1) -> bytes:
    return TOKEN + struct.pack("<QQI", task_id, lease, kind)


def accounts(passages: list[Passage]) -> list[tuple[int, bytes]]:
    return [(p.account.task_id, p.account.head + p.account.tail) for p in passages if p.account]


def lines(passages: list[Passage]) -> list[str]:
    return [piece for passage in passages for line in passage.lines for piece in shown(line)]


# -- the parent's end -------------------------------------------------------------------------


def test_each_attempt_gets_what_it_printed() -> None:
    passages = Transcript(TOKEN).feed(b"one\n" + mark(1) + b"two\nthree" + mark(2, 7 << 32, 5) + b"four\nfi")
    assert [(passage.lines, passage.account) for passage in passages] == [
        ([b"one"], Account(1, 1 << 32, 1, b"one\n", b"", 0)),
        ([b"two", b"three"], Account(2, 7 << 32, 5, b"two\nthree", b"", 0)),
        ([b"four"], None),
    ]


def test_it_does_not_matter_where_the_bytes_were_cut() -> None:
    random = Random(1)
    printed = {n: bytes(random.choices(b"ab\n\0\xc3\xa4", k=random.randrange(1, 60))) for n in range(1, 200)}
    stream = b"".join(text + mark(n) for n, text in printed.items())
    for size in (1, 2, 3, 17, 35, 36, 37, 1000):
        transcript, passages = Transcript(TOKEN), []
        for start in range(0, len(stream), size):
            passages += transcript.feed(stream[start : start + size])
        assert dict(accounts(passages)) == printed
        assert transcript.finish() == Passage([], Account(0, 0, 0, b"", b"", 0))


def test_a_line_is_shown_as_soon_as_it_is_complete() -> None:
    transcript = Transcript(TOKEN)
    assert lines(transcript.feed(b"fir")) == []
    assert lines(transcript.feed(b"st\nsec")) == ["first"]
    assert transcript.finish() == Passage([b"sec"], Account(0, 0, 0, b"first\nsec", b"", 0))


def test_what_looks_like_half_a_mark_is_not_lost() -> None:
    transcript = Transcript(TOKEN)
    passages = transcript.feed(b"text" + TOKEN[:9])
    passages += transcript.feed(b"more\n" + mark(1)[:-1])
    passages.append(transcript.finish())
    account = passages[-1].account
    assert account is not None
    assert account.head == b"text" + TOKEN[:9] + b"more\n" + mark(1)[:-1]


@pytest.mark.parametrize("extra", [-1, 0, 1, 5_000_000])
@pytest.mark.parametrize("size", [1000, 65536, 1 << 20])
def test_of_much_output_the_two_ends_are_kept_to_the_byte(extra: int, size: int) -> None:
    printed = Random(2).randbytes(HEAD_BYTES_MAX + TAIL_BYTES_MAX + extra)
    transcript, passages = Transcript(TOKEN), []
    for start in range(0, len(printed), size):
        passages += transcript.feed(printed[start : start + size])
    passages += transcript.feed(mark(1))
    account = passages[-1].account
    assert account is not None
    assert account.head == printed[:HEAD_BYTES_MAX]
    assert account.tail == printed[HEAD_BYTES_MAX:][-TAIL_BYTES_MAX:]
    assert account.dropped_bytes == max(0, extra)
    assert account.last(100) == printed[-100:]


def test_a_long_line_is_shown_in_pieces_and_memory_stays_bounded() -> None:
    transcript = Transcript(TOKEN)
    pieces = []
    for _ in range(100):
        pieces += lines(transcript.feed(b"x" * 65536))
        held = transcript._head, transcript._tail, transcript._line, transcript._held
        assert sum(map(len, held)) <= HEAD_BYTES_MAX + TAIL_BYTES_MAX + LINE_BYTES_MAX
    pieces += lines([transcript.finish()])
    assert "".join(pieces) == "x" * 6_553_600
    assert max(map(len, pieces)) == LINE_BYTES_MAX


def test_a_handler_may_write_anything() -> None:
    random = Random(3)
    for _ in range(300):
        transcript = Transcript(TOKEN)
        for _ in range(20):
            noise = [random.randbytes(random.randrange(40)), TOKEN[: random.randrange(17)], mark(1 << 63), b"\n", b"\r"]
            transcript.feed(b"".join(random.choices(noise, k=5)))
        transcript.finish()


@pytest.mark.parametrize(
    ("printed", "seen"),
    [
        (b"\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        (b"10%\r20%", r"10%\r20%"),
        (b"windows\r", "windows"),
        ("\u202eevil \u2066".encode(), r"\u202eevil \u2066"),
        ("next\u2028line\u0085".encode(), r"next\u2028line\x85"),
        (b"\xff\xc3", r"\xff\xc3"),
        (b"tab\there", "tab\there"),
        ("grün 写 🙂".encode(), "grün 写 🙂"),
        (b"nul\0bell\a", r"nul\x00bell\x07"),
    ],
)
def test_no_line_steers_a_terminal(printed: bytes, seen: str) -> None:
    assert lines(Transcript(TOKEN).feed(printed + b"\n")) == [seen]
    assert printable(seen) == seen


# -- the worker's end -------------------------------------------------------------------------


class Pipe:
    """A pipe in the place of descriptor 1, and both its ends."""

    def __init__(self, word: int) -> None:
        self.reader, writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.dup2(writer, 1)
        os.close(writer)
        self.taken = Taken(word, mine=True)
        self.transcript = Transcript(TOKEN)
        self.printed = Printed(TOKEN, Taken(word, mine=False))
        self.kept = os.open(os.devnull, os.O_RDONLY)
        self.count = 0

    def take(self) -> list[Passage]:
        """As the parent does."""
        try:
            got = os.read(self.reader, 65536)
        except BlockingIOError:
            return []
        self.count += len(got)
        self.taken.word[0] = self.count << 1
        return self.transcript.feed(got)

    def unread(self, fd: int, kept: int) -> int:
        try:
            os.fstat(kept)
            return int(struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4))[0])
        except OSError:
            return -1


@contextmanager
def piped() -> Iterator[Pipe]:
    """Not a fixture: between those and the test pytest puts its own file in the place of descriptor 1."""
    word = os.memfd_create("word")
    os.ftruncate(word, WORD_BYTES)
    saved, streams = os.dup(1), (sys.stdout, sys.stderr)
    pipe = Pipe(word)
    try:
        sys.stdout, sys.stderr = (open(1, "w", buffering=1, closefd=False) for _ in range(2))  # noqa: SIM115
        pipe.printed.begin(pipe.unread, pipe.kept)
        pipe.take()
        yield pipe
    finally:
        os.dup2(saved, 1)
        sys.stdout, sys.stderr = streams
        for fd in (saved, word, pipe.reader, pipe.kept):
            with suppress(OSError):  # a test may have closed it
                os.close(fd)


def by_print() -> None:
    print("hello")


def by_half_a_line() -> None:
    print("hello", end="")


def by_stderr() -> None:
    sys.stderr.write("hello")


def by_descriptor() -> None:
    os.write(1, b"hello")


def by_bytes() -> None:
    sys.stdout.buffer.write(b"hello")


WAYS = [by_print, by_half_a_line, by_stderr, by_descriptor, by_bytes]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("parent_is_quick", [False, True])
def test_whatever_way_it_was_printed_the_attempt_gets_it(way: Callable[[], None], parent_is_quick: bool) -> None:
    with piped() as pipe:
        passages: list[Passage] = []
        for task_id in range(1, 8):
            if task_id % 2:
                way()
            passages += pipe.take() if parent_is_quick else []
            pipe.printed.end(task_id, 1 << 32, 1)
            passages += pipe.take() if parent_is_quick and task_id % 3 else []
        passages += pipe.take()
        printed = [(task_id, text.strip()) for task_id, text in accounts(passages) if text]
        assert printed == [(task_id, b"hello") for task_id in (1, 3, 5, 7)]


def test_an_attempt_that_prints_nothing_writes_nothing() -> None:
    with piped() as pipe:
        for task_id in range(1, 100):
            pipe.printed.end(task_id, 1 << 32, 1)
        assert pipe.unread(1, 1) == 0


def test_while_the_parent_reads_there_is_a_mark_in_any_case() -> None:
    with piped() as pipe:
        pipe.taken.word[0] |= 1
        pipe.printed.end(1, 1 << 32, 1)
        assert pipe.unread(1, 1) == 36
        pipe.taken.word[0] &= ~1
        pipe.printed.end(2, 1 << 32, 1)  # what the last one was compared with was not known
        assert accounts(pipe.take()) == [(1, b""), (2, b"")]
        pipe.printed.end(3, 1 << 32, 1)
        assert pipe.take() == []


def test_a_closed_descriptor_of_ours_shows_after_the_attempt_that_closed_it() -> None:
    with piped() as pipe:
        pipe.printed.end(1, 1 << 32, 1)
        assert pipe.printed.damage is None
        os.close(pipe.kept)
        pipe.printed.end(2, 1 << 32, 1)
        assert pipe.printed.damage == "closed descriptors that are not its own"


def test_another_file_in_the_place_of_ours_is_found_by_an_inspection() -> None:
    with piped() as pipe, tempfile.TemporaryFile() as other:
        os.dup2(other.fileno(), pipe.kept)
        pipe.printed.inspect()
        assert pipe.printed.damage == "put another file in the place of ringq's descriptors"


def test_a_replaced_stream_is_put_back() -> None:
    with piped() as pipe:
        ours, sys.stdout = sys.stdout, io.StringIO()
        print("into the void")
        pipe.printed.end(1, 1 << 32, 1)
        assert sys.stdout is ours
        assert pipe.printed.damage is None


def test_a_closed_stream_is_damage() -> None:
    with piped() as pipe:
        sys.stdout.close()
        pipe.printed.end(1, 1 << 32, 1)
        assert pipe.printed.damage == "closed sys.stdout or sys.stderr"


@pytest.mark.parametrize("how", ["closed", "redirected"])
def test_a_redirected_descriptor_is_damage_and_the_attempt_still_gets_what_it_printed_before(how: str) -> None:
    with piped() as pipe:
        print("before")
        if how == "closed":
            os.close(1)
        else:
            other = os.open(os.devnull, os.O_WRONLY)
            os.dup2(other, 1)
            os.close(other)
        pipe.printed.end(1, 1 << 32, 1)
        assert pipe.printed.damage == "closed or redirected standard output and did not put it back"
        assert accounts(pipe.take()) == [(1, b"before\n")]


def test_a_redirection_that_was_there_after_the_import_is_how_things_are() -> None:
    with piped() as pipe:
        other = os.open(os.devnull, os.O_WRONLY)
        os.dup2(other, 1)
        pipe.printed.begin(pipe.unread, pipe.kept)
        pipe.take()
        print("into the void")
        pipe.printed.end(1, 1 << 32, 1)
        pipe.printed.inspect()
        assert pipe.printed.damage is None
        assert pipe.take() == []


def test_a_pipe_that_a_child_made_non_blocking_blocks_again() -> None:
    with piped() as pipe:
        os.set_blocking(1, False)
        print("x")
        pipe.printed.end(1, 1 << 32, 1)
        assert os.get_blocking(1)
        assert accounts(pipe.take()) == [(1, b"x\n")]


def test_tokens_differ_and_begin_as_text_does_not() -> None:
    first, second = new_token(), new_token()
    assert first != second
    assert first[:1] == b"\0"
    assert text_of(b"\xff") == r"\xff"


# -- shown and kept by the parent -------------------------------------------------------------

EPOCH = 3
LEASE = EPOCH << 32 | 1


class Speaker:
    """A worker process of which only the output matters: chunks that are read one by one."""

    output = 1000
    epoch = EPOCH

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = list(chunks)
        self.transcript = Transcript(TOKEN)

    def take_output(self) -> bytes | None:
        return self.chunks.pop(0) if self.chunks else b""


class Hall:
    """An Echo with everything around it: what was said and what was kept."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = ManualClock(0)
        self.running: list[tuple[int, ...]] = []
        self.said: list[str] = []
        self.kept: list[tuple[Any, ...]] = []
        monkeypatch.setattr("ringq.echo.select.poll", Mock())
        self.echo = Echo(
            self.clock, running=lambda: self.running, say=lambda text, *, label, **_: self.said.append(label + text),
            keep=lambda *account: self.kept.append(account),
        )  # fmt: skip
        self.echo.learn({"media::thumbnail": 1, "mail::send": 2})

    def hear(self, *chunks: bytes) -> None:
        speaker: Any = Speaker(*chunks)
        self.echo.open(0, speaker)
        assert self.echo.hear(speaker)


@pytest.fixture
def hall(monkeypatch: pytest.MonkeyPatch) -> Hall:
    return Hall(monkeypatch)


def test_a_line_is_shown_with_the_task_that_printed_it(hall: Hall) -> None:
    hall.running = [(1, 99, 99, 1, 1, 0, 0, 0), (0, 7, LEASE, 2, 1, 0, 0, 0)]
    hall.hear(b"done\n" + mark(5, LEASE) + b"begun\n")
    hall.running = []
    hall.hear(b"between\n")
    assert hall.said == ["media::thumbnail#5| done", "mail::send#7| begun", "worker 0| between"]
    assert hall.kept == [(5, LEASE, b"done\n", b"", 0)]


def test_a_line_read_before_its_mark_is_of_the_attempt_that_the_mark_names(hall: Hall) -> None:
    hall.running = [(0, 7, LEASE + 1, 2, 1, 0, 0, 0)]
    hall.hear(b"five\n", mark(5, LEASE) + b"seven\n")
    assert hall.said == ["media::thumbnail#5| five", "mail::send#7| seven"]


def test_a_mark_of_another_epoch_keeps_nothing(hall: Hall) -> None:
    hall.hear(b"x" + mark(5, (EPOCH + 1) << 32) + b"y" + mark(5, 0) + b"z" + mark(5, (1 << 64) - 1))
    assert hall.kept == []
    assert len(hall.said) == 3


def test_a_flood_is_shown_in_part_and_kept_as_ever(hall: Hall) -> None:
    flood = b"x\n" * 30_000
    hall.hear(flood, flood, b"y\n" + mark(5, LEASE))
    assert hall.said == ["media::thumbnail#5| x"] * SHOWN_LINES_MAX + [
        "media::thumbnail#5| … more than 1,000 lines a second: not all are shown"
    ]
    assert hall.kept == [(5, LEASE, (flood + flood)[:65536], ((flood + flood)[65536:] + b"y\n")[-65536:], 0)]
    hall.clock.advance(WINDOW_NS / 1e9)
    hall.hear(b"again\n" + mark(6, LEASE))
    assert hall.said[-1] == "media::thumbnail#6| again"


def test_what_a_dead_worker_printed_last_is_of_the_attempt_it_held(hall: Hall) -> None:
    transcript = Transcript(TOKEN)
    passages = (*transcript.feed(b"before" + mark(4, LEASE) + b"last wor"), transcript.finish())
    exit_ = Exit(pid=1, returncode=-6, rss_kib=0, stack="", output="", passages=passages)
    hall.echo.bury(0, EPOCH, exit_, (5, LEASE + 1, 2))
    assert hall.said == ["media::thumbnail#4| before", "mail::send#5| last wor"]
    assert hall.kept == [(4, LEASE, b"before", b"", 0), (5, LEASE + 1, b"last wor", b"", 0)]
    hall.echo.bury(0, EPOCH, exit_, None)
    assert len(hall.kept) == 3  # the marked one, once more; the rest is nobody's

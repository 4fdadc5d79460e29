"""Flow: events on their way to those who read them - each has a bounded buffer, and who is slow loses the oldest.

COMMIT ──► occurrences ──► channel: those that fit a filter, the last so many ──► readers: frames of lines
                       └─► timeline

Nothing is built where nobody reads, and no line is written that nobody is sent. A reader is sent no frame before it has
taken the one before; all together get about EVENTS_PER_S_MAX of them, so that watching a server does not stop it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final

from ringq import events, protocol
from ringq.channel import Channel
from ringq.clock import Clock
from ringq.committed import Committed
from ringq.config import Config
from ringq.dispatch import Dispatcher
from ringq.entries import Row
from ringq.errors import InvalidOption
from ringq.lines import Lines
from ringq.spelling import meant
from ringq.timeline import Timeline
from ringq.witness import Block, Occurrence, Witness, dispatched
from ringq.writer import Writer

BUFFER_MAX: Final = 100_000
EVENTS_PER_S_MAX: Final = 30_000  # each takes a reader of Python some 2 us of what all share
FRAME_EVENTS_MAX: Final = 1000
PAUSE_NS: Final = 5_000_000  # between two frames, times the number of readers: each wakes a process
FRAME_BYTES: Final = 256 * 1024  # a frame is full then
PROGRESS_NS: Final = 250_000_000
KNOWN: Final = frozenset((*events.WORDS, events.PROGRESS))
Send = Callable[[protocol.Events], None]


class Bus:
    """Attributes: `words`, of the events that somebody wants now, empty: nothing is to be told to it; `timeline`, those
    that are kept.
    """

    def __init__(
        self, config: Config, store: Any, clock: Clock, dispatcher: Dispatcher, writer: Writer, ring: Callable[[], Any]
    ) -> None:
        """`ring`: the one that is there now."""
        self._store = store
        self._clock = clock
        self._dispatcher = dispatcher
        self._ring = ring
        self._lines = Lines(store)
        self.timeline = Timeline(config, store, clock, writer, self._lines)
        self._witness = Witness(store, clock, dispatcher, lambda: ring().running())
        self._channels: dict[protocol.Subscribe, Channel] = {}
        self._readers: dict[Hashable, Reader] = {}
        self._progress: dict[int, tuple[float, str]] = {}  # by task, as it was told
        self._progress_due_ns: int | None = None
        self._has_news = False
        self.words: frozenset[str] = frozenset()
        self._follow()

    # -- who reads ----------------------------------------------------------------------------

    def join(self, connection: Hashable, wanted: protocol.Subscribe, send: Send, is_clear: Callable[[], bool]) -> None:
        """Send what fits from now on; at first a frame without events. `is_clear`: nothing waits to be sent there.

        Raises InvalidOption for a word that no event has, or a buffer out of range.
        """
        for word in wanted.words or ():
            if word not in KNOWN:
                raise InvalidOption(f"words: there is no event {word!r}{meant(word, KNOWN)}")
        if not 1 <= wanted.buffer <= BUFFER_MAX:
            raise InvalidOption(f"buffer: expected 1 to {BUFFER_MAX:,} events, got {wanted.buffer}")
        self.leave(connection)
        channel = self._channels.setdefault(wanted, Channel(wanted, self._store, self._lines))
        self._readers[connection] = Reader(channel, send, is_clear)
        self._follow()
        send(protocol.Events(0, b""))

    def leave(self, connection: Hashable) -> None:
        """It reads no more. Also if it never has."""
        if self._readers.pop(connection, None) is not None:
            used = {id(reader.channel) for reader in self._readers.values()}
            self._channels = {wanted: one for wanted, one in self._channels.items() if id(one) in used}
            self._follow()

    @property
    def readers(self) -> int:
        """How many connections read events."""
        return len(self._readers)

    def _follow(self) -> None:
        """Other words are wanted now."""
        was_on = bool(self.words)
        self.words = self.timeline.words.union(*(channel.words for channel in self._channels.values()))
        if self.words and not was_on:
            self._witness.begin()
        self._dispatcher.heard = self._dispatched if "dispatched" in self.words else None
        if events.PROGRESS not in self.words:
            self._progress_due_ns = None
            self._progress.clear()
        elif self._progress_due_ns is None:
            self._progress_due_ns = self._clock.monotonic_ns()

    # -- what happens -------------------------------------------------------------------------

    def take(self, committed: Committed) -> None:
        """A transaction is durable, and everybody in this process goes by it."""
        self._spread(self._witness.of(committed, self.words))

    def _dispatched(self, rows: Sequence[Row]) -> None:
        self._spread([dispatched(rows, self._clock.now_us())])

    def _spread(self, found: list[Block]) -> None:
        if not found:
            return
        for channel in self._channels.values():
            channel.take(found)
        self._has_news |= bool(self._channels)
        kept = self.timeline.words
        for block in found if kept else ():
            if block.word in kept:
                self.timeline.keep(block.all())

    # -- on the way ---------------------------------------------------------------------------

    def step(self) -> None:
        """Send what there is to whom it is due. To be called in each turn."""
        if self._progress_due_ns is not None and self._clock.monotonic_ns() >= self._progress_due_ns:
            self._look_at_progress()
        if not self._has_news:
            return
        now_ns = self._clock.monotonic_ns()
        self._has_news = False
        frames: dict[tuple[int, int], tuple[int, protocol.Events]] = {}
        for reader in list(self._readers.values()):
            if reader.seen == reader.channel.count:
                continue
            if now_ns >= reader.due_ns and reader.is_clear():
                where = (id(reader.channel), reader.seen)
                if where not in frames:
                    frames[where] = self._frame(reader.channel, reader.seen)
                sent, (reader.seen, frame) = reader.seen, frames[where]
                pause_ns = max(PAUSE_NS, (reader.seen - sent - frame.lost) * 1_000_000_000 // EVENTS_PER_S_MAX)
                reader.due_ns = now_ns + len(self._readers) * pause_ns
                reader.send(frame)
            self._has_news |= reader.seen < reader.channel.count

    def wait_ns(self) -> int | None:
        """Until `step` has something to do; None if that takes an event first."""
        dues = [] if self._progress_due_ns is None else [self._progress_due_ns]
        if self._has_news:
            behind = [one for one in self._readers.values() if one.seen < one.channel.count and one.is_clear()]
            dues += [one.due_ns for one in behind]
        return max(0, min(dues) - self._clock.monotonic_ns()) if dues else None

    def _frame(self, channel: Channel, seen: int) -> tuple[int, protocol.Events]:
        """What comes behind the first `seen` of a channel, and how far that goes."""
        first, chosen = channel.behind(seen, FRAME_EVENTS_MAX)
        self._lines.write_heads(chosen)
        lines: list[bytes] = []
        size = 0
        for one in chosen:
            lines.append(self._lines.line(one))
            size += len(lines[-1])
            if size >= FRAME_BYTES:
                break
        return first + len(lines), protocol.Events(first - seen, b"\n".join(lines))

    def _look_at_progress(self) -> None:
        """What running tasks have shown since the last look."""
        now_us = self._clock.now_us()
        self._progress_due_ns = self._clock.monotonic_ns() + PROGRESS_NS
        ring = self._ring()
        shown = {row[1]: ring.progress(row[0])[:2] for row in ring.running()}
        moved = [
            Occurrence(events.PROGRESS, now_us, task_id, {"fraction": fraction, "message": message or None})
            for task_id, (fraction, message) in shown.items()
            if self._progress.get(task_id, (0.0, "")) != (fraction, message)
        ]
        if moved:
            self._spread([Block(events.PROGRESS, moved)])
        self._progress = shown


class Reader:
    """A connection that reads a channel, of which it was sent the first `seen`; the next frame not before `due_ns`."""

    __slots__ = ("channel", "due_ns", "is_clear", "seen", "send")

    def __init__(self, channel: Channel, send: Send, is_clear: Callable[[], bool]) -> None:
        self.channel = channel
        self.send = send
        self.is_clear = is_clear
        self.seen = channel.count
        self.due_ns = 0

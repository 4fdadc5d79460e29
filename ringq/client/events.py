"""Answer: what happens, as it happens - an iterator on a connection of its own, or calls from a thread."""

from __future__ import annotations

import contextvars
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Final, Self

from ringq import protocol
from ringq.client.line import Exchange, Line
from ringq.client.link import Link
from ringq.client.steps import finish
from ringq.errors import ClientClosed, InvalidOption, ProtocolError, RingqError, WaitTimeout
from ringq.events import LOST, Event, decode
from ringq.kinds import Stored, Task, options

REQUEST: Final = 1
"""Nothing else is asked on these connections."""
Names = str | Iterable[str] | None
Kinds = str | Task[..., Any] | Iterable[str | Task[..., Any]] | None
Tasks = int | Stored[Any] | Iterable[int | Stored[Any]] | None


def subscription(
    words: Names = None, domain: Names = None, kind: Kinds = None, group: Names = None, task: Tasks = None,
    buffer: int = 1000,
) -> protocol.Subscribe:  # fmt: skip
    """What a client asks for, from the arguments of `Client.events`. Raises InvalidOption."""
    if isinstance(buffer, bool) or not isinstance(buffer, int):
        raise InvalidOption(f"buffer: expected a number of events, got {buffer!r}")
    tasks: tuple[int, ...] | None = None
    if task is not None:
        several = (task,) if isinstance(task, (int, Stored)) else _several("task", task)
        tasks = tuple(sorted({_task_id(one) for one in several}))
    kinds = (kind,) if isinstance(kind, (str, Task)) else None if kind is None else _several("kind", kind)
    wanted = protocol.Subscribe(
        _names("words", words), _names("domain", domain),
        None if kinds is None else _names("kind", [one.kind if isinstance(one, Task) else one for one in kinds]),
        _names("group", group), tasks, buffer,
    )  # fmt: skip
    for name, given in (("task", wanted.tasks), ("kind", wanted.kinds), ("domain", wanted.domains)):
        if given is not None and len(given) > protocol.NAMES_MAX:
            raise InvalidOption(f"{name}: at most {protocol.NAMES_MAX:,}, got {len(given):,}: leave it out instead")
    return wanted


def told(message: protocol.Message) -> list[Event]:
    """The events of an answer, and what was lost before them. Raises ProtocolError, or what a Failure says."""
    if isinstance(message, protocol.Failure):
        raise protocol.error_of(message)
    if not isinstance(message, protocol.Events):
        raise ProtocolError(f"expected events, got {type(message).__name__}")
    try:
        events = decode(message.lines)
    except ValueError as error:
        raise ProtocolError(f"malformed events: {error}") from None
    return [lost(message.lost), *events] if message.lost else events


def lost(count: int | None) -> Event:
    """A reader has not got so many events; None: nobody knows how many."""
    return Event(word=LOST, at=datetime.now(UTC), count=count)


class Subscription:
    """What happens from its beginning on, whoever waits for it."""

    def __init__(self, line: Line, wanted: protocol.Subscribe, timeout: float | None = None) -> None:
        """`line`: of its own. `timeout`: seconds in all."""
        self._line = line
        self._wanted = wanted
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._timeout = timeout
        self._link: Link | None = None
        self._events: deque[Event] = deque()
        self._is_closed = False

    async def _begin(self) -> None:
        """Subscribe. Raises InvalidOption, ServerUnavailable, ClientClosed."""
        try:
            await self._line.run(self._subscribe)
        except BaseException:
            self.close()
            raise

    async def _next(self) -> Event | None:
        """The next event; None when it was closed. Raises ServerUnavailable, ClientClosed, WaitTimeout."""
        while not self._events and not self._is_closed:
            try:
                self._events.extend(await self._line.run(self._receive, self._deadline))
            except ClientClosed:
                if not self._is_closed:
                    raise
            if self._deadline is not None and not self._events and time.monotonic() >= self._deadline:
                raise WaitTimeout(f"no more events within {self._timeout:g} s")
        if self._is_closed:
            self._line.close()
            return None
        return self._events.popleft()

    def close(self) -> None:
        """End it; who waits for its next event is woken up. Twice is no error."""
        self._is_closed = True
        if self._link is not None:
            self._link.wake()

    async def _receive(self, link: Link) -> list[Event]:
        if self._is_closed:
            raise ClientClosed
        if link is not self._link:
            await self._subscribe(link)
            return [lost(None)]  # while there was no connection, anything may have happened
        left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
        return told((await link.receive(None)).message) if await link.has_input(left) else []

    async def _subscribe(self, link: Link) -> None:
        await link.send(protocol.pack(self._wanted, REQUEST), self._deadline)
        told((await link.receive(self._deadline)).message)
        self._link = link


class EventStream(Subscription, Iterator[Event]):
    """What happens from now on, event by event. Made by `Client.events`; to be used by one thread at a time."""

    def __init__(self, exchange: Exchange, wanted: protocol.Subscribe, timeout: float | None = None) -> None:
        """Subscribes. Raises InvalidOption, ServerUnavailable, ClientClosed."""
        super().__init__(Line(exchange), wanted, timeout)
        self._reading = threading.Lock()  # held by the thread that uses the line: nobody else may close it
        finish(self._begin)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        with self._reading:
            event = finish(self._next)
        if event is None:
            raise StopIteration
        return event

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the stream; a thread that waits for its next event is woken up. Twice is no error."""
        super().close()
        if self._reading.acquire(blocking=False):
            self._line.close()
            self._reading.release()


class EventThread:
    """Calls a function with each event, from a thread of its own. Made by `Client.on_event`.

    Attributes: `error`, what has ended it, if not `stop`.
    """

    def __init__(self, stream: EventStream, callback: Callable[[Event], object]) -> None:
        """Starts it, in a copy of the caller's context: what is submitted in it goes to the same client."""
        self.error: RingqError | None = None
        self._stream = stream
        self._callback = callback
        run = contextvars.copy_context().run
        self._thread = threading.Thread(target=run, args=(self._run,), name="ringq-events", daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether it still calls."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Call no more; returns when the call under way, if there is one, has ended. Twice is no error."""
        self._stream.close()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            for event in self._stream:
                try:
                    self._callback(event)
                except Exception:
                    traceback.print_exc()
        except RingqError as error:
            self.error = error
        finally:
            self._stream.close()


class Watching:
    """The part of a client that reads events."""

    _exchange: Exchange

    def events(
        self, words: Names = None, *, domain: Names = None, kind: Kinds = None, group: Names = None,
        task: Tasks = None, buffer: int = 1000, timeout: float | timedelta | None = None,
    ) -> EventStream:  # fmt: skip
        """What happens from this call on, as an iterator of `ringq.Event`; each after it is durable.

        It has a connection of its own, which is closed with the iterator, by `close()` or the end of a `with` block.

        `words`: only these, one or several of `ringq.events.WORDS`; `progress`, of running tasks, four times a second,
        comes only if it is named. `domain`, `kind`, `group`, `task`: one or several names, tasks, ids or handles; an
        event has to fit all that is given. What is said of a domain, kind or group fits if that is the one that is
        named; what concerns the whole server fits, unless `task` is given. `buffer`: 1 to 100,000 events that the
        server keeps for a reader that is slow; then it loses the oldest, and gets a `lost` event with their `count`.
        `timeout`: seconds or timedelta in all, None for as long as it takes.

        If the server goes away, the iterator goes on with the next one, after a `lost` event without a count. Raises
        InvalidOption; ServerUnavailable, here or while iterating, if there is none for longer than `reconnect`;
        ClientClosed; while iterating WaitTimeout.
        """
        wanted = subscription(words, domain, kind, group, task, buffer)
        return EventStream(self._exchange, wanted, options.seconds_of("timeout", timeout))

    def on_event(self, callback: Callable[[Event], object], words: Names = None, **filters: Any) -> EventThread:
        """Call a function with each event, from a thread of its own: until `stop()` of what is returned.

        `words` and `filters`: as `events` takes them, but `timeout`. What the function raises is printed, and ends
        nothing; it is called with one event after the other, so a slow one loses some.

        Raises InvalidOption, ServerUnavailable, ClientClosed.
        """
        if not callable(callback):
            raise InvalidOption(f"on_event: expected a function of an event, got {callback!r:.80}")
        options.check_names("on_event", filters, ("domain", "kind", "group", "task", "buffer"))
        return EventThread(self.events(words, **filters), callback)


def _names(what: str, given: Names) -> tuple[str, ...] | None:
    if given is None:
        return None
    names = (given,) if isinstance(given, str) else tuple(_several(what, given))
    for name in names:
        if not isinstance(name, str):
            raise InvalidOption(f"{what}: expected text, got {name!r:.80}")
    return tuple(sorted(set(names)))


def _several(what: str, given: Any) -> Iterable[Any]:
    if isinstance(given, Iterable):
        return given
    raise InvalidOption(f"{what}: expected one or several, got {given!r:.80}")


def _task_id(task: Any) -> int:
    task_id = task.id if isinstance(task, Stored) else task
    if isinstance(task_id, bool) or not isinstance(task_id, int) or not 0 < task_id < 1 << 63:
        raise InvalidOption(f"task: expected a handle or the id of a task, got {task!r:.80}")
    return task_id

"""Submit and answer: a conversation with the server of a database that outlives the server's restarts."""

from __future__ import annotations

import os
import random
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

from ringq import config
from ringq.client.link import Link
from ringq.errors import (
    AlreadyServed,
    ClientClosed,
    InvalidOption,
    RingqError,
    ServerStopping,
    ServerUnavailable,
    StoreBusy,
)

T = TypeVar("T")

RECONNECT_S: Final = 10.0
"""How long a server that was reached before may be away, and how long a submission tries to be stored."""
_PAUSE_S = 0.004  # other clients own the database for some 3 ms each
_PAUSE_MAX_S = 0.05
_NOBODY: Final = (FileNotFoundError, NotADirectoryError, ConnectionRefusedError)
"""How connecting fails when no server listens; whether none runs is known by the owner's lock alone."""

answered_here: Final[dict[str, Callable[[str], Link]]] = {}
"""Who answers in this very process instead of a server, by the path of its socket: an inline run of `ringq.testing`."""


class Exchange:
    """The server of one database as a client sees it: where it listens, and every link opened to it.

    What waits, of a client that blocks, stands here; the one of `ringq.aio` is its heir.
    """

    def __init__(self, database: Path, reconnect_s: float | None) -> None:
        """Raises InvalidOption if the socket's path is too long for the system."""
        self.database = database
        self._reconnect_s = reconnect_s
        self.path = str(config.socket_path(database))
        size = len(os.fsencode(self.path))
        if size > config.SOCKET_PATH_BYTES_MAX:
            raise InvalidOption(
                f"database: its socket would be {self.path} ({size} bytes), the system's limit is "
                f"{config.SOCKET_PATH_BYTES_MAX}: use a shorter path, for example by a symbolic link to its folder"
            )
        self.closed = False
        self._met = False
        self._links: weakref.WeakSet[Link] = weakref.WeakSet()
        self._lock = threading.Lock()
        _exchanges.add(self)

    def patience_s(self, stranger: float) -> float:
        """How long to go on trying: if nobody said, `stranger` for a server that was never reached."""
        if self._reconnect_s is not None:
            return self._reconnect_s
        return RECONNECT_S if self._met else stranger

    async def open(self) -> Link:
        """A new link. Raises OSError, ClientClosed."""
        here = answered_here.get(self.path)
        if here is not None:
            return here(self.path)
        try:
            link = Link(self.path)
        except BlockingIOError:
            self._met = True  # it is there, its queue of callers is full
            raise
        self._met = True
        with self._lock:
            if self.closed:
                raise ClientClosed
            self._links.add(link)
        return link

    async def sleep(self, seconds: float) -> None:
        """Let so much time pass."""
        time.sleep(seconds)

    async def elsewhere(self, call: Callable[[], T]) -> T:
        """What `call` returns, which works on the database itself: where that keeps nobody else waiting."""
        return call()

    def close(self) -> None:
        """Wake every thread that waits, to find this closed."""
        with self._lock:
            self.closed = True
            for link in self._links:
                link.wake()

    def leave_to_parent(self) -> None:
        """In a forked child: the links are the parent's, and so is what its threads were doing with the lock."""
        for link in list(self._links):
            link.close()
        self._links = weakref.WeakSet()
        self._lock = threading.Lock()

    def unavailable(self, cause: BaseException, *, sent: bool) -> RingqError:
        """The error of a server that cannot be reached."""
        if isinstance(cause, (ServerStopping, StoreBusy)):
            return cause
        if isinstance(cause, PermissionError):
            return ServerUnavailable(f"{self.path}: {cause.strerror}: only the user who serves may connect")
        doubt = "; whether the last request was carried out is not known" if sent else ""
        if isinstance(cause, TimeoutError):
            return ServerUnavailable(f"the server of {self.database} is there and does not answer{doubt}")
        if isinstance(cause, AlreadyServed):
            from ringq.client import alone  # noqa: PLC0415 - loaded already: it was tried

            return ServerUnavailable(f"{alone.owners(self.database)} owns {self.database} and does not answer{doubt}")
        return ServerUnavailable(
            f"no server answers for {self.database} ({_why(cause)}){doubt}: start one with "
            f"`ringq serve module:app --db {self.database}`"
        )


class Line:
    """One thread's way to the server, or one conversation's."""

    def __init__(self, exchange: Exchange) -> None:
        """Opens nothing yet."""
        self.exchange = exchange
        self._link: Link | None = None

    async def run(
        self, talk: Callable[[Link], Awaitable[T]], deadline: float | None = None, *,
        absent: Callable[[], Awaitable[T | None]] | None = None, stranger: float = 0.0, lost_at: float | None = None,
    ) -> T:  # fmt: skip
        """What `talk` returns when called with an open link.

        If the link breaks, `talk` is called again with a new one, for as long as the client's `reconnect` allows;
        so it must be safe to repeat. Also if it raises ServerStopping: another server may come. Any other exception
        closes the link, since replies may still be on their way, and is raised on.

        `absent` is called whenever nobody listens; unless it returns None, that is the answer. What it raises is
        raised on, but AlreadyServed and StoreBusy only when patience is over. `stranger`: seconds of patience with a
        server that was never reached. `lost_at`: the monotonic time since when the server is away, if an earlier `run`
        has found that.

        Raises ServerUnavailable, ServerStopping, ClientClosed; TimeoutError after the monotonic `deadline`.
        """
        pause = _PAUSE_S
        sent = False
        cause: Exception
        while True:
            opened = False
            try:
                link = self._link
                if link is None or not link.is_open or self.exchange.closed:
                    link = await self._open()
                opened = True
                return await talk(link)
            except ServerStopping as error:
                cause = error
            except OSError as error:
                self.close()
                sent |= opened
                if isinstance(error, (RingqError, TimeoutError)):
                    raise
                cause = error
            except BaseException:
                self.close()
                raise
            lost_at = lost_at or time.monotonic()
            if absent is not None and isinstance(cause, _NOBODY) and not self.exchange.closed:
                try:
                    answer = await absent()
                except (AlreadyServed, StoreBusy) as error:
                    cause = error
                else:
                    if answer is not None:
                        return answer
            self._give_up(cause, lost_at, deadline, stranger, sent=sent)
            pause = min(pause, _PAUSE_MAX_S, _PAUSE_MAX_S if deadline is None else _left(deadline))
            await self.exchange.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - so that clients do not come all at once
            pause *= 1.5

    def _give_up(
        self, cause: Exception, lost_at: float, deadline: float | None, stranger: float, *, sent: bool
    ) -> None:
        """Raise the error of what went wrong if there is no time left to try again, or no use."""
        if self.exchange.closed:
            raise ClientClosed from None
        patience_s = self.exchange.patience_s(stranger)
        if isinstance(cause, PermissionError) or time.monotonic() - lost_at >= patience_s:
            raise self.exchange.unavailable(cause, sent=sent) from cause
        if deadline is not None and _left(deadline) <= 0:
            raise TimeoutError from cause

    def close(self) -> None:
        """Close the link, if one is open. The next `run` opens another."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def nudge(self) -> None:
        """Have who waits for input look up."""
        if self._link is not None:
            self._link.nudge()

    def release(self) -> None:
        """All that was asked has been answered; a thread's link stays open for its next request."""

    async def _open(self) -> Link:
        if self.exchange.closed:
            raise ClientClosed
        self._link = await self.exchange.open()
        return self._link


def _leave_to_parent() -> None:
    for exchange in list(_exchanges):
        exchange.leave_to_parent()


# In a forked child the sockets are the parent's: two processes would read each other's replies. To ask for the
# process id before each request instead would be a system call.
_exchanges: Final[weakref.WeakSet[Exchange]] = weakref.WeakSet()
os.register_at_fork(after_in_child=_leave_to_parent)


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def _why(cause: BaseException) -> str:
    return (isinstance(cause, OSError) and cause.strerror) or str(cause)

"""Submit and answer: a conversation with the server of a database that outlives the server's restarts."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from ringq import config
from ringq.client.link import Link
from ringq.errors import ClientClosed, InvalidOption, RingqError, ServerUnavailable

T = TypeVar("T")

RECONNECT_S: Final = 10.0
"""How long a server that was reached before may be away."""
_PAUSE_S = 0.01
_PAUSE_MAX_S = 0.25


class Exchange:
    """The server of one database as a client sees it: where it listens, and every link opened to it."""

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

    @property
    def patience_s(self) -> float:
        """How long to go on trying: if nobody said, a server never reached is not waited for."""
        if self._reconnect_s is not None:
            return self._reconnect_s
        return RECONNECT_S if self._met else 0.0

    def open(self) -> Link:
        """A new link. Raises OSError, ClientClosed."""
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

    def close(self) -> None:
        """Wake every thread that waits, to find this closed."""
        with self._lock:
            self.closed = True
            for link in self._links:
                link.wake()

    def unavailable(self, cause: BaseException, *, sent: bool) -> ServerUnavailable:
        """The error of a server that cannot be reached."""
        if isinstance(cause, PermissionError):
            return ServerUnavailable(f"{self.path}: {cause.strerror}: only the user who serves may connect")
        doubt = "; whether the last request was carried out is not known" if sent else ""
        return ServerUnavailable(
            f"no server answers for {self.database} ({_why(cause)}){doubt}: start one with "
            f"`ringq serve module:app --db {self.database}`"
        )


class Line:
    """One thread's way to the server."""

    def __init__(self, exchange: Exchange) -> None:
        """Opens nothing yet."""
        self._exchange = exchange
        self._link: Link | None = None
        self._pid = 0

    def run(self, talk: Callable[[Link], T], deadline: float | None = None) -> T:
        """What `talk` returns when called with an open link.

        If the link breaks, `talk` is called again with a new one, for as long as the client's `reconnect` allows;
        so it must be safe to repeat. Any other exception closes the link, since replies may still be on their
        way, and is raised on.

        Raises ServerUnavailable, ClientClosed; TimeoutError after the monotonic `deadline`.
        """
        lost_at: float | None = None
        pause = _PAUSE_S
        sent = False
        while True:
            try:
                link = self._open()
                sent = True
                return talk(link)
            except OSError as error:
                self.close()
                if isinstance(error, (RingqError, TimeoutError)):
                    raise
                now = time.monotonic()
                lost_at = lost_at or now
                if self._exchange.closed:
                    raise ClientClosed from None
                if deadline is not None and now >= deadline:
                    raise TimeoutError from error
                if isinstance(error, PermissionError) or now - lost_at >= self._exchange.patience_s:
                    raise self._exchange.unavailable(error, sent=sent) from error
            except BaseException:
                self.close()
                raise
            time.sleep(pause if deadline is None else min(pause, max(0.0, deadline - time.monotonic())))
            pause = min(2 * pause, _PAUSE_MAX_S)

    def close(self) -> None:
        """Close the link, if one is open. The next `run` opens another."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def _open(self) -> Link:
        if self._exchange.closed:
            raise ClientClosed
        if self._link is not None and self._pid != os.getpid():
            self.close()  # the socket is the parent's: two processes would read each other's replies
        if self._link is None:
            self._link = self._exchange.open()
            self._pid = os.getpid()
        return self._link


def _why(cause: BaseException) -> str:
    return (isinstance(cause, OSError) and cause.strerror) or str(cause)

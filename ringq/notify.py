"""Edge: tells the service manager what this process is doing (sd_notify). Without one it does nothing."""

from __future__ import annotations

import contextlib
import os
import socket
import time


class ServiceSocket:
    """Sends states to the socket that $NOTIFY_SOCKET names; "@" in front means an abstract one. Never raises.

    The variable is taken out of the environment: what is started from here must not speak for this process.
    """

    def __init__(self) -> None:
        address = os.environ.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        if address:
            with contextlib.suppress(OSError):
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                self._socket.setblocking(False)

    def ready(self, status: str) -> None:
        """It serves, for the first time or again after a reload."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """A reload has begun."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=reloading")

    def stopping(self, status: str) -> None:
        """It is on its way out."""
        self._send("STOPPING=1", f"STATUS={status}")

    def close(self) -> None:
        """Release the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *lines: str) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError, ValueError):  # it is gone, or does not read: nothing here depends on it
                self._socket.sendto("\n".join(lines).encode(errors="replace"), self._address)

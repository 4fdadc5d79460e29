"""One connection of a client: whole frames, in time, whatever the other side does."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringq import protocol
from ringq.client.link import Link
from ringq.client.steps import finish

LARGE = protocol.pack(protocol.HealthReply("x" * 3_000_000), 7)  # many times what a socket's buffer takes


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[tuple[Link, socket.socket]]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        link = Link(str(tmp_path / "s"))
        peer, _ = listener.accept()
        with peer:
            peer.settimeout(20)
            yield link, peer
        link.close()


def soon() -> float:
    return time.monotonic() + 0.05


@pytest.mark.parametrize("deadline_s", [None, 20.0])
def test_a_frame_larger_than_the_buffers_arrives_whole_both_ways(
    ends: tuple[Link, socket.socket], deadline_s: float | None
) -> None:
    link, peer = ends
    deadline = None if deadline_s is None else time.monotonic() + deadline_s
    back = bytearray()

    def echo() -> None:
        while len(back) < len(LARGE):
            back.extend(peer.recv(65536))
        peer.sendall(back)

    thread = threading.Thread(target=echo)
    thread.start()
    finish(link.send, LARGE, deadline)
    assert finish(link.receive, deadline) == protocol.Frame(7, protocol.HealthReply("x" * 3_000_000))
    thread.join()
    assert back == LARGE


def test_who_does_not_read_is_given_up_at_the_deadline(ends: tuple[Link, socket.socket]) -> None:
    link, _ = ends
    with pytest.raises(TimeoutError):
        finish(link.send, LARGE, soon())


def test_who_does_not_answer_is_given_up_at_the_deadline(ends: tuple[Link, socket.socket]) -> None:
    link, peer = ends
    peer.sendall(LARGE[:100])
    with pytest.raises(TimeoutError):
        finish(link.receive, soon())
    with pytest.raises(TimeoutError):
        finish(link.receive, time.monotonic() - 1)


def test_input_is_seen_before_it_is_received(ends: tuple[Link, socket.socket]) -> None:
    link, peer = ends
    assert not finish(link.has_input, 0.0)
    peer.sendall(protocol.pack(protocol.HealthReply("a"), 1) + protocol.pack(protocol.HealthReply("b"), 2))
    assert finish(link.has_input, None)
    assert finish(link.receive, None).request_id == 1
    assert finish(link.has_input, 0.0), "the second came with the first"
    assert finish(link.receive, None).request_id == 2
    assert not finish(link.has_input, 0.01)


@pytest.mark.parametrize("deadline_s", [None, 20.0])
def test_who_waits_is_woken_when_the_link_is_ended(ends: tuple[Link, socket.socket], deadline_s: float | None) -> None:
    link, _ = ends
    link.wake()
    with pytest.raises(ConnectionResetError):
        finish(link.receive, None if deadline_s is None else time.monotonic() + deadline_s)

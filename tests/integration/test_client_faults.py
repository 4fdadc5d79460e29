"""What goes wrong between client and server: lost replies, restarts, no server, forks. Nothing is doubled."""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_server import FakeServer, serving

import ringq
from ringq import config, protocol
from ringq.store import OwnerLock

app = ringq.App("shop")


@app.task
def echo(text: str) -> str:
    return text


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "shop.db"


@pytest.fixture
def server(database: Path) -> Iterator[FakeServer]:
    with serving(database, lambda _, arguments: arguments["text"]) as server:
        yield server


def test_no_server_is_said_at_once_with_the_command_to_start_one(database: Path) -> None:
    command = r"ringq serve .* --db .*shop\.db"
    with (
        ringq.connect(database) as client,
        pytest.raises(ringq.ServerUnavailable, match=command) as caught,
    ):
        client.health()
    assert "not known" not in str(caught.value)


def test_a_dead_servers_socket_is_no_server(server: FakeServer, database: Path) -> None:
    server.stop()
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(server.path))
    with ringq.connect(database) as client, pytest.raises(ringq.ServerUnavailable, match="refused"):
        client.health()


def test_a_database_too_deep_for_a_socket_is_refused_when_connecting(tmp_path: Path) -> None:
    with pytest.raises(ringq.InvalidOption, match=r"107"):
        ringq.connect(tmp_path / ("d" * 100) / "shop.db")


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), "10"])
def test_reconnect_is_checked(database: Path, seconds: float) -> None:
    with pytest.raises(ringq.InvalidOption, match="reconnect"):
        ringq.connect(database, reconnect=seconds)


@pytest.mark.parametrize("sent", [0, 1, 11, 12, 15])
def test_a_reply_lost_after_commit_does_not_double(server: FakeServer, database: Path, sent: int) -> None:
    with ringq.connect(database) as client:
        server.cuts = [sent, sent]
        handle = client.submit(echo, {"text": "once"})
        assert handle.result(5) == "once"
    assert len(server.tasks) == 1
    assert len(server.seen_ids) == 3
    assert len(set(server.seen_ids)) == 1


def test_a_connection_cut_at_random_bytes_does_not_double(server: FakeServer, database: Path) -> None:
    choose = random.Random(7)
    with ringq.connect(database) as client:
        handles = []
        for number in range(200):
            if number % 2:
                server.cuts = [choose.randrange(18) for _ in range(choose.randrange(3))]
            handles += client.submit_many([echo.submission(f"{number}.{i}") for i in range(choose.randrange(1, 4))])
        server.cuts = [choose.randrange(3000) for _ in range(4)]
        ends = client.wait_many(handles, timeout=20)
    assert [handle.id for handle in handles] == list(range(1, len(server.tasks) + 1))
    assert [end.result for end in ends] == [payload[8:-1] for _, payload, _ in server.tasks]


def test_waiting_survives_a_restart(database: Path) -> None:
    with serving(database) as server, ringq.connect(database) as client:
        handles = [client.submit(echo, {"text": "a"}) for _ in range(3)]
        server.end(2, "b")
        ends = client.as_completed(handles, timeout=20)
        assert next(ends).id == 2
        server.stop()
        server.end(1, "a")
        server.start()
        assert next(ends).id == 1
        server.disconnect_all()
        server.end(3, "c")
        assert [handle.id for handle in ends] == [3]
    assert server.seen_waits[-1] == [(3, 3)], "what has been told is not asked again"


def test_a_server_away_for_too_long_is_unavailable(server: FakeServer, database: Path) -> None:
    with ringq.connect(database, reconnect=0.1) as client:
        handle = client.submit(echo, {"text": "a"})
        server.stop()
        with OwnerLock(database), pytest.raises(ringq.ServerUnavailable, match="not known"):
            client.submit(echo, {"text": "b"})
        with pytest.raises(ringq.ServerUnavailable):
            handle.result()
        server.start()
        assert handle.result(5) == "a"


def test_a_wait_that_ends_while_the_server_is_away_is_a_timeout(server: FakeServer, database: Path) -> None:
    with ringq.connect(database, reconnect=30) as client:
        handle = client.submit(echo, {"text": "a"})
        server.stop()
        with pytest.raises(ringq.WaitTimeout):
            handle.result(0.2)


def test_an_explicit_reconnect_waits_for_a_server_to_start(database: Path) -> None:
    config.runtime_dir(database).mkdir()
    started: list[FakeServer] = []
    timer = threading.Timer(0.2, lambda: started.append(FakeServer(database)))
    timer.start()
    with ringq.connect(database, reconnect=20) as client:
        assert client.health()["status"] == "ok"
    timer.join()
    started[0].stop()


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        protocol.HEADER.pack(4, 9, 65, 0, 1) + b"\0" * 4,
        protocol.HEADER.pack(4, 1, 65, 0, 1) + b"\xc1" * 4,
        protocol.pack(protocol.HealthReply("{}"), 77),
        protocol.pack(protocol.HealthReply("{}"), 1),
    ],
)
def test_what_is_not_the_protocol_is_said_and_not_repeated(database: Path, reply: bytes) -> None:
    path = config.socket_path(database)
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(reply)
                connection.recv(1)

        thread = threading.Thread(target=answer)
        thread.start()
        with ringq.connect(database) as client, pytest.raises(ringq.ProtocolError):
            client.submit(echo, {"text": "a"})
        thread.join(10)
        assert not thread.is_alive(), "the connection is closed"


def test_an_interrupt_closes_the_connection_it_left_in_the_middle(database: Path) -> None:
    with serving(database) as server, ringq.connect(database) as client:
        handle = client.submit(echo, {"text": "a"})

        def interrupt() -> None:
            assert server.waiting.acquire(timeout=10)
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            handle.result(30)
        thread.join(10)
        server.end(1, "a")
        assert client.submit(echo, {"text": "b"}).id == 2
        assert handle.result(5) == "a"


def test_a_forked_child_has_its_own_connection(server: FakeServer, database: Path) -> None:
    with ringq.connect(database) as client:
        first = client.submit(echo, {"text": "parent"})
        child = os.fork()
        if child == 0:
            code = 1
            try:
                one = echo.submit("child")
                code = 0 if one.result(10) == "child" and first.result(10) == "parent" else 2
            finally:
                os._exit(code)
        results = [client.submit(echo, {"text": str(number)}).result(10) for number in range(20)]
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert results == [str(number) for number in range(20)]
    assert server.accepted == 2
    assert len(server.tasks) == 22


def test_connections_go_with_their_threads(server: FakeServer, database: Path) -> None:
    before = len(os.listdir("/proc/self/fd")) - server.connected
    with ringq.connect(database) as client:
        for _ in range(20):
            thread = threading.Thread(target=client.health)
            thread.start()
            thread.join(10)
        client.health()
        assert server.accepted == 21
    for _ in range(200):
        if not server.connected:
            break
        threading.Event().wait(0.01)
    assert len(os.listdir("/proc/self/fd")) - server.connected <= before


def test_importing_the_client_costs_no_store() -> None:
    import subprocess

    check = (
        "import sys, ringq; assert 'msgspec' not in sys.modules and 'socket' not in sys.modules;"
        "ringq.connect('x.db'); assert 'sqlalchemy' not in sys.modules and 'rich' not in sys.modules;"
        "assert set(ringq.__all__) <= set(dir(ringq))"
    )
    subprocess.run([sys.executable, "-c", check], check=True, cwd=Path(ringq.__file__).parent.parent)

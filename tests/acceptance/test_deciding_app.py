"""An App that decides settings of its server: the parent learns of them from its first worker and starts again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import remove_segments, wait_for

import ringq

APP = """
import os, time
import ringq

app = ringq.App("decides", workers=1, durability="normal", drain_timeout={drain})

@app.state
def marked() -> dict:
    with open("states", "a") as file:
        file.write("made ")
    yield {{}}
    with open("states", "a") as file:
        file.write("closed ")

@app.task
def pid() -> int:
    return os.getpid()
"""


class Server:
    """`ringq serve` without any flag but the database."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.log = folder / "log"
        self.database = folder / "tasks.db"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ringq", "serve", "decides:app", "--db", "tasks.db"],
                cwd=folder, stderr=log, env={**os.environ, **environment},
            )  # fmt: skip

    def wait_for_words(self, words: str) -> None:
        wait_for(lambda: words in self.log.read_text() or self.process.poll() is not None, 20)
        assert words in self.log.read_text()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "decides.py").write_text(APP.format(drain="7"))
    yield tmp_path
    remove_segments(tmp_path / "tasks.db")


def test_what_the_app_decides_holds_and_nothing_is_made_twice(folder: Path) -> None:
    server = Server(folder)
    server.wait_for_words("serves tasks.db with 1 workers")
    with ringq.connect(server.database) as client:
        health = client.health()
        assert (health["durability"], health["drain_timeout_s"]) == ("normal", 7.0)
        assert client.submit("decides::pid").result(timeout=20)
    server.process.terminate()
    assert server.process.wait(20) == 0
    assert (folder / "states").read_text() == "made closed "  # the worker that told of the settings made none
    assert not list(folder.glob("tasks.db-ringq/*.*"))


def test_a_service_manager_hears_of_it_once(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(folder / "notify"))
        manager.settimeout(20)
        server = Server(folder, NOTIFY_SOCKET=str(folder / "notify"))
        assert manager.recv(4096).startswith(b"READY=1")
        server.process.terminate()
        assert manager.recv(4096).startswith(b"STOPPING=1")
        assert server.process.wait(20) == 0


def test_another_server_is_told_the_pid_at_once(folder: Path) -> None:
    server = Server(folder)
    server.wait_for_words("serves tasks.db")
    began = time.monotonic()
    other = subprocess.run(
        [sys.executable, "-m", "ringq", "serve", "decides:app", "--db", "tasks.db"],
        cwd=folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert other.returncode == 75
    assert f"pid {server.process.pid}" in other.stderr
    assert time.monotonic() - began < 5  # a client that holds the database for a moment is waited for 10 s
    server.process.terminate()
    assert server.process.wait(20) == 0


@pytest.mark.parametrize("when", ["app imported", "database opened again"])
def test_a_signal_in_between_is_not_lost(folder: Path, when: str) -> None:
    (folder / "decides.py").write_text(
        APP.format(drain="7") + "\nwith open('imports', 'a') as file:\n    file.write('x')\n"
    )
    server = Server(folder)
    if when == "app imported":
        wait_for((folder / "imports").exists, 20)
    else:
        wait_for(lambda: server.log.read_text().count("SQLite") == 2, 20)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(20) in (0, 143)
    assert "serves" not in server.log.read_text() or "stopped" in server.log.read_text()


def test_an_app_that_decides_otherwise_at_each_import_is_taken_at_its_first_word(folder: Path) -> None:
    (folder / "decides.py").write_text(APP.format(drain="1 + os.getpid() % 50"))
    server = Server(folder)
    server.wait_for_words("serves tasks.db with 1 workers")
    with ringq.connect(server.database) as client:
        assert client.submit("decides::pid").result(timeout=20)
    server.process.terminate()
    assert server.process.wait(60) == 0

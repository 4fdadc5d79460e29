"""A real `ringq serve` per test: started as a user would, killed without mercy at the end."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import ringq

START_S = 20.0


class Served:
    """One running server on one database, and the files around it."""

    def __init__(
        self,
        folder: Path,
        database: Path,
        app: str,
        options: tuple[str, ...],
        env: dict[str, str],
        settings: dict[str, Any] | None = None,
    ):
        """`settings`: fields of Config that no option of `serve` sets."""
        self.folder, self.database, self.app = folder, database, app
        self.stderr_path = folder / "serve.stderr"
        command = [sys.executable, "-m", "ringq", "serve", app, "--db", str(database), *options]
        if settings:
            config = f"Config(database=Path({str(database)!r}), app={app!r}, workers=2, **{settings!r})"
            imports = "from pathlib import Path; from ringq.config import Config; from ringq.serving import serve"
            command = [sys.executable, "-c", f"{imports}; raise SystemExit(serve({config}))"]
        with self.stderr_path.open("ab") as stderr:
            self.process = subprocess.Popen(
                command, cwd=folder, env={**os.environ, **env}, stdin=subprocess.DEVNULL, stderr=stderr
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stderr(self) -> str:
        return self.stderr_path.read_text(errors="replace")

    def client(self) -> Any:
        return ringq.connect(self.database)

    def health(self) -> dict[str, Any]:
        with self.client() as client:
            answer: dict[str, Any] = client.health()
            return answer

    def wait_ready(self) -> Served:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"serve ended with {self.process.returncode}:\n{self.stderr}")
            with contextlib.suppress(ringq.RingqError, OSError):
                self.health()
                return self
            time.sleep(0.05)
        raise AssertionError(f"serve not ready after {START_S} s:\n{self.stderr}")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = 20) -> int:
        return self.process.wait(timeout)

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Start a server: `serve(source)` writes the handlers into a module first and waits until it answers.

    A second call without a source starts again on the same database, as after a crash.
    """
    started: list[Served] = []

    def start(
        source: str | None = None,
        *options: str,
        ready: bool = True,
        env: dict[str, str] | None = None,
        database: Path = tmp_path / "tasks.db",
        settings: dict[str, Any] | None = None,
    ) -> Served:
        if source is not None:
            (tmp_path / "handlers.py").write_text(source)
        if not any(option.startswith("--workers") for option in options):
            options = (*options, "--workers", "2")
        served = Served(tmp_path, database, "handlers:app", options, env or {}, settings)
        started.append(served)
        return served.wait_ready() if ready else served

    yield start
    for served in started:
        if served.process.poll() is None:
            served.kill()
    for database in {served.database for served in started}:
        remove_segments(database)


def wait_for(condition: Callable[[], Any], seconds: float = 20) -> Any:
    """Poll until `condition` holds; its value is returned."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"still not so after {seconds} s")


def remove_segments(database: Path) -> None:
    """A killed server leaves its segment to its successor; in a test that has none, it would stay until reboot."""
    for segment in segments(database):
        segment.unlink(missing_ok=True)


def segments(database: Path) -> list[Path]:
    """The shared memory of a database that can still be read; else none."""
    with (
        contextlib.suppress(sqlite3.Error, TypeError),
        contextlib.closing(sqlite3.connect(f"file:{quote(os.fsencode(database))}?mode=ro", uri=True)) as db,
    ):
        (uuid,) = db.execute("SELECT uuid FROM meta").fetchone()
        return list(Path("/dev/shm").glob(f"ringq.{uuid.hex()}.*"))
    return []


@pytest.fixture
def cli(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run one verb in a process of its own: `cli("stats", "--json")`, on the database of `serve`."""

    def call(*args: str, stdin: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ringq", *args],
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "RINGQ_DB": str(tmp_path / "tasks.db"), **env},
        )

    return call

"""A server under pressure: background work stops and goes on, urgent work never stops, whatever befalls the sampler."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import wait_for

import ringq

Serve = Callable[..., Any]

HANDLERS = """
import pathlib
import ringq

app = ringq.App("shop")

@app.task
def note(number: int) -> int:
    return number

class Told:
    name = "told"
    def pressure(self):
        return float(pathlib.Path("told").read_text())
"""
FLAGS = ("--pressure-sources", "handlers:Told", "--pressure")


def tell(folder: Path, value: float) -> None:
    """What the source answers from now on."""
    (folder / "new").write_text(str(value))
    (folder / "new").replace(folder / "told")


def submit(client: ringq.Client, number: int, priority: int) -> ringq.Submitted[Any]:
    return client.submit("shop::note", {"number": number}, priority=priority)


@pytest.fixture
def pressed(serve: Serve, tmp_path: Path) -> Callable[..., Any]:
    """A server whose source says 1, and background work refused."""

    def start(policy: str = "background 0.9 normal 1 only told") -> Any:
        tell(tmp_path, 1.0)
        served = serve(HANDLERS, *FLAGS, policy)
        wait_for(lambda: served.health()["pressure"]["refused_from"] is not None)
        return served

    return start


def test_background_work_waits_and_urgent_work_does_not(pressed: Callable[..., Any], tmp_path: Path) -> None:
    served = pressed()
    with served.client() as client:
        background = submit(client, 1, ringq.BACKGROUND)
        for number in range(20):
            assert submit(client, number, ringq.HIGH).result(timeout=20) == number
        assert submit(client, 3, ringq.NORMAL).result(timeout=20) == 3
        assert client.query.task(background.id).status == ringq.Status.PENDING
        tell(tmp_path, 0.0)
        assert background.result(timeout=20) == 1


def test_the_floor_lets_background_work_go_one_by_one(pressed: Callable[..., Any]) -> None:
    served = pressed("background 0.9 floor 1s only told")
    with served.client() as client:
        first, second = submit(client, 1, ringq.BACKGROUND), submit(client, 2, ringq.BACKGROUND)
        assert first.result(timeout=20) == 1
        assert second.result(timeout=20) == 2
        waits = [client.query.task(task.id).ended_at for task in (first, second)]
        assert (waits[1] - waits[0]).total_seconds() > 0.9


def test_without_a_sampler_background_work_goes_on_until_there_is_one_again(pressed: Callable[..., Any]) -> None:
    served = pressed()
    with served.client() as client:
        background = submit(client, 1, ringq.BACKGROUND)
        os.kill(served.health()["pressure"]["sampler"]["pid"], signal.SIGSTOP)
        assert background.result(timeout=30) == 1
        wait_for(lambda: served.health()["pressure"]["refused_from"] is not None)
        assert "the sampler of pressure says nothing any more" in served.stderr


def test_the_sampler_ends_with_the_server_however_that_ends(pressed: Callable[..., Any]) -> None:
    served = pressed()
    sampler = psutil.Process(served.health()["pressure"]["sampler"]["pid"])
    served.kill()
    sampler.wait(20)
    served = pressed()
    sampler = psutil.Process(served.health()["pressure"]["sampler"]["pid"])
    assert served.stop() == 0
    assert not sampler.is_running()


def test_a_policy_that_makes_no_sense_is_told_in_one_line(serve: Serve) -> None:
    served = serve(HANDLERS, "--pressure", "background 0.9 normal 0.5", ready=False)
    assert served.wait() == 2
    assert "is out of order: what is less urgent must stop first" in served.stderr
    assert len(served.stderr.splitlines()) == 1


def test_a_policy_of_another_type_cannot_be_given_in_the_file(cli: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "ringq.toml").write_text("pressure = 3\n")
    shown: subprocess.CompletedProcess[str] = cli("config", "show")
    assert shown.returncode != 0
    assert "ringq.toml:1: pressure: '3' is no policy" in shown.stderr

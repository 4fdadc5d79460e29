"""Handlers that write where they must not: the parent neither crashes nor hangs nor records what nobody said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ringq
from ringq.query import Query

Serve = Callable[..., Any]

HANDLERS = """
import ctypes, os, random
import ringq

app = ringq.App("scribble")

def segment():
    for line in open("/proc/self/maps"):
        if "ringq." in line:
            start, end = (int(x, 16) for x in line.split()[0].split("-"))
            return start, end - start
    raise LookupError("no segment is mapped")

@app.task
def everywhere(seed: int, count: int) -> None:
    rng = random.Random(seed)
    start, size = segment()
    for _ in range(count):
        ctypes.memmove(start + rng.randrange(size - 8), rng.randbytes(8), 8)

@app.task
def zeroes(offset: int, count: int) -> None:
    start, size = segment()
    ctypes.memset(start + offset, 0, min(count, size - offset))

@app.task
def all_of_it(byte: int) -> None:
    start, size = segment()
    ctypes.memset(start, byte, size)

@app.task
def good(number: int) -> int:
    return number
"""


def end_of(task: Any) -> str:
    """How a scribbler ended: any ending will do, as long as it is one."""
    return str(task.wait(timeout=60).status)


@pytest.mark.parametrize("seed", range(4))
def test_random_scribbling_harms_nobody_else(serve: Serve, seed: int) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        scribblers = []
        good = []
        for n in range(5):
            scribblers.append(client.submit("scribble::everywhere", {"seed": seed * 10 + n, "count": 200}))
            good += client.submit_many([ringq.Submission("scribble::good", f'{{"number":{n}}}') for _ in range(100)])
        assert [end_of(task) for task in good] == ["completed"] * 500
        assert {end_of(task) for task in scribblers} <= {"completed", "failed", "dead_letter"}
        assert served.health()["stopping"] is False
    assert served.stop() == 0
    counts = Query(served.database).counts()
    assert counts.get(ringq.Status.PENDING, 0) == 0


@pytest.mark.parametrize("byte", [0, 0xFF])
def test_the_whole_segment_overwritten_is_replaced(serve: Serve, byte: int, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        scribbler = client.submit("scribble::all_of_it", {"byte": byte})
        good = client.submit_many([ringq.Submission("scribble::good", f'{{"number":{n}}}') for n in range(300)])
        assert [task.result(timeout=60) for task in good] == list(range(300))
        assert end_of(scribbler) in ("completed", "failed", "dead_letter")
    assert "replaced" in served.stderr
    assert served.stop() == 0
    assert [path for path in (tmp_path / "tasks.db-ringq").rglob("*") if not path.is_dir()] == []


def test_a_wiped_header_is_noticed(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        scribbler = client.submit("scribble::zeroes", {"offset": 0, "count": 4096})
        assert end_of(scribbler) in ("completed", "failed", "dead_letter")
        assert client.submit("scribble::good", {"number": 9}).result(timeout=60) == 9
    assert served.stop() == 0

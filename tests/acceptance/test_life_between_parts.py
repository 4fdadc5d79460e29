"""What one part of a task's life does to another: keys, cancels, dead letters, and the death of the server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import wait_for

import ringq

Serve = Callable[..., Any]

HANDLERS = """
import os, time
import ringq

app = ringq.App("life")

@app.task
def wait(folder: str, n: int) -> int:
    with open(os.path.join(folder, "ledger"), "a") as ledger:
        ledger.write(f"{n}\\n")
    while not os.path.exists(os.path.join(folder, f"go{n}")):
        time.sleep(0.01)
    return n
"""


def test_a_cancelled_second_run_hides_no_other_task(serve: Serve, tmp_path: Path) -> None:
    """It waits in no lane: to leave it out of one made that one look shorter than it is, and empty with one task."""
    served = serve(HANDLERS, "--workers", "1")

    def wait_task(n: int, key: str | None = None) -> ringq.Submission[Any]:
        return ringq.Submission("life::wait", {"folder": str(tmp_path), "n": n}, key=key)

    with served.client() as client:
        (first,) = client.submit_many([wait_task(1, "k")])
        wait_for((tmp_path / "ledger").exists)
        client.pause_queue("default", running="finish")
        (second,) = client.submit_many([wait_task(2, "k")])
        (other,) = client.submit_many([wait_task(3)])
        assert second.outcome is ringq.Outcome.REQUEUED
        assert [told.outcome for told in client.cancel(second)] == [ringq.CancelOutcome.CANCELLED]
        assert client.health()["pending"] == 1
        client.resume_queue("default")
        for n in (1, 3):
            (tmp_path / f"go{n}").touch()
        assert client.wait_many([first, other], timeout=20)
        assert (tmp_path / "ledger").read_text().split() == ["1", "3"]
        assert client.health()["pending"] == 0

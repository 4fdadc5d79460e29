"""Whoever is killed at a step of spawn, wait, finalize, unblock, callback or follow-up: all of it is there once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ringq import failpoint

CAMPAIGN = Path(__file__).parents[1] / "stress" / "graph_deaths.py"
OF_WORKERS = sorted(name for name in failpoint.GRAPH if name.startswith("kin."))
OF_SERVERS = sorted(failpoint.GRAPH - set(OF_WORKERS))


@pytest.mark.parametrize("steps", [OF_SERVERS, OF_WORKERS], ids=["servers", "workers"])
def test_killed_at_each_step_of_what_belongs_together(steps: list[str]) -> None:
    """Once at each; `scripts/torture --graph` does it ten times, and kills the others there as well."""
    options = ["--kills", "1", "--together", "--only-own", "--steps", ",".join(steps)]
    ended = subprocess.run([sys.executable, str(CAMPAIGN), *options], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    whom = "parents killed" if steps is OF_SERVERS else "workers"
    assert int(ended.stdout.partition(f"{whom} ")[2].partition(";")[0].partition(",")[0]) >= len(steps), ended.stdout

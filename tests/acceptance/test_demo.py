"""The show, short: from the checkout by `scripts/demo`, and with a database that is kept."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., subprocess.CompletedProcess[str]]

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(180)
def test_the_demo_survives_what_it_does_to_itself() -> None:
    ran = subprocess.run(
        [str(ROOT / "scripts/demo"), "--files", "150", "--workers", "2"],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"kill -9 worker \d+", ran.stdout)
    assert re.search(r"kill -9 the server \d+", ran.stdout)
    for line in (r"submitted +600", r"completed +600", r"lost +0", r"recorded twice +0"):
        assert re.search(rf"^{line}$", ran.stdout, re.M)
    assert re.search(r"speed-up \d\.\d\d on \d+ cores", ran.stdout)


def test_a_kept_database_can_be_explored(cli: Cli, tmp_path: Path) -> None:
    shown = cli("demo", "--files", "25", "--db", "kept.db")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "ringq task show 1" in shown.stdout
    database = str(tmp_path / "kept.db")
    assert "stdlib::digest\tcompleted\t25\t" in cli("stats", "--db", database).stdout
    assert "stdlib::" in cli("task", "show", "1", "--db", database).stdout
    again = cli("demo", "--db", "kept.db")
    assert again.returncode == 2
    assert "name a new one" in again.stderr


def test_a_tree_of_tasks_is_finalized_level_by_level_though_a_worker_and_the_server_are_killed(cli: Cli) -> None:
    shown = cli("demo", "--graph", "--files", "80", "--db", "tree.db")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert re.search(r"^report +completed$", shown.stdout, re.M)
    assert re.search(r"^└── survey +completed$", shown.stdout, re.M)
    assert len(re.findall(r"^yes  ", shown.stdout, re.M)) == 3
    assert "NO  " not in shown.stdout

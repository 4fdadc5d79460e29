"""Whether several runs of a benchmark agree, as scripts/figures tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from perf import agree


def run(median: float, low: float, high: float) -> dict[str, Any]:
    return {
        "benchmark": "any",
        "commit": "abc",
        "tasks_per_s": median,
        "spread": {"tasks_per_s": [low, high]},
        "one": 1,
    }


def keep(folder: Path, *runs: dict[str, Any]) -> None:
    for number, one in enumerate(runs, 1):
        (folder / f"any.{number}.json").write_text(json.dumps(one))


def test_runs_whose_ranges_meet_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(tmp_path, run(10, 8, 12), run(11, 10, 15), run(9, 8, 10))
    assert agree.main(tmp_path, ["any"]) == 0
    printed = capsys.readouterr().out
    assert "8 .. 15" in printed
    assert "1 of 1 agree" in printed
    assert "differ" not in printed


def test_a_run_apart_from_the_others_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(tmp_path, run(10, 8, 12), run(11, 10, 15), run(20, 16, 22))
    assert agree.main(tmp_path, ["any"]) == 1
    assert "differ" in capsys.readouterr().out


def test_a_benchmark_without_runs_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(tmp_path, run(10, 8, 12))
    assert agree.main(tmp_path, ["other"]) == 0
    assert capsys.readouterr().out == ""

"""The public face as mypy --strict sees it: right calls pass, wrong ones are errors in the editor."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
ERROR = re.compile(r"^[^:\n]*\.py:(\d+): error: (.*)$", re.M)


def check(name: str, cache: Path) -> dict[int, str]:
    """The lines of a file that mypy --strict calls errors, and what it says."""
    import subprocess

    command = [sys.executable, "-m", "mypy", "--strict", "--no-pretty", "--follow-imports=silent"]
    command += ["--cache-dir", str(cache), "--config-file", "", str(HERE / name)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return {int(line): message for line, message in ERROR.findall(done.stdout)}


def test_right_use_is_accepted(tmp_path: Path) -> None:
    assert check("accepted.py", tmp_path) == {}


def test_every_wrong_use_is_an_error(tmp_path: Path) -> None:
    found = check("rejected.py", tmp_path)
    lines = (HERE / "rejected.py").read_text().splitlines()
    marked = {number for number, line in enumerate(lines, 1) if line.endswith("# error")}
    assert len(marked) > 25
    assert set(found) == marked, {number: found.get(number, "accepted") for number in set(found) ^ marked}

"""The C ring under sanitizers: the quick tier of tests/native/run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("run")


@pytest.mark.skipif(shutil.which("gcc") is None, reason="the harness needs gcc with sanitizers")
@pytest.mark.parametrize("sanitizer", ["tsan", "asan"])
def test_the_harness_finds_nothing(sanitizer: str) -> None:
    done = subprocess.run([RUN, "--quick", sanitizer], capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

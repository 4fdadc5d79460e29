"""The tutorial, followed literally by somebody who has nothing but Python: docs/TUTORIAL.md in a fresh environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from examples import Session, blocks

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "ringq")

pytestmark = pytest.mark.xdist_group("servers")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this tree, built from a copy, since a build leaves things beside its sources."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "source").mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / "source" / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder)]
    subprocess.run([*command, str(folder / "source")], check=True)
    return next(folder.glob("*.whl"))


@pytest.fixture
def nothing_but_python(tmp_path: Path, wheel: Path) -> dict[str, str]:
    """An environment with `python` and without ringq, in which `pip install ringq` means this tree."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    (tmp_path / "constraints").write_text(f"ringq @ {wheel.as_uri()}\n")
    here = str(Path(sys.executable).parent)
    path = [str(tmp_path / "bin"), *(part for part in os.environ["PATH"].split(os.pathsep) if part != here)]
    return {"PATH": os.pathsep.join(path), "PIP_CONSTRAINT": str(tmp_path / "constraints"), "PYTHONPATH": ""}


@pytest.mark.timeout(300)
def test_the_tutorial_works_for_somebody_who_has_nothing_but_python(
    tmp_path: Path, nothing_but_python: dict[str, str]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    session = Session(folder, tmp_path, nothing_but_python)
    try:
        for block in blocks(ROOT / "docs" / "TUTORIAL.md"):
            session.follow(block)
    finally:
        codes = session.close()
    assert set(codes) <= {0}
    assert list((folder / ".venv").glob("lib/*/site-packages/ringq/native/_ring*.so"))

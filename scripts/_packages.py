"""Build the sdist and the wheel and look inside: what a user installs must be complete and must run.

`--deep` also installs the wheel into an environment of its own and runs the demo from there.
"""

from __future__ import annotations

import fnmatch
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

BOTH = ["*LICENSE", "*ringq/py.typed", "*ringq/native/_ring.pyi", "*ringq/store/migrations/versions/*.py"]
IN_SDIST = [*BOTH, "*setup.py", "*README.md", "*ringq/native/*.c", "*ringq/native/*.h"]
IN_WHEEL = [
    *BOTH,
    "ringq/native/_ring*.so",
    "ringq/native/INVARIANTS.md",
    "ringq/cli/*.py",
    "ringq/demo/*.py",
]
NEVER = ["*__pycache__*", "*.db", "*.db-*", "tests/*", "perf/*"]


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="ringq-packages-") as name:
        folder = Path(name)
        build = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
        built = subprocess.run(build, capture_output=True, text=True, check=False)
        if built.returncode != 0:
            print(built.stdout[-3000:], built.stderr[-3000:])
            return 1
        sdist, wheel = next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))
        with tarfile.open(sdist) as archive:
            faults = _faults(sdist.name, archive.getnames(), IN_SDIST, [])
        with zipfile.ZipFile(wheel) as archive:
            faults += _faults(wheel.name, archive.namelist(), IN_WHEEL, NEVER)
        for fault in faults:
            print(fault)
        if not faults and "--deep" in sys.argv:
            return _run_installed(wheel, folder / "venv")
    return 1 if faults else 0


def _faults(package: str, names: list[str], wanted: list[str], unwanted: list[str]) -> list[str]:
    missing = [f"{package}: nothing matches {glob}" for glob in wanted if not fnmatch.filter(names, glob)]
    return missing + [
        f"{package}: {hit} does not belong there" for glob in unwanted for hit in fnmatch.filter(names, glob)
    ]


def _run_installed(wheel: Path, venv: Path) -> int:
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    subprocess.run([str(venv / "bin/pip"), "install", "--quiet", str(wheel)], check=True)
    return subprocess.run([str(venv / "bin/ringq"), "demo", "--files", "200"], cwd="/", check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

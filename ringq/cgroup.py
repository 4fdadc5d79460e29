"""Edge: what the control group of this process may use, has used, and waited for; version 2, then 1, then nothing.

A container sees its own group as the root, or a path that does not exist where it looks: then the root is asked.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path("/sys/fs/cgroup")
UNLIMITED_BYTES: Final = 1 << 60  # version 1 has no word for it, but a number of this size


class Cgroup:
    """The group, as the files say at each call; None or nothing for what they do not."""

    def __init__(self, root: Path = ROOT, of: Path = Path("/proc/self/cgroup")) -> None:
        """`root`: where the groups are mounted. `of`: the file that names the groups of a process."""
        names = dict(_names(of))
        unified = root if (root / "cgroup.controllers").exists() else root / "unified"
        self._v2 = _folders(unified, names.get("", "/"))
        self._v1_cpu = _folders(_mounted(root, "cpu"), names.get("cpu", "/"))
        self._v1_usage = _folders(_mounted(root, "cpuacct"), names.get("cpuacct", "/"))
        self._v1_memory = _folders(_mounted(root, "memory"), names.get("memory", "/"))

    def memory_share(self) -> float:
        """How much of the memory that it may have is used, 0 to 1, of the groups above too; 0 without a limit.

        Without the pages of files that nobody has touched lately: the kernel gives them away when memory is wanted.
        """
        shares = [0.0]
        for folder in self._v2:
            shares.append(_share(folder, "memory.current", "memory.max", "inactive_file"))
        for folder in self._v1_memory:
            shares.append(_share(folder, "memory.usage_in_bytes", "memory.limit_in_bytes", "total_inactive_file"))
        return max(shares)

    def cpu(self) -> tuple[float, float] | None:
        """CPUs that the tightest quota grants, and the CPU seconds that the group with it has used; None without."""
        found = [*self._quotas_v2(), *self._quotas_v1()]
        return min(found, default=None)

    def stalls_s(self) -> dict[str, float]:
        """Seconds in which something in the group waited for `cpu`, `io` or `memory`, so far."""
        for folder in self._v2[:1]:
            if found := stalls_s(folder, "{}.pressure"):
                return found
        return {}

    def _quotas_v2(self) -> Iterator[tuple[float, float]]:
        for folder in self._v2:
            with contextlib.suppress(OSError, ValueError, KeyError):
                limit, period = (folder / "cpu.max").read_text().split()
                if limit != "max":
                    yield int(limit) / int(period), int(_table(folder / "cpu.stat")["usage_usec"]) / 1e6

    def _quotas_v1(self) -> Iterator[tuple[float, float]]:
        for folder, usage in zip(self._v1_cpu, self._v1_usage, strict=False):
            with contextlib.suppress(OSError, ValueError):
                limit = int((folder / "cpu.cfs_quota_us").read_text())
                period = int((folder / "cpu.cfs_period_us").read_text())
                if limit > 0:
                    yield limit / period, int((usage / "cpuacct.usage").read_text()) / 1e9


def stalls_s(folder: Path, name: str) -> dict[str, float]:
    """The `some` totals of the kernel's pressure stall information in a folder; nothing where it has none."""
    found = {}
    for what in ("cpu", "io", "memory"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            found[what] = int((folder / name.format(what)).read_text().splitlines()[0].rpartition("total=")[2]) / 1e6
    return found


def _names(path: Path) -> Iterator[tuple[str, str]]:
    """The path of the group of each controller; that of version 2 has none."""
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            yield from ((controller, name) for controller in controllers.split(","))


def _mounted(root: Path, controller: str) -> Path:
    both = root / "cpu,cpuacct"
    return both if controller in ("cpu", "cpuacct") and both.is_dir() else root / controller


def _folders(root: Path, name: str) -> list[Path]:
    """The group's folder and those above it, up to the root of what is mounted."""
    folder = root / name.lstrip("/")
    if not folder.is_dir():
        return [root] if root.is_dir() else []
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(root))]


def _table(path: Path) -> dict[str, str]:
    return dict(line.split(maxsplit=1) for line in path.read_text().splitlines())


def _share(folder: Path, used: str, limit: str, idle: str) -> float:
    try:
        most = (folder / limit).read_text().strip()
        if most == "max" or int(most) >= UNLIMITED_BYTES:
            return 0.0
        held = int((folder / used).read_text()) - int(_table(folder / "memory.stat").get(idle, 0))
        return min(1.0, max(0.0, held / int(most)))
    except (OSError, ValueError, ZeroDivisionError):
        return 0.0

"""What the files of control groups say: both versions, groups above, containers that see another path."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringq.cgroup import Cgroup, stalls_s

GIB = 1 << 30


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where the groups are mounted."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    return folder


def group(root: Path, names: str) -> Cgroup:
    (root.parent / "cgroup").write_text(names)
    return Cgroup(root, root.parent / "cgroup")


def version_2(root: Path) -> Path:
    """A service in a slice; returns the folder of the service."""
    service = root / "app.slice" / "ringq.service"
    write(root, cgroup__controllers="cpu memory")
    write(
        service,
        memory__current=str(6 * GIB), memory__max=str(8 * GIB), memory__stat=f"anon 1\ninactive_file {2 * GIB}\n",
        cpu__max="150000 100000\n", cpu__stat="usage_usec 2500000\nuser_usec 1\n",
        cpu__pressure="some avg10=0.00 avg60=0.00 avg300=0.00 total=3000000\nfull avg10=0 avg60=0 avg300=0 total=1\n",
    )  # fmt: skip
    return service


def test_version_2_is_read(root: Path) -> None:
    version_2(root)
    found = group(root, "0::/app.slice/ringq.service\n")
    assert found.memory_share() == 0.5  # the pages of files that nobody uses are free
    assert found.cpu() == (1.5, 2.5)
    assert found.stalls_s() == {"cpu": 3.0}


def test_the_tightest_of_the_groups_above_counts(root: Path) -> None:
    version_2(root)
    write(
        root / "app.slice",
        memory__current=str(9 * GIB), memory__max=str(10 * GIB), memory__stat="inactive_file 0\n",
        cpu__max="50000 100000\n", cpu__stat="usage_usec 9000000\n",
    )  # fmt: skip
    found = group(root, "0::/app.slice/ringq.service\n")
    assert found.memory_share() == 0.9
    assert found.cpu() == (0.5, 9.0)


def test_no_limit_is_no_limit(root: Path) -> None:
    service = version_2(root)
    write(service, memory__max="max\n", cpu__max="max 100000\n")
    found = group(root, "0::/app.slice/ringq.service\n")
    assert (found.memory_share(), found.cpu()) == (0.0, None)


def test_a_container_whose_path_does_not_exist_is_at_the_root(root: Path) -> None:
    write(
        root, cgroup__controllers="memory", memory__current=str(GIB), memory__max=str(2 * GIB), memory__stat="anon 1\n"
    )
    assert group(root, "0::/../../kubepods/pod7\n").memory_share() == 0.5


def test_version_1_is_read(root: Path) -> None:
    write(
        root / "memory" / "docker" / "7",
        memory__usage_in_bytes=str(3 * GIB), memory__limit_in_bytes=str(4 * GIB),
        memory__stat=f"inactive_file 5\ntotal_inactive_file {GIB}\n",
    )  # fmt: skip
    write(root / "memory", memory__usage_in_bytes=str(9 * GIB), memory__limit_in_bytes="9223372036854771712")
    write(root / "cpu,cpuacct" / "docker" / "7", cpu__cfs_quota_us="300000", cpu__cfs_period_us="100000")
    write(root / "cpu,cpuacct" / "docker" / "7", cpuacct__usage="4500000000\n")
    write(root / "cpu,cpuacct", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000", cpuacct__usage="9\n")
    found = group(root, "4:memory:/docker/7\n3:cpu,cpuacct:/docker/7\n0::/\n")
    assert found.memory_share() == 0.5
    assert found.cpu() == (3.0, 4.5)
    assert found.stalls_s() == {}


def test_a_machine_without_groups_limits_nothing(root: Path) -> None:
    found = Cgroup(root / "nothing", root / "nothing")
    assert (found.memory_share(), found.cpu(), found.stalls_s()) == (0.0, None, {})


def test_files_that_say_something_else_limit_nothing(root: Path) -> None:
    service = version_2(root)
    write(service, memory__max="much", cpu__max="150000", cpu__pressure="", memory__current="x")
    found = group(root, "0::/app.slice/ringq.service\n")
    assert (found.memory_share(), found.cpu(), found.stalls_s()) == (0.0, None, {})


def test_the_machines_own_stalls_are_read(tmp_path: Path) -> None:
    write(tmp_path, cpu="some avg10=1.00 avg60=0.00 avg300=0.00 total=250000\nfull avg10=0.00 total=0\n")
    assert stalls_s(tmp_path, "{}") == {"cpu": 0.25}

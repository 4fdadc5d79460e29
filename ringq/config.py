"""Values: one frozen Config with every default and limit; a field's name ends in its unit."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ringq.errors import CannotCreate, InvalidConfig

KIB = 1024
MIB = 1024 * KIB

PAYLOAD_BYTES_MAX = 1 * MIB
MEMORY_KIB_MIN = 64 * KIB  # of a task's limit: a worker that has imported next to nothing holds 22 MiB
MEMORY_KIB_MAX = 1 << 40
RESULT_BYTES_MAX = 16 * MIB
CHECKPOINT_BYTES_MAX = 64 * KIB
CHECKPOINT_INTERVAL_S = 0.25  # between two that an attempt tells the parent, and that the parent writes
BATCH_TASKS_MAX = 200_000
FRAME_BYTES_MAX = 256 * MIB
NAME_CHARS_MAX = 200
WORKERS_MAX = 255  # the ring has 256 places; one is for the replacement of a worker that is to leave
EXIT_RING_DAMAGED = 86  # of a worker that found the segment overwritten: nobody can say by whom
CANCEL_HOOK_CALL = 1 << 55  # what the ring is told to run while an attempt answers to a cancel
DAMAGE_MARK = "ringq: the segment is damaged"  # left by that worker where its stacks go
LABEL_CHARS_MAX = 64  # of each part
BANDWIDTH_MIB_MAX = 1 << 20
TIMELINES = ("none", "notable", "all")
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
_RECYCLE_MAX = {"recycle_tasks": 1 << 31, "recycle_rss_mib": 1 << 24, "recycle_age_s": 366 * 24 * 3600}
SOCKET_PATH_BYTES_MAX = 107  # sun_path of Linux less its NUL


@dataclass(frozen=True, slots=True)
class Config:
    """Settings of one server. Every field is checked on construction: InvalidConfig names field and range."""

    database: Path
    app: str = ""  # "module:attribute"
    workers: int = 0  # 0: as many as the affinity mask and the cgroup's quota allow
    durability: str = "full"  # full: survives power loss; normal: survives process crashes
    queues: tuple[tuple[str, int | None], ...] = ()  # (name, at most so many running); empty: every queue
    drain_timeout_s: float = 30.0
    shm_dir: Path = Path("/dev/shm")
    recycle_tasks: int = 0  # a worker is replaced after so many attempts; 0: never
    recycle_rss_mib: int = 0  # … when it holds so much memory between two attempts; 0: never
    recycle_age_s: float = 0.0  # … when it is that old; 0: never
    reload: bool = False  # replace the workers when a Python file below the working directory changes
    worker_prefix: str = ""  # what the labels of workers begin with; empty: they have none
    worker_version: str = ""  # stands in their labels
    worker_id: str = ""  # … in place of four digits that are made up
    log_level: str = "info"  # of the records of Python's logging that handlers leave: the least that is shown
    log_format: str = "text"  # text, or json: one object a line
    retention_s: float = math.inf  # how long ended tasks stay, if nobody says more of their queue
    dead_retention_s: float = math.inf  # … dead letters
    unknown_kind_wait_s: float = 60.0  # for the handler of a kind that no worker has; then its tasks are dead letters
    aging: str = ""  # how waiting makes tasks more urgent, as `Aging.read` takes it; empty: it does not
    preempt_priority: int | None = None  # as urgent tasks, or more, take the place of less urgent ones; None: none do
    retry: str | None = None  # of tasks for which nobody else says; as `Retry.read` takes it
    defaults: tuple[tuple[str, Any], ...] = ()  # options of tasks of whom nobody else says, by fields of a submission
    pressure: str = "off"  # which priorities stop at which load of the machine; as `Policy.read` takes it
    pressure_sources: tuple[str, ...] = ()  # "module:attribute" of what else tells how hard something is pressed
    disk_bandwidth_mib: float = 0.0  # a second, of all on this machine: at that rate the pressure is 1; 0: any
    network_bandwidth_mib: float = 0.0  # likewise
    timeline: str = "notable"  # which events are kept in the database: none, notable ones, all
    timeline_retention_s: float = 7 * 86400.0  # … and for how long
    quiet: bool = False  # say only what is out of the ordinary, and what handlers print
    undecided: frozenset[str] = frozenset()  # names of the fields above that nobody gave: the App may decide them
    host_pidfd: int | None = None  # of the process this server serves: when that ends, it drains and leaves

    slots: int = 4096
    result_ring_bytes: int = 1 * MIB  # a worker's; at 256 KiB half of 1 KiB results took the way over a file
    timeline_rows_max: int = 1_000_000
    batch_receipts_max: int = 2048
    commit_interval_ms: float = 4.0
    lookahead_ms: float = 8.0
    window_tasks_max: int = 32_768  # pending tasks held in memory with their payloads; of the others only the ids
    window_bytes_max: int = 16 * MIB
    lease_persist_ms: float = 250.0
    term_grace_s: float = 5.0  # from the soft exception to SIGTERM
    kill_grace_s: float = 1.0  # from SIGTERM to SIGKILL
    preempt_grace_s: float = 10.0  # from the soft exception to SIGTERM, of who makes room for a more urgent task
    cancel_hook_s: float = 30.0  # what a task's own answer to a cancel may take
    crashes_max: int = 3
    lost_max: int = 3
    respawn_backoff_s: float = 0.1
    respawn_backoff_max_s: float = 30.0
    boot_deaths_max: int = 5
    boot_deaths_window_s: float = 60.0
    boot_timeout_s: float = 60.0
    orphan_wait_s: float = 10.0
    submission_keep_s: float = 24 * 3600.0
    client_body_timeout_s: float = 30.0
    client_buffer_bytes_max: int = 256 * KIB  # of answers a client has not read; until it does, it is not read from
    clients_max: int = 1000

    def __post_init__(self) -> None:
        _check("durability", self.durability in ("full", "normal"), "full or normal", self.durability)
        _check("workers", 0 <= self.workers <= WORKERS_MAX, f"0 (auto) to {WORKERS_MAX}", self.workers)
        power_of_two = self.slots & (self.slots - 1) == 0
        _check("slots", 8 <= self.slots <= 65536 and power_of_two, "a power of two, 8 to 65536", self.slots)
        _check("drain_timeout_s", 0 <= self.drain_timeout_s <= 86400, "0 to 86400", self.drain_timeout_s)
        _check("unknown_kind_wait_s", self.unknown_kind_wait_s >= 0, "0 or more", self.unknown_kind_wait_s)
        _check("retention_s", self.retention_s >= 1, "1 second or more", self.retention_s)
        _check("dead_retention_s", self.dead_retention_s >= 1, "1 second or more", self.dead_retention_s)
        _check("timeline", self.timeline in TIMELINES, ", ".join(TIMELINES), self.timeline)
        _check("timeline_retention_s", self.timeline_retention_s >= 1, "1 second or more", self.timeline_retention_s)
        _check("log_level", self.log_level in LOG_LEVELS, ", ".join(LOG_LEVELS), self.log_level)
        _check("log_format", self.log_format in ("text", "json"), "text or json", self.log_format)
        for field in ("worker_prefix", "worker_version", "worker_id"):
            part = getattr(self, field)
            plain = part.isprintable() and not set(part) & {" ", ","} and len(part) <= LABEL_CHARS_MAX
            _check(field, plain, f"at most {LABEL_CHARS_MAX} characters without space or comma", part)
        for field, limit in _RECYCLE_MAX.items():
            _check(field, 0 <= getattr(self, field) <= limit, f"0 (never) to {limit}", getattr(self, field))
        urgent = self.preempt_priority
        _check("preempt_priority", urgent is None or 0 <= urgent <= 255, "0 (most urgent) to 255, or none", urgent)
        _check("preempt_grace_s", 0 <= self.preempt_grace_s <= 86400, "0 to 86400", self.preempt_grace_s)
        for field in ("disk_bandwidth_mib", "network_bandwidth_mib"):
            _check(field, 0 <= getattr(self, field) <= BANDWIDTH_MIB_MAX, "0 (any) to 1048576", getattr(self, field))
        for name, cap in self.queues:
            _check("queues", bool(name) and not set(name) & set(",:"), "names without comma or colon", name)
            _check("queues", cap is None or cap >= 0, "a cap of 0 or more", cap)

    def decided_by(self, app: Mapping[str, Any]) -> Config:
        """The same with what the App says about fields that nobody gave."""
        return replace(self, **{name: value for name, value in app.items() if name in self.undecided})

    @property
    def runtime_dir(self) -> Path:
        """Where socket, locks, logs and spilled results live: beside the database, mode 0700."""
        return runtime_dir(self.database)

    @property
    def worker_count(self) -> int:
        """The number of workers, with 0 resolved for this machine."""
        return self.workers or min(usable_cores(), WORKERS_MAX)


def runtime_dir(database: Path) -> Path:
    """The runtime directory of a database, by its resolved path, so that two paths cannot give two servers."""
    resolved = database.resolve()
    return resolved.with_name(resolved.name + "-ringq")


def socket_path(database: Path) -> Path:
    """The socket on which the server of this database listens."""
    return runtime_dir(database) / "ringq.sock"


def check_socket_path(path: Path) -> None:
    """Raise CannotCreate when `path` is longer than the kernel allows."""
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise CannotCreate(
            f"the socket path {path} has {len(os.fsencode(path))} bytes, the kernel allows {SOCKET_PATH_BYTES_MAX}: "
            "use a database with a shorter path"
        )


def usable_cores() -> int:
    """Cores this process may use: its affinity mask, narrowed by the cgroup's CPU quota (v2, then v1)."""
    cores = len(os.sched_getaffinity(0))
    quota = _cgroup_quota()
    return max(1, min(cores, int(quota + 0.5))) if quota else cores


def _cgroup_quota() -> float | None:
    try:
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                limit, period = Path(f"/sys/fs/cgroup{path}/cpu.max").read_text().split()
                return None if limit == "max" else int(limit) / int(period)
            if "cpu" in controllers.split(","):
                group = Path(f"/sys/fs/cgroup/{controllers}{path}")
                limit = (group / "cpu.cfs_quota_us").read_text()
                period = (group / "cpu.cfs_period_us").read_text()
                return None if int(limit) <= 0 else int(limit) / int(period)
    except (OSError, ValueError):
        return None
    return None


def _check(name: str, ok: bool, expected: str, got: object) -> None:
    if not ok:
        raise InvalidConfig(f"{name}: expected {expected}, got {got!r}")

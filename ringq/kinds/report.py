"""Start: what a worker tells its parent about a kind, so that the parent never imports the user's code."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ringq.budgets import IoBudget
from ringq.errors import InvalidOption


@dataclass(frozen=True, slots=True)
class KindReport:
    """One kind and its defaults; what it leaves open its domain has already decided.

    Attributes: `name`, the kind as `domain::name`; `queue`, `priority`, `group`, `run_timeout_ms`, `retry`, `ttl_ms`
    `ttl_from`, `kill_after_ms`, `total_timeout_ms`, `queue_timeout_ms` and `memory_limit_kib`, None if neither kind nor
    domain says; `parameters`, the JSON Schema of the payload; `names`, the kind and its aliases; `tags`, those of
    domain and kind; `max_concurrency` and `domain_max_concurrency`, how many tasks of the kind, and of its domain,
    run at a time, and `rate`, how often those of the kind may start, if the code says; `preemptible`, whether one that
    runs may have to make room for a more urgent one; `io`, what an attempt is expected to use of disk and network.
    """

    name: str
    queue: str | None
    priority: int | None
    group: str | None
    run_timeout_ms: int | None
    retry: str | None
    ttl_ms: int | None
    ttl_from: int | None
    kill_after_ms: int | None
    total_timeout_ms: int | None
    queue_timeout_ms: int | None
    memory_limit_kib: int | None
    parameters: dict[str, Any]
    names: list[str]
    tags: dict[str, str] = field(default_factory=dict)
    max_concurrency: int | None = None
    domain_max_concurrency: int | None = None
    preemptible: bool = True
    rate: str | None = None
    io: IoBudget | None = None

    def as_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return asdict(self)


def preemptible_of(own: Any, shared: Any = None) -> bool:
    """Whether a running task may have to make room for a more urgent one, if nobody says otherwise.

    Raises InvalidOption for what is neither True nor False.
    """
    for written in (own, shared):
        if written is not None and not isinstance(written, bool):
            raise InvalidOption(f"preemptible: expected True or False, got {written!r}")
    return first(own, shared) is not False


def io_of(own: Any, shared: Any = None) -> IoBudget | None:
    """What attempts are expected to use of disk and network, if anybody says. Raises InvalidOption for another type."""
    for written in (own, shared):
        if written is not None and not isinstance(written, IoBudget):
            raise InvalidOption(f"io: expected a ringq.IoBudget, as IoBudget(disk_read=10**7), got {written!r:.80}")
    found: IoBudget | None = first(own, shared)
    return found


def first(own: Any, shared: Any) -> Any:
    """What is said nearer, else what is said for all."""
    return own if own is not None else shared

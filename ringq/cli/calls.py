"""Cli: how a task is shown that carries calls of a map."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ringq.cli import printing

if TYPE_CHECKING:
    from ringq.model import TaskRecord

FAILURES_MAX = 10  # that are told one by one
ACCOUNT = ("us", "results", "errors", "parts", "cause")


def count(payload: str) -> int:
    """How many calls a payload carries; 0 if it is the arguments of one."""
    try:
        return len(json.loads(payload)) if payload.startswith("[") else 0
    except ValueError:
        return 0


def summary(payload: str) -> str:
    """A payload for one line of a table."""
    calls = count(payload)
    return f"{_counted(calls)}: {payload}" if calls else payload


def facts(record: TaskRecord) -> list[tuple[str, object]]:
    """What became of the calls of a task: how many there are, which failed, and where the others went on."""
    account: Any = json.loads(record.result) if record.result else record.error
    facts: list[tuple[str, object]] = [("calls", count(record.payload)), ("payload", record.payload)]
    if isinstance(account, dict) and "results" in account:
        failures = account.get("errors") or {}
        facts += [
            ("returned", len(account["results"])),
            ("results", printing.compact(account["results"])),
            *((f"call {i} failed", printing.error_line(one["error"])) for i, one in [*failures.items()][:FAILURES_MAX]),
            ("more failed", max(0, len(failures) - FAILURES_MAX) or None),
            *((f"went on as task {task}", _counted(calls)) for task, _, calls in account.get("parts", ())),
        ]
    return [*facts, ("error", printing.error_line(record.error))]


def _counted(calls: int) -> str:
    return f"{calls:,} call{'' if calls == 1 else 's'}"

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


def summary(record: TaskRecord) -> str:
    """A payload for one line of a table, with how many of its calls failed."""
    calls = count(record.payload)
    return f"{outcome(calls, len(_failures(record)))}: {record.payload}" if calls else record.payload


def outcome(calls: int, failed: int) -> str:
    """So many calls, and so many of them failed."""
    return f"{calls:,} call{'' if calls == 1 else 's'}" + (f", {failed:,} failed" if failed else "")


def facts(record: TaskRecord) -> list[tuple[str, object]]:
    """What became of the calls of a task: how many there are, which failed, and where the others went on."""
    account, failures = _account(record), _failures(record)
    facts: list[tuple[str, object]] = [("calls", count(record.payload)), ("payload", record.payload)]
    if "results" in account:
        facts += [
            ("returned", len(account["results"])),
            ("results", printing.compact(account["results"])),
            *((f"call {i} failed", printing.error_line(one["error"])) for i, one in [*failures.items()][:FAILURES_MAX]),
            ("more failed", max(0, len(failures) - FAILURES_MAX) or None),
            *((f"went on as task {task}", outcome(calls, 0)) for task, _, calls in account.get("parts", ())),
        ]
    return [*facts, ("error", printing.error_line(record.error))]


def _failures(record: TaskRecord) -> dict[str, Any]:
    failures: dict[str, Any] = _account(record).get("errors") or {}
    return failures


def _account(record: TaskRecord) -> dict[str, Any]:
    account: Any = json.loads(record.result) if record.result else record.error
    return account if isinstance(account, dict) else {}

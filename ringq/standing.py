"""Flow: how groups, domains, kinds and the whole stand, from the database alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from ringq.clock import instant
from ringq.errors import InvalidOption, UnknownTask
from ringq.model import PauseReason, Status, Why
from ringq.overview import ControlRecord
from ringq.reasons import PAUSES, SHOWN, cause, of_others, status_of
from ringq.records import instant_or_none
from ringq.store.questions import FIRST, Questions, asking

Scope = Literal["server", "domain", "group", "kind"]
SCOPES = ("server", "domain", "group", "kind")
COUNT_S = 5.0  # active tasks are counted one by one: 10^6 take 0.2 s


class Standing:
    """Questions of `Query` about what is paused and limited."""

    _path: Path

    def is_paused(self, scope: Literal["server", "queue", "domain", "group"], name: str = "") -> bool:
        """Whether this one is paused, by itself: a task of it may be held by something else too."""
        with asking(self._path) as ask:
            return ask.standing.is_paused(scope, name.encode(errors="replace").decode())

    def why(self, task_id: int) -> Why:
        """Why a task does not run, as far as the database alone says: for all else, a server must be asked.

        Raises UnknownTask.
        """
        with asking(self._path) as ask:
            row = ask.task(task_id) if 0 < task_id <= FIRST else None
            if row is None:
                raise UnknownTask(f"there is no task {task_id}")
            _, status, due_us, behind = ask.standing.waiting(task_id) or (None,) * 4
            others = ask.belonging.waits_for(task_id, SHOWN + 1)
        kind, queue, group, priority = row[1:5]
        started_us, mask = row[13], PauseReason(row[18])
        if status is not None:
            ended = Status.of(status)
            return Why(task_id, ended, (cause("ended", status=ended),), priority)
        facts = {"domain": kind.partition("::")[0], "group": group, "queue": queue, "until": ""}
        causes = list(of_others(*others))
        causes += [cause(word, **facts) for bit, word in PAUSES.items() if bit in mask]
        if due_us is not None:
            causes.append(cause("delayed", at=instant(due_us).isoformat()))
        if behind is not None:
            causes.append(cause("behind_key", other=behind))
        state = Status.PENDING if started_us is not None and not any(others) else status_of(causes)
        return Why(task_id, state, (*causes, cause("no_server")), priority)

    def controls(self, scope: Scope, *, paused: bool = False) -> list[ControlRecord]:
        """Groups, domains or kinds of which something was said, here or in the code, by name; or the server.

        `paused`: only those that are. Their active tasks are counted one by one, for which there are five seconds.
        """
        _check_scope(scope)
        with asking(self._path, COUNT_S) as ask:
            said = ask.standing.said(scope)
            declared = _declared(ask, scope)
            names = {name for name, row in said.items() if row[3] is not None} if paused else {*said, *declared}
            if scope == "server" and not paused:
                names = {""}
            return _records(ask, scope, sorted(names), said, declared)

    def control(self, scope: Scope, name: str = "") -> ControlRecord:
        """What was said of this one, if anything; the name of a server is empty."""
        _check_scope(scope)
        with asking(self._path, COUNT_S) as ask:
            plain = name.encode(errors="replace").decode()
            return _records(ask, scope, [plain], ask.standing.said(scope), _declared(ask, scope))[0]


def _records(
    ask: Questions, scope: str, names: list[str], said: dict[str, Any], declared: dict[str, int]
) -> list[ControlRecord]:
    if scope == "server":
        active, running, _ = ask.counts()
        counts = {"": (active - running, running)}
    else:
        counts = ask.standing.active(scope, set(names))
    found = []
    for name in names:
        cap, weight, min_slots, since_us, until_us = said.get(name, (None,) * 5)
        times = (instant_or_none(since_us), instant_or_none(until_us))
        own = (cap, declared.get(name), weight, min_slots, since_us is not None)
        found.append(ControlRecord(scope, name, *own, *times, *counts.get(name, (0, 0))))
    return found


def _declared(ask: Questions, scope: str) -> dict[str, int]:
    """The limits that stand in the code, as the last workers have reported them."""
    if scope not in ("domain", "kind"):
        return {}
    column = "max_concurrency" if scope == "kind" else "domain_max_concurrency"
    found = {}
    for report in ask.standing.reports():
        if report.get(column) is not None:
            kind = report["name"]
            found[kind if scope == "kind" else kind.partition("::")[0]] = report[column]
    return found


def _check_scope(scope: str) -> None:
    if scope not in SCOPES:
        raise InvalidOption(f"scope: expected one of {', '.join(SCOPES)}, got {scope!r}")

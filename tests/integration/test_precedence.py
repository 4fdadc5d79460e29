"""Who decides about each option: walks the table of docs/OPTIONS.md, so that the page and the code say the same."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import ringq
from ringq.config import Config
from ringq.defaults import FIELDS, of_server
from ringq.kinds.limits import LimitOptions
from ringq.kinds.options import DomainOptions, SubmissionOptions
from ringq.model import OnDuplicate, Outcome, TaskRecord
from ringq.testing import Inline, inline

PAGE = Path(__file__).resolve().parents[2] / "docs" / "OPTIONS.md"
LEVELS = ("call", "kind", "domain", "queue", "server")
ROW = re.compile(r"^\| (`\w+`(?:, `\w+`)*) " + r"\| (✓?) ?" * len(LEVELS) + r"\| (.*?) \|$", re.M)

SPANS = {"call": 1.0, "kind": 2.0, "domain": 3.0, "queue": 4.0, "server": 5.0}

# A value for each level that may say something of the option.
VALUES: dict[str, dict[str, Any]] = {
    "queue": {"call": "c", "kind": "k", "domain": "d", "server": "s"},
    "priority": {"call": 1, "kind": 2, "domain": 3, "queue": 4, "server": 5},
    "group": {"call": "c", "kind": "k", "domain": "d", "queue": "q", "server": "s"},
    "run_timeout": SPANS,
    "retry": {"call": 1, "kind": 2, "domain": 3, "queue": 4, "server": 5},
    "ttl": SPANS,
    "ttl_from": {
        "call": "attempt",
        "kind": "submission",
        "domain": "attempt",
        "queue": "submission",
        "server": "attempt",
    },
    "total_timeout": SPANS,
    "queue_timeout": SPANS,
    "kill_after": SPANS,
    "memory_limit": {"call": 100, "kind": 200, "domain": 300, "queue": 400, "server": 500},
    "tags": {"call": {"t": "c"}, "kind": {"t": "k"}, "domain": {"t": "d"}, "queue": {"t": "q"}, "server": {"t": "s"}},
    "key": {"call": "c", "kind": lambda: "k"},
    "on_duplicate": {"call": "reject", "kind": "supersede"},
    "serial_key": {"call": "c", "kind": lambda: "k"},
    "preemptible": {"kind": False, "domain": False},
    "io": {"kind": ringq.IoBudget(disk_read=1), "domain": ringq.IoBudget(disk_write=2)},
    "rate": {"kind": "10/s"},
    "label": {"call": "c"},
    "run_at": {"call": datetime(2100, 1, 1, tzinfo=UTC)},
    "run_after": {"call": 3600.0},
    "depends_on": {"call": 1},
    "on_dependency_failure": {"call": "ignore"},
}

# What the words of the last column come to.
WORDS: dict[str, Any] = {
    "none": None,
    "nothing: [DEPENDENCIES.md](DEPENDENCIES.md)": None,
    "as often as it can": None,
    "at once": None,
    "5 s": None,
    "the kind": "shop::work",
    "it is not tried again": 0,
    "128": 128,
    "yes": True,
}
OUTCOMES = {Outcome.DUPLICATE: "skip", Outcome.SUPERSEDED: "supersede", Outcome.REJECTED: "reject"}

TABLE = {
    name: ([level for level, mark in zip(LEVELS, marks, strict=True) if mark], last)
    for names, *marks, last in ROW.findall(PAGE.read_text())
    for name in re.findall(r"\w+", names)
}


def test_the_table_has_every_option_that_can_be_given() -> None:
    assert list(TABLE) == list(VALUES)
    assert {name for name, (levels, _) in TABLE.items() if "call" in levels} == set(SubmissionOptions.__annotations__)
    assert {name for name, (levels, _) in TABLE.items() if "domain" in levels} == set(DomainOptions.__annotations__)
    assert {name for name, (levels, _) in TABLE.items() if "queue" in levels} == {*FIELDS, "retry"}
    assert {name: levels for name, (levels, _) in TABLE.items()} == {
        name: list(found) for name, found in VALUES.items()
    }


@pytest.mark.parametrize(
    ("option", "levels"),
    [(option, levels[n:]) for option, (levels, _) in TABLE.items() for n in range(len(levels) + 1)],
)
def test_the_nearest_one_that_says_something_decides(option: str, levels: list[str], tmp_path: Path) -> None:
    """`levels`: those that say something."""
    said = {level: {option: value} if level in levels else {} for level, value in VALUES[option].items()}
    if option == "on_duplicate":  # goes with a key
        said["kind" if "kind" in levels else "call"]["key"] = ringq.PAYLOAD
    app = ringq.App("shop", **said.get("domain", {}))

    @app.task(**said.get("kind", {}))
    def work() -> None:
        raise ValueError("no")

    with inline(app, tmp_path) as run:
        if "queue" in levels:
            run.client.set_queue("default", **{option: VALUES[option]["queue"]})
        if "server" in levels:
            say_as_server(run, option, VALUES[option]["server"])
        if option in ("depends_on", "on_dependency_failure"):
            assert work.submit().id == 1
        if option == "on_dependency_failure":  # goes with a dependency
            said["call"]["depends_on"] = 1
        handle = work.options(**said.get("call", {})).submit()
        record = run.client.query.task(handle.id)
        if option == "retry":
            run.run_all(raises=False)
            found = run.client.query.task(handle.id).attempt_count - 1
        elif option in ("preemptible", "io", "rate"):
            found = getattr(work.report, option)
        elif option == "on_duplicate":
            found = OUTCOMES[work.options(**said["call"]).submit().outcome]
        elif option == "depends_on":
            found = next(iter(record.dependencies), None)
        elif option == "on_dependency_failure":
            found = run.client.query.graph(handle).edges[0].on_failure
        else:
            found = has(run, record, option)
    last = TABLE[option][1]
    given = VALUES[option].get(levels[0]) if levels else WORDS[last] if last in WORDS else last.strip("`")
    assert found == (given() if callable(given) else given)


def say_as_server(run: Inline, option: str, value: Any) -> None:
    """As the last server of the database."""
    if option == "retry":
        run._runs._config = Config(run.database, retry=str(value))
        return
    with run._runs.opened() as store, store.transaction():
        store.set_server_defaults(json.dumps(dict(of_server({option: value}))))


def has(run: Inline, record: TaskRecord, option: str) -> Any:
    """What a task has of an option, in the form in which it is given."""
    if option in ("ttl", "ttl_from") or option in LimitOptions.__annotations__:
        with run._runs.opened() as store:
            ((_, number),) = store.specs_of([record.id])
            spec = store.specs()[number]
        if option == "ttl_from":
            return ("submission", "attempt")[spec.ttl_from]
        if option == "memory_limit":
            return spec.memory_limit_kib and spec.memory_limit_kib / 1024
        milliseconds = getattr(spec, f"{option}_ms")
        return milliseconds and milliseconds / 1000
    if option == "run_after":
        return record.run_at and (record.run_at - record.submitted_at).total_seconds()
    if option == "tags":
        return record.tags or None
    return getattr(record, {"run_timeout": "run_timeout_s"}.get(option, option))


def test_every_way_to_deal_with_a_duplicate_is_named() -> None:
    assert set(OUTCOMES.values()) == set(OnDuplicate)

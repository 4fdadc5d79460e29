"""How SQLite answers each statement: nothing that grows with the number of tasks is read as a whole."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest
from store_rows import opened

from ringq.store import (
    belonging,
    cancels,
    controls,
    dead,
    expiry,
    held,
    history,
    keys,
    pauses,
    prepare,
    questions,
    queues,
    retention,
    standing,
    store,
    submissions,
    tags,
    task_rows,
    tasks,
)

GROWING = {
    "task", "receipt", "attempt", "submission", "tag", "label", "task_key", "scheduled_task", "map_chunk", "expiry",
    "edge", "memo",
}  # fmt: skip

# Statements that sort, and why that is little.
SORTING = {
    "SELECT_UNSUCCESSFUL_ROWS": "all tasks of one unsuccessful status, from their own index",
    "SELECT_ENDED_COUNTS": "one row per kind and status",
    "SELECT_STATISTICS": "one row per kind and status",
    "SELECT_PENDING_ROWS_BELOW": "stragglers and delayed tasks",
    "COUNT_PAUSED_BELOW": "stragglers and delayed tasks",
    "SELECT_ATTEMPTS": "all attempts of one task",
    "SELECT_SUMS": "one row per kind and status of the tasks that are named",
    "SELECT_DEPENDENCIES": "what one task depends on",
    "SELECT_CHILDREN": "the children of one task",
    "COUNT_BLOCKED": "open dependencies",
    "SELECT_TAG_VALUES": "one row per value of the tag",
    "SELECT_QUEUE_ROWS": "one row per queue of which something was said",
    "SELECT_SAID": "one row per group, domain or kind of which something was said",
    "COUNT_OF_SPECS_ABOVE": "one row per spec of the groups, domains or kinds that are meant",
    "COUNT_ENDED_OF_SPECS": "one row per spec of the groups, domains or kinds that are meant",
    "COUNT_ACTIVE_BELOW": "stragglers and delayed tasks; one row per spec",
    "COUNT_RUNNING_OF_SPECS": "one row per spec of what has been running for a while",
    "SELECT_TIMES": "one row per time at which tasks were submitted, of those that are new",
    "SELECT_OLD_TIMES": "stragglers and delayed tasks",
    "SELECT_ATTEMPTS_SUMMARY": "stragglers, delayed tasks, and active tasks that were interrupted",
}

# Statements that walk along a primary key, and what ends the walk.
WALKING = {
    "DELETE_SUBMISSIONS": ("submission", "LIMIT"),
    "DELETE_OUTCOMES": ("submission", "LIMIT 1"),
    "SELECT_NEXT_EXPIRY": ("expiry", "LIMIT 1"),
}


def statements() -> list[tuple[str, str]]:
    found: dict[str, str] = {}
    modules: list[ModuleType] = [cancels, dead, expiry, history, keys, pauses, prepare, questions, queues, retention]
    modules += [belonging, controls, held, standing, store, submissions, tags, task_rows, tasks]
    for module in modules:
        for name, text in vars(module).items():
            if re.match(r"(SELECT|INSERT|UPDATE|DELETE|COUNT|ADD)_", name) and isinstance(text, str):
                found[name] = text
    found["INSERT_ALIKE"], found["INSERT_COMPLETED"] = submissions.into_task(2), history.into_receipt(2)
    assert len(found) > 40
    return sorted(found.items())


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    plans: dict[str, list[str]] = {}
    with opened(tmp_path_factory.mktemp("plans") / "a.db") as store:
        for name, text in statements():
            numbered = re.findall(r"\?(\d+)", text)
            parameters = max(map(int, numbered)) if numbered else text.count("?")
            rows = store._driver.execute(f"EXPLAIN QUERY PLAN {text}", (None,) * parameters)
            plans[name] = [row[3] for row in rows]
    return plans


def test_nothing_that_grows_is_scanned(plans: dict[str, list[str]]) -> None:
    for name, lines in plans.items():
        scanned = {match[1] for line in lines if (match := re.match(r"SCAN (\w+)", line))}
        allowed = {WALKING[name][0]} if name in WALKING else set()
        assert not (scanned & GROWING) - allowed, f"{name}: {lines}"


def test_nothing_is_sorted_but_the_little_that_is_listed(plans: dict[str, list[str]]) -> None:
    sorting = {name for name, lines in plans.items() if any("TEMP B-TREE" in line for line in lines)}
    assert sorting <= SORTING.keys()


def test_what_is_active_below_the_mark_is_read_from_two_indexes_side_by_side(plans: dict[str, list[str]]) -> None:
    """In the order of the ids, so that a page of them costs as much however many there are."""
    assert plans["SELECT_OLD"][0] == "MERGE (UNION)"
    assert any("INDEX delayed_task " in line for line in plans["SELECT_OLD"])


@pytest.mark.parametrize("name", ["SELECT_PURGEABLE", "SELECT_NEEDED"])
def test_whether_a_task_carries_calls_of_a_map_is_looked_up(plans: dict[str, list[str]], name: str) -> None:
    assert any(re.match(r"SEARCH map_chunk USING COVERING INDEX map_chunk_task ", line) for line in plans[name])
    assert not any(line.startswith("SCAN map_chunk") for line in plans[name])


def test_every_index_serves_a_statement(plans: dict[str, list[str]]) -> None:
    text = "\n".join(line for lines in plans.values() for line in lines)
    for index in ("receipt_ended", "receipt_unsuccessful", "tag_value"):
        assert f"INDEX {index} " in text


def test_a_bounded_walk_has_its_bound() -> None:
    texts = dict(statements())
    for name, (_, bound) in WALKING.items():
        assert bound in texts[name]


def test_no_statement_is_put_together_from_values() -> None:
    import ringq.store

    for path in Path(ringq.store.__file__).parent.glob("*.py"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            formatted = re.search(r'f"[^"]*\b(SELECT|INSERT|UPDATE|DELETE|WHERE|VALUES)\b', line)
            assert not formatted, f"{path.name}:{number} {line.strip()}"

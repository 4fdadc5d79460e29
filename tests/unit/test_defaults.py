"""What a queue or the server says of tasks: read from text or a table, stored, shown, and refused in one line."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ringq import defaults
from ringq.errors import InvalidConfig
from ringq.settings import SETTINGS, project

STORED = {
    "queue": "bulk", "priority": 64, "group": "g", "run_timeout_ms": 90_000, "ttl_ms": 3_600_000, "ttl_from": 1,
    "total_timeout_ms": 7_200_000, "queue_timeout_ms": 500, "kill_after_ms": 2000, "memory_limit_kib": 524_288,
    "tags": {"team": "sales", "a=b": "c"},
}  # fmt: skip
TEXT = (
    "queue=bulk, priority=64,group=g,run_timeout=90s,ttl=1h,ttl_from=attempt,total_timeout=2h,queue_timeout=500ms,"
    "kill_after=2,memory_limit=512MB"
)


def test_text_and_table_say_the_same_and_are_shown_as_they_can_be_written() -> None:
    plain = {name: value for name, value in STORED.items() if name != "tags"}
    assert dict(defaults.of_server(TEXT)) == plain
    assert dict(defaults.of_server(defaults.as_text(defaults.shown(plain)))) == plain
    assert dict(defaults.of_server(defaults.shown(STORED))) == STORED
    assert dict(defaults.of_server(f"{TEXT},tags.team=sales")) == {**plain, "tags": {"team": "sales"}}
    assert defaults.of_server("") == ()
    exact = {"run_timeout_ms": 31_622_399_500, "memory_limit_kib": 3 << 30}
    assert dict(defaults.of_server(defaults.as_text(defaults.shown(exact)))) == exact
    assert defaults.stored({"run_timeout": timedelta(minutes=1), "ttl": None}) == {
        "run_timeout_ms": 60_000,
        "ttl_ms": None,
    }


def test_what_is_said_later_joins_what_was_said_and_none_takes_it_back() -> None:
    before = defaults.joined(None, {"priority": 1, "group": "g", "tags": {"a": "b"}})
    after = defaults.joined(before, {"priority": None, "group": "h", "tags": {"c": "d"}})
    assert defaults.loaded(after) == {"group": "h", "tags": {"c": "d"}}
    assert defaults.joined(after, {"group": None, "tags": None}) is None


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ("priority", "'priority' is no option"),
        ("=1", "'=1' is no option"),
        ("priority=1,priority=2", "priority is given twice"),
        ("tags.a=b,tags=c", "tags is given twice"),
        ("group.a=b", "'group.a=b' is no option"),
        ("key=a", "there is no default 'key'; there are queue, priority, group,"),
        ("run_timeot=1", "there is no default 'run_timeot'; did you mean run_timeout?"),
        ({"priority": True}, "priority: True is not 0"),
        ({"priority": -1}, "priority: -1 is not 0"),
        ({"run_timeout": 0}, "run_timeout: 0 is not 1ms to 366d"),
        ({"ttl_from": "birth"}, "ttl_from: 'birth' is not submission or attempt"),
        ({"tags": ["a"]}, "tags: ['a'] is no table of texts"),
        ({"tags": {"a": 1}}, "tags: expected printable text"),
        ({"queue": "a:b"}, "queue: a name has no comma or colon"),
        ({"group": ""}, "group: expected 1 to 200 printable characters"),
        (7, "7 is no table of options"),
    ],
)
def test_what_is_wrong_is_said(written: object, complaint: str) -> None:
    with pytest.raises(ValueError, match=r"^.+$") as caught:
        defaults.of_server(written)
    assert str(caught.value).startswith(complaint)


@pytest.mark.parametrize(
    "fields",
    [
        7, {"queue": "a"}, {"priority": "1"}, {"priority": 256}, {"priority": 1.5}, {"group": 3}, {"ttl_from": 2},
        {"run_timeout_ms": 0}, {"memory_limit_kib": 1}, {"tags": "a"}, {"tags": {"a": "b" * 300}}, {"label": "x"},
    ],
)  # fmt: skip
def test_a_stranger_cannot_have_stored_what_is_none(fields: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        defaults.check(fields)


def test_what_is_stored_passes() -> None:
    defaults.check({name: value for name, value in STORED.items() if name != "queue"})
    defaults.check(dict.fromkeys(defaults.FIELDS.values()))


def test_the_projects_file_says_it_as_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[tool.ringq.defaults]\nrun-timeout = "90s"\ntags = { team = "sales" }\n')
    found = project()
    assert found is not None
    assert dict(found.values["defaults"]) == {"run_timeout_ms": 90_000, "tags": {"team": "sales"}}
    assert SETTINGS["defaults"].plain(found.values["defaults"]) == "run_timeout=90,tags.team=sales"
    (tmp_path / "pyproject.toml").write_text("[tool.ringq.defaults]\npriority = 300\n")
    with pytest.raises(InvalidConfig, match=r"pyproject.toml:1: defaults: priority: 300 is not 0"):
        project()

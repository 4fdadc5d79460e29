"""What a handler reports: what is refused, where it goes, and when checkpoints go to the parent."""

from __future__ import annotations

import json
import threading
import time
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest

import ringq
from ringq.config import CHECKPOINT_BYTES_MAX, CHECKPOINT_INTERVAL_S
from ringq.context import Context
from ringq.keeping import Reports

TASK, LEASE = 7, 900


class Port:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *what: self.said.append((name, *what))


class Parent:
    """The other end of the channel."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, bool]] = []
        self.before: str | None = None
        self.heard = threading.Event()

    def keep(self, task_id: int, lease: int, text: str, *, wait: bool) -> None:
        assert (task_id, lease) == (TASK, LEASE)
        self.told.append((json.loads(text), wait))
        self.heard.set()

    def kept(self, task_id: int, lease: int) -> str | None:
        return self.before


def attempt(parent: Parent | None) -> tuple[Reports, Context]:
    nothing = lambda *_: None  # noqa: E731
    ring: Any = SimpleNamespace(set_progress=nothing, set_bytes=nothing, add_bytes=nothing, set_total=nothing)
    reports = Reports(ring, parent)
    reports.lease = LEASE
    return reports, Context(TASK, LEASE, reports=reports)


def test_everything_names_its_attempt() -> None:
    port: Any = Port()
    ctx = Context(TASK, LEASE, reports=port)
    ctx.progress(0.5, "half")
    ctx.progress_of(1, 4)
    ctx.progress_of(0, 0, "nothing to do")
    ctx.set_bytes_total(10)
    ctx.add_bytes(3)
    ctx.report_bytes(4)
    ctx.report_bytes(5, 9)
    ctx.checkpoint({"row": 1})
    assert port.said == [
        ("set_progress", LEASE, 0.5, "half"), ("set_progress", LEASE, 0.25, ""),
        ("set_progress", LEASE, 1.0, "nothing to do"), ("set_total", LEASE, 10), ("add_bytes", LEASE, 3),
        ("set_bytes", LEASE, 4), ("set_total", LEASE, 9), ("set_bytes", LEASE, 5),
        ("keep", TASK, LEASE, b'{"row":1}'),
    ]  # fmt: skip


@pytest.mark.parametrize("wrong", [-1, 2**63, 1.5, "7", True, None])
def test_what_is_no_number_of_bytes_is_refused(wrong: Any) -> None:
    ctx = Context()
    for say in (ctx.set_bytes_total, ctx.add_bytes, ctx.report_bytes):
        with pytest.raises(ringq.InvalidOption, match="a number of bytes"):
            say(wrong)


def test_a_checkpoint_that_json_would_not_give_back_is_refused() -> None:
    ctx = Context()
    for wrong, said in [
        (float("nan"), "nan is not JSON"),
        ({1: "a"}, "the key 1 is not text"),
        (object(), "object"),
        ("x" * CHECKPOINT_BYTES_MAX, "65,538 bytes of JSON, the limit is 65,536"),
    ]:
        with pytest.raises(ringq.InvalidCheckpoint, match=said):
            ctx.checkpoint(wrong)
    assert ctx.resume_from() is None
    ctx.checkpoint("x" * (CHECKPOINT_BYTES_MAX - 2))


def test_an_inert_context_takes_it_all_and_gives_its_checkpoint_back() -> None:
    ctx = Context()
    ctx.progress_of(1, 3, "a third")
    ctx.set_bytes_total(3)
    ctx.add_bytes(1)
    ctx.report_bytes(2, 3)
    assert ctx.resume_from() is None
    ctx.checkpoint({"at": datetime(2026, 1, 2), "pair": (1, 2)})
    assert ctx.resume_from() == {"at": "2026-01-02T00:00:00", "pair": [1, 2]}


def test_the_first_checkpoint_is_told_at_once_and_then_the_newest_when_it_is_time() -> None:
    parent = Parent()
    reports, ctx = attempt(parent)
    began = time.monotonic()
    ctx.checkpoint(1)
    assert parent.told == [(1, False)]
    parent.heard.clear()
    for number in range(2, 100):
        ctx.checkpoint(number)
    assert ctx.resume_from() == 99
    assert parent.heard.wait(10)
    assert time.monotonic() - began >= CHECKPOINT_INTERVAL_S
    assert parent.told == [(1, False), (99, False)]
    reports.settle()
    assert parent.told[2:] == [(99, True)]  # nobody knows yet that it has arrived


def test_the_newest_is_told_before_the_receipt_and_what_comes_late_is_nobodys() -> None:
    parent = Parent()
    reports, ctx = attempt(parent)
    assert not reports.is_used
    ctx.checkpoint(1)
    ctx.checkpoint(2)
    assert reports.is_used
    reports.settle()
    assert parent.told == [(1, False), (2, True)]
    assert not reports.is_used
    ctx.checkpoint(3)  # by a thread that has outlived its attempt
    reports.lease = LEASE + 1
    ctx.checkpoint(4)
    reports.settle()
    assert len(parent.told) == 2


def test_what_the_attempt_before_has_left_is_asked_for_and_then_ones_own() -> None:
    parent = Parent()
    _, ctx = attempt(parent)
    assert ctx.resume_from() is None
    parent.before = '{"row":5}'
    assert ctx.resume_from() == {"row": 5}
    ctx.checkpoint({"row": 6})
    assert ctx.resume_from() == {"row": 6}


def test_where_nobody_keeps_anything_nothing_is_kept() -> None:
    reports, ctx = attempt(None)
    ctx.checkpoint(1)
    assert ctx.resume_from() is None
    assert not reports.is_used

"""Pauses in an inline run: what is paused waits, for a time by its clock."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import ringq
from ringq.testing import Inline, inline

app = ringq.App("shop")


@app.task(queue="mail")
def greet(name: str) -> str:
    return f"hello {name}"


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Inline]:
    with inline(app, tmp_path / "tasks.db") as run:
        yield run


@pytest.mark.parametrize(
    "verbs",
    [("pause_group", "resume_group", "acme"), ("pause_domain", "resume_domain", "shop"), ("pause_all", "resume_all")],
    ids=lambda verbs: str(verbs[0]),
)
def test_what_is_paused_waits_and_the_others_run(run: Inline, verbs: tuple[Any, ...]) -> None:
    pause, resume, *name = verbs
    assert getattr(run.client, pause)(*name)
    held = greet.options(group="acme").submit("ann")
    assert held.group_paused == (pause == "pause_group")
    free = greet.submit("bob")
    assert run.client.query.task(held.id).status is ringq.Status.PAUSED
    if pause == "pause_group":
        assert free.result() == "hello bob"
    with pytest.raises(ringq.RingqError, match="nothing is left that may run now"):
        held.result()
    assert getattr(run.client, resume)(*name)
    assert (held.result(), free.result()) == ("hello ann", "hello bob")


def test_what_is_paused_for_a_time_goes_on_when_the_clock_is_there(run: Inline) -> None:
    run.client.pause_group("acme", timedelta(hours=1))
    run.client.pause_queue("mail", timedelta(minutes=30))
    held = greet.options(group="acme").submit("ann")
    run.clock.advance(1800)
    assert greet.submit("bob").result() == "hello bob"
    assert run.client.query.task(held.id).pause_reasons is ringq.PauseReason.GROUP
    run.clock.advance(1800)
    assert held.result() == "hello ann"
    assert not run.client.is_group_paused("acme")

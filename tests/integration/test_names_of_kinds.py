"""A kind that has earlier names is found with all that was stored under them: lists, history, sums, dead letters."""

from __future__ import annotations

from pathlib import Path

import pytest

import ringq
from ringq.testing import inline

app = ringq.App("shop")


@app.task(aliases=["shop::greet"])
def welcome(name: str) -> str:
    if not name:
        raise ValueError("nobody")
    return name


@app.task
def other() -> None: ...


@pytest.mark.parametrize("kind", ["shop::welcome", "shop::greet", welcome])
def test_all_names_of_a_kind_are_meant(tmp_path: Path, kind: str | ringq.Task[[str], str]) -> None:
    with inline(app, tmp_path) as run:
        other.submit()
        ids = [run.client.submit("shop::greet", {"name": name}).id for name in ("ann", "")]
        ids.append(welcome.submit("bob").id)
        query = run.client.query
        assert [one.id for one in query.tasks(kind=kind)] == ids[::-1]
        assert [one.id for one in query.tasks(ringq.Filter(kind=kind, submitted_after=run.clock.now()))] == ids[::-1]
        assert [one.id for one in query.tasks(kind=kind, status="pending")] == ids[::-1]
        run.run_all(raises=False)
        assert [one.id for one in query.tasks(kind=kind, status="completed")] == [ids[2], ids[0]]
        assert sorted(one.task_id for one in query.history(kind=kind)) == ids
        assert sorted(one.task_id for one in query.history(kind=kind, status="completed")) == [ids[0], ids[2]]
        sums = {(one.kind, one.status.value): one.count for one in query.statistics(kind)}
        failed = query.task(ids[1]).status
        assert sums == {
            ("shop::greet", "completed"): 1,
            ("shop::greet", failed.value): 1,
            ("shop::welcome", "completed"): 1,
        }


@pytest.mark.parametrize("kind", ["shop::welcome", "shop::greet"])
def test_dead_letters_are_found_under_all_names_of_their_kind(tmp_path: Path, kind: str) -> None:
    with inline(app, tmp_path) as run:
        task = run.client.submit("shop::greet", {"name": ""}, retry="1 constant 0s")
        run.run_all(raises=False)
        assert run.client.query.task(task.id).status is ringq.Status.DEAD_LETTER
        assert [one.id for one in run.client.query.tasks(kind=kind, status="dead_letter")] == [task.id]
        assert run.client.retry_dead(kind="shop::other") == 0
        assert run.client.retry_dead(kind=kind) == 1
        run.run_all(raises=False)
        assert run.client.purge_dead(kind=kind) == 1

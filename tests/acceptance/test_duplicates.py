"""Keys as a program meets them: one task at a time, a second run exactly once, whoever is killed on the way."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for

import ringq
from ringq.query import Query

Serve = Callable[..., Any]
Cli = Callable[..., Any]

HANDLERS = """
import os, time
import ringq

app = ringq.App("photos")

@app.task
def scan(folder: str, n: int) -> int:
    with open(os.path.join(folder, "ledger"), "a") as ledger:
        ledger.write(f"{n}:{os.getpid()}\\n")
    while not os.path.exists(os.path.join(folder, f"go{n}")):
        time.sleep(0.01)
    return n
"""


class Folder:
    """Where the handlers write down what they do, and wait to be let go."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def scan(self, n: int, **options: Any) -> ringq.Submission[Any]:
        return ringq.Submission("photos::scan", {"folder": str(self.path), "n": n}, key="disk1", **options)

    def lines(self) -> list[list[str]]:
        ledger = self.path / "ledger"
        return [line.split(":") for line in ledger.read_text().split()] if ledger.exists() else []

    def runs(self) -> list[int]:
        return [int(n) for n, _ in self.lines()]

    def wait_for(self, *runs: int) -> None:
        wait_for(lambda: self.runs() == list(runs))

    def let_go(self, *numbers: int) -> None:
        for n in numbers:
            (self.path / f"go{n}").touch()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def one(client: Any, submission: ringq.Submission[Any]) -> ringq.Submitted[Any]:
    (handle,) = client.submit_many([submission])
    return handle


def test_a_second_run_asked_for_while_one_runs_happens_once(serve: Serve, folder: Folder) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        first = one(client, folder.scan(1))
        folder.wait_for(1)
        second, third = one(client, folder.scan(2)), one(client, folder.scan(3))
        assert [h.outcome for h in (first, second, third)] == ["inserted", "requeued", "duplicate"]
        assert third.id == second.id != first.id
        folder.let_go(1, 2)
        assert client.wait_many([first, second, third], timeout=20)[2].result == "2"
        last = one(client, folder.scan(4))
        folder.let_go(4)
        assert (last.outcome, last.result(20)) == (ringq.Outcome.INSERTED, 4)
    assert folder.runs() == [1, 2, 4]


def test_a_second_run_waits_also_while_the_first_is_tried_again_after_its_workers_death(
    serve: Serve, folder: Folder
) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        first = one(client, folder.scan(1))
        folder.wait_for(1)
        second = one(client, folder.scan(2))
        os.kill(int(folder.lines()[0][1]), signal.SIGKILL)
        folder.wait_for(1, 1)
        assert one(client, folder.scan(3)).outcome == "duplicate"
        folder.let_go(1, 2)
        client.wait_many([first, second], timeout=20)
    assert folder.runs() == [1, 1, 2]


def test_a_second_run_happens_also_if_the_first_one_fails(serve: Serve, folder: Folder) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        first = one(client, folder.scan(1, run_timeout=0.5))
        folder.wait_for(1)
        second = one(client, folder.scan(2))
        folder.let_go(2)
        assert second.result(20) == 2
        with pytest.raises(ringq.TaskTimedOut):
            first.result(20)


POINTS = ["writer.before_commit", "writer.after_commit", "writer.after_free", "writer.after_reply"]


def submitted_across_a_kill(serve: Serve, served: Any, submission: ringq.Submission[Any]) -> ringq.Submitted[Any]:
    """Submit to a server that is killed by it, and take the answer of the next one."""
    handles: list[ringq.Submitted[Any]] = []

    def submit() -> None:
        with ringq.connect(served.database, reconnect=20) as client:
            handles.append(one(client, submission))

    thread = threading.Thread(target=submit)
    thread.start()
    assert served.wait() == -signal.SIGKILL
    serve()
    thread.join(20)
    return handles[0]


@pytest.mark.parametrize("point", POINTS)
def test_a_second_run_happens_once_though_the_server_is_killed_storing_it(
    serve: Serve, folder: Folder, point: str
) -> None:
    (folder.path / "handlers.py").write_text(HANDLERS)
    with ringq.connect(folder.path / "tasks.db") as client:
        one(client, folder.scan(1))  # no server runs, so the next one's first transaction is that of the second run
    served = serve(HANDLERS, env={"RINGQ_FAILPOINT": f"{point}=kill"})
    folder.wait_for(1)
    second = submitted_across_a_kill(serve, served, folder.scan(2))
    assert second.outcome is ringq.Outcome.REQUEUED
    folder.let_go(1, 2)
    with ringq.connect(served.database) as client:
        assert client.handle(second.id).result(20) == 2
        assert one(client, folder.scan(2)).outcome is ringq.Outcome.INSERTED
    query = Query(served.database)
    assert [task.status for task in query.tasks()][-2:] == [ringq.Status.COMPLETED] * 2
    assert folder.runs().count(2) in (1, 2)  # the third submission may run already
    assert folder.runs()[:2] == [1, 1]
    assert (query.task(second.id).attempts[-1].attempt, len(query.task(second.id).attempts)) == (1, 1)


@pytest.mark.parametrize("point", POINTS)
def test_a_task_is_superseded_once_though_the_server_is_killed_doing_it(
    serve: Serve, folder: Folder, point: str
) -> None:
    (folder.path / "handlers.py").write_text(HANDLERS)
    with ringq.connect(folder.path / "tasks.db") as client:
        later = datetime.now(UTC) + timedelta(hours=1)
        old = one(client, folder.scan(1, run_at=later))
    served = serve(HANDLERS, env={"RINGQ_FAILPOINT": f"{point}=kill"})
    folder.let_go(1, 2)
    new = submitted_across_a_kill(serve, served, folder.scan(2, on_duplicate="supersede"))
    assert (new.outcome, new.replaced_id) == (ringq.Outcome.SUPERSEDED, old.id)
    with ringq.connect(served.database) as client:
        assert client.handle(new.id).result(20) == 2
        with pytest.raises(ringq.TaskFailed, match=rf"was superseded: Replaced: task {new.id} took its place"):
            client.handle(old.id).result(20)
    assert folder.runs() == [2]
    assert len(Query(served.database).tasks()) == 2


def test_a_server_that_is_killed_while_both_are_there_runs_each_after_the_other(serve: Serve, folder: Folder) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        first = one(client, folder.scan(1))
        folder.wait_for(1)
        second = one(client, folder.scan(2))
    served.kill()
    with ringq.connect(served.database) as client:  # nobody knows now whether the first one has ended
        assert one(client, folder.scan(3)).id == second.id
        assert one(client, folder.scan(4, on_duplicate="reject")).outcome is ringq.Outcome.REJECTED
    folder.let_go(2)
    again = serve()
    folder.wait_for(1, 1)
    folder.let_go(1)
    with again.client() as client:
        client.wait_many([first.id, second.id], timeout=20)
    assert folder.runs() == [1, 1, 2]


def test_a_run_asked_for_after_the_server_died_is_not_taken_for_the_one_that_may_have_ended(
    serve: Serve, folder: Folder
) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        one(client, folder.scan(1))
        folder.wait_for(1)
    served.kill()
    with ringq.connect(served.database) as client:
        second = one(client, folder.scan(2))
        assert (second.outcome, client.stored_alone) == (ringq.Outcome.REQUEUED, True)
    folder.let_go(1, 2)
    again = serve()
    with again.client() as client:
        assert client.handle(second.id).result(20) == 2


def test_while_no_server_runs_a_duplicate_is_one_as_ever(folder: Folder) -> None:
    with ringq.connect(folder.path / "tasks.db") as client:
        first = one(client, folder.scan(1))
        second = one(client, folder.scan(2))
        assert (second.id, second.outcome) == (first.id, ringq.Outcome.DUPLICATE)
        third = one(client, folder.scan(3, on_duplicate="supersede"))
        assert (third.outcome, third.replaced_id) == (ringq.Outcome.SUPERSEDED, first.id)
        upgraded = one(client, folder.scan(4, priority=ringq.HIGH))
        assert (upgraded.id, upgraded.outcome) == (third.id, ringq.Outcome.UPGRADED)
    statuses = {task.id: task.status for task in Query(folder.path / "tasks.db").tasks()}
    assert statuses == {first.id: ringq.Status.SUPERSEDED, third.id: ringq.Status.PENDING}


def test_a_batch_tells_what_became_of_each(serve: Serve, folder: Folder) -> None:
    served = serve(HANDLERS)
    later = datetime.now(UTC) + timedelta(hours=1)

    def task(key: str | None, mode: Any = None) -> ringq.Submission[Any]:
        return ringq.Submission("photos::scan", {"n": 1, "folder": ""}, key=key, on_duplicate=mode, run_at=later)

    with served.client() as client:
        client.submit_many([task("a"), task("b"), task("c")])
        batch = client.submit_many(
            [task("a"), task("b", "supersede"), task("c", "reject"), task("d"), task(None), task("d")]
        )
    assert [handle.outcome for handle in batch] == [
        *("duplicate", "superseded", "rejected", "duplicate", "inserted", "inserted")
    ]  # fmt: skip
    assert [handle.id for handle in batch] == [1, 4, 3, 6, 5, 6]
    assert [handle.replaced_id for handle in batch] == [None, 2, None, None, None, None]
    assert (len(batch.duplicates), batch.superseded, batch.rejected) == (2, [batch[1]], [batch[2]])
    assert batch.counts == {
        ringq.Outcome.DUPLICATE: 2, ringq.Outcome.SUPERSEDED: 1, ringq.Outcome.REJECTED: 1, ringq.Outcome.INSERTED: 2,
    }  # fmt: skip


def test_arguments_are_a_key_by_themselves(serve: Serve, folder: Folder) -> None:
    served = serve(HANDLERS)
    later = datetime.now(UTC) + timedelta(hours=1)
    with served.client() as client:
        ids = [
            client.submit("photos::scan", {"n": n, "folder": ""}, key=ringq.PAYLOAD, run_at=later).id
            for n in (1, 2, 1, 2)
        ]
    assert ids == [1, 2, 1, 2]


def test_the_command_line_says_what_became_of_a_submission(cli: Cli, tmp_path: Path) -> None:
    scan = ("submit", "photos::scan", "--key", "disk1", "--payload", '{"n": 1}')
    assert cli(*scan).stdout == "1\n"
    again = cli(*scan)
    assert (again.stdout, again.returncode) == ("1\n", 0)
    assert "ringq: duplicate\n" in again.stderr
    superseding = cli(*scan, "--on-duplicate", "supersede")
    assert superseding.stdout == "2\n"
    assert "superseded: takes the place of task 1" in superseding.stderr
    told = cli(*scan, "--on-duplicate", "reject", "--json")
    assert json.loads(told.stdout) == {"ids": [2], "outcomes": ["rejected"]}
    lines = "\n".join(
        json.dumps({"kind": "photos::scan", "key": key, "on_duplicate": "skip"}) for key in ("disk1", "x")
    )
    many = cli("submit", "--from", "-", stdin=lines)
    assert many.stdout == "2 tasks in 1 batch, ids 2 to 3\n"
    assert "1 duplicate, 1 inserted" in many.stderr
    assert json.loads(cli("submit", "photos::scan", "--json").stdout) == {"ids": [4]}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--on-duplicate", "skip"), "on_duplicate goes with a key: a task without one has no duplicates"),
        (("--key", "k" * 10_000), "key: expected 1 to 200 printable characters"),
        (("--key", ""), "key: expected 1 to 200 printable characters"),
        (("--key", "a", "--on-duplicate", "replace"), "'replace' is not one of"),
    ],
)
def test_a_key_that_makes_no_sense_is_refused_in_one_line(cli: Cli, arguments: tuple[str, ...], said: str) -> None:
    refused = cli("submit", "photos::scan", *arguments)
    assert refused.returncode != 0
    assert said in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_repeated_burst_of_one_key_costs_one_task_at_a_time(serve: Serve, folder: Folder) -> None:
    """The third run begins only when the second has ended, however many ask for it."""
    served = serve(HANDLERS)
    folder.let_go(*range(40))
    with served.client() as client:
        handles = [one(client, folder.scan(n)) for n in range(40)]
        client.wait_many(handles, timeout=30)
    records = sorted(Query(served.database).tasks(limit=100), key=lambda task: task.id)
    assert len(records) == len({handle.id for handle in handles})
    assert all(a.ended_at <= b.started_at for a, b in pairwise(records))

"""Serial keys as a program meets them: one task at a time, in order, whoever is killed on the way."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for

import ringq
from ringq.model import Status
from ringq.query import Query

Serve = Callable[..., Any]
Cli = Callable[..., Any]

HANDLERS = """
import os, time
import ringq

app = ringq.App("disks")

def note(folder: str, text: str) -> None:
    with open(os.path.join(folder, "ledger"), "a") as ledger:
        ledger.write(text + "\\n")

@app.task
def write(folder: str, n: int) -> int:
    note(folder, f"begins {n} {os.getpid()}")
    while not (os.path.exists(os.path.join(folder, f"go{n}")) or os.path.exists(os.path.join(folder, "go"))):
        time.sleep(0.002)
    if os.path.exists(os.path.join(folder, f"always{n}")) or os.path.exists(os.path.join(folder, f"fail{n}")):
        if os.path.exists(os.path.join(folder, f"fail{n}")):
            os.unlink(os.path.join(folder, f"fail{n}"))
        note(folder, f"fails {n} {os.getpid()}")
        raise OSError("no")
    note(folder, f"ends {n} {os.getpid()}")
    return n

@app.task(serial_key=lambda folder, n, disk: disk)
def check(folder: str, n: int, disk: str) -> int:
    return write.function(folder, n)
"""


class Folder:
    """Where the handlers write down what they do, and wait to be let go."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, n: int, serial_key: str | None = "disk1", **options: Any) -> ringq.Submission[Any]:
        payload = {"folder": str(self.path), "n": n}
        return ringq.Submission("disks::write", payload, serial_key=serial_key, **options)

    def lines(self) -> list[list[str]]:
        ledger = self.path / "ledger"
        return [line.split() for line in ledger.read_text().splitlines()] if ledger.exists() else []

    def said(self) -> list[str]:
        return [f"{word} {n}" for word, n, _ in self.lines()]

    def pid(self) -> int:
        return int(self.lines()[-1][2])

    def wait_for(self, *said: str) -> None:
        wait_for(lambda: self.said() == list(said))

    def let_go(self, *numbers: int) -> None:
        for n in numbers:
            (self.path / f"go{n}").touch()

    def let_all_go(self) -> None:
        (self.path / "go").touch()

    def let_fail(self, n: int) -> None:
        (self.path / f"fail{n}").touch()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def one(client: Any, submission: ringq.Submission[Any]) -> ringq.Submitted[Any]:
    (handle,) = client.submit_many([submission])
    return handle


def turns(*numbers: int) -> list[str]:
    return [f"{word} {n}" for n in numbers for word in ("begins", "ends")]


def status_is(served: Any, task: Any, status: Status) -> bool:
    return Query(served.database).task(task.id).status is status


def test_two_hundred_of_a_key_run_one_at_a_time_in_order_beside_free_ones(serve: Serve, folder: Folder) -> None:
    folder.let_all_go()
    served = serve(HANDLERS)
    with served.client() as client:
        mixed = [folder.write(n, "disk1" if n % 2 else None) for n in range(400)]
        client.wait_many(client.submit_many(mixed), timeout=60)
    lined = [said for said in folder.said() if int(said.split()[1]) % 2]
    assert lined == turns(*range(1, 400, 2))
    assert len(folder.said()) == 800


def test_while_one_of_a_key_runs_others_of_it_wait_and_the_rest_runs(serve: Serve, folder: Folder) -> None:
    served = serve(HANDLERS, "--workers", "2")
    with served.client() as client:
        tasks = client.submit_many([folder.write(n) for n in (1, 2, 3)])
        folder.wait_for("begins 1")
        one(client, folder.write(4, "disk2")), one(client, folder.write(5, None))
        folder.let_go(4, 5)
        wait_for(lambda: folder.said()[1:] == turns(4, 5))
        urgent = one(client, folder.write(6, priority=ringq.HIGH, queue="other"))
        folder.let_all_go()
        client.wait_many([*tasks, urgent], timeout=20)
    assert folder.said()[5:] == ["ends 1", *turns(6, 2, 3)]


def test_a_more_urgent_one_is_first_if_none_has_begun(serve: Serve, folder: Folder) -> None:
    served = serve(HANDLERS, "--workers", "1")
    with served.client() as client:
        one(client, folder.write(0, None))
        folder.wait_for("begins 0")
        tasks = [one(client, folder.write(n, priority=p)) for n, p in ((1, 128), (2, 200), (3, 64))]
        folder.let_all_go()
        client.wait_many(tasks, timeout=20)
    assert folder.said() == turns(0, 3, 1, 2)


def test_a_retry_holds_the_line(serve: Serve, folder: Folder) -> None:
    served = serve(HANDLERS)
    folder.let_all_go()
    folder.let_fail(2)
    with served.client() as client:
        tasks = client.submit_many([folder.write(n, retry="3 constant 300ms") for n in (1, 2, 3)])
        client.wait_many(tasks, timeout=20)
    assert folder.said() == [*turns(1), "begins 2", "fails 2", *turns(2, 3)]


def test_a_worker_that_is_killed_in_the_middle_does_not_let_the_next_one_in(serve: Serve, folder: Folder) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        tasks = client.submit_many([folder.write(n) for n in (1, 2, 3)])
        folder.wait_for("begins 1")
        folder.let_go(1)
        folder.wait_for("begins 1", "ends 1", "begins 2")
        os.kill(folder.pid(), signal.SIGKILL)
        folder.wait_for("begins 1", "ends 1", "begins 2", "begins 2")
        folder.let_all_go()
        client.wait_many(tasks, timeout=20)
    assert folder.said() == [*turns(1), "begins 2", *turns(2, 3)]


def test_a_server_that_is_killed_leaves_the_turn_to_who_has_begun(serve: Serve, folder: Folder) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        tasks = client.submit_many([folder.write(n) for n in (1, 2, 3)])
        folder.wait_for("begins 1")
        urgent = one(client, folder.write(4, priority=ringq.HIGH))
    served.kill()
    served = serve()
    folder.wait_for("begins 1", "begins 1")
    folder.let_all_go()
    with served.client() as client:
        client.wait_many([*tasks, urgent], timeout=20)
    assert folder.said() == ["begins 1", *turns(1, 4, 2, 3)]


def test_one_that_waits_for_its_next_attempt_has_the_turn_also_after_a_restart(serve: Serve, folder: Folder) -> None:
    served = serve(HANDLERS)
    folder.let_all_go()
    folder.let_fail(1)
    with served.client() as client:
        tasks = client.submit_many([folder.write(1, retry="3 constant 2s"), folder.write(2)])
    folder.wait_for("begins 1", "fails 1")
    wait_for(lambda: bool(Query(served.database).task(tasks[0].id).attempts))
    served.kill()
    served = serve()
    with served.client() as client:
        client.wait_many(tasks, timeout=20)
    assert folder.said() == ["begins 1", "fails 1", *turns(1, 2)]


def test_tasks_that_were_stored_without_a_server_take_turns(serve: Serve, folder: Folder) -> None:
    serve(HANDLERS).stop()
    folder.let_all_go()
    with ringq.connect(folder.path / "tasks.db") as client:
        tasks = client.submit_many([folder.write(n, priority=200 - n) for n in range(20)])
        assert client.stored_alone
    with serve().client() as client:
        client.wait_many(tasks, timeout=20)
    assert folder.said() == turns(*range(19, -1, -1))


def test_a_cancel_of_one_that_waits_and_of_the_one_that_runs(serve: Serve, folder: Folder) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        tasks = client.submit_many([folder.write(n) for n in (1, 2, 3, 4)])
        folder.wait_for("begins 1")
        assert [one.outcome for one in client.cancel(*tasks[:2])] == ["cancelling", "cancelled"]
        folder.wait_for("begins 1", "begins 3")
        folder.let_all_go()
        client.wait_many(tasks[2:], timeout=20)
        assert [client.query.task(task.id).status for task in tasks] == ["cancelled", "cancelled", *["completed"] * 2]
    assert folder.said() == ["begins 1", *turns(3, 4)]


def test_one_that_has_the_turn_and_has_not_begun_is_cancelled(serve: Serve, folder: Folder) -> None:
    served = serve(HANDLERS, "--workers", "1")
    with served.client() as client:
        one(client, folder.write(0, None))
        folder.wait_for("begins 0")
        tasks = client.submit_many([folder.write(n) for n in (1, 2, 3)])
        assert [one.outcome for one in client.cancel(*tasks[:2])] == ["cancelled", "cancelled"]
        folder.let_all_go()
        client.wait_many(tasks[2:], timeout=20)
    assert folder.said() == turns(0, 3)


def test_one_that_waits_for_too_long_expires_and_the_line_goes_on(serve: Serve, folder: Folder) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        first, late, last = client.submit_many([folder.write(1), folder.write(2, ttl=0.3), folder.write(3)])
        folder.wait_for("begins 1")
        wait_for(lambda: status_is(served, late, Status.EXPIRED))
        folder.let_all_go()
        client.wait_many([first, last], timeout=20)
    assert folder.said() == turns(1, 3)


def test_a_dead_letter_lets_go_and_queues_up_again_when_it_is_retried(serve: Serve, folder: Folder) -> None:
    served = serve(HANDLERS)
    folder.let_go(1)
    (folder.path / "always1").touch()
    with served.client() as client:
        dead, running, last = client.submit_many([folder.write(1, retry=1), folder.write(2), folder.write(3)])
        folder.wait_for(*["begins 1", "fails 1"] * 2, "begins 2")
        assert status_is(served, dead, Status.DEAD_LETTER)
        (folder.path / "always1").unlink()
        assert client.retry_dead(dead) == 1
        assert not client.retry_dead(kind="disks::write")
    served.kill()
    served = serve()  # that it had attempts before it died does not give it the turn
    folder.wait_for(*["begins 1", "fails 1"] * 2, "begins 2", "begins 2")
    folder.let_all_go()
    with served.client() as client:
        client.wait_many([dead, running, last], timeout=20)
    assert folder.said() == [*["begins 1", "fails 1"] * 2, "begins 2", *turns(2, 1, 3)]


def test_one_that_waits_is_superseded_or_made_more_urgent(serve: Serve, folder: Folder) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        first = one(client, folder.write(1))
        folder.wait_for("begins 1")
        old = one(client, folder.write(2, key="a"))
        middle = one(client, folder.write(3))
        slow = one(client, folder.write(4, key="b", priority=200))
        new = one(client, folder.write(5, key="a", on_duplicate="supersede"))
        again = one(client, folder.write(6, key="b", priority=ringq.HIGH))
        assert (new.outcome, again.outcome, again.id) == ("superseded", "upgraded", slow.id)
        folder.let_all_go()
        client.wait_many([first, middle, slow, new], timeout=20)
        assert client.query.task(old.id).status == "superseded"
    assert folder.said() == turns(1, 4, 3, 5)


def test_one_that_has_not_begun_is_superseded_by_one_of_another_serial_key(serve: Serve, folder: Folder) -> None:
    served = serve(HANDLERS, "--workers", "1")
    with served.client() as client:
        one(client, folder.write(0, None))
        folder.wait_for("begins 0")
        client.pause_queue("default", running="finish")  # so that none is given to the workers
        one(client, folder.write(1, key="a"))
        waits = one(client, folder.write(2))
        new = one(client, folder.write(3, "disk2", key="a", on_duplicate="supersede"))
        assert new.outcome == "superseded"
        client.resume_queue("default")
        folder.let_all_go()
        client.wait_many([waits, new], timeout=20)
    assert folder.said() == turns(0, 2, 3)


def test_delayed_ones_take_part_when_they_come_due(serve: Serve, folder: Folder) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        delayed = one(client, folder.write(1, run_after=0.5, priority=ringq.HIGH))
        first = one(client, folder.write(2))
        folder.wait_for("begins 2")
        last = one(client, folder.write(3))
        wait_for(lambda: status_is(served, delayed, Status.PENDING) and not client.health()["delayed"])
        folder.let_all_go()
        client.wait_many([delayed, first, last], timeout=20)
    assert folder.said() == turns(2, 1, 3)


def test_a_schedule_gives_its_tasks_a_serial_key(serve: Serve, folder: Folder) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        payload = {"folder": str(folder.path), "n": 1}
        client.schedule(
            "often", "disks::write", payload, every=0.05, max_occurrences=3, skip_if_running=False, serial_key="disk1"
        )
        wait_for(lambda: client.query.schedules()[0].occurrences == 3)
        folder.let_all_go()
        wait_for(lambda: len(folder.said()) == 6)
        assert {record.serial_key for record in client.query.tasks()} == {"disk1"}
    assert folder.said() == turns(1, 1, 1)


def test_on_the_command_line_and_in_ndjson(serve: Serve, cli: Cli, folder: Folder) -> None:
    served = serve(HANDLERS)
    folder.let_all_go()
    line = '{{"kind": "disks::write", "payload": {{"folder": "{}", "n": {}}}, "serial_key": "disk{}"}}\n'
    (folder.path / "tasks.ndjson").write_text("".join(line.format(folder.path, n, n % 2) for n in range(10)))
    cli("submit", "--from", str(folder.path / "tasks.ndjson"), "--wait", "--db", str(served.database))
    assert [said for said in folder.said() if said[-1] in "13579"] == turns(1, 3, 5, 7, 9)
    payload = f'{{"folder": "{folder.path}", "n": 11}}'
    cli(
        "submit", "disks::write", "--payload", payload, "--serial-key", "disk 1", "--wait", "--db", str(served.database)
    )
    assert "disk 1" in cli("task", "show", "11", "--db", str(served.database)).stdout

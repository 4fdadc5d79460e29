"""The client against a server that speaks the real protocol: submit, wait, ask."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fake_server import FakeServer, serving

import ringq
from ringq import protocol
from ringq.model import Reason, Status

app = ringq.App("shop")


@app.task
def add(left: int, right: int = 1) -> int:
    return left + right


@app.task
def when(day: str) -> datetime:
    return datetime.fromisoformat(day)


@app.task(queue="bulk")
def nothing(ctx: ringq.Context) -> None:
    ctx.progress(1.0)


def run(kind: str, arguments: dict[str, Any]) -> Any:
    task = app.kinds()[kind]
    import json

    return json.loads(task.run(None, json.dumps(arguments).encode()))


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "shop.db"


@pytest.fixture
def server(database: Path) -> Iterator[FakeServer]:
    with serving(database, run) as server:
        yield server


@pytest.fixture
def holding(database: Path) -> Iterator[FakeServer]:
    """A server whose tasks end only when told to."""
    with serving(database) as server:
        yield server


def test_a_submitted_task_gives_its_typed_result(server: FakeServer, database: Path) -> None:
    with ringq.connect(database):
        handle = add.submit(2, right=3)
        assert (handle.id, handle.kind, handle.outcome) == (1, "shop::add", ringq.Outcome.INSERTED)
        assert handle.result(timeout=5) == 5
        day = when.submit("2026-01-02").result(5)
    assert day == datetime(2026, 1, 2)
    assert server.tasks[0] == (protocol.SpecFields("shop::add"), '{"left":2,"right":3}', None)


def test_options_of_the_call_are_sent_and_only_those(server: FakeServer, database: Path) -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)
    with ringq.connect(database) as client:
        options = {"queue": "q", "priority": 7, "group": "g"}
        nothing.options(**options, run_timeout=timedelta(seconds=2), run_at=at).submit()
        client.submit("shop::nothing", **options, run_timeout=2, run_at=at)
        client.submit(nothing, **options, run_timeout=2.0, run_at=at)
        client.submit(nothing)
    spec = protocol.SpecFields("shop::nothing", "q", 7, "g", 2000)
    at_us = 1_893_456_000_000_000
    assert server.tasks == [
        *[(spec, "{}", at_us)] * 3,
        (protocol.SpecFields("shop::nothing"), "{}", None),
    ]


def test_a_kind_as_text_needs_no_handler(server: FakeServer, database: Path) -> None:
    with ringq.connect(database) as client:
        assert client.submit("shop::add", {"left": 40, "right": 2}).result(5) == 42
        assert client.submit("shop::add", '{ "left": 1 }').result(5) == 2
        assert client.submit(add, {"left": 3}).result(5) == 4
    assert server.tasks[1][1] == '{"left":1}'


def test_a_batch_is_one_submission_in_order(server: FakeServer, database: Path) -> None:
    urgent = add.options(priority=ringq.HIGH)
    batch: list[ringq.Submission[Any]] = []
    for number in range(50):
        batch += [add.submission(number), urgent.submission(number), nothing.submission()]
    with ringq.connect(database) as client:
        handles = client.submit_many(batch)
        ends = client.wait_many(handles, timeout=5)
    assert [handle.id for handle in handles] == list(range(1, 151))
    assert [end.task_id for end in ends] == list(range(1, 151))
    assert [handle.result() for handle in handles[:6]] == [1, 1, None, 2, 2, None]
    assert len(server.seen_ids) == 1
    assert [spec.priority for spec, _, _ in server.tasks[:3]] == [None, 64, None]


def test_an_empty_batch_asks_nobody(database: Path) -> None:
    with ringq.connect(database) as client:
        assert client.submit_many([]) == []
        assert client.wait_many([]) == []
        assert list(client.as_completed([])) == []


def test_a_hundred_thousand_in_one_call(database: Path) -> None:
    with serving(database) as server, ringq.connect(database) as client:
        one = add.submission(1)
        handles = client.submit_many([one] * 100_000)
        assert handles[-1].id == 100_000
        server.ends = {number: (number, 10, 0, "2", None) for number in range(1, 100_001)}
        ends = client.wait_many(handles, timeout=30)
    assert len(ends) == 100_000
    assert all(handle.result() == 2 for handle in handles)
    assert max(sum(last - first + 1 for first, last in ranges) for ranges in server.seen_waits) <= 10_000
    assert all(len(ranges) == 1 for ranges in server.seen_waits)


def test_too_large_a_batch_is_refused_here(database: Path) -> None:
    with ringq.connect(database) as client, pytest.raises(ringq.BatchTooLarge, match="200,001"):
        client.submit_many([add.submission(1)] * 200_001)


def test_what_is_no_submission_is_refused_here(database: Path) -> None:
    with ringq.connect(database) as client, pytest.raises(ringq.InvalidSubmission, match="submission"):
        client.submit_many([add])  # type: ignore[list-item]


def test_a_refusal_of_the_server_is_its_exception(server: FakeServer, database: Path) -> None:
    with ringq.connect(database, reconnect=0.1) as client:
        server.refusal = ringq.UnknownKind("no handler of kind 'shop::sub'")
        with pytest.raises(ringq.UnknownKind, match="shop::sub"):
            client.submit("shop::sub")
        server.refusal = ringq.ServerStopping()
        with pytest.raises(ringq.ServerStopping):
            client.submit("shop::add", {"left": 1})
        server.refusal = None
        assert client.submit("shop::add", {"left": 1}).result(5) == 2
    assert server.accepted == 1, "a refusal costs no connection"


@pytest.mark.parametrize(
    ("status", "reason", "expected"),
    [
        (Status.FAILED, Reason.HANDLER_ERROR, ringq.TaskFailed),
        (Status.FAILED, Reason.RUN_TIMEOUT, ringq.TaskTimedOut),
        (Status.DEAD_LETTER, Reason.CRASH_LIMIT, ringq.TaskDead),
        (Status.CANCELLED, Reason.CANCELLED, ringq.TaskCancelled),
    ],
)
def test_each_end_has_its_exception(
    holding: FakeServer, database: Path, status: Status, reason: Reason, expected: type[ringq.TaskFailed]
) -> None:
    details = {"type": "ValueError", "message": "no such file", "traceback": "Traceback: line 1\n"}
    with ringq.connect(database):
        handle = add.submit(1)
        holding.end(handle.id, status=status, reason=reason, error=details)
        with pytest.raises(ringq.TaskFailed, match="ValueError: no such file") as caught:
            handle.result(5)
    assert type(caught.value) is expected
    assert (caught.value.task_id, caught.value.status, caught.value.error) == (1, status.value, details)
    assert "line 1" in caught.value.__notes__[0]
    assert handle.wait().status is status


def test_waiting_has_a_limit_and_the_task_goes_on(holding: FakeServer, database: Path) -> None:
    with ringq.connect(database) as client:
        handle, other = add.submit(1), add.submit(2)
        with pytest.raises(ringq.WaitTimeout, match="task 1 did not end"):
            handle.result(timeout=0)
        with pytest.raises(ringq.WaitTimeout, match="2 of 2 tasks"):
            client.wait_many([handle, other], timeout=0.05)
        holding.end(1, 2)
        holding.end(2, 3)
        assert [handle.result(5), other.result(5)] == [2, 3]
        assert client.health()["status"] == "ok"


def test_late_replies_of_an_abandoned_wait_reach_nobody(holding: FakeServer, database: Path) -> None:
    with ringq.connect(database) as client:
        first = client.submit(add, {"left": 1})
        with pytest.raises(ringq.WaitTimeout):
            first.wait(0)
        holding.end(1, 2)
        assert client.submit(add, {"left": 5}).id == 2


def test_ends_come_as_they_happen_and_other_calls_go_between(holding: FakeServer, database: Path) -> None:
    with ringq.connect(database) as client:
        handles = [add.submit(number) for number in range(3)]
        holding.end(2, "b")
        seen = []
        for handle in client.as_completed([*handles, handles[1]], timeout=5):
            seen.append(handle.id)
            assert client.health()["status"] == "ok"
            if seen == [2, 2]:
                holding.end(3, "c")
            elif seen == [2, 2, 3]:
                holding.end(1, "a")
    assert seen == [2, 2, 3, 1]


def test_an_iterator_left_early_closes_its_connection(holding: FakeServer, database: Path) -> None:
    with ringq.connect(database) as client:
        handles = [add.submit(number) for number in range(2)]
        holding.end(1, 1)
        for _ in client.as_completed(handles):
            break
        assert client.submit(add, {"left": 1}).id == 3


def test_an_unknown_task_is_said_to_be(server: FakeServer, database: Path) -> None:
    with ringq.connect(database) as client:
        handle = client.submit(add, {"left": 1})
        with pytest.raises(ringq.UnknownTask, match="99"):
            client.handle(99).result(5)
        assert client.handle(handle.id).result(5) == 2
        assert client.wait_many([handle.id], 5)[0].result == "2"


def test_a_result_that_no_longer_fits_is_said_to_be(holding: FakeServer, database: Path) -> None:
    with ringq.connect(database):
        handle = add.submit(1)
        holding.end(1, "text")
        with pytest.raises(ringq.InvalidResult, match="expected int, got str"):
            handle.result(5)


def test_eight_threads_share_a_client(server: FakeServer, database: Path) -> None:
    results: list[int] = []
    lock = threading.Lock()

    def work(client: ringq.Client, number: int) -> None:
        for index in range(50):
            value = client.submit(add, {"left": number, "right": index}).result(20)
            with lock:
                results.append(value)

    with ringq.connect(database) as client:
        threads = [threading.Thread(target=work, args=(client, number)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert sorted(results) == sorted(number + index for number in range(8) for index in range(50))
    assert len(server.tasks) == 400
    assert server.accepted == 8


def test_a_closed_client_says_so_also_to_a_thread_that_waits(holding: FakeServer, database: Path) -> None:
    client = ringq.connect(database)
    handle = client.submit(add, {"left": 1})
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            handle.result()
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    assert holding.waiting.acquire(timeout=10)
    client.close()
    thread.join(10)
    assert isinstance(caught[0], ringq.ClientClosed)
    with pytest.raises(ringq.ClientClosed):
        client.health()
    client.close()

"""What a client promises, of the one that blocks and of the one that is awaited: each test is run over both."""

from __future__ import annotations

import asyncio
import inspect
import json
import random
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fake_server import FakeServer, serving

import ringq
import ringq.aio
from ringq import config, protocol
from ringq.model import Reason, Status
from ringq.store import OwnerLock

app = ringq.App("shop")


@app.task
def add(left: int, right: int = 1) -> int:
    return left + right


@app.task(queue="bulk")
def nothing(ctx: ringq.Context) -> None:
    ctx.progress(1.0)


def run(kind: str, arguments: Any) -> Any:
    if isinstance(arguments, list):  # a chunk of a map
        return {"us": 1000, "results": [add(**call) if isinstance(call, dict) else add(*call) for call in arguments]}
    return json.loads(app.kinds()[kind].run(None, json.dumps(arguments).encode()))


async def done(value: Any) -> Any:
    """What a verb returns, blocking or awaited."""
    return await value if inspect.iscoroutine(value) else value


async def each(results: Any) -> AsyncIterator[Any]:
    """The entries of what a client gives one by one."""
    if hasattr(results, "__aiter__"):
        async for result in results:
            yield result
    else:
        for result in results:
            yield result


Connect = Callable[..., Any]


@asynccontextmanager
async def blocking(database: Path, **options: Any) -> AsyncIterator[Any]:
    with ringq.connect(database, **options) as client:
        yield client


@asynccontextmanager
async def awaited(database: Path, **options: Any) -> AsyncIterator[Any]:
    async with ringq.aio.connect(database, **options) as client:
        yield client


@pytest.fixture(params=[blocking, awaited])
def connect(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "shop.db"


def lead(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 50))


# -- submit and wait ------------------------------------------------------------------------------


def test_a_submitted_task_gives_its_typed_result(connect: Connect, database: Path) -> None:
    async def test() -> None:
        with serving(database, run) as server:
            async with connect(database) as client:
                handle = await done(client.submit(add, {"left": 2, "right": 3}))
                assert (handle.id, handle.kind, handle.outcome) == (1, "shop::add", ringq.Outcome.INSERTED)
                assert repr(handle) == "Submitted(shop::add, id=1)"
                assert await done(handle.result(timeout=5)) == 5
                assert handle.known_end.status is Status.COMPLETED
            assert server.tasks == [(protocol.SpecFields("shop::add"), '{"left":2,"right":3}', None)]

    lead(test)


def test_options_of_the_call_are_sent_and_only_those(connect: Connect, database: Path) -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)

    async def test() -> None:
        with serving(database, run) as server:
            async with connect(database) as client:
                options: dict[str, Any] = {"queue": "q", "priority": 7, "group": "g", "run_at": at}
                await done(client.submit("shop::nothing", **options, run_timeout=2))
                await done(client.submit(nothing, **options, run_timeout=timedelta(seconds=2)))
                await done(client.submit(nothing))
                with pytest.raises(ringq.InvalidOption, match="prority"):
                    await done(client.submit(nothing, prority=3))
                with pytest.raises(ringq.InvalidPayload, match="left"):
                    await done(client.submit(add, {}))
            spec = protocol.SpecFields("shop::nothing", "q", 7, "g", 2000)
            assert server.tasks == [
                *[(spec, "{}", 1_893_456_000_000_000)] * 2,
                (protocol.SpecFields("shop::nothing"), "{}", None),
            ]

    lead(test)


def test_a_batch_is_one_submission_in_order(connect: Connect, database: Path) -> None:
    urgent = add.options(priority=ringq.HIGH)
    batch: list[ringq.Submission[Any]] = []
    for number in range(50):
        batch += [add.submission(number), urgent.submission(number), nothing.submission()]

    async def test() -> None:
        with serving(database, run) as server:
            async with connect(database) as client:
                handles = await done(client.submit_many(batch))
                ends = await done(client.wait_many(handles, timeout=5))
                assert handles.counts == {ringq.Outcome.INSERTED: 150}
                assert [end.task_id for end in ends] == [handle.id for handle in handles] == list(range(1, 151))
                assert [await done(handle.result()) for handle in handles[:4]] == [1, 1, None, 2]
            assert len(server.seen_ids) == 1

    lead(test)


def test_an_empty_batch_asks_nobody(connect: Connect, database: Path) -> None:
    async def test() -> None:
        async with connect(database) as client:
            assert await done(client.submit_many([])) == []
            assert await done(client.wait_many([])) == []
            assert [handle async for handle in each(client.as_completed([]))] == []

    lead(test)


def test_thirty_thousand_in_one_call(connect: Connect, database: Path) -> None:
    async def test() -> None:
        with serving(database) as server:
            async with connect(database) as client:
                handles = await done(client.submit_many([add.submission(1)] * 30_000))
                server.ends = {number: (number, 10, 0, "2", None) for number in range(1, 30_001)}
                assert len(await done(client.wait_many(handles, timeout=30))) == 30_000
                assert await done(handles[-1].result()) == 2

    lead(test)


def test_a_refusal_of_the_server_is_its_exception(connect: Connect, database: Path) -> None:
    async def test() -> None:
        with serving(database, run) as server:
            async with connect(database, reconnect=0.1) as client:
                server.refusal = ringq.UnknownKind("no handler of kind 'shop::sub'")
                with pytest.raises(ringq.UnknownKind, match="shop::sub"):
                    await done(client.submit("shop::sub"))
                server.refusal = ringq.ServerStopping()
                with pytest.raises(ringq.ServerStopping):
                    await done(client.submit("shop::add", {"left": 1}))
                server.refusal = None
                assert await done((await done(client.submit("shop::add", {"left": 1}))).result(5)) == 2
            assert server.accepted == 1, "a refusal costs no connection"

    lead(test)


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
    connect: Connect, database: Path, status: Status, reason: Reason, expected: type[ringq.TaskFailed]
) -> None:
    details = {"type": "ValueError", "message": "no such file", "traceback": "Traceback: line 1\n"}

    async def test() -> None:
        with serving(database) as server:
            async with connect(database) as client:
                handle = await done(client.submit(add, {"left": 1}))
                server.end(handle.id, status=status, reason=reason, error=details)
                with pytest.raises(ringq.TaskFailed, match="ValueError: no such file") as caught:
                    await done(handle.result(5))
                assert type(caught.value) is expected
                assert "line 1" in caught.value.__notes__[0]
                assert (await done(handle.wait())).status is status

    lead(test)


def test_waiting_has_a_limit_and_the_task_goes_on(connect: Connect, database: Path) -> None:
    async def test() -> None:
        with serving(database) as server:
            async with connect(database) as client:
                handle = await done(client.submit(add, {"left": 1}))
                other = await done(client.submit(add, {"left": 2}))
                with pytest.raises(ringq.WaitTimeout, match="task 1 did not end"):
                    await done(handle.result(timeout=0))
                with pytest.raises(ringq.WaitTimeout, match="2 of 2 tasks"):
                    await done(client.wait_many([handle, other], timeout=0.05))
                with pytest.raises(ringq.InvalidOption, match="timeout"):
                    await done(handle.result(timeout="soon"))
                server.end(1, 2)
                server.end(2, 3)
                assert [await done(handle.result(5)), await done(other.result(5))] == [2, 3]
                assert (await done(client.health()))["status"] == "ok"

    lead(test)


def test_late_replies_of_an_abandoned_wait_reach_nobody(connect: Connect, database: Path) -> None:
    async def test() -> None:
        with serving(database) as server:
            async with connect(database) as client:
                first = await done(client.submit(add, {"left": 1}))
                with pytest.raises(ringq.WaitTimeout):
                    await done(first.wait(0))
                server.end(1, 2)
                assert (await done(client.submit(add, {"left": 5}))).id == 2

    lead(test)


def test_ends_come_as_they_happen_and_other_calls_go_between(connect: Connect, database: Path) -> None:
    async def test() -> None:
        with serving(database) as server:
            async with connect(database) as client:
                handles = [await done(client.submit(add, {"left": number})) for number in range(3)]
                server.end(2, "b")
                seen = []
                async for handle in each(client.as_completed([*handles, handles[1]], timeout=5)):
                    seen.append(handle.id)
                    assert (await done(client.health()))["status"] == "ok"
                    if seen == [2, 2]:
                        server.end(3, "c")
                    elif seen == [2, 2, 3]:
                        server.end(1, "a")
                assert seen == [2, 2, 3, 1]

    lead(test)


def test_an_unknown_task_is_said_to_be(connect: Connect, database: Path) -> None:
    async def test() -> None:
        with serving(database, run):
            async with connect(database) as client:
                handle = await done(client.submit(add, {"left": 1}))
                with pytest.raises(ringq.UnknownTask, match="99"):
                    await done(client.handle(99).result(5))
                with pytest.raises(ringq.InvalidOption, match="got 'x'"):
                    client.handle("x")
                assert await done(client.handle(handle.id).result(5)) == 2
                assert (await done(client.wait_many([handle.id], 5)))[0].result == "2"

    lead(test)


# -- what goes wrong on the way -------------------------------------------------------------------


def test_no_server_is_said_at_once_with_the_command_to_start_one(connect: Connect, database: Path) -> None:
    async def test() -> None:
        async with connect(database) as client:
            with pytest.raises(ringq.ServerUnavailable, match=r"ringq serve .* --db .*shop\.db") as caught:
                await done(client.health())
            assert "not known" not in str(caught.value)

    lead(test)


@pytest.mark.parametrize("sent", [0, 1, 11, 12, 15])
def test_a_reply_lost_after_commit_does_not_double(connect: Connect, database: Path, sent: int) -> None:
    async def test() -> None:
        with serving(database, run) as server:
            async with connect(database) as client:
                server.cuts = [sent, sent]
                assert await done((await done(client.submit(add, {"left": 1}))).result(5)) == 2
            assert len(server.tasks) == 1
            assert len(server.seen_ids) == 3
            assert len(set(server.seen_ids)) == 1

    lead(test)


def test_a_connection_cut_at_random_bytes_does_not_double(connect: Connect, database: Path) -> None:
    choose = random.Random(7)

    async def test() -> None:
        with serving(database, run) as server:
            async with connect(database) as client:
                handles = []
                for number in range(100):
                    if number % 2:
                        server.cuts = [choose.randrange(18) for _ in range(choose.randrange(3))]
                    batch = [add.submission(number, right) for right in range(choose.randrange(1, 4))]
                    handles += await done(client.submit_many(batch))
                server.cuts = [choose.randrange(3000) for _ in range(4)]
                ends = await done(client.wait_many(handles, timeout=20))
                assert [handle.id for handle in handles] == list(range(1, len(server.tasks) + 1))
                sums = [sum(json.loads(payload).values()) for _, payload, _ in server.tasks]
                assert [json.loads(end.result) for end in ends] == sums

    lead(test)


def test_waiting_survives_a_restart(connect: Connect, database: Path) -> None:
    async def test() -> None:
        with serving(database) as server:
            async with connect(database) as client:
                handles = [await done(client.submit(add, {"left": 1})) for _ in range(3)]
                server.end(2, "b")
                ends = each(client.as_completed(handles, timeout=20))
                assert (await anext(ends)).id == 2
                server.stop()
                server.end(1, "a")
                server.start()
                assert (await anext(ends)).id == 1
                server.disconnect_all()
                server.end(3, "c")
                assert [handle.id async for handle in ends] == [3]
            assert server.seen_waits[-1] == [(3, 3)], "what has been told is not asked again"

    lead(test)


def test_a_server_away_for_too_long_is_unavailable(connect: Connect, database: Path) -> None:
    async def test() -> None:
        with serving(database, run) as server:
            async with connect(database, reconnect=0.1) as client:
                handle = await done(client.submit(add, {"left": 1}))
                server.stop()
                with OwnerLock(database), pytest.raises(ringq.ServerUnavailable, match="owns"):
                    await done(client.submit(add, {"left": 2}))
                with pytest.raises(ringq.ServerUnavailable):
                    await done(handle.result())
                server.start()
                assert await done(handle.result(5)) == 2

    lead(test)


def test_a_wait_that_ends_while_the_server_is_away_is_a_timeout(connect: Connect, database: Path) -> None:
    async def test() -> None:
        with serving(database, run) as server:
            async with connect(database, reconnect=30) as client:
                handle = await done(client.submit(add, {"left": 1}))
                server.stop()
                with pytest.raises(ringq.WaitTimeout):
                    await done(handle.result(0.2))

    lead(test)


def test_an_explicit_reconnect_waits_for_a_server_to_start(connect: Connect, database: Path) -> None:
    config.runtime_dir(database).mkdir()
    started: list[FakeServer] = []
    timer = threading.Timer(0.2, lambda: started.append(FakeServer(database)))
    timer.start()

    async def test() -> None:
        async with connect(database, reconnect=20) as client:
            assert (await done(client.health()))["status"] == "ok"

    lead(test)
    timer.join()
    started[0].stop()


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        protocol.HEADER.pack(4, 9, 65, 0, 1) + b"\0" * 4,
        protocol.HEADER.pack(4, 1, 65, 0, 1) + b"\xc1" * 4,
        protocol.pack(protocol.HealthReply("{}"), 77),
        protocol.pack(protocol.HealthReply("{}"), 1),
    ],
)
def test_what_is_not_the_protocol_is_said_and_not_repeated(connect: Connect, database: Path, reply: bytes) -> None:
    path = config.socket_path(database)
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(reply)
                connection.recv(1)

        thread = threading.Thread(target=answer)
        thread.start()

        async def test() -> None:
            async with connect(database) as client:
                with pytest.raises(ringq.ProtocolError):
                    await done(client.submit(add, {"left": 1}))

        lead(test)
        thread.join(10)
        assert not thread.is_alive(), "the connection is closed"


def test_a_closed_client_says_so(connect: Connect, database: Path) -> None:
    async def test() -> None:
        with serving(database, run):
            async with connect(database) as client:
                handle = await done(client.submit(add, {"left": 1}))
                await done(client.close())
                with pytest.raises(ringq.ClientClosed):
                    await done(client.health())
                with pytest.raises(ringq.ClientClosed):
                    await done(handle.result())
                await done(client.close())

    lead(test)


# -- without a server -----------------------------------------------------------------------------


def test_verbs_of_all_sorts_while_no_server_runs(connect: Connect, database: Path) -> None:
    async def test() -> None:
        async with connect(database) as client:
            handle = await done(client.submit(add, {"left": 1}, key="one"))
            twin = await done(client.submit(add, {"left": 2}, key="one"))
            assert (handle.id, twin.id, twin.outcome) == (1, 1, ringq.Outcome.DUPLICATE)
            assert await done(client.pause_group("acme"))
            assert not await done(client.pause_group("acme"))
            assert await done(client.is_group_paused("acme"))
            assert [record.name for record in await done(client.paused_groups())] == ["acme"]
            assert await done(client.resume_group("acme"))
            domain = client.domain("shop")
            assert await done(domain.pause())
            assert await done(domain.is_paused())
            assert "domain" in str(await done(client.why(handle)))
            await done(client.set_queue("bulk", max_workers=2))
            await done(client.set_rate("github", "10/s"))
            assert [rate.scope for rate in await done(client.rates())] == ["github"]
            await done(client.schedule("nightly", add, {"left": 1}, every=60))
            with pytest.raises(ringq.UnknownSchedule):
                await done(client.unschedule("weekly"))
            with pytest.raises(ringq.NotDead):
                await done(client.retry_dead(handle))
            (cancellation,) = await done(client.cancel(handle))
            assert cancellation.outcome is ringq.CancelOutcome.CANCELLED
            assert (await done(handle.cancel())).outcome is ringq.CancelOutcome.TOO_LATE
            assert await done(client.cancel_all(all=True)) == (0, 0)
            with pytest.raises(ringq.TaskCancelled):
                await done(handle.result())
            with pytest.raises(ringq.InvalidOption, match="until"):
                await done(client.pause_all(until="tomorrow"))
            with pytest.raises(ringq.InvalidOption, match="domain: expected"):
                client.domain("")

    lead(test)


# -- maps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False])
def test_a_map_gives_all_results_and_reads_no_further_than_it_must(
    connect: Connect, database: Path, ordered: bool
) -> None:
    async def test() -> None:
        with serving(database, run) as server:
            async with connect(database) as client:
                results = client.map(add, iter(range(10**9)), chunk=4, ordered=ordered)
                got = []
                async for result in each(results):
                    got.append(result)
                    assert results.read - len(got) < 5000
                    if len(got) == 3000:
                        break
                results.close()
                assert (got if ordered else sorted(got)) == list(range(1, 3001))
                assert [call.result async for call in each(client.starmap(add, [(1, 2), {"left": 5}]).calls())] == [
                    3,
                    6,
                ]
            assert len(server.tasks) > 700

    lead(test)


def test_a_map_survives_a_restart_and_tells_what_its_inputs_raised(connect: Connect, database: Path) -> None:
    def inputs() -> Any:
        yield from range(100)
        raise KeyError("lost")

    async def test() -> None:
        with serving(database, run) as server:
            async with connect(database) as client:
                results = client.map(add, inputs(), chunk=3)
                got = []

                async def take_all() -> None:
                    async for result in each(results):
                        got.append(result)
                        if result in (20, 50):
                            server.disconnect_all()

                with pytest.raises(KeyError, match="lost"):
                    await take_all()
                assert got == list(range(1, 101))
                assert results.is_over
                assert repr(results) == "<map of shop::add: 100 read, over>"

    lead(test)

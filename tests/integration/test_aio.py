"""What the client in asyncio promises beyond the other one: one connection for all, and no one else is held up."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

import pytest
from fake_server import FakeServer, serving

import ringq
import ringq.aio
from ringq import config, protocol, testing
from ringq.aio import exchange as exchange_module
from ringq.aio import wire as wire_module
from ringq.client import alone

app = ringq.App("shop")


@app.task
def echo(text: str) -> str:
    return text


@app.task
async def echo_later(text: str) -> str:
    await asyncio.sleep(0)
    return text


def run(_: str, arguments: Any) -> Any:
    if isinstance(arguments, list):
        return {"us": 100_000 * len(arguments), "results": [call[0] for call in arguments]}
    return arguments["text"]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "shop.db"


def lead(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 50))


def end_all(server: FakeServer, task_ids: Iterable[int], result: Any) -> None:
    for task_id in task_ids:
        server.end(task_id, result)


async def until(condition: Callable[[], bool]) -> None:
    """The condition comes true, while the loop goes on."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


# -- one connection for all -----------------------------------------------------------------------


def test_a_hundred_tasks_submit_and_wait_over_one_connection(database: Path) -> None:
    async def test() -> None:
        with serving(database, run) as server:
            async with ringq.aio.connect(database) as client:

                async def one(number: int) -> str:
                    return await (await client.submit(echo.submission(str(number)))).result(20)

                results = await asyncio.gather(*map(one, range(100)))
                assert results == [str(number) for number in range(100)]
            assert server.accepted == 1
            assert len(server.tasks) == 100

    lead(test)


def test_requests_are_sent_before_the_answers_to_others(database: Path) -> None:
    """A server that answers nobody until it has heard of all."""
    path = config.socket_path(database)
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            frames: list[protocol.Frame] = []
            reader = protocol.FrameReader(protocol.REQUESTS)
            with connection:
                while len(frames) < 20:
                    frames += reader.feed(connection.recv(65536))
                for number, frame in reversed(list(enumerate(frames, 1))):  # in whatever order
                    connection.sendall(protocol.pack(protocol.Submitted(number, 1, False), frame.request_id))
                connection.recv(1)

        thread = threading.Thread(target=answer)
        thread.start()

        async def test() -> None:
            async with ringq.aio.connect(database) as client:
                handles = await asyncio.gather(*(client.submit(echo, {"text": "a"}) for _ in range(20)))
                assert [handle.id for handle in handles] == list(range(1, 21))

        lead(test)
        thread.join(10)
        assert not thread.is_alive()


def test_who_is_cancelled_disturbs_nobody(database: Path) -> None:
    async def test() -> None:
        with serving(database) as server:
            async with ringq.aio.connect(database) as client:
                handles = [await client.submit(echo, {"text": "a"}) for _ in range(3)]
                waits = [asyncio.create_task(handle.result()) for handle in handles]
                await until(lambda: len(server.seen_waits) == 3)
                waits[1].cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waits[1]
                for number in (1, 2, 3):
                    server.end(number, f"{number}")
                assert [await waits[0], await waits[2], await handles[1]] == ["1", "3", "2"]
                submitting = asyncio.create_task(client.submit(echo, {"text": "b"}))
                await asyncio.sleep(0)
                submitting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await submitting
                assert (await client.health())["status"] == "ok"
            assert server.accepted == 1

    lead(test)


def test_a_wait_with_a_timeout_of_the_loop_leaves_the_connection_usable(database: Path) -> None:
    async def test() -> None:
        with serving(database) as server:
            async with ringq.aio.connect(database) as client:
                handle = await client.submit(echo, {"text": "a"})
                for _ in range(3):
                    with pytest.raises(TimeoutError):
                        async with asyncio.timeout(0.01):
                            await handle
                server.end(1, "a")
                assert await handle == "a"
            assert server.accepted == 1

    lead(test)


def test_waits_that_were_given_up_go_with_their_connection(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_module, "SHARED_MAX", 3)

    async def test() -> None:
        with serving(database) as server:
            async with ringq.aio.connect(database) as client:
                handle, other = await client.submit(echo, {"text": "a"}), await client.submit(echo, {"text": "b"})
                first = asyncio.create_task(other.result())
                await until(lambda: len(server.seen_waits) == 1)
                for _ in range(7):
                    with pytest.raises(ringq.WaitTimeout):
                        await handle.wait(0)
                await until(lambda: server.connected == 2)
                assert server.accepted == 3, "the one in the middle has ended, the first one has not: somebody waits"
                server.end(other.id, "b")
                assert await first == "b"
                await client.health()
                await until(lambda: server.connected == 1)

    lead(test)


def test_who_waits_for_many_keeps_nobody_else_from_answers(database: Path) -> None:
    async def test() -> None:
        with serving(database) as server:
            async with ringq.aio.connect(database) as client:
                handles = await client.submit_many([echo.submission("a")] * 500)
                many = asyncio.create_task(client.wait_many(handles))
                await until(lambda: bool(server.seen_waits))
                assert (await client.health())["status"] == "ok"
                assert server.connected == 2
                await asyncio.to_thread(end_all, server, range(1, 501), "a")
                assert len(await many) == 500
                await until(lambda: server.connected == 1)

    lead(test)


def test_a_slow_reader_does_not_have_all_results_at_once(database: Path) -> None:
    async def test() -> None:
        with serving(database) as server:
            async with ringq.aio.connect(database) as client:
                handles = await client.submit_many([echo.submission("a")] * 3000)
                server.end(1, "a")
                ends = client.as_completed(handles)
                assert (await anext(ends)).id == 1
                ending = threading.Thread(target=end_all, args=(server, range(2, 3001), "x" * 5000))
                ending.start()
                (own,) = [wire for wire in client._exchange._wires if wire is not client._exchange._shared]
                await until(lambda: own._held >= wire_module.FULL)
                await until(lambda: own._is_paused)
                assert own._held < wire_module.FULL + 100
                assert ending.is_alive(), "the server waits as well"
                assert len([handle async for handle in ends]) == 2999
                ending.join(10)

    lead(test)


# -- nobody else is held up -----------------------------------------------------------------------


def test_the_loop_goes_on_while_a_task_is_committed_without_a_server(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, may_commit = alone.commit, threading.Event()

    def slow(*args: Any) -> Any:
        assert may_commit.wait(20), "the loop stands still"
        return commit(*args)

    monkeypatch.setattr(alone, "commit", slow)

    async def test() -> None:
        async with ringq.aio.connect(database) as client:
            submitting = asyncio.create_task(client.submit(echo, {"text": "a"}))
            await asyncio.sleep(0)
            may_commit.set()
            handle = await submitting
            assert handle.id == 1
            record = await client.query(ringq.Query.task, handle.id)
            assert record.status is ringq.Status.PENDING
            with pytest.raises(ringq.UnknownTask):
                await client.query(ringq.Query.task, task_id=99)

    lead(test)


def test_inputs_that_are_awaited_are_read_as_far_as_they_are_wanted(database: Path) -> None:
    read = 0

    async def inputs() -> AsyncIterator[str]:
        nonlocal read
        while True:
            await asyncio.sleep(0)
            read += 1
            yield str(read)

    async def test() -> None:
        with serving(database, run):
            async with ringq.aio.connect(database) as client, client.map(echo, inputs(), chunk=2) as results:
                got = []
                async for result in results:
                    got.append(result)
                    assert read - len(got) < 200
                    if len(got) == 1000:
                        break
                assert got == [str(number) for number in range(1, 1001)]

    lead(test)


def test_an_input_that_comes_late_is_sent_while_others_run(database: Path) -> None:
    """Nobody waits for the end of a long call with the next input in the hand."""
    more = asyncio.Event()

    async def inputs() -> AsyncIterator[str]:
        yield "long"
        await more.wait()
        yield "late"

    async def test() -> None:
        with serving(database) as server:
            async with ringq.aio.connect(database) as client:
                results = client.map(echo, inputs())
                first = asyncio.create_task(anext(results))
                await until(lambda: len(server.tasks) == 1)
                more.set()
                await until(lambda: len(server.tasks) == 2)
                for number, word in ((2, "late"), (1, "long")):
                    server.end(number, {"us": 1, "results": [word]})
                assert [await first, *[result async for result in results]] == ["long", "late"]
                assert results.is_over

    lead(test)


def test_what_awaited_inputs_raise_comes_after_all_results(database: Path) -> None:
    async def inputs() -> AsyncIterator[str]:
        yield "a"
        yield "b"
        raise KeyError("lost")

    async def test() -> None:
        with serving(database, run):
            async with ringq.aio.connect(database) as client:
                results = client.map(echo, inputs())
                assert [await anext(results), await anext(results)] == ["a", "b"]
                with pytest.raises(KeyError, match="lost"):
                    await anext(results)
                assert await results.next_call() is None

    lead(test)


def test_who_is_cancelled_while_it_waits_for_a_result_of_a_map_loses_none(database: Path) -> None:
    async def test() -> None:
        with serving(database) as server:
            async with ringq.aio.connect(database) as client:
                results = client.map(echo, [str(number) for number in range(20)], chunk=1)
                for _ in range(3):
                    with pytest.raises(TimeoutError):
                        async with asyncio.timeout(0.02):
                            await anext(results)
                assert await results.next_call(timeout=0.01) is None
                server.run = run
                for number, (_, payload, _) in enumerate(list(server.tasks), 1):
                    server.end(number, run("", [payload[3:-3]]) | {"results": [payload.strip('[]"')]})
                assert [result async for result in results] == [str(number) for number in range(20)]

    lead(test)


def test_a_map_that_nobody_has_any_more_reads_no_further(database: Path) -> None:
    async def inputs() -> AsyncIterator[str]:
        while True:
            yield "a"

    def readers() -> list[str]:
        return [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("ringq")]

    async def test() -> None:
        with serving(database, run) as server:
            async with ringq.aio.connect(database) as client:
                async for _ in client.map(echo, inputs()):
                    assert readers() == ["ringq: inputs of a map"]
                    assert server.connected == 2
                    break
                gc.collect()
                await until(lambda: not readers())
                await until(lambda: server.connected == 1)

    lead(test)


def test_a_map_closed_by_another_task_ends_for_who_waits(database: Path) -> None:
    async def test() -> None:
        with serving(database) as server:
            async with ringq.aio.connect(database) as client:
                results = client.map(echo, ["a"])
                waiting = asyncio.create_task(anext(results, "over"))
                await until(lambda: bool(server.seen_waits))
                results.close()
                assert await waiting == "over"
            assert server.accepted == 2

    lead(test)


# -- loops and processes --------------------------------------------------------------------------


def test_a_client_belongs_to_one_loop_until_that_is_closed(database: Path) -> None:
    client = ringq.aio.connect(database)

    async def ask() -> None:
        assert (await client.health())["status"] == "ok"

    async def elsewhere() -> None:
        await ask()
        with pytest.raises(ringq.NotBound, match="belongs to another event loop, which is still open"):
            await asyncio.to_thread(asyncio.run, ask())

    async def end() -> None:
        await ask()
        await client.close()

    with serving(database) as server:
        asyncio.run(elsewhere())
        asyncio.run(end())
        assert server.accepted == 2


def test_a_forked_child_uses_the_client_in_a_loop_of_its_own(database: Path) -> None:
    async def test() -> None:
        with serving(database, run) as server:
            async with ringq.aio.connect(database) as client:
                first = await client.submit(echo, {"text": "parent"})
                child = os.fork()
                if child == 0:
                    code = 1
                    try:

                        async def in_child() -> bool:
                            one = await client.submit(echo, {"text": "child"})
                            return (await one, await first) == ("child", "parent")

                        code = 0 if asyncio.run(in_child()) else 2
                    finally:
                        os._exit(code)
                assert [await (await client.submit(echo, {"text": str(n)})) for n in range(20)] == list(
                    map(str, range(20))
                )
                _, status = await asyncio.to_thread(os.waitpid, child, 0)
                assert os.waitstatus_to_exitcode(status) == 0
            assert server.accepted == 2

    lead(test)


def test_closing_wakes_who_waits(database: Path) -> None:
    async def test() -> None:
        with serving(database) as server:
            client = ringq.aio.connect(database)
            handle = await client.submit(echo, {"text": "a"})
            waiting = asyncio.create_task(handle.result())
            await until(lambda: bool(server.seen_waits))
            await client.close()
            with pytest.raises(ringq.ClientClosed):
                await waiting
            await until(lambda: server.connected == 0)

    lead(test)


def test_no_task_is_bound_to_it(database: Path) -> None:
    async def test() -> None:
        async with ringq.aio.connect(database):
            with pytest.raises(ringq.NotBound):
                echo.submit("a")

    lead(test)


def test_an_inline_run_answers_it_too() -> None:
    async def test() -> None:
        with testing.inline(app) as inline:
            async with ringq.aio.connect(inline.database) as client:
                one = await client.submit(echo.submission("a"))
                other = await client.submit(echo_later, {"text": "b"})
                assert [await one, await other] == ["a", "b"]
                assert [result async for result in client.map(echo, ["c", "d"])] == ["c", "d"]

    lead(test)


def test_asyncio_is_loaded_by_those_who_need_it() -> None:
    check = (
        "import sys, ringq; assert 'asyncio' not in sys.modules;"
        "ringq.connect('x.db'); assert 'asyncio' not in sys.modules;"
        "client = ringq.aio.connect('x.db'); assert 'asyncio' in sys.modules;"
        "assert not {'sqlalchemy', 'rich', 'psutil'} & set(sys.modules);"
        "import ringq.aio; assert ringq.aio.Client is type(client)"
    )
    subprocess.run([sys.executable, "-c", check], check=True, cwd=Path(ringq.__file__).parent.parent)

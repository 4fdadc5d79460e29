"""The client in asyncio against a real server: many tasks of one loop, restarts in the middle of all of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import ringq
import ringq.aio

Serve = Callable[..., Any]

HANDLERS = """
import os, time
import ringq

app = ringq.App("desk")

@app.task
def echo(number: int) -> int:
    return number

@app.task
def until(path: str, number: int) -> int:
    while not os.path.exists(path):
        time.sleep(0.005)
    return number

@app.task
def fails() -> None:
    raise ValueError("never")
"""


def lead(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 50))


async def restarted(serve: Serve, served: Any, gap: Callable[[], Coroutine[Any, Any, None]]) -> Any:
    """Kill a server, and start the next one on its database after `gap`."""
    await asyncio.to_thread(served.kill)
    await gap()
    return await asyncio.to_thread(serve)


def test_who_waits_when_the_server_is_killed_is_told_by_the_next_one(serve: Serve, tmp_path: Path) -> None:
    served, gate = serve(HANDLERS), tmp_path / "open"

    async def test() -> None:
        async with ringq.aio.connect(served.database, reconnect=30) as client:
            payloads = [{"path": str(gate), "number": number} for number in range(8)]
            handles = await asyncio.gather(*(client.submit("desk::until", payload) for payload in payloads))
            waits = [asyncio.create_task(handle.result(40)) for handle in handles]
            every = asyncio.create_task(client.wait_many(handles))
            later: list[Any] = []

            async def meanwhile() -> None:
                later.append(await client.submit("desk::echo", {"number": 99}))

            await asyncio.gather(client.health(), client.why(handles[7]))
            await restarted(serve, served, meanwhile)
            gate.touch()
            assert await asyncio.gather(*waits) == list(range(8))
            assert [end.status for end in await every] == [ringq.Status.COMPLETED] * 8
            assert await later[0] == 99
            records = await client.query(ringq.Query.tasks, limit=100)
            assert len(records) == 9

    lead(test)


def test_submissions_of_many_tasks_cut_off_by_kills_are_stored_once(serve: Serve) -> None:
    served = serve(HANDLERS)

    async def test() -> None:
        nonlocal served
        stored = 0
        async with ringq.aio.connect(served.database, reconnect=30) as client:

            async def submit(number: int) -> list[ringq.aio.Submitted[Any]]:
                nonlocal stored
                handles = []
                for index in range(20):
                    handles.append(await client.submit("desk::echo", {"number": number * 20 + index}))
                    stored += 1
                return handles

            async def nothing() -> None:
                pass

            submitting = [asyncio.create_task(submit(number)) for number in range(20)]
            for share in (100, 250):
                while stored < share:
                    await asyncio.sleep(0.001)
                served = await restarted(serve, served, nothing)
            handles = [handle for part in await asyncio.gather(*submitting) for handle in part]
            assert len({handle.id for handle in handles}) == 400
            async for handle in client.as_completed(handles, timeout=40):
                assert handle.known_end is not None
            assert [await handle for handle in handles] == list(range(400))
            assert len(await client.query(ringq.Query.tasks, limit=1000)) == 400

    lead(test)


def test_a_map_of_awaited_inputs_goes_on_after_a_kill(serve: Serve) -> None:
    served = serve(HANDLERS)

    async def inputs() -> AsyncIterator[int]:
        for number in range(2000):
            if number % 100 == 0:
                await asyncio.sleep(0)
            yield number

    async def test() -> None:
        async with ringq.aio.connect(served.database, reconnect=30) as client:
            got: list[int] = []

            async def take() -> None:
                got.append(await anext(results))

            results = client.map("desk::echo", inputs(), key="all", chunk=10)
            while len(got) < 200:
                await take()
            await restarted(serve, served, take)
            async for result in results:
                got.append(result)
            assert got == list(range(2000))
            assert await client.forget_map("desk::echo", "all") == 200

    lead(test)


def test_verbs_and_ends_of_all_sorts(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS)

    async def test() -> None:
        async with ringq.aio.connect(served.database) as client:
            assert (await client.health())["workers"]
            running = await client.submit("desk::until", {"path": str(tmp_path / "never"), "number": 1})
            while (await client.query(ringq.Query.task, running.id)).status is not ringq.Status.RUNNING:
                await asyncio.sleep(0.005)
            assert (await running.cancel()).outcome is ringq.CancelOutcome.CANCELLING
            failed = await client.submit("desk::fails", retry=0)
            with pytest.raises(ringq.TaskCancelled):
                await running.result(20)
            with pytest.raises(ringq.TaskFailed, match="ValueError: never"):
                await failed.result(20)
            assert await client.pause_group("acme")
            held = await client.submit("desk::echo", {"number": 1}, group="acme")
            assert held.group_paused
            assert [cause.word for cause in (await client.why(held)).causes] == ["group_paused"]
            assert await client.resume_group("acme")
            assert await held.result(20) == 1
            after = await client.submit(ringq.Submission("desk::echo", {"number": 2}).after(held))
            assert await after.result(20) == 2

    lead(test)

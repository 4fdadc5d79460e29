"""`async def` handlers: where the soft exception ends them, and what they leave behind."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest

import ringq
from ringq import codec, errors

Call = Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]

noted = contextvars.ContextVar("noted", default="nothing")


@pytest.fixture
def call() -> Call:
    """Run an `async def` function as a worker runs a handler."""

    def run(function: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        return ringq.App("a").task(name="f")(function).invoke(None, {})

    return run


class Limit:
    """The run time limit of an attempt, over as soon as the handler says so: the worker's own signal handler."""

    def __init__(self) -> None:
        self.is_inside = threading.Event()
        self.signals = 0
        threading.Thread(target=self._strike, daemon=True).start()

    def _strike(self) -> None:
        if self.is_inside.wait(20):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)  # as the parent's arrives

    def on_signal(self, _number: int, _frame: object) -> None:
        self.signals += 1
        raise ringq.RunTimeout("the run time limit is over")

    def when_idle(self) -> None:
        """Strike when the loop has nothing to do but to wait."""
        asyncio.get_running_loop().call_later(0.05, self.is_inside.set)


@pytest.fixture
def limit() -> Iterator[Limit]:
    one = Limit()
    before = signal.signal(signal.SIGUSR2, one.on_signal)
    yield one
    assert signal.getsignal(signal.SIGUSR2) == one.on_signal, "the signal is the worker's again"
    assert one.signals == 1
    signal.signal(signal.SIGUSR2, before)


def test_a_limit_inside_an_await_ends_the_handler_and_lets_it_clean_up(call: Call, limit: Limit) -> None:
    cleaned = []

    async def waits() -> None:
        limit.when_idle()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            cleaned.append("up")

    with pytest.raises(ringq.RunTimeout, match="the run time limit is over") as caught:
        call(waits)
    assert cleaned == ["up"]
    assert "in waits" in codec.error_details(caught.value)["traceback"]


def test_a_limit_inside_a_busy_loop_is_raised_there(call: Call, limit: Limit) -> None:
    caught = []

    async def spins() -> None:
        await asyncio.sleep(0)
        limit.is_inside.set()
        try:
            while True:
                pass
        except ringq.RunTimeout as error:
            caught.append(error)
            raise

    with pytest.raises(ringq.RunTimeout):
        call(spins)
    assert len(caught) == 1


async def spins_after(event: threading.Event) -> None:
    event.set()
    while True:
        pass


@pytest.mark.parametrize("how", ["group", "gather", "collected", "forgotten"])
def test_a_limit_inside_a_nested_task_ends_the_handler_too(call: Call, limit: Limit, how: str) -> None:
    async def nested() -> None:
        busy = spins_after(limit.is_inside)
        if how == "group":
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(60))
                group.create_task(busy)
        elif how == "gather":
            await asyncio.gather(asyncio.sleep(60), busy)
        elif how == "collected":
            await asyncio.gather(asyncio.sleep(60), busy, return_exceptions=True)
        else:
            task = asyncio.create_task(busy)
            await asyncio.sleep(60)
            await task

    with pytest.raises(ringq.RunTimeout):
        call(nested)


def test_a_limit_while_only_nested_tasks_wait_is_no_exception_group(call: Call, limit: Limit) -> None:
    async def nested() -> None:
        limit.when_idle()
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(asyncio.sleep(60))

    with pytest.raises(ringq.RunTimeout):
        call(nested)


def test_a_limit_while_a_thread_that_was_left_behind_is_waited_for_ends_the_attempt(call: Call, limit: Limit) -> None:
    release = threading.Event()

    def stays() -> None:
        deadline = time.monotonic() + 20
        while signal.getsignal(signal.SIGUSR2) != limit.on_signal and time.monotonic() < deadline:
            release.wait(0.001)  # until the handler itself has ended
        limit.is_inside.set()
        release.wait(20)

    async def leaves_a_thread() -> int:
        asyncio.get_running_loop().run_in_executor(None, stays)
        return 5

    with pytest.raises(ringq.RunTimeout):
        call(leaves_a_thread)
    assert not release.is_set()
    release.set()


def test_a_limit_between_the_handlers_end_and_the_loops_is_too_late(call: Call, limit: Limit) -> None:
    async def just_in_time() -> int:
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda _: os.kill(os.getpid(), signal.SIGUSR2))
        return 5

    assert call(just_in_time) == 5


def test_a_handler_that_ends_after_all_has_its_result(call: Call, limit: Limit) -> None:
    async def insists() -> int:
        limit.when_idle()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return 5
        return 6

    assert call(insists) == 5


def test_what_a_context_raises_in_a_nested_task_is_no_exception_group(call: Call) -> None:
    async def nested() -> None:
        async def checks() -> None:
            raise ringq.AttemptCancelled("the task was cancelled")

        async with asyncio.TaskGroup() as group, asyncio.TaskGroup() as inner:
            group.create_task(asyncio.sleep(60))
            inner.create_task(checks())

    with pytest.raises(ringq.AttemptCancelled):
        call(nested)


def test_an_exception_group_of_the_handlers_own_arrives_whole(call: Call) -> None:
    async def fails() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
            group.create_task(refuse())

    async def refuse() -> None:
        raise ValueError("no")

    with pytest.raises(ExceptionGroup) as caught:
        call(fails)
    assert "ValueError: no" in "".join(traceback.format_exception(caught.value))


def test_a_handler_that_cancels_itself_says_so(call: Call) -> None:
    async def gives_up() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(60)

    with pytest.raises(asyncio.CancelledError):
        call(gives_up)


def test_the_traceback_begins_in_the_handler(call: Call) -> None:
    async def fails() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no") as caught:
        call(fails)
    assert codec.error_details(caught.value.with_traceback(caught.tb.tb_next.tb_next))["traceback"].count("File") == 1


def test_tasks_that_are_left_behind_are_cancelled(call: Call) -> None:
    ended = []

    async def background() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(1)

    kept = []

    async def leaves() -> int:
        kept.append(asyncio.create_task(background()))
        await asyncio.sleep(0)
        return 5

    assert call(leaves) == 5
    assert ended == [1]


def test_context_variables_of_one_attempt_are_not_those_of_the_next(call: Call) -> None:
    async def notes() -> str:
        before = noted.get()
        noted.set("something")
        return before

    assert [call(notes), call(notes), noted.get()] == ["nothing", "nothing", "nothing"]


def test_a_client_bound_around_the_loop_is_the_handlers(call: Call) -> None:
    noted_outside = noted.set("outside")

    async def reads() -> str:
        return noted.get()

    assert call(reads) == "outside"
    noted.reset(noted_outside)


def test_an_async_generator_is_refused() -> None:
    async def yields() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(errors.InvalidKind, match="return a list"):
        ringq.App("a").task(yields)

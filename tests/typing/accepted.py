"""What a type checker must accept, and what it must know of the results. Not run: read by mypy."""

from __future__ import annotations

from collections.abc import Coroutine, Generator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, assert_type

import ringq
from ringq.contrib import echo, lines
from ringq.contrib.exec import Finished, command

app = ringq.App("photos")
media = app.domain("media", queue="bulk", priority=ringq.HIGH, run_timeout=30)


@app.task
def plain(path: Path, size: int = 128) -> dict[str, int]:
    return {"bytes": size}


@media.task
def with_context(ctx: ringq.Context, path: str, *, deep: bool = False) -> list[str]:
    ctx.progress(0.5, "half")
    ctx.progress_of(3, 4)
    ctx.set_bytes_total(4096)
    ctx.add_bytes(512)
    ctx.report_bytes(1024, 4096)
    ctx.checkpoint({"row": 7})
    assert_type(ctx.resume_from(), Any)
    ctx.check_cancelled()
    assert_type(ctx.remaining(), float | None)
    return [path]


@media.task(name="optioned", queue="q", priority=5, group="g", run_timeout=timedelta(seconds=5))
def optioned(ctx: ringq.Context, number: int) -> int | None:
    return number


@app.task(queue="q")
def optioned_plain(number: int) -> str:
    return str(number)


@app.task
async def asynchronous(ctx: ringq.Context, number: int) -> float:
    return float(number)


@app.task(priority=1)
async def asynchronous_plain(number: int) -> float:
    return float(number)


app.include(echo.app)
convert = media.task(name="convert", queue="bulk")(command(root=Path("/srv")))
assert_type(convert.submit(["ls", "-l"], cwd="a", timeout=5).result(), Finished)
shout = app.task(name="shout")(lines.program(["./shout"], env={"A": "b"}))
assert_type(shout.submit(text="hello", times=3), ringq.Submitted[Any])


@app.task
def no_arguments() -> None: ...


@app.task
def only_context(ctx: ringq.Context) -> None: ...


class Model:
    def score(self, path: str) -> float:
        return float(len(path))


class Pool: ...


@app.state
def model() -> Model:
    return Model()


@app.state
def pool() -> Iterator[Pool]:
    yield Pool()


@app.state
def table() -> Generator[dict[str, int], None, None]:
    yield {}


@media.state
def of_media() -> Iterator[Model]:
    yield Model()


@app.task
def stateful(ctx: ringq.Context, path: str) -> float:
    assert_type(ctx.state(Pool), Pool)
    assert_type(ctx.state(Model).score(path), float)
    return ctx.state(Model).score(path)


assert_type(model(), Model)
assert_type(pool(), Iterator[Pool])
assert_type(stateful(ringq.Context(state={Model: Model()}), "a.jpg"), float)
assert_type(stateful(ringq.Context(), path="a.jpg"), float)
with media.override(Model, "fake") as fake, app.override(Pool, None):
    assert_type(fake, str)
assert_type(optioned(ringq.Context(), 5), int | None)
late: Coroutine[Any, Any, float] = asynchronous(ringq.Context(), 1)

assert_type(plain(Path("a")), dict[str, int])
assert_type(with_context("a", deep=True), list[str])
assert_type(optioned(5), int | None)
assert_type(optioned_plain(number=5), str)
coroutine: Coroutine[Any, Any, float] = asynchronous(1)
coroutine = asynchronous_plain(1)
no_arguments()
only_context()

assert_type(plain.submit(Path("a"), size=1), ringq.Submitted[dict[str, int]])
assert_type(with_context.submit(path="a").result(timeout=1.5), list[str])
assert_type(optioned.options(queue="x", priority=0, group="g").submit(1).result(), int | None)
assert_type(optioned.options(run_timeout=1.5, run_at=datetime.now(UTC)).submission(1), ringq.Submission[int | None])
assert_type(asynchronous.submit(1).result(), float)
assert_type(asynchronous_plain.options(run_after=timedelta(hours=1)).submit(1).result(), float)
assert_type(only_context.submission(), ringq.Submission[None])

with ringq.connect("photos.db", reconnect=5) as client:
    assert_type(client, ringq.Client)
    assert_type(client.submit("media::optioned", {"number": 1}), ringq.Submitted[Any])
    assert_type(client.submit(optioned, {"number": 1}), ringq.Submitted[int | None])
    assert_type(client.progress(), list[ringq.TaskProgress])
    assert_type(client.progress(7), ringq.TaskProgress | None)
    assert_type(client.handle(7).progress(), ringq.TaskProgress | None)
    handles = client.submit_many([plain.submission(Path("a")), plain.options(priority=1).submission(Path("b"))])
    assert_type(handles, ringq.BatchOutcome[dict[str, int]])
    mixed = client.submit_many([ringq.Submission("a::b", {"c": 1}), ringq.Submission("a::b", "{}")])
    assert_type(mixed, ringq.BatchOutcome[Any])
    assert_type(client.wait_many(handles, timeout=5), list[ringq.Ended])
    client.wait_many([1, 2, handles[0]])
    for handle in client.as_completed(handles):
        assert_type(handle.result(), dict[str, int])
    assert_type(handles[0].wait().status, ringq.Status)
    assert_type(handles[0].outcome, ringq.Outcome)
    assert_type(client.handle(5).result(), Any)
    assert_type(client.health(), dict[str, Any])

    assert_type(client.query.tasks(kind=plain), list[ringq.TaskRecord])
    assert_type(client.pause_group("acme", timedelta(hours=1), running="finish"), bool)
    assert_type(client.paused_groups(), list[ringq.ControlRecord])
    client.set_group("acme", weight=2.5, min_slots=None)
    client.set_kind(plain, max_concurrency=2)
    assert_type(client.domain("photos").resume(), bool)
    assert_type(client.query.control("group", "acme").weight, float | None)
    assert_type(client.query.history(kind=asynchronous), list[ringq.AttemptRecord])
    assert_type(client.query.statistics("photos::plain"), list[ringq.KindStatistics])
    assert_type(client.query.statistics(plain), list[ringq.KindStatistics])

scheduled = app.cron("0 3 * * *", zone="Europe/Berlin", jitter=60, catch_up="skip")(asynchronous)
assert_type(scheduled.submit(1), ringq.Submitted[float])


@app.every(timedelta(minutes=5), payload={"number": 1}, from_completion=True, retry=3)
@app.task
def recurring(number: int) -> str:
    return str(number)


assert_type(recurring(1), str)
with ringq.connect("photos.db") as client:
    client.schedule("nightly", optioned, {"number": 1}, cron="0 3 * * *", max_occurrences=5)
    client.schedule("often", "photos::recurring", '{"number": 1}', every=60, from_completion=True)
    assert_type(client.run_schedule("nightly"), ringq.Submitted[Any])
    assert_type(client.query.schedules(), list[ringq.ScheduleRecord])

settled = ringq.App("settled", queue="q", priority=1, run_timeout=5, workers=2, durability="normal", drain_timeout=1.5)
assert_type(settled.settings, dict[str, int | float | str])
of_a_task: ringq.Submission[Any] = ringq.Submission(plain, {"path": "a"})
anything: ringq.Submitted[object] = plain.submit(Path("a"))
assert_type(app.kinds(), dict[str, ringq.Task[..., Any]])
assert_type(ringq.HIGH, int)


@app.task
def measured(path: str) -> int:
    return len(path)


@app.task
def summed(sizes: list[int], *, unit: str = "B") -> str:
    return f"{sum(sizes)} {unit}"


first = measured.submission("a")
assert_type(ringq.result_of(first), int)
assert_type(ringq.result_of(measured.submit("a")), int)
last = summed.options(depends_on=[first, 5, ringq.Member(3)], on_dependency_failure="fail").submission(
    [ringq.result_of(first), 7]
)
assert_type(last, ringq.Submission[str])
assert_type(last.after(first, 4), ringq.Submission[str])
assert_type(ringq.gather([first, measured.submission("b")], then=summed.submission), list[ringq.Submission[Any]])
ringq.gather([ringq.chain(first, summed.submission)], then=lambda texts: measured.submission(texts[0]))
ringq.chain(first, lambda size: summed.submission([size]), measured.submission, plain.submission(Path("x")))


@app.task(fail_fast=False)
def parent(ctx: ringq.Context, paths: list[str]) -> int:
    assert_type(ctx.spawn(plain.submission(Path("a")), at_once=True), ringq.Spawned)
    assert_type(ctx.spawn_many(plain.options(priority=1).submission(Path(path)) for path in paths), list[ringq.Spawned])
    ctx.spawn_siblings([plain.submission(Path("b")), no_arguments.submission()])
    assert_type(ctx.follow_up(no_arguments.submission()).id, int | None)
    assert_type(ctx.results(int), list[int | None])
    assert_type(ctx.result_of(0, str), str)
    return len(paths)


@parent.finalize
def report(ctx: ringq.Context, memo: int, results: list[dict[str, int] | None]) -> int:
    assert_type(ctx.children(), list[ringq.Ended])
    return memo


@parent.finalize
async def report_later(memo: int, results: list[int]) -> int:
    return memo


assert_type(report(ringq.Context(), 1, []), int)


@app.on("failed", "dead_letter", kind=parent)
def tell(event: ringq.Event) -> None:
    assert_type(event.task, int | None)


tell(ringq.Event(word="failed", at=datetime.now(UTC)))
with ringq.connect("t.db").events("completed", kind=[parent, "a::b"], task=handle) as events:
    for event in events:
        assert_type(event, ringq.Event)


async def awaited() -> None:
    async with ringq.aio.connect("photos.db", reconnect=5) as client:
        assert_type(client, ringq.aio.Client)
        assert_type(await client.submit("media::optioned", {"number": 1}), ringq.aio.Submitted[Any])
        assert_type(await client.submit(optioned, {"number": 1}), ringq.aio.Submitted[int | None])
        assert_type(await client.submit(plain.submission(Path("a"))), ringq.aio.Submitted[dict[str, int]])
        submitted = await client.submit(asynchronous, {"number": 1}, queue="bulk")
        assert_type(await submitted.result(timeout=1.5), float)
        assert_type(await submitted, float)
        assert_type(await submitted.cancel(), ringq.Cancellation)
        handles = await client.submit_many([plain.submission(Path("a")), plain.submission(Path("b"))])
        assert_type(handles, ringq.aio.BatchOutcome[dict[str, int]])
        assert_type(handles.inserted[0], ringq.aio.Submitted[dict[str, int]])
        assert_type(await client.wait_many(handles, timeout=5), list[ringq.Ended])
        async for handle in client.as_completed(handles):
            assert_type(await handle, dict[str, int])
        async for result in client.map(optioned, [1, 2]):
            assert_type(result, int | None)
        async for either in client.map(optioned, [1, 2], errors="return"):
            assert_type(either, int | None | Exception)
        assert_type(await client.health(), dict[str, Any])
        assert_type(await client.pause_group("acme", timedelta(hours=1), running="finish"), bool)
        assert_type(await client.cancel_all(queue="bulk"), ringq.CancelCounts)
        assert_type(await client.domain("photos").resume(), bool)
        assert_type(await client.query(ringq.Query.tasks, kind=plain), list[ringq.TaskRecord])
        plain.submission(Path("a")).after(submitted)


async def watching(client: ringq.aio.Client) -> None:
    async with client.events("completed", kind=plain, timeout=5) as stream:
        assert_type(stream, ringq.aio.EventStream)
        async for event in stream:
            assert_type(event, ringq.Event)

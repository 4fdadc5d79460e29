"""What a type checker must reject: every line that ends in a marker is an error, no other is."""

from __future__ import annotations

import ringq
from ringq.contrib import lines
from ringq.contrib.exec import command

app = ringq.App("photos")


@app.task
def plain(path: str, size: int = 128) -> int:
    return size


@app.task(queue="q")
def with_context(ctx: ringq.Context, number: int) -> str:
    return str(number)


@app.task
async def asynchronous(number: int) -> float:
    return float(number)


app.every("1h")  # error
app.cron("* * * * *", catch_up="most")  # error


@app.every(60)  # error
def undecorated() -> None: ...


class Model: ...


@app.state  # error
def with_parameter(path: str) -> Model:
    return Model()


@app.task
def stateful(ctx: ringq.Context) -> int:
    ctx.state("Model")  # error
    ctx.state(Model).nothing()  # error
    return ctx.state(Model)  # error


ringq.Context(state=Model())  # error
app.override("Model", Model())  # error
ringq.Context(state={"Model": Model()})  # error
ringq.App("a", worker=2)  # error
ringq.App("a", durability="fast")  # error
ringq.App("a", workers="many")  # error
plain()  # error
plain(5)  # error
plain("a", sise=1)  # error
plain.submit()  # error
plain.submit(5)  # error
plain.submit("a", "b")  # error
plain.submit("a", sise=1)  # error
plain.submission(path="a", size=None)  # error
plain.submit("a", priority=5)  # error
with_context(5, ringq.Context())  # error
with_context(ringq.Context(), "5")  # error
with_context(ringq.Context())  # error
with_context.submit("5")  # error
with_context.submit(ringq.Context(), 5)  # error
with_context.submit(ctx=ringq.Context(), number=5)  # error
with_context.options(priority=1).submit("5")  # error
with_context.options(priority=1).submission(numbr=5)  # error
with_context.options(priority="high")  # error
with_context.options(retry=3.5)  # error
with_context.options(run_at="tomorrow")  # error
asynchronous.submit("a")  # error
total: str = plain.submit("a").result()  # error
number: int = asynchronous(1)  # error
app.task(que="q")  # error
app.domain("media", label="l")  # error
app.include(app.domain("video"))  # error
command(root=5)  # error
app.task(command()).submit("ls -l")  # error
app.task(name="shout")(lines.program(["./shout"])).submit("hello")  # error

with ringq.connect("photos.db") as client:
    client.submit(5)  # error
    client.submit("a::b", [1])  # error
    client.submit("a::b", priorty=5)  # error
    client.submit_many([plain])  # error
    client.submit_many(plain.submission("a"))  # error
    wrong: list[ringq.Submitted[str]] = client.submit_many([plain.submission("a")])  # error
    client.wait_many([plain])  # error
    client.wait_many(["1"])  # error
    client.query.tasks(kind=5)  # error
    client.query.statistics(5)  # error
    client.nothing()  # error
nothing = ringq.nothing  # error
ringq.connect(5)  # error


@app.task
def summed(sizes: list[int]) -> str:
    return str(sizes)


first = plain.submission("a")
summed.submission([ringq.result_of(summed.submission([1]))])  # error
summed.submission(ringq.result_of(first))  # error
summed.options(on_dependency_failure="stop")  # error
summed.options(depends_on="12")  # error
ringq.gather([first], then=plain.submission)  # error
ringq.Member("a")  # error


@with_context.finalize  # error
def counted(memo: str, results: list[int]) -> int:
    return 0


@app.task
def spawning(ctx: ringq.Context) -> None:
    ctx.spawn(plain)  # error
    ctx.spawn("photos::plain")  # error
    ctx.follow_up(plain.submission("a"), at_once=True)  # error


async def awaited(client: ringq.aio.Client) -> None:
    await client.submit(plain, queue=5)  # error
    await client.submit(plain.submission(5))  # error
    await client.pause_group(5)  # error
    await client.query(ringq.Query.task, "1")  # error
    for _ in client.map(plain, ["a"]):  # error
        pass

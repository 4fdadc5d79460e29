"""The handlers whose tasks belong together, for `graph_deaths`: each call leaves a line in the ledger as it begins,
and one as it ends, one O_APPEND write each.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ringq

LATE_S = 0.05  # so long a callback is waited for that nobody answers

app = ringq.App("graph")
tokens = Path(os.environ["RINGQ_TORTURE_TOKENS"])
_ledger = os.open(os.environ["RINGQ_TORTURE_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


@contextlib.contextmanager
def recorded(what: str, ctx: ringq.Context) -> Iterator[None]:
    """Begin and end of a call, which is `what`: a handle or a finalize."""
    for when in ("begin", "end"):
        os.write(_ledger, f"{what} {when} {ctx.task_id} {ctx.lease}\n".encode())
        if when == "begin":
            yield


@app.task
def note(parent: int) -> int:
    return parent


@app.task
def tree(ctx: ringq.Context, depth: int) -> int:
    with recorded("handle", ctx):
        ctx.spawn_many([tree.submission(depth - 1)] * 2 if depth else [])
        return depth


@tree.finalize
def grown(ctx: ringq.Context, memo: int, results: list[int]) -> int:
    with recorded("finalize", ctx):
        ctx.follow_up(note.submission(ctx.task_id))
        return 1 + sum(results)


@app.task
def leaf(lease: int, number: int) -> list[int]:
    return [lease, number]


@app.task
def eager(ctx: ringq.Context) -> int:
    with recorded("handle", ctx):
        ctx.spawn_many([leaf.submission(ctx.lease, 0), leaf.submission(ctx.lease, 1)], at_once=True)
        ctx.spawn(leaf.submission(ctx.lease, 2))
        return ctx.lease


@eager.finalize
def picked(ctx: ringq.Context, memo: int, results: list[list[int]]) -> list[Any]:
    with recorded("finalize", ctx):
        return [memo, results]


@app.task
def one(number: int) -> int:
    return number


@app.task
def double(number: int) -> int:
    return 2 * number


@app.task
def add(numbers: list[int]) -> int:
    return sum(numbers)


@app.task
def plan(ctx: ringq.Context) -> str:
    with recorded("handle", ctx):
        ctx.spawn_many(
            ringq.gather([ringq.chain(one.submission(1), double.submission), one.submission(3)], then=add.submission)
        )
        return "planned"


@plan.finalize
def planned(ctx: ringq.Context, memo: str, results: list[int]) -> list[int]:
    with recorded("finalize", ctx):
        return results


@app.task
def broken() -> None:
    raise ValueError("as it must")


@app.task
def strict(number: int) -> int:
    return number


@app.task
def lenient(number: int | None) -> int | None:
    return number


@app.task
def never() -> None: ...


@app.task
def hurried(ctx: ringq.Context) -> None:
    with recorded("handle", ctx):
        ctx.spawn_many([broken.submission(), never.options(run_after=3600).submission()])


@app.task
def step(ctx: ringq.Context, mark: int, left: int) -> None:
    if left:
        ctx.follow_up(step.submission(mark, left - 1))


@app.task
def pay(ctx: ringq.Context, mode: str) -> int:
    with recorded("handle", ctx):
        _give(ctx, mode, None)
        return ctx.lease


@app.task(retry="1 constant 0s")
def late(ctx: ringq.Context) -> None:
    _give(ctx, "late", LATE_S)


@app.task
def order(ctx: ringq.Context) -> str:
    with recorded("handle", ctx):
        ctx.spawn(pay.submission("complete"))
        return "ordered"


@order.finalize
def ordered(ctx: ringq.Context, memo: str, results: list[int]) -> list[int]:
    with recorded("finalize", ctx):
        return results


def _give(ctx: ringq.Context, mode: str, timeout: float | None) -> None:
    """A file of its own for the token of each attempt, which is there as a whole or not at all."""
    path = tokens / f"{mode}.{ctx.task_id}.{ctx.lease}"
    draft = path.with_name(f".{path.name}")
    draft.write_text(ctx.callback(timeout).token)
    draft.rename(path)

"""What a handler asks to be stored with its receipt, by the worker's own code; a stand-in for the server answers."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ringq
from ringq import codec, protocol
from ringq.errors import InvalidDependency
from ringq.kinds import Ended, Submitted
from ringq.model import Reason, Status
from ringq.offspring import IN_HOOK, Offspring
from ringq.protocol import CHILD, FOLLOW_UP, SIBLING
from ringq.testing.attempt import Kept, Receipt, attempt
from ringq.testing.manual import InlineClock

app = ringq.App("album")


@app.task
def thumbnail(path: str) -> int:
    return len(path)


class Server:
    """Stores what is spawned at once, and knows a family."""

    def __init__(self, memo: str | None = None, ends: dict[int, Ended] | None = None, deps: list[int] = []) -> None:  # noqa: B006
        self.stored: list[tuple[list[str], tuple[int, int]]] = []
        self._ends = ends or {}
        self._family = protocol.FamilyReply(None, deps, [one for one in self._ends if one not in deps], memo)

    def _submit_batch(self, batch: list[Any], parent: tuple[int, int]) -> list[Submitted[Any]]:
        self.stored.append(([one.payload for one in batch], parent))
        return [Submitted(100 + place, one.kind, self) for place, one in enumerate(batch)]  # type: ignore[arg-type]

    def _ask(self, message: protocol.Family, expected: type[protocol.FamilyReply]) -> protocol.FamilyReply:
        assert (message, expected) == (protocol.Family(7), protocol.FamilyReply)
        return self._family

    def wait_many(self, ids: list[int]) -> list[Ended]:
        return [self._ends[one] for one in ids]


def completed(task_id: int, result: str) -> Ended:
    return Ended(task_id, Status.COMPLETED, Reason.NONE, result)


Run = Callable[..., Receipt]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs one attempt of a task."""

    def attempted(
        task: Any, payload: bytes = b"{}", server: Server | None = None, parent: int | None = None
    ) -> Receipt:
        claim = (7, 70, 1, 1, 0, payload)
        return attempt(task, claim, tmp_path, InlineClock(), None, {}, parent, lambda: server, Kept(None))

    return attempted


def carried(receipt: Receipt) -> protocol.Carried:
    assert receipt.error is None
    assert (receipt.status, receipt.reason) == (Status.COMPLETED.code, Reason.WAITING.code)
    return protocol.decode_carried(receipt.body)


def failed(receipt: Receipt) -> BaseException:
    assert receipt.status == Status.FAILED.code
    assert receipt.error is not None
    return receipt.error


def made(function: Callable[..., Any], **options: Any) -> Any:
    """A task of a new app."""
    return ringq.App("made").task(name="it", **options)(function)


def test_what_is_spawned_travels_in_the_receipt_in_order_with_its_roles(run: Run) -> None:
    def handler(ctx: ringq.Context) -> str:
        first = ctx.spawn(thumbnail.submission("a"))
        more = ctx.spawn_many([thumbnail.submission("b"), thumbnail.options(priority=3).submission("c")])
        beside = ctx.spawn_sibling(thumbnail.submission("d"))
        after = ctx.follow_up(thumbnail.submission("e"))
        assert [first, *more, beside, after] == ctx.spawned
        assert [one.place for one in ctx.spawned] == [0, 1, 2, 0, 0]
        assert {one.id for one in ctx.spawned} == {None}
        return "memo"

    told = carried(run(made(handler), parent=3))
    assert told.roles == [CHILD, CHILD, CHILD, SIBLING, FOLLOW_UP]
    assert told.batch is not None
    assert told.batch.payloads == [f'{{"path":"{one}"}}' for one in "abcde"]
    assert [told.batch.specs[one].priority for one in told.batch.spec_of or ()] == [None, None, 3, None, None]
    assert (told.result, told.waits, told.finalizes, told.fail_fast) == ('"memo"', True, False, True)


def test_a_handler_that_asks_for_nothing_has_a_receipt_as_any(run: Run) -> None:
    receipt = run(made(lambda ctx: 5))
    assert (receipt.status, receipt.reason, receipt.body) == (Status.COMPLETED.code, 0, "5")


def test_a_handler_that_only_looks_has_a_receipt_as_any(run: Run) -> None:
    receipt = run(made(lambda ctx: [ctx.results(), ctx.children(), ctx.memo(), ctx.parent_id]), server=Server())
    assert (receipt.status, receipt.reason, receipt.body) == (Status.COMPLETED.code, 0, "[[],[],null,null]")


def test_a_follow_up_alone_does_not_make_its_task_wait(run: Run) -> None:
    told = carried(run(made(lambda ctx: ctx.follow_up(thumbnail.submission("a")).kind)))
    assert (told.waits, told.roles, told.result) == (False, [FOLLOW_UP], '"album::thumbnail"')


def test_an_attempt_that_fails_has_asked_for_nothing(run: Run) -> None:
    def handler(ctx: ringq.Context) -> None:
        ctx.spawn(thumbnail.submission("a"))
        raise ValueError("no")

    receipt = run(made(handler))
    assert isinstance(failed(receipt), ValueError)
    assert "thumbnail" not in receipt.body


def test_at_once_asks_the_server_and_the_receipt_says_that_the_task_waits(run: Run) -> None:
    def handler(ctx: ringq.Context) -> list[int | None]:
        found = ctx.spawn_many([thumbnail.submission("a"), thumbnail.submission("b")], at_once=True)
        ctx.spawn(thumbnail.submission("c"))
        return [one.id for one in found]

    server = Server()
    told = carried(run(made(handler), server=server))
    assert server.stored == [(['{"path":"a"}', '{"path":"b"}'], (7, 70))]
    assert told.batch is not None
    assert (told.result, told.waits, told.batch.payloads) == ("[100,101]", True, ['{"path":"c"}'])


def test_at_once_alone_carries_no_tasks_but_that_the_task_waits(run: Run) -> None:
    def handler(ctx: ringq.Context) -> None:
        ctx.spawn(thumbnail.submission("a"), at_once=True)

    told = carried(run(made(handler), server=Server()))
    assert (told.batch, told.roles, told.waits) == (None, None, True)


def test_a_sibling_of_a_task_without_parent_is_refused(run: Run) -> None:
    error = failed(run(made(lambda ctx: ctx.spawn_sibling(thumbnail.submission("a")))))
    assert isinstance(error, ringq.NoParent)
    assert str(error) == "made::it (task 7) has no parent, so it can have no siblings"


def test_what_is_no_submission_is_refused_where_it_is_spawned(run: Run) -> None:
    error = failed(run(made(lambda ctx: ctx.spawn(thumbnail))))
    assert isinstance(error, ringq.InvalidSubmission)
    assert "expected what task.submission(...) returns, got <task album::thumbnail" in str(error)


def test_more_than_a_batch_may_have_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringq.offspring.BATCH_TASKS_MAX", 2)

    def handler(ctx: ringq.Context) -> None:
        ctx.spawn_many([thumbnail.submission("a")] * 2)
        ctx.spawn(thumbnail.submission("b"))

    error = failed(run(made(handler)))
    assert isinstance(error, ringq.BatchTooLarge)
    assert "3 tasks" in str(error)


def test_of_a_generator_without_end_no_more_is_taken_than_may_be(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringq.offspring.FRAME_BYTES_MAX", 100)
    error = failed(run(made(lambda ctx: ctx.spawn_many(thumbnail.submission("a") for _ in itertools.count()))))
    assert isinstance(error, ringq.BatchTooLarge)
    assert "9 tasks with 108 bytes of arguments" in str(error)


def test_a_call_of_a_map_cannot_spawn(run: Run) -> None:
    def handler(ctx: ringq.Context, number: int) -> None:
        ctx.spawn(thumbnail.submission("a"))

    receipt = run(made(handler), b'[{"number":1},{"number":2}]')
    assert receipt.reason == 0
    told = [bytes(one.error).decode() for one in codec.read_account(receipt.body).errors.values()]
    assert len(told) == 2
    assert all("a call of a map has no task of its own to spawn from" in one for one in told)


def test_spawning_after_the_attempt_is_refused(run: Run) -> None:
    kept: list[ringq.Context] = []

    def handler(ctx: ringq.Context) -> None:
        ctx.follow_up(thumbnail.submission("a"))
        kept.append(ctx)

    run(made(handler))
    with pytest.raises(ringq.StaleAttempt, match="cannot spawn any more"):
        kept[0].follow_up(thumbnail.submission("b"))


def test_threads_of_one_handler_spawn_into_one_receipt(run: Run) -> None:
    def handler(ctx: ringq.Context) -> None:
        threads = [
            threading.Thread(target=lambda: [ctx.spawn(thumbnail.submission("a")) for _ in range(50)]) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    told = carried(run(made(handler)))
    assert told.batch is not None
    assert len(told.batch.payloads) == 200


# -- finalize -------------------------------------------------------------------------------------


def parent(ctx: ringq.Context, paths: list[str] = []) -> Any:  # noqa: B006 - JSON never shares it
    ctx.spawn_many(thumbnail.submission(path) for path in paths)
    return {"pictures": len(paths)}


def test_a_kind_with_finalize_says_so_and_its_result_is_a_memo(run: Run) -> None:
    task = made(parent, fail_fast=False)
    task.finalize(lambda memo, results: None)
    told = carried(run(task, b'{"paths":["a"]}'))
    assert (told.waits, told.finalizes, told.fail_fast, told.result) == (True, True, False, '{"pictures":1}')
    told = carried(run(task))  # which spawns an empty list
    assert (told.waits, told.finalizes, told.batch) == (True, True, None)


def test_finalize_gets_memo_and_results_by_its_hints_and_its_result_is_that_of_the_task(run: Run) -> None:
    def page(ctx: ringq.Context, memo: dict[str, int], results: list[Path | None]) -> str:
        ends = [(one.task_id, one.status) for one in ctx.children()]
        assert ends == [(8, Status.COMPLETED), (9, Status.FAILED), (10, Status.COMPLETED)]
        assert ctx.memo() == memo
        ctx.follow_up(thumbnail.submission("next"))
        return f"{memo['pictures']} of {results}"

    task = made(parent)
    assert task.finalize(page) is page
    ends = {8: completed(8, '"a"'), 9: Ended(9, Status.FAILED, Reason.HANDLER_ERROR), 10: completed(10, '"c"')}
    told = carried(run(task, b'\x01{"paths":["a"]}', Server('{"pictures":3}', ends)))
    assert told.result == "\"3 of [PosixPath('a'), None, PosixPath('c')]\""
    assert (told.waits, told.finalizes, told.roles) == (False, False, [FOLLOW_UP])


def test_finalize_may_be_async_and_without_a_follow_up_its_receipt_is_as_any(run: Run) -> None:
    async def page(memo: Any, results: list[int]) -> int:
        await asyncio.sleep(0)
        return sum(results)

    task = made(parent)
    task.finalize(page)
    receipt = run(task, b"\x01{}", Server("null", {8: completed(8, "2"), 9: completed(9, "3")}))
    assert (receipt.reason, receipt.body) == (0, "5")


def test_finalize_cannot_spawn(run: Run) -> None:
    task = made(parent)
    task.finalize(lambda ctx, memo, results: ctx.spawn(thumbnail.submission("a")))
    error = failed(run(task, b"\x01{}", Server("null")))
    assert isinstance(error, ringq.InvalidSubmission)
    assert "ctx.follow_up makes a task of its own" in str(error)


def test_a_result_that_does_not_fit_names_its_task(run: Run) -> None:
    task = made(parent)

    @task.finalize  # type: ignore[untyped-decorator]
    def page(memo: Any, results: list[int]) -> int:
        return 0

    error = failed(run(task, b"\x01{}", Server("null", {8: completed(8, "2"), 9: completed(9, '"x"')})))
    assert isinstance(error, ringq.InvalidResult)
    assert str(error) == "made::it: finalize: result of task 9: expected int, got str"


def test_where_finalize_is_gone_the_memo_is_the_result(run: Run) -> None:
    assert run(made(parent), b"\x01{}", Server('{"pictures":3}')).body == '{"pictures":3}'


def test_a_handler_with_finalize_that_says_nothing_of_children_fails(run: Run) -> None:
    task = made(lambda ctx: 1)
    task.finalize(lambda memo, results: None)
    receipt = run(task)
    assert isinstance(failed(receipt), ringq.InvalidSubmission)
    assert "ctx.spawn_many([]) says that there is nothing to wait for" in str(receipt.error)
    assert receipt.reason == Reason.INVALID_SPAWN.code


def test_children_that_depend_on_nobody_of_theirs_are_told_of_when_the_handler_has_returned(run: Run) -> None:
    def handler(ctx: ringq.Context) -> None:
        first = thumbnail.submission("a")
        ctx.spawn(thumbnail.options(depends_on=first).submission("b"))

    receipt = run(made(handler))
    assert isinstance(failed(receipt), InvalidDependency)
    assert receipt.reason == Reason.INVALID_SPAWN.code


def test_children_depend_on_each_other_by_their_submissions(run: Run) -> None:
    def handler(ctx: ringq.Context) -> None:
        first = thumbnail.submission("a")
        ctx.spawn(first)
        ctx.follow_up(thumbnail.options(depends_on=[first, 3]).submission("b"))

    told = carried(run(made(handler)))
    assert told.batch is not None
    assert told.batch.depends_on == [None, [-1, 3]]


def test_a_memo_that_cannot_be_encoded_is_told_of_as_memo(run: Run) -> None:
    def handler(ctx: ringq.Context) -> Any:
        ctx.spawn_many([])
        return object()

    task = made(handler)
    task.finalize(lambda memo, results: None)
    receipt = run(task)
    assert receipt.reason == Reason.INVALID_RESULT.code
    assert str(failed(receipt)).startswith("made::it: memo: ")


def test_handles_of_a_kind_with_finalize_give_what_that_returns() -> None:
    task = made(parent)

    @task.finalize  # type: ignore[untyped-decorator]
    def page(memo: Any, results: list[int]) -> Path:
        return Path()

    server: Any = None
    handle = Submitted(7, task.kind, server, task.submission().results, completed(7, '"a/b"'))
    assert handle.result() == Path("a/b")


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (lambda memo: None, r"takes a function of \(memo, results\)"),
        (lambda ctx, memo, results, more: None, r"takes a function of \(memo, results\)"),
        (lambda memo, *, results: None, r"takes a function of \(memo, results\)"),
        (5, "a handler is a function, got 5"),
    ],
)
def test_finalize_takes_a_function_that_can_be_called_so(function: Any, complaint: str) -> None:
    with pytest.raises(ringq.InvalidKind, match=f"made::it: finalize:? {complaint}"):
        made(parent).finalize(function)


def test_results_are_a_list() -> None:
    def page(memo: Any, results: dict[str, int]) -> None: ...

    with pytest.raises(ringq.InvalidKind, match=r"results are a list, as `results: list\[int\]`"):
        made(parent).finalize(page)


def test_there_is_one_finalize_and_only_where_a_handler_can_spawn() -> None:
    task = made(parent)
    task.finalize(lambda memo, results: None)
    with pytest.raises(ringq.InvalidKind, match=r"finalize was given .*test_offspring.py:\d+ already"):
        task.finalize(lambda memo, results: None)
    with pytest.raises(ringq.InvalidKind, match="let its first parameter be ctx"):
        made(lambda: None).finalize(lambda memo, results: None)
    with pytest.raises(ringq.InvalidOption, match="fail_fast: expected True or False, got 'no'"):
        made(parent, fail_fast="no")


def test_a_kind_with_finalize_cannot_be_mapped() -> None:
    task = made(parent)
    task.finalize(lambda memo, results: None)
    with pytest.raises(ringq.InvalidSubmission, match="submit each call"):
        _ = task.chunks


# -- results of dependencies ----------------------------------------------------------------------


def test_what_is_no_type_of_a_result_is_refused(run: Run) -> None:
    error = failed(run(made(lambda ctx: ctx.results(Server)), server=Server(None, {5: completed(5, "1")}, [5])))
    assert isinstance(error, ringq.InvalidOption)
    assert "results: expected a type that JSON can carry, got <class" in str(error)


def test_results_of_dependencies_come_in_order_and_by_type(run: Run) -> None:
    def handler(ctx: ringq.Context) -> list[str]:
        assert ctx.results() == ["a", None, 5]
        assert ctx.result_of(0, Path) == Path("a")
        return [repr(ctx.result_of(2, float))]

    ends = {5: completed(5, '"a"'), 4: Ended(4, Status.CANCELLED, Reason.CANCELLED), 6: completed(6, "5")}
    assert run(made(handler), server=Server(None, ends, [5, 4, 6])).body == '["5.0"]'


@pytest.mark.parametrize(
    ("place", "error"), [(1, ringq.TaskCancelled), (2, IndexError), (-1, IndexError), (0, ringq.InvalidResult)]
)
def test_a_result_that_is_not_there_is_an_error(run: Run, place: int, error: type[Exception]) -> None:
    ends = {5: completed(5, '"a"'), 4: Ended(4, Status.CANCELLED, Reason.CANCELLED)}
    server = Server(None, ends, [5, 4])
    assert isinstance(failed(run(made(lambda ctx: ctx.result_of(place, int)), server=server)), error)


# -- as a plain function --------------------------------------------------------------------------


def test_a_context_made_by_a_test_keeps_what_was_asked_for() -> None:
    ctx = ringq.Context(results=[1, 2], parent_id=3)
    task = made(parent)
    assert task(ctx, ["a", "b"]) == {"pictures": 2}
    ctx.follow_up(thumbnail.submission("c"))
    assert [(one.role, one.place, one.payload) for one in ctx.spawned] == [
        ("child", 0, '{"path":"a"}'),
        ("child", 1, '{"path":"b"}'),
        ("follow_up", 0, '{"path":"c"}'),
    ]
    assert (ctx.results(), ctx.result_of(1), ctx.parent_id, ctx.children(), ctx.memo()) == ([1, 2], 2, 3, [], None)


def test_a_task_that_was_cancelled_cannot_spawn_in_its_hook() -> None:
    refusing = Offspring(thumbnail, 7, 70, server=lambda: None, parent=lambda: None, refuses=IN_HOOK)
    with pytest.raises(ringq.InvalidSubmission, match="its task ends as cancelled"):
        refusing.spawn([thumbnail.submission("a")], "follow_up", at_once=False)

"""Inline runs: what a test of an application can see of its tasks, and that it is what production would show."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import ringq
from ringq.testing import Inline, NothingToRun, RunsOn, inline

app = ringq.App("photos")
slow = app.domain("slow", priority=200)
ran: list[object] = []


@app.task
def thumbnail(path: str, size: int = 128) -> str:
    ran.append(path)
    if path == "broken.jpg":
        raise ValueError("no such picture")
    return f"{path}@{size}"


@slow.task
def archive(path: str) -> None:
    ran.append(f"archive {path}")


@app.task
def album(paths: list[str]) -> list[str]:
    """Waits for its own tasks, on the link of the thread that runs it."""
    return [handle.result() for handle in [thumbnail.submit(path) for path in paths]]


@app.task
def endless(n: int) -> None:
    endless.submit(n + 1)


@app.task
def waits_for_itself(ctx: ringq.Context) -> None:
    with ringq.connect(ran.pop()) as client:  # type: ignore[arg-type]
        client.handle(ctx.task_id).wait()


@app.task
def large(n: int) -> str:
    return "x" * n


begun, may_end = threading.Event(), threading.Event()


@app.task
def held() -> str:
    begun.set()
    assert may_end.wait(10)
    return "done"


@app.task
def interrupted() -> None:
    raise KeyboardInterrupt


@app.task
async def telling(ctx: ringq.Context, word: str) -> tuple[str, int, int]:
    ctx.progress(0.5, "half")
    ctx.check_cancelled()
    return word, ctx.task_id, ctx.attempt


@app.task
def scan(n: int, on_duplicate: str) -> int:
    """Asks for another run of what it is."""
    if n == 1:
        ran.append(scan.options(key="disk", on_duplicate=on_duplicate).submit(2, "").outcome)  # type: ignore[arg-type]
    return n


@app.task
def cancels_itself(ctx: ringq.Context, broken: bool) -> str:
    with ringq.connect(ran.pop()) as client:  # type: ignore[arg-type]
        ran.append(client.cancel(ctx.task_id)[0].outcome)
    if broken:
        raise ValueError("gave up")
    return "done"


@app.task
def goes_on(ctx: ringq.Context) -> list[object]:
    ctx.report_bytes(1, 2)
    before = ctx.resume_from()
    ctx.progress_of(1, 2)
    ctx.checkpoint([*(before or []), ctx.attempt])
    if ctx.attempt < 3:
        raise ringq.RetryLater(after=0)
    return [before, ctx.resume_from()]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Inline]:
    ran.clear()
    with inline(app, tmp_path) as run:
        yield run


def test_nothing_runs_until_it_is_told_to(run: Inline) -> None:
    handle = thumbnail.submit("a.jpg")
    assert ran == []
    assert run.client.query.task(handle.id).status is ringq.Status.PENDING
    (record,) = run.run_all()
    assert ran == ["a.jpg"]
    assert (record.id, record.status, record.result) == (handle.id, ringq.Status.COMPLETED, '"a.jpg@128"')
    assert handle.result() == "a.jpg@128"
    assert run.run_all() == []


def test_an_attempt_goes_on_from_the_checkpoint_of_the_one_before(run: Inline) -> None:
    first, second = goes_on.submit(), goes_on.submit()
    for handle in (first, second):
        assert handle.result() == [[1, 2], [1, 2, 3]]
    assert run.client.progress() == []
    assert first.progress() is None


def test_tasks_run_by_priority_then_in_the_order_of_their_submission(run: Inline) -> None:
    archive.submit("x")
    thumbnail.submit("a.jpg")
    thumbnail.options(priority=ringq.HIGH).submit("urgent.jpg")
    thumbnail.submit("b.jpg")
    run.run_all()
    assert ran == ["urgent.jpg", "a.jpg", "b.jpg", "archive x"]


def test_a_failure_is_raised_by_the_run_and_recorded_as_in_production(run: Inline) -> None:
    handle = thumbnail.submit("broken.jpg")
    thumbnail.submit("a.jpg")
    with pytest.raises(ValueError, match="no such picture"):
        run.run_all()
    with pytest.raises(ringq.TaskFailed, match="ValueError: no such picture") as failed:
        handle.result()
    assert "in thumbnail" in failed.value.__notes__[0]
    record = run.client.query.task(handle.id)
    assert (record.status, record.reason) == (ringq.Status.FAILED, ringq.Reason.HANDLER_ERROR)
    assert [one.status for one in run.client.query.history(status="failed")] == [ringq.Status.FAILED]
    assert [one.payload for one in run.pending()] == ['{"path":"a.jpg"}']


def test_a_failure_that_is_expected_does_not_stop_the_run(run: Inline) -> None:
    thumbnail.submit("broken.jpg")
    thumbnail.submit("a.jpg")
    failed, completed = run.run_all(raises=False)
    assert failed.error is not None
    assert failed.error["type"] == "ValueError"
    assert completed.status is ringq.Status.COMPLETED


def test_a_run_inside_an_except_block_does_not_take_its_error_for_the_handlers(run: Inline) -> None:
    thumbnail.submit("a.jpg")
    try:
        raise LookupError
    except LookupError:
        assert len(run.run_all()) == 1


def test_delayed_tasks_wait_for_the_clock(run: Inline) -> None:
    thumbnail.options(run_after=3600).submit("later.jpg")
    thumbnail.options(run_at=run.clock.now() + timedelta(hours=2)).submit("last.jpg")
    assert run.run_all() == []
    run.clock.advance(3599)
    assert run.run_all() == []
    run.clock.advance(1)
    run.run_all()
    assert ran == ["later.jpg"]
    thumbnail.options(run_after=60).submit("counted from the clock.jpg")
    assert run.run_all() == []
    run.clock.advance(timedelta(hours=1))
    run.run_all()
    assert ran == ["later.jpg", "last.jpg", "counted from the clock.jpg"]
    record = run.client.query.tasks(limit=1)[0]
    assert record.ended_at == run.clock.now()
    assert record.submitted_at == run.clock.now() - timedelta(hours=1)


def test_the_system_has_its_own_time_again_afterwards(tmp_path: Path) -> None:
    with inline(app, tmp_path) as run:
        run.clock.advance(timedelta(days=100))
    submission = thumbnail.options(run_after=0).submission("a.jpg")
    assert submission.run_at is not None
    assert abs(submission.run_at - datetime.now(UTC)) < timedelta(minutes=1)


def test_who_waits_has_the_tasks_run(run: Inline) -> None:
    handles = run.client.submit_many([thumbnail.submission(f"{n}.jpg") for n in range(3)])
    assert handles[1].result() == "1.jpg@128"
    assert ran == ["0.jpg", "1.jpg"]
    assert [end.result for end in run.client.wait_many(handles)] == ['"0.jpg@128"', '"1.jpg@128"', '"2.jpg@128"']
    assert {handle.id for handle in run.client.as_completed(handles)} == {handle.id for handle in handles}


def test_tasks_that_handlers_submit_are_run_and_may_be_waited_for(run: Inline) -> None:
    handle = album.submit(["a.jpg", "b.jpg"])
    assert len(run.run_all()) == 3
    assert handle.result() == ["a.jpg@128", "b.jpg@128"]
    assert album.submit(["c.jpg"]).result() == ["c.jpg@128"]


def test_a_wait_that_cannot_end_says_why(run: Inline) -> None:
    handle = thumbnail.options(run_after=60).submit("later.jpg")
    with pytest.raises(NothingToRun, match=f"task {handle.id} cannot end: .*clock.advance"):
        handle.result()
    with pytest.raises(ringq.WaitTimeout):
        handle.result(timeout=3600)
    run.clock.advance(60)
    assert handle.result() == "later.jpg@128"
    with pytest.raises(ringq.UnknownTask):
        run.client.handle(99).wait()


def test_a_task_that_waits_for_itself_fails(run: Inline) -> None:
    ran.append(run.database)
    (record,) = [waits_for_itself.submit().wait()]
    assert record.error is not None
    assert record.error["type"].endswith("NothingToRun")


def test_tasks_without_end_are_given_up(run: Inline) -> None:
    endless.submit(0)
    with pytest.raises(RunsOn, match="10 attempts"):
        run.run_all(limit=10)
    assert run.client.query.counts() == {
        ringq.Status.PENDING: 1, ringq.Status.RUNNING: 0, ringq.Status.COMPLETED: 10,
    }  # fmt: skip


def test_the_handler_has_its_context(run: Inline) -> None:
    handle = telling.submit("hello")
    assert handle.result() == ("hello", handle.id, 1)


def test_maps_run_inline_with_their_key(run: Inline) -> None:
    paths = [f"{n}.jpg" for n in range(50)]
    results = list(run.client.map(thumbnail, paths, chunk=7, key="all"))
    assert results == [f"{path}@128" for path in paths]
    assert list(run.client.map(thumbnail, paths, chunk=7, key="all")) == results
    assert len(ran) == 50
    assert run.client.forget_map(thumbnail, "all") == 8
    found = list(run.client.map(thumbnail, ["a.jpg", "broken.jpg", "c.jpg"], errors="return"))
    assert [type(one) for one in found] == [str, ringq.TaskFailed, str]


def test_a_map_whose_results_outgrow_a_receipt_is_split_as_in_production(run: Inline) -> None:
    size = 1_500_000
    results = list(run.client.map(large, [size] * 14, chunk=14))
    assert [len(one) for one in results] == [size] * 14
    assert ringq.Reason.SPLIT in {record.reason for record in run.submitted()}


def test_another_client_and_another_thread_are_served_too(run: Inline) -> None:
    def elsewhere() -> None:
        with ringq.connect(run.database):
            found.append(thumbnail.submit("thread.jpg").result())

    found: list[str] = []
    thumbnail.submit("a.jpg")
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == ["thread.jpg@128"]
    assert ran == ["a.jpg", "thread.jpg"]


def test_who_waits_for_a_task_that_another_thread_runs_gets_its_result(run: Inline) -> None:
    def release_once_waited_for() -> None:
        deadline = time.monotonic() + 10
        while not run._runs._waiting and time.monotonic() < deadline:
            begun.wait(0.001)
        may_end.set()

    handle = held.submit()
    threads = [threading.Thread(target=work) for work in (run.run_all, release_once_waited_for)]
    threads[0].start()
    assert begun.wait(10)
    threads[1].start()
    assert handle.result() == "done"
    for thread in threads:
        thread.join()
    assert run.client.query.counts()[ringq.Status.COMPLETED] == 1


@pytest.mark.parametrize("on_duplicate", ["skip", "supersede"])
def test_a_second_run_asked_for_while_one_runs_comes_after_it(run: Inline, on_duplicate: str) -> None:
    scan.options(key="disk").submit(1, on_duplicate)
    ended = run.run_all()
    assert ran == [ringq.Outcome.REQUEUED]
    assert [(task.id, task.status) for task in ended] == [(1, ringq.Status.COMPLETED), (2, ringq.Status.COMPLETED)]


def test_a_second_run_is_refused_while_one_runs(run: Inline) -> None:
    scan.options(key="disk").submit(1, "reject")
    assert len(run.run_all()) == 1
    assert ran == [ringq.Outcome.REJECTED]


@pytest.mark.parametrize("broken", [True, False], ids=["failed", "completed"])
def test_a_task_that_is_cancelled_while_it_runs_ends_as_in_production(run: Inline, broken: bool) -> None:
    ran.append(run.database)
    cancels_itself.submit(broken)
    (task,) = run.run_all(raises=False)
    assert ran == [ringq.CancelOutcome.CANCELLING]
    assert task.status is (ringq.Status.CANCELLED if broken else ringq.Status.COMPLETED)


def test_what_is_wrong_is_refused_as_a_server_would(run: Inline) -> None:
    with pytest.raises(ringq.UnknownKind, match="did you mean 'photos::thumbnail'"):
        run.client.submit("photos::thumbnial", {})
    with pytest.raises(ringq.InvalidPayload):
        thumbnail.submit(path=7)  # type: ignore[arg-type]
    assert run.submitted() == []


def test_the_users_interrupt_is_not_taken_for_the_handlers_error(run: Inline) -> None:
    interrupted.submit()
    with pytest.raises(KeyboardInterrupt):
        run.run_all(raises=False)
    assert len(run.pending()) == 1


def test_one_step_at_a_time(run: Inline) -> None:
    thumbnail.submit("a.jpg")
    thumbnail.submit("b.jpg")
    record = run.run_next()
    assert record is not None
    assert record.payload == '{"path":"a.jpg"}'
    assert ran == ["a.jpg"]


def test_what_was_submitted_is_told_apart_by_arguments(run: Inline) -> None:
    with pytest.raises(AssertionError, match="nothing was submitted"):
        run.assert_submitted(thumbnail)
    thumbnail.submit("a.jpg")
    thumbnail.options(queue="bulk").submit("b.jpg", size=64)
    list(run.client.map(thumbnail, ["m.jpg"]))
    (record,) = run.assert_submitted(thumbnail, size=64)
    assert record.queue == "bulk"
    assert len(run.assert_submitted("photos::thumbnail")) == 2
    run.assert_submitted(thumbnail, path="a.jpg", size=128)
    run.assert_not_submitted(thumbnail, path="c.jpg")
    run.assert_not_submitted(archive)
    with pytest.raises(AssertionError) as refused:
        run.assert_submitted(thumbnail, path="c.jpg")
    assert str(refused.value) == (
        "photos::thumbnail(path='c.jpg') was not submitted; submitted were:\n"
        "  1: photos::thumbnail(path='a.jpg'), completed\n"
        "  2: photos::thumbnail(path='b.jpg', size=64) queue=bulk, completed\n"
        '  3: photos::thumbnail, calls of a map: [["m.jpg"]]'
    )
    with pytest.raises(AssertionError, match="to be submitted by nobody"):
        run.assert_not_submitted(thumbnail, path="a.jpg")
    with pytest.raises(ringq.InvalidOption, match="no parameter 'pth': did you mean 'path'"):
        run.assert_submitted(thumbnail, pth="a.jpg")


def test_a_handler_that_is_gone_leaves_its_task_pending(tmp_path: Path) -> None:
    other = ringq.App("photos")
    with inline(app, tmp_path) as run:
        handle = thumbnail.submit("a.jpg")
        run.app = other
        run._runs._app = other
        assert run.run_all() == []
        with pytest.raises(NothingToRun, match="no handler in this app"):
            handle.wait()


def test_a_folder_with_a_long_name_has_its_database_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    with inline(app, folder) as run:
        thumbnail.submit("a.jpg")
        run.run_all()
        place = run.database.parent
    assert not place.exists()
    assert list(folder.iterdir()) == []


def test_a_run_leaves_no_descriptor_behind(tmp_path: Path) -> None:
    def once() -> int:
        with inline(app, tmp_path):
            thumbnail.submit("a.jpg").result()
        return len(list(Path("/proc/self/fd").iterdir()))

    counts = [once() for _ in range(3)]
    assert counts[2] == counts[0]


def test_what_is_no_app_is_refused() -> None:
    with pytest.raises(ringq.InvalidOption, match=r"expected a ringq\.App"):
        inline("photos:app")  # type: ignore[arg-type]

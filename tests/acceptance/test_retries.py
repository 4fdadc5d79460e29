"""Failed attempts under a real server: what handlers may ask for, what is waited for, and what survives which death."""

from __future__ import annotations

import signal
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for

import ringq
from ringq.query import Query

Serve = Callable[..., Any]

HANDLERS = """
import itertools, os, signal, time
import ringq

app = ringq.App("again")

def note(path, text):
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, (text + "\\n").encode())
    os.close(descriptor)

class Unreachable(ConnectionError):
    pass

ERRORS = {
    "ValueError": lambda: ValueError("no"),
    "Unreachable": lambda: Unreachable("nobody answers"),
    "Permanent": lambda: ringq.Permanent("never"),
    "RetryLater": lambda: ringq.RetryLater("not yet", after=0),
    "Snooze": lambda: ringq.Snooze(0),
    "Cancel": lambda: ringq.Cancel("not needed"),
    "SystemExit": lambda: SystemExit(3),
}

@app.task
def fail(ctx: ringq.Context, path: str, error: str, times: int) -> int:
    "Raises so many times; by the ledger, since a snoozed attempt is given back."
    note(path, str(ctx.attempt))
    with open(path) as ledger:
        if len(ledger.readlines()) <= times:
            raise ERRORS[error]()
    return ctx.attempt

@app.task(permanent=(ConnectionError, KeyError), retry=3)
def picky(error: str) -> None:
    raise ERRORS[error]()

@app.task(retry=1)
def asks(ctx: ringq.Context, after: float) -> int:
    if ctx.attempt == 1:
        raise ringq.RetryLater(after=after)
    return ctx.attempt

@app.task(run_timeout=0.2, retry=1)
def slow(ctx: ringq.Context, until: int, stubborn: bool) -> int:
    if ctx.attempt < until:
        if stubborn:
            0 in itertools.repeat(1)
        while True:
            time.sleep(0.01)
    return ctx.attempt

@app.task(retry=2)
def unlucky(ctx: ringq.Context) -> int:
    if ctx.attempt in (1, 3):
        os.kill(os.getpid(), signal.SIGKILL)
    if ctx.attempt in (2, 4):
        raise ValueError("no")
    return ctx.attempt

@app.task(retry="2")
def half(ctx: ringq.Context, n: int, path: str) -> int:
    note(path, str(n))
    if n == 2:
        raise ringq.RetryLater(after=0)
    if n == 3:
        raise ringq.Snooze(0)
    if n % 2:
        raise ValueError("odd")
    return n // 2
"""


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def reasons(record: ringq.TaskRecord) -> list[str]:
    return [str(one.reason) for one in record.attempts]


@pytest.mark.parametrize(
    ("error", "retry", "status", "ends"),
    [
        ("ValueError", None, "failed", ["handler_error"]),
        ("ValueError", 0, "failed", ["handler_error"]),
        ("ValueError", 2, "dead_letter", ["handler_error", "handler_error", "retry_limit"]),
        ("SystemExit", 1, "dead_letter", ["handler_error", "retry_limit"]),
        ("Permanent", 2, "failed", ["permanent"]),
        ("RetryLater", 1, "dead_letter", ["retry_later", "retry_limit"]),
        ("RetryLater", None, "dead_letter", [*["retry_later"] * 3, "retry_limit"]),
        ("RetryLater", 0, "failed", ["handler_error"]),
        ("Cancel", 2, "cancelled", ["cancelled"]),
    ],
)
def test_a_handler_that_always_raises(
    serve: Serve, tmp_path: Path, error: str, retry: int | None, status: str, ends: list[str]
) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        payload = {"path": str(tmp_path / "ledger"), "error": error, "times": 99}
        task = client.submit("again::fail", payload, retry=retry)
        with pytest.raises(ringq.TaskFailed) as caught:
            task.result(timeout=20)
        record = client.query.task(task.id)
    assert (caught.value.status, caught.value.reason) == (status, ends[-1])
    expected = {"dead_letter": ringq.TaskDead, "cancelled": ringq.TaskCancelled}.get(status, ringq.TaskFailed)
    assert type(caught.value) is expected
    assert reasons(record) == ends
    assert lines(tmp_path / "ledger") == [str(number) for number in range(1, len(ends) + 1)]
    assert [one.attempt for one in record.attempts] == list(range(1, len(ends) + 1))
    assert all(one.error for one in record.attempts)


def test_a_task_that_succeeds_at_last_has_every_attempt_on_record(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    payload = {"path": str(tmp_path / "ledger"), "error": "Unreachable", "times": 3}
    with served.client() as client:
        task = client.submit("again::fail", payload, retry=3)
        assert task.result(timeout=20) == 4
        record = client.query.task(task.id)
    assert (record.retry, record.attempt_count) == ("3", 4)
    assert reasons(record) == ["handler_error"] * 3 + [""]
    assert [(one.error or {}).get("message") for one in record.attempts] == ["nobody answers"] * 3 + [None]
    ends = [(one.started_at, one.ended_at) for one in record.attempts]
    assert all(ended <= started for (_, ended), (started, _) in pairwise(ends))


def test_snoozing_gives_the_attempt_back(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    payload = {"path": str(tmp_path / "ledger"), "error": "Snooze", "times": 5}
    with served.client() as client:
        task = client.submit("again::fail", payload, retry=0)
        assert task.result(timeout=20) == 1
        record = client.query.task(task.id)
    assert reasons(record) == ["snoozed"] * 5 + [""]
    assert (record.attempt_count, lines(tmp_path / "ledger")) == (1, ["1"] * 6)


def test_exceptions_that_the_kind_calls_permanent_are_not_retried_their_heirs_neither(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        tasks = [client.submit("again::picky", {"error": error}) for error in ("Unreachable", "ValueError")]
        ends = client.wait_many(tasks, timeout=20)
        assert [(end.status, end.reason) for end in ends] == [("failed", "permanent"), ("dead_letter", "retry_limit")]
        assert [len(client.query.task(task.id).attempts) for task in tasks] == [1, 4]


@pytest.mark.parametrize("policy", ["2 constant 300ms", "2 linear 200ms+200ms", "2 exponential 200ms..300ms"])
def test_a_delay_is_really_waited_for_and_longer_only_by_little(serve: Serve, tmp_path: Path, policy: str) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        payload = {"path": str(tmp_path / "ledger"), "error": "ValueError", "times": 2}
        task = client.submit("again::fail", payload, retry=policy)
        assert task.result(timeout=20) == 3
        attempts = client.query.task(task.id).attempts
    wanted = [ringq.Retry.read(policy).delay_s(index, 1.0) for index in range(2)]
    waited = [(after.started_at - one.ended_at).total_seconds() for one, after in pairwise(attempts)]
    assert all(least <= seconds < least + 5 for least, seconds in zip(wanted, waited, strict=True)), waited


def test_the_delay_a_handler_asks_for_is_waited_for_and_shown_meanwhile(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        short, long = (client.submit("again::asks", {"after": after}) for after in (0.4, 3000.0))
        assert short.result(timeout=20) == 2
        first, second = client.query.task(short.id).attempts
        assert (second.started_at - first.ended_at).total_seconds() >= 0.4
        record = wait_for(lambda: (one := client.query.task(long.id)).attempts and one)
        assert (record.status, record.attempt_count) == ("pending", 1)
        assert 2990 < (record.run_at - record.attempts[0].ended_at).total_seconds() < 3010
        assert client.query.delayed() == 1


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_run_that_took_too_long_is_tried_again(serve: Serve, stubborn: bool) -> None:
    served = serve(HANDLERS, settings={"term_grace_s": 0.3, "kill_grace_s": 0.3})
    with served.client() as client:
        once, ever = (client.submit("again::slow", {"until": n, "stubborn": stubborn}) for n in (2, 9))
        assert once.result(timeout=30) == 2
        with pytest.raises(ringq.TaskDead) as caught:
            ever.result(timeout=30)
        assert caught.value.reason == "retry_limit"
        assert [reasons(client.query.task(task.id)) for task in (once, ever)] == [
            ["run_timeout", ""], ["run_timeout", "retry_limit"],
        ]  # fmt: skip


def test_deaths_of_workers_between_retries_are_counted_apart(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        task = client.submit("again::unlucky")
        assert task.result(timeout=30) == 5
        record = client.query.task(task.id)
    assert reasons(record) == ["crash", "handler_error", "crash", "handler_error", ""]


def test_a_policy_of_the_server_is_for_those_who_have_none(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS, "--retry", "1")
    payload = {"path": str(tmp_path / "ledger"), "error": "ValueError", "times": 1}
    with served.client() as client:
        assert client.submit("again::fail", payload).result(timeout=20) == 2
        with pytest.raises(ringq.TaskFailed) as caught:
            client.submit("again::fail", {**payload, "times": 99}, retry=0).result(timeout=20)
        assert (caught.value.status, caught.value.reason) == ("failed", "handler_error")


def test_a_policy_that_is_none_is_refused_in_one_line(cli: Callable[..., Any], tmp_path: Path) -> None:
    for retry in ("often", "3 constant", "-1", "3 constant 1y", "3 exponential 1s..2sx1.2.3"):
        ran = cli("serve", "handlers:app", f"--retry={retry}")
        assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (2, "", 1), ran
        assert "--retry" in ran.stderr
    ran = cli("serve", "handlers:app", RINGQ_RETRY="often")
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert "RINGQ_RETRY: expected" in ran.stderr
    assert not (tmp_path / "tasks.db").exists()


def test_calls_of_a_map_are_made_once_whatever_policy_their_kind_has(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS, "--retry", "3")
    ledger = tmp_path / "ledger"
    with served.client() as client:
        calls = ({"n": n, "path": str(ledger)} for n in range(8))
        results = list(client.starmap("again::half", calls, chunk=4, errors="return"))
        assert [result.reason for result in results if isinstance(result, ringq.TaskFailed)] == [
            "handler_error", "retry_later", "snoozed", "handler_error", "handler_error",
        ]  # fmt: skip
        assert [result for result in results if isinstance(result, int)] == [0, 2, 3]
        assert client.query.counts() == {"pending": 0, "running": 0, "completed": 2}
    assert sorted(lines(ledger)) == [str(n) for n in range(8)]


def test_a_call_of_a_map_that_is_cut_off_is_not_made_again(serve: Serve) -> None:
    served = serve(HANDLERS, settings={"term_grace_s": 0.3, "kill_grace_s": 0.3})
    with served.client() as client:
        calls = [{"until": 9, "stubborn": True}]
        (result,) = client.starmap("again::slow", calls, chunk=1, errors="return")
        assert (type(result), result.reason) == (ringq.TaskTimedOut, "run_timeout")
        (record,) = client.query.tasks()
        assert (record.status, record.retry, record.attempt_count) == ("failed", "0", 1)


@pytest.mark.parametrize("point", ["writer.before_commit", "writer.after_commit", "writer.after_free"])
@pytest.mark.parametrize(
    ("retry", "passing"),
    [*(("2", number) for number in range(1, 4)), *(("2 constant 200ms", number) for number in range(1, 6))],
)
def test_the_parent_dies_around_a_retry_and_every_attempt_is_made_and_counted_once(
    serve: Serve, tmp_path: Path, point: str, passing: int, retry: str
) -> None:
    """Its transactions: failure, failure, success; with a delay the end of each wait is one of its own."""
    ledger = tmp_path / "ledger"
    (tmp_path / "handlers.py").write_text(HANDLERS)
    payload = {"path": str(ledger), "error": "ValueError", "times": 2}
    with ringq.connect(tmp_path / "tasks.db") as client:
        task = client.submit("again::fail", payload, retry=retry)
    dying = serve(ready=False, env={"RINGQ_FAILPOINT": f"{point}=kill:{passing}"})
    assert dying.wait(20) == -signal.SIGKILL
    served = serve()
    with served.client() as client:
        assert client.handle(task.id).result(timeout=20) == 3
    record = Query(served.database).task(task.id)
    assert reasons(record) == ["handler_error", "handler_error", ""]
    assert lines(ledger) == ["1", "2", "3"]
    assert served.stop() == 0


@pytest.mark.parametrize("point", ["writer.before_commit", "writer.after_commit", "writer.after_free"])
def test_the_parent_dies_over_the_last_failure_and_the_task_is_one_dead_letter(
    serve: Serve, tmp_path: Path, point: str
) -> None:
    ledger = tmp_path / "ledger"
    (tmp_path / "handlers.py").write_text(HANDLERS)
    payload = {"path": str(ledger), "error": "ValueError", "times": 2}
    with ringq.connect(tmp_path / "tasks.db") as client:
        task = client.submit("again::fail", payload, retry=1)
        dying = serve(ready=False, env={"RINGQ_FAILPOINT": f"{point}=kill:2"})
        assert dying.wait(20) == -signal.SIGKILL
        if point != "writer.before_commit":
            assert client.retry_dead(task) == 1  # before anybody has looked at what the dead parent left
        served = serve()
        if point == "writer.before_commit":
            assert client.wait_many([task], timeout=20)[0].status == "dead_letter"
            assert client.retry_dead(task) == 1
        assert client.handle(task.id).result(timeout=20) == 3
    record = Query(served.database).task(task.id)
    assert reasons(record) == ["handler_error", "retry_limit", ""]
    assert lines(ledger) == ["1", "2", "3"]


@pytest.mark.parametrize("point", ["writer.before_commit", "writer.after_commit", "writer.after_reply"])
def test_the_parent_dies_while_a_dead_letter_is_given_another_chance(serve: Serve, tmp_path: Path, point: str) -> None:
    ledger = tmp_path / "ledger"
    (tmp_path / "handlers.py").write_text(HANDLERS)
    with ringq.connect(tmp_path / "tasks.db", reconnect=1) as client:
        payload = {"path": str(ledger), "error": "ValueError", "times": 2}
        task = client.submit("again::fail", payload, retry=1)
        first = serve()
        assert client.wait_many([task], timeout=20)[0].status == "dead_letter"
        assert first.stop() == 0
        dying = serve(env={"RINGQ_FAILPOINT": f"{point}=kill:1"})
        try:  # by all, so that asking again is harmless: what was committed before is dead no longer
            client.retry_dead(all=True)
        except ringq.ServerUnavailable:
            client.retry_dead(all=True)
        assert dying.wait(20) == -signal.SIGKILL
        served = serve()
        assert client.handle(task.id).result(timeout=20) == 3
    record = Query(served.database).task(task.id)
    assert reasons(record) == ["handler_error", "retry_limit", ""]
    assert lines(ledger) == ["1", "2", "3"]


def test_a_handle_waits_for_the_new_end_after_its_task_was_given_another_chance(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    payload = {"path": str(tmp_path / "ledger"), "error": "ValueError", "times": 2}
    with served.client() as client:
        task = client.submit("again::fail", payload, retry=1)
        with pytest.raises(ringq.TaskDead):
            task.result(timeout=20)
        assert client.retry_dead(task) == 1
        assert task.result(timeout=20) == 3
        with pytest.raises(ringq.NotDead):
            client.retry_dead(task)
        assert task.known_end is not None


@pytest.mark.parametrize("wrong", [{}, {"kind": "again::fail", "all": True}, {"kind": "nonsense"}, {"all": False}])
def test_dead_letters_must_be_named_in_one_way(wrong: dict[str, Any]) -> None:
    with ringq.connect("nowhere.db") as client:
        for verb in (client.retry_dead, client.purge_dead):
            with pytest.raises(ringq.InvalidOption):
                verb(**wrong)
            with pytest.raises(ringq.InvalidOption):
                verb(1, all=True)
            with pytest.raises(ringq.InvalidOption):
                verb("1")  # type: ignore[arg-type]
            with pytest.raises(ringq.InvalidOption, match="at most 1,000"):
                verb(*range(1, 1002))

"""Rate limits as handlers, programs and operators use them - shared by processes, over restarts and deaths."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for

import ringq

Serve = Callable[..., Any]
Cli = Callable[..., subprocess.CompletedProcess[str]]

HANDLERS = """
import sys, time
import ringq

app = ringq.App("web")

@app.task
def call(ctx: ringq.Context, permits: float = 1, timeout: float | None = None) -> float:
    ctx.acquire("github", permits, timeout)
    return time.monotonic()

@app.task
def refused(ctx: ringq.Context, seconds: float) -> bool:
    ctx.hold("github", seconds)
    return "sqlalchemy" in sys.modules

@app.task(rate="1/h")
def rare() -> None: ...

@app.task(rate="5 per 30s burst 7")
def limited() -> None: ...
"""

CALLER = """
import sys, time
import ringq
with ringq.connect(sys.argv[1]) as client:
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(int(sys.argv[2])):
        client.acquire("github", int(sys.argv[3]))
        print(time.monotonic(), flush=True)
"""


@contextlib.contextmanager
def callers(database: Path, count: int, calls: int, permits: int = 1) -> Any:
    """Processes that are connected, and wait for a line on their standard input."""
    command = [sys.executable, "-c", CALLER, str(database), str(calls), str(permits)]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]
    try:
        for one in started:
            assert one.stdout
            assert one.stdout.readline() == "ready\n"
        yield started
    finally:
        for one in started:
            one.kill()
            one.communicate()


def level(client: Any, scope: str = "github") -> float:
    (found,) = [rate.tokens for rate in client.rates() if rate.scope == scope]
    return float(found)


# -- sharing --------------------------------------------------------------------------------------


def test_two_processes_share_a_scope_and_neither_starves(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        client.set_rate("github", "50/s", burst=1)
    with callers(served.database, count=2, calls=20) as started:
        for one in started:
            one.stdin.write("\n")
            one.stdin.flush()
        ends = [[float(line) for line in one.communicate(timeout=60)[0].split()] for one in started]
    assert [len(one) for one in ends] == [20, 20]
    merged = sorted(ends[0] + ends[1])
    assert merged[-1] - merged[0] >= 38 / 50  # 40 calls, of which one found a token
    for one, other in (ends, ends[::-1]):  # while both wait they take turns
        assert sum(end < one[9] for end in other) >= 5
    assert served.stop() == 0


def test_handlers_and_programs_share_the_budget_and_workers_know_nothing_of_the_store(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        client.set_rate("github", "20/s", burst=2)
        began = time.monotonic()
        tasks = [client.submit("web::call", {}) for _ in range(5)]
        for _ in range(5):
            client.acquire("github")
        ends = [task.result(timeout=30) for task in tasks]
        assert max(*ends, time.monotonic()) - began >= 7 / 20  # ten, of which two were there and the last is in time
        assert client.submit("web::refused", {"seconds": 0}).result(timeout=20) is False
    assert served.stop() == 0


def test_who_is_killed_while_it_waits_does_not_keep_the_others_waiting(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        client.set_rate("github", "1/s", burst=60)
        client.acquire("github", 60)
        with callers(served.database, count=1, calls=1, permits=60) as (greedy,):
            greedy.stdin.write("\n")
            greedy.stdin.flush()

            def is_waiting() -> bool:
                with pytest.raises(ringq.RateTimeout) as told:
                    client.acquire("github", timeout=0)
                return float(str(told.value).split(" are there in ")[1].split()[0]) > 40

            wait_for(is_waiting)
            greedy.kill()
            began = time.monotonic()
            client.acquire("github", timeout=120)
            assert time.monotonic() - began < 30


# -- the server stops and dies --------------------------------------------------------------------


def test_a_restart_keeps_the_level(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        client.set_rate("github", "1/h", burst=10)
        for _ in range(7):
            client.acquire("github")
        assert served.stop() == 0
        assert 3 <= level(client) < 3.1
        serve()
        client.acquire("github", 3)
        with pytest.raises(ringq.RateTimeout):
            client.acquire("github", timeout=0)


def test_after_a_kill_what_was_taken_more_than_a_second_ago_stays_taken(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        client.set_rate("github", "1/h", burst=10)
        client.acquire("github", 6)
        wait_for(lambda: level(client) < 4.1)
        served.kill()
        assert 4 <= level(client) < 4.1  # also while no server runs
        serve()
        client.acquire("github", 4)
        with pytest.raises(ringq.RateTimeout):
            client.acquire("github", timeout=0)


def test_what_was_set_and_held_is_durable_when_the_call_returns(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        client.set_rate("github", "10/s")
        client.hold("github", 3600)
        served.kill()
        (rate,) = [rate for rate in client.rates() if rate.scope == "github"]
        assert (rate.rate, rate.tokens) == ("10/s", 0)
        assert rate.held_until
        assert rate.held_until > datetime.now(UTC) + timedelta(minutes=59)
        serve()
        with pytest.raises(ringq.RateTimeout, match=r"in 3,5\d\d\.\d+ s"):
            client.acquire("github", timeout=1)


# -- waiting --------------------------------------------------------------------------------------


def test_who_would_wait_too_long_is_told_at_once(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        client.set_rate("github", "1/m")
        client.acquire("github", timeout=0)
        began = time.monotonic()
        with pytest.raises(ringq.RateTimeout, match="willing to wait"):
            client.acquire("github", timeout=30)
        assert time.monotonic() - began < 10
        failed = client.submit("web::call", {"timeout": 0.5})
        with pytest.raises(ringq.TaskFailed, match="RateTimeout"):
            failed.result(timeout=20)


def test_who_waits_goes_on_when_the_rate_is_raised_or_removed(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        client.set_rate("queue:mail", "1/d")
        client.acquire("queue:mail")
        client.set_rate("github", "1/d")
        client.acquire("github")
        passed: list[str] = []

        def ask(scope: str) -> None:
            with served.client() as mine:
                mine.acquire(scope)
                passed.append(scope)

        threads = [threading.Thread(target=ask, args=(scope,), daemon=True) for scope in ("queue:mail", "github")]
        for thread in threads:
            thread.start()
        client.remove_rate("queue:mail")
        client.set_rate("github", "100/s")
        for thread in threads:
            thread.join(20)
        assert sorted(passed) == ["github", "queue:mail"]


def test_a_hold_stops_everybody_and_ends_by_itself(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        client.set_rate("github", "100/s")
        began = time.monotonic()
        assert client.submit("web::refused", {"seconds": 1.5}).result(timeout=20) is False
        with pytest.raises(ringq.RateTimeout):
            client.acquire("github", timeout=0.1)
        tasks = [client.submit("web::call", {}) for _ in range(3)]
        client.acquire("github")
        assert time.monotonic() - began >= 1.5
        assert min(task.result(timeout=20) for task in tasks) - began >= 1.5


def test_a_hold_of_no_time_takes_away_the_tokens_that_were_there(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        for until in (0, datetime.now(UTC) - timedelta(days=1)):
            client.set_rate("github", "1/h", burst=10)
            client.acquire("github", timeout=0)
            client.hold("github", until)
            with pytest.raises(ringq.RateTimeout):
                client.acquire("github", timeout=0)
            client.remove_rate("github")


def test_a_cancel_ends_the_wait_of_a_handler(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        client.set_rate("github", "1/d")
        client.acquire("github")
        task = client.submit("web::call", {})
        wait_for(lambda: any(worker["task_id"] for worker in served.health()["workers"]))
        task.cancel()
        with pytest.raises(ringq.TaskCancelled):
            task.result(timeout=20)
        task = client.submit("web::call", {}, run_timeout=0.3)
        with pytest.raises(ringq.TaskTimedOut):
            task.result(timeout=20)
        assert all(worker["ready"] for worker in served.health()["workers"])
    assert served.stop() == 0


# -- what the code says ---------------------------------------------------------------------------


def test_a_rate_in_the_code_is_there_until_an_operator_says_something_else(serve: Serve) -> None:
    served = serve(HANDLERS)
    scope = "kind:web::limited"

    def rates() -> dict[str, tuple[str, bool]]:
        with served.client() as client:
            return {rate.scope: (rate.rate, rate.declared) for rate in client.rates()}

    wait_for(lambda: len(rates()) == 2)
    assert rates() == {scope: ("5 per 30s burst 7", True), "kind:web::rare": ("1/h", True)}
    with served.client() as client:
        with pytest.raises(ringq.InvalidOption, match="stands in the code"):
            client.remove_rate(scope)
        client.set_rate(scope, "100/s")
        assert served.stop() == 0
        served = serve(HANDLERS.replace('@app.task(rate="1/h")', "@app.task"))
        wait_for(lambda: len(rates()) == 1)
        assert rates() == {scope: ("100/s", False)}
        client.remove_rate(scope)
        wait_for(lambda: rates() == {scope: ("5 per 30s burst 7", True)})
        assert served.stop() == 0


# -- without a server, wrong words, the command line ----------------------------------------------


def test_rates_are_set_and_shown_without_a_server_but_kept_by_one(serve: Serve) -> None:
    served = serve(HANDLERS)
    assert served.stop() == 0
    with ringq.connect(served.database, reconnect=0) as client:
        client.set_rate("github", "10/s", burst=20)
        client.set_rate("group:acme", "5 per 30s")
        client.hold("group:acme", timedelta(hours=1))
        known = {rate.scope: rate for rate in client.rates()}
        assert (known["github"].rate, known["github"].tokens) == ("10/s burst 20", 20)
        assert known["group:acme"].held_until is not None
        client.remove_rate("group:acme")
        assert "group:acme" not in {rate.scope for rate in client.rates()}
        with pytest.raises(ringq.ServerUnavailable):
            client.acquire("github")
        serve()
        client.acquire("github", 20)


def test_wrong_words_are_told_in_one_line_and_change_nothing(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        client.set_rate("github", "10/s")
        before = [(rate.scope, rate.rate) for rate in client.rates()]
        wrong: list[tuple[type[Exception], Callable[[], object]]] = [
            (ringq.InvalidOption, lambda: client.set_rate("github", "10/0s")),
            (ringq.InvalidOption, lambda: client.set_rate("github", "10/s", burst=0.5)),
            (ringq.InvalidOption, lambda: client.set_rate("github", "10/s", burst="many")),
            (ringq.InvalidOption, lambda: client.set_rate("github", 10)),
            (ringq.InvalidOption, lambda: client.set_rate("team:a", "10/s")),
            (ringq.InvalidOption, lambda: client.acquire("github", 0)),
            (ringq.InvalidOption, lambda: client.acquire("github", timeout="soon")),
            (ringq.InvalidOption, lambda: client.hold("github", -1)),
            (ringq.InvalidOption, lambda: client.hold("github", datetime(2030, 1, 1))),
            (ringq.BurstExceeded, lambda: client.acquire("github", 11)),
            (ringq.UnknownScope, lambda: client.acquire("gitlab")),
            (ringq.UnknownScope, lambda: client.hold("gitlab", 1)),
            (ringq.UnknownScope, lambda: client.remove_rate("gitlab")),
        ]
        for kind, call in wrong:
            with pytest.raises(kind) as told:
                call()
            assert "\n" not in str(told.value)
        assert [(rate.scope, rate.rate) for rate in client.rates()] == before
        client.acquire("github", 10, timeout=0)
        task = client.submit("web::call", {"permits": 11})
        with pytest.raises(ringq.TaskFailed, match="burst is 10"):
            task.result(timeout=20)


def test_the_command_line_sets_lists_holds_and_removes(serve: Serve, cli: Cli) -> None:
    served = serve(HANDLERS.replace('(rate="1/h")', "").replace('(rate="5 per 30s burst 7")', ""))
    told = json.loads(cli("rate", "set", "github", "10/s", "--burst", "20", "--json").stdout)
    assert told["scope"] == "github"
    assert (told["rate"], told["permits"], told["interval_s"], told["burst"]) == ("10/s burst 20", 10, 1, 20)
    assert cli("rate", "set", "kind:web::call", "1/s").stdout == ""
    listed = [json.loads(line) for line in cli("rate", "list", "--json").stdout.splitlines()]
    assert [one["scope"] for one in listed] == ["github", "kind:web::call"]
    held = json.loads(cli("rate", "hold", "github", "90s", "--json").stdout)
    assert datetime.fromisoformat(held["held_until"]) > datetime.now(UTC) + timedelta(seconds=80)
    assert "held until" in cli("rate", "list").stdout
    assert json.loads(cli("rate", "remove", "github", "--json").stdout) == {"scope": "github", "removed": True}
    assert served.stop() == 0
    for arguments, code, line in [
        (["set", "github", "10/0s"], 2, "interval"),
        (["set", "github", "10/s", "--burst", "0"], 2, "burst"),
        (["set", "a:b", "10/s"], 2, "scope"),
        (["hold", "github", "soon"], 2, "span"),
        (["hold", "github", "1s"], 1, "set_rate"),
        (["remove", "github"], 1, "set_rate"),
    ]:
        failed = cli("rate", *arguments)
        assert (failed.returncode, failed.stderr.count("\n")) == (code, 1), failed.stderr
        assert line in failed.stderr


def test_a_plain_call_waits_for_nobody() -> None:
    context = ringq.Context()
    context.acquire("github", timeout=0)
    context.hold("github", 3600)
    context.acquire("github", 7)

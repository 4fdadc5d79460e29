"""How long ended tasks and dead letters stay: said by the server's flags, by an operator, while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conftest import wait_for

import ringq

Serve = Callable[..., Any]

HANDLERS = """
import ringq
app = ringq.App("shop")

@app.task
def quick(number: int) -> int:
    print(number)
    return number

@app.task(retry="1 constant 0s", queue="bulk")
def fails() -> None:
    raise ValueError("no")
"""


def test_flags_say_how_long_ended_tasks_stay_and_dead_letters_stay_for_ever(serve: Serve) -> None:
    served = serve(HANDLERS, "--retention", "1s")
    with served.client() as client:
        tasks = client.submit_many(ringq.Submission("shop::quick", {"number": n}) for n in range(500))
        client.wait_many(tasks, timeout=20)
        dead = client.submit("shop::fails").wait(timeout=20)
        assert dead.status is ringq.Status.DEAD_LETTER
        wait_for(lambda: len(client.query.tasks(limit=1000)) == 1)
        with pytest.raises(ringq.UnknownTask):
            client.query.task(tasks[0].id)
        assert client.query.statistics("shop::quick")[0].count == 500
        assert client.submit("shop::quick", {"number": 1}).id == 502
        assert client.retry_dead(kind="shop::fails") == 1
    assert served.stop() == 0


def test_an_operator_says_it_of_a_queue_while_the_server_runs_and_over_its_death(serve: Serve, cli: Any) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        first = client.submit("shop::fails")
        assert first.wait(timeout=20).status is ringq.Status.DEAD_LETTER
        kept = client.submit("shop::quick", {"number": 1})
        kept.result(timeout=20)
        assert cli("queue", "set", "bulk", "--dead-retention", "1s").returncode == 0
        wait_for(lambda: client.query.tasks(status="dead_letter") == [])
    served.kill()
    served = serve()
    with served.client() as client:
        (record,) = client.query.queues()
        assert (record.name, record.retention, record.dead_retention) == ("bulk", None, "1s")
        second = client.submit("shop::fails")
        assert second.id > first.id
        wait_for(lambda: [one.id for one in client.query.tasks()] == [kept.id])
        client.set_queue("bulk", retention=86400, dead_retention=None)
        (record,) = client.query.queues()
        assert (record.retention, record.dead_retention) == ("86400s", None)
        with pytest.raises(ringq.InvalidOption, match="retention: 0 is not 1s to 36500d, nor forever"):
            client.set_queue("bulk", retention=0)
    assert served.stop() == 0

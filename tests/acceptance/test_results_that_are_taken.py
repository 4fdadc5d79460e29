"""Tasks that take each other's results from real workers: through kills, and as a program and a shell see them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ringq

Serve = Callable[..., Any]
Cli = Callable[..., Any]

HANDLERS = """
import os, time
import ringq

app = ringq.App("photos")

@app.task
def load(folder: str, n: int) -> int:
    with open(os.path.join(folder, "ledger"), "a") as ledger:
        ledger.write(f"{n} {os.getpid()}\\n")
    while not os.path.exists(os.path.join(folder, f"go{n}")):
        time.sleep(0.01)
    return n

@app.task
def total(sizes: list[int]) -> int:
    return sum(sizes)
"""


def load(folder: Path, n: int, **options: Any) -> ringq.Submission[Any]:
    return ringq.Submission("photos::load", {"folder": str(folder), "n": n}, **options)


def total(sizes: list[Any]) -> ringq.Submission[Any]:
    return ringq.Submission("photos::total", {"sizes": sizes})


def test_a_graph_goes_on_where_a_killed_server_left_it(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        parts = [load(tmp_path, 1), load(tmp_path, 2)]
        first, second, last = client.submit_many(ringq.gather(parts, then=total))
        (tmp_path / "go1").touch()
        assert first.result(20) == 1
        served.kill()
        (tmp_path / "go2").touch()
        serve(HANDLERS)
        assert (second.result(20), last.result(20)) == (2, 3)
        after = ringq.Submission("photos::total", {"sizes": [ringq.result_of(last), ringq.result_of(first)]})
        assert client.submit_many([after])[0].result(20) == 4
        assert client.query.task(last.id).dependencies == (first.id, second.id)


def test_a_blocked_task_says_what_it_waits_for(serve: Serve, cli: Cli, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    lines = [
        {"ref": "one", "kind": "photos::load", "payload": {"folder": str(tmp_path), "n": 1}},
        {"kind": "photos::total", "payload": {"sizes": [5]}, "depends_on": "one"},
    ]
    (tmp_path / "batch.ndjson").write_text("\n".join(map(json.dumps, lines)))
    asked = cli("submit", "--from", str(tmp_path / "batch.ndjson"), "--json")
    first, second = json.loads(asked.stdout)["ids"]
    with served.client() as client:
        why = client.why(second)
        assert (why.status, [one.word for one in why.causes]) == (ringq.Status.BLOCKED, ["dependency"])
        assert why.causes[0].text == f"it depends on what has not ended: task {first}"
        assert [task.id for task in client.query.blocked()] == [second]
        (tmp_path / "go1").touch()
        assert client.handle(second).result(20) == 5
    unknown = cli("submit", "photos::total", "--depends-on", "999")
    assert (unknown.returncode, "depends on task 999, and there is no such task" in unknown.stderr) == (2, True)


def test_a_file_of_lines_in_a_circle_is_refused_as_a_whole(cli: Cli, tmp_path: Path) -> None:
    lines = ['{"ref": "a", "kind": "m::a", "depends_on": "b"}', '{"ref": "b", "kind": "m::b", "depends_on": "a"}']
    (tmp_path / "circle.ndjson").write_text("\n".join(lines))
    done = cli("submit", "--from", str(tmp_path / "circle.ndjson"))
    assert done.returncode == 2
    assert "m::a (1) -> m::b (2) -> m::a (1)" in done.stderr
    assert done.stderr.count("\n") == 1

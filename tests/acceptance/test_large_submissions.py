"""Submissions of many tasks, written in steps of one transaction: what happens between two steps harms nobody."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Served, remove_segments, wait_for

import ringq
from ringq import protocol
from ringq.config import socket_path
from ringq.model import Status
from ringq.query import Query

Serve = Callable[..., Any]

FAR_US = 4 * 10**15  # year 2096

HANDLERS = """
import time
from pathlib import Path
import ringq

app = ringq.App("large")

@app.task
def echo(number: int) -> int:
    return number

@app.task
def note(number: int) -> int:
    with open(Path(__file__).with_name("ledger"), "a", buffering=1) as file:
        file.write(f"{number}\\n")
    return number
"""


def submission(count: int, kind: str = "large::echo", **columns: Any) -> protocol.Submit:
    return protocol.Submit(
        columns.get("id") or protocol.submission_id(), columns.get("specs") or [protocol.SpecFields(kind)],
        columns.get("spec_of"), columns.get("payloads") or [f'{{"number":{n}}}' for n in range(count)],
        columns.get("run_at_us"), columns.get("chunks"),
    )  # fmt: skip


def chunks(count: int, key: str, first: int = 0) -> protocol.Submit:
    columns = protocol.Chunks(key, list(range(first, first + count)), [1] * count, [bytes(16)] * count)
    return submission(count, payloads=[f"[[{n}]]" for n in range(first, first + count)], chunks=columns)


def counts(served: Served) -> dict[Status, int]:
    return {status: count for status, count in Query(served.database).counts().items() if count}


class Raw:
    """A client that says what it wants and reads when it wants."""

    def __init__(self, served: Served) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(20)
        self.socket.connect(str(socket_path(served.database)))
        self._reader = protocol.FrameReader(protocol.REPLIES)
        self._frames: list[protocol.Frame] = []

    def send(self, *messages: Any) -> None:
        self.socket.sendall(b"".join(protocol.pack(m, number) for number, m in enumerate(messages, 1)))

    def receive(self) -> Any:
        while not self._frames:
            chunk = self.socket.recv(1 << 16)
            if not chunk:
                raise ConnectionResetError
            self._frames += self._reader.feed(chunk)
        return self._frames.pop(0).message

    def ask(self, message: Any) -> Any:
        self.send(message)
        return self.receive()


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.fixture
def serve_in_steps(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """A server that writes one task a step: between two steps there is time for everything."""
    started: list[Served] = []

    def start(env: dict[str, str] | None = None) -> Served:
        (tmp_path / "handlers.py").write_text(HANDLERS)
        served = Served.__new__(Served)
        served.folder, served.database, served.app = tmp_path, tmp_path / "tasks.db", "handlers:app"
        served.stderr_path = tmp_path / "serve.stderr"
        config = f"Config(database=Path({str(served.database)!r}), app='handlers:app', workers=2)"
        code = (
            "from pathlib import Path; from ringq import intake, listener, writer\n"
            "intake.SLICE_ROWS, writer.STEP_NS, listener.TURN_NS = 1, 0, 10**12  # what came together stays together\n"
            "from ringq.config import Config; from ringq.serving import serve; "
            f"raise SystemExit(serve({config}))"
        )
        with served.stderr_path.open("ab") as stderr:
            served.process = subprocess.Popen(
                [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, **(env or {})}, stderr=stderr,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        started.append(served)
        return served.wait_ready()

    yield start
    for served in started:
        if served.process.poll() is None:
            served.kill()
    remove_segments(tmp_path / "tasks.db")


# -- deaths -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "point", ["writer.after_slice=kill:3", "writer.before_commit=kill", "writer.after_commit=kill"]
)
def test_a_server_killed_while_it_stores_many_tasks_has_stored_all_or_none(serve: Serve, point: str) -> None:
    count = 20_000
    served = serve(HANDLERS, env={"RINGQ_FAILPOINT": point})
    wanted = submission(count)
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        Raw(served).ask(wanted)
    served.wait()
    stored = sum(counts(served).values())
    assert stored == (count if "after_commit" in point else 0)
    served = serve()
    answer = Raw(served).ask(wanted)
    assert answer == protocol.Submitted(1, count, replayed=stored > 0)
    wait_for(lambda: served.health()["pending"] == 0 and served.health()["in_flight"] == 0)
    assert counts(served) == {Status.COMPLETED: count}
    assert served.stop() == 0


def test_a_client_that_dies_while_its_tasks_are_stored_has_submitted_them(serve: Serve) -> None:
    served = serve(HANDLERS, env={"RINGQ_FAILPOINT": "writer.after_slice=stop:2"})
    client = Raw(served)
    client.send(submission(20_000))
    wait_for(lambda: is_stopped(served.pid))
    client.socket.close()
    served.signal(signal.SIGCONT)
    with served.client() as other:
        assert other.submit("large::echo", {"number": 7}).result(timeout=10) == 7
    wait_for(lambda: counts(served) == {Status.COMPLETED: 20_001})
    assert served.stop() == 0


def test_the_same_submission_twice_while_it_is_stored_is_stored_once(serve: Serve) -> None:
    served = serve(HANDLERS, env={"RINGQ_FAILPOINT": "writer.after_slice=stop:2"})
    wanted = submission(10_000)
    first, again = Raw(served), Raw(served)
    first.send(wanted)
    wait_for(lambda: is_stopped(served.pid))
    served.signal(signal.SIGCONT)
    again.send(wanted, submission(9_999, id=wanted.submission), wanted)
    assert first.receive() == protocol.Submitted(1, 10_000, replayed=False)
    assert again.receive() == protocol.Submitted(1, 10_000, replayed=True)
    refused = again.receive()
    assert isinstance(refused, protocol.Failure)
    assert "another batch" in refused.message
    assert again.receive() == protocol.Submitted(1, 10_000, replayed=True)
    assert sum(counts(served).values()) == 10_000


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_told_to_stop_while_it_stores_many_tasks_stores_and_acknowledges_them(
    serve_in_steps: Callable[..., Served], number: int
) -> None:
    served = serve_in_steps({"RINGQ_FAILPOINT": "writer.after_slice=stop:5"})
    client = Raw(served)
    client.send(submission(2_000))
    wait_for(lambda: is_stopped(served.pid))
    served.signal(number)
    served.signal(signal.SIGCONT)
    assert client.receive() == protocol.Submitted(1, 2_000, replayed=False)
    assert served.wait() == 0
    assert sum(counts(served).values()) == 2_000


def test_new_kinds_are_reported_while_many_tasks_are_stored(
    serve_in_steps: Callable[..., Served], tmp_path: Path
) -> None:
    served = serve_in_steps({"RINGQ_FAILPOINT": "writer.after_slice=stop:5"})
    client = Raw(served)
    client.send(submission(60_000))
    wait_for(lambda: is_stopped(served.pid))
    (tmp_path / "handlers.py").write_text(
        HANDLERS + "\n@app.task\ndef fresh(number: int) -> int:\n    return -number\n"
    )
    served.signal(signal.SIGHUP)
    served.signal(signal.SIGCONT)
    wait_for(lambda: "large::fresh" in served.health()["kinds"])
    assert client.receive() == protocol.Submitted(1, 60_000, replayed=False)
    with served.client() as other:
        assert other.submit("large::fresh", {"number": 7}).result(timeout=20) == -7
    assert served.health()["worker_deaths"] == 0


def test_workers_that_die_while_many_tasks_are_stored_lose_nothing(
    serve_in_steps: Callable[..., Served], tmp_path: Path
) -> None:
    served = serve_in_steps({"RINGQ_FAILPOINT": "writer.after_slice=stop:4000"})
    first, second = Raw(served), Raw(served)
    first.ask(submission(3_000, kind="large::note"))
    second.send(submission(10_000))
    wait_for(lambda: is_stopped(served.pid))
    victims = [pid for pid in children(served.pid) if "ringq" in Path(f"/proc/{pid}/cmdline").read_text()]
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    served.signal(signal.SIGCONT)
    assert second.receive() == protocol.Submitted(3_001, 10_000, replayed=False)
    wait_for(lambda: counts(served).get(Status.COMPLETED) == 13_000)
    ran = [int(line) for line in (tmp_path / "ledger").read_text().split()]
    assert set(ran) == set(range(3_000))
    assert len(ran) <= 3_000 + len(victims)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# -- what others are told meanwhile ---------------------------------------------------------------


def test_nobody_may_wait_for_tasks_that_are_written_and_not_yet_stored(
    serve_in_steps: Callable[..., Served],
) -> None:
    served = serve_in_steps({"RINGQ_FAILPOINT": "writer.after_slice=stop:7"})
    client, other = Raw(served), Raw(served)
    client.send(submission(3), submission(100))  # of one transaction: the first is written, the second in steps
    wait_for(lambda: is_stopped(served.pid))
    other.send(protocol.Wait([(1, 3)]), protocol.Wait([(5, 5)]))
    served.signal(signal.SIGCONT)
    told = [other.receive(), other.receive()]
    assert [(type(one), one.message) for one in told] == [
        (protocol.Failure, "there is no task 3"), (protocol.Failure, "there is no task 5"),
    ]  # fmt: skip
    assert [client.receive().first_id for _ in range(2)] == [1, 4]


def test_who_opens_a_map_is_told_of_the_chunks_that_its_last_owner_still_stores(
    serve_in_steps: Callable[..., Served],
) -> None:
    served = serve_in_steps({"RINGQ_FAILPOINT": "writer.after_slice=stop:5"})
    owner = Raw(served)
    owner.ask(protocol.OpenMap("large::echo", "k"))
    owner.send(submission(2_000), chunks(10, "k"))
    wait_for(lambda: is_stopped(served.pid))
    owner.socket.close()
    heir = Raw(served)
    heir.send(protocol.OpenMap("large::echo", "k"))
    served.signal(signal.SIGCONT)
    told = heir.receive()
    while isinstance(told, protocol.Failure):  # the server has not seen yet that its owner is gone
        told = heir.ask(protocol.OpenMap("large::echo", "k"))
    assert (told.firsts, told.task_ids) == (list(range(10)), list(range(2_001, 2_011)))
    heir.send(protocol.Wait([(told.task_ids[0], told.task_ids[-1])]))
    assert isinstance(heir.receive(), protocol.Ended)
    assert isinstance(heir.ask(chunks(5, "k", first=10)), protocol.Submitted)


def test_who_waits_to_open_a_map_and_leaves_does_not_own_it(serve_in_steps: Callable[..., Served]) -> None:
    served = serve_in_steps({"RINGQ_FAILPOINT": "writer.after_slice=stop:5"})
    owner, heir = Raw(served), Raw(served)
    owner.ask(protocol.OpenMap("large::echo", "k"))
    owner.send(submission(2_000), chunks(10, "k"))
    wait_for(lambda: is_stopped(served.pid))
    heir.send(*[protocol.OpenMap("large::echo", "k")] * 3)
    heir.socket.close()
    owner.socket.close()
    served.signal(signal.SIGCONT)
    last = Raw(served)
    told = wait_for(lambda: opened(last))
    assert told.firsts == list(range(10))


def opened(client: Raw) -> Any:
    told = client.ask(protocol.OpenMap("large::echo", "k"))
    return None if isinstance(told, protocol.Failure) else told


# -- clients that ask for much ----------------------------------------------------------------------


def test_a_client_is_not_read_from_while_the_server_is_behind_with_its_questions(serve: Serve) -> None:
    served = serve(HANDLERS)
    client = Raw(served)
    count = 20_000
    assert client.ask(submission(count)) == protocol.Submitted(1, count, replayed=False)
    wait_for(lambda: counts(served) == {Status.COMPLETED: count})
    questions = protocol.pack(protocol.Wait([(1, protocol.WAIT_IDS_MAX)]), 1) * 1000
    sent = received = 0
    while received < 100 * count and sent < 4 << 20:  # some 20 answers
        readable, writable, _ = select.select([client.socket], [client.socket], [], 20)
        if readable:
            received += len(client.socket.recv(1 << 20))
        if writable:
            sent += client.socket.send(questions[sent % len(questions) :], socket.MSG_DONTWAIT)
    assert sent < 1 << 20, "the server takes in questions that it will answer in hours"


def test_questions_that_wait_for_their_turn_are_not_taken_for_half_a_frame(serve: Serve) -> None:
    served = serve(HANDLERS, settings={"client_body_timeout_s": 0.005})
    client = Raw(served)
    count = protocol.WAIT_IDS_MAX
    for _ in range(10):
        client.ask(submission(count // 10))
    wait_for(lambda: counts(served) == {Status.COMPLETED: count})
    client.send(*[protocol.Wait([(1, count)])] * 20)
    told = 0
    while told < 20 * count:
        told += len(client.receive().task_ids)
    assert told == 20 * count


def test_waiting_for_what_everybody_waits_for_and_leaving_at_any_time(serve: Serve) -> None:
    served = serve(HANDLERS)
    clients = [Raw(served) for _ in range(100)]
    owner = Raw(served)
    gate = submission(400, run_at_us=[FAR_US] * 400)
    owner.ask(gate)
    for number, client in enumerate(clients):
        client.send(protocol.Wait([(1 + number, 400)]), protocol.Wait([(1, 200)]))
    tasks = submission(3_000)
    for client in clients[::3]:
        client.socket.close()
    owner.ask(tasks)
    stay = [client for number, client in enumerate(clients) if number % 3]
    for client in stay:
        client.send(*[protocol.Wait([(401 + n, 3_400)]) for n in range(0, 3_000, 1_000)])
    for client in stay[::2]:
        client.socket.close()
    for client in stay[1::2]:
        ends = [0, 0, 0]
        while ends != [3_000, 2_000, 1_000]:
            frame = next_frame(client)
            ends[frame.request_id - 1] += len(frame.message.task_ids)
    assert served.health()["clients"] <= 2 + len(stay[1::2])


def next_frame(client: Raw) -> protocol.Frame:
    while not client._frames:
        client._frames += client._reader.feed(client.socket.recv(1 << 16))
    return client._frames.pop(0)


def test_a_client_that_asks_for_all_ends_and_never_reads_holds_up_nobody(serve: Serve) -> None:
    served = serve(HANDLERS)
    deaf = Raw(served)
    count = 20_000
    deaf.ask(submission(count))
    deaf.socket.settimeout(0.0)
    question = protocol.pack(protocol.Wait([(1, protocol.WAIT_IDS_MAX)]), 1)
    with pytest.raises(BlockingIOError):
        deaf.socket.sendall(question * 1_000_000)
    with served.client() as client:
        assert client.submit("large::echo", {"number": 7}).result(timeout=10) == 7
    assert wait_for(lambda: counts(served) == {Status.COMPLETED: count + 1})
    deaf.socket.close()
    wait_for(lambda: served.health()["clients"] == 1)


# -- what they consist of ---------------------------------------------------------------------------


def test_tasks_that_each_have_a_group_of_their_own(serve: Serve) -> None:
    served = serve(HANDLERS)
    count = 20_000
    specs = [protocol.SpecFields("large::echo", group=f"customer {n}") for n in range(count)]
    client = Raw(served)
    client.send(submission(count, specs=specs, spec_of=list(range(count))))
    assert client.receive() == protocol.Submitted(1, count, replayed=False)
    wait_for(lambda: counts(served) == {Status.COMPLETED: count})
    assert Query(served.database).task(12_346).group == "customer 12345"


def test_tasks_of_several_lanes_delayed_or_not_in_one_submission(serve: Serve) -> None:
    served = serve(HANDLERS)
    count = 12_000
    specs = [protocol.SpecFields("large::echo", priority=p, queue=q) for p in (9, 200) for q in ("a", "b")]
    specs.append(protocol.SpecFields("large::echo", priority=0))
    run_at = [1 if n % 3 else None for n in range(count - 1)] + [FAR_US]
    client = Raw(served)
    client.send(submission(count, specs=specs, spec_of=[n * 7 % 5 for n in range(count)], run_at_us=run_at))
    assert client.receive() == protocol.Submitted(1, count, replayed=False)
    wait_for(lambda: counts(served) == {Status.COMPLETED: count - 1, Status.PENDING: 1})


def test_an_urgent_task_runs_while_many_others_are_stored_and_run(serve: Serve) -> None:
    served = serve(HANDLERS)
    client = Raw(served)
    urgent = submission(1, specs=[protocol.SpecFields("large::echo", priority=0)])
    client.send(submission(50_000), submission(50_000), urgent)
    first_ids = [client.receive().first_id for _ in range(3)]
    wait_for(lambda: counts(served) == {Status.COMPLETED: 100_001})
    with contextlib.closing(sqlite3.connect(served.database)) as db:
        later = "SELECT COUNT(*) FROM receipt WHERE ended_us > (SELECT ended_us FROM receipt WHERE task_id = ?)"
        assert db.execute(later, (first_ids[2],)).fetchone()[0] > 30_000


def test_many_small_submissions_beside_a_large_one_are_each_stored_once(serve: Serve) -> None:
    served = serve(HANDLERS)
    large = Raw(served)
    large.send(submission(50_000))
    firsts: list[int] = []

    def submit() -> None:
        with ringq.connect(served.database) as client:
            for n in range(30):
                tasks = client.submit_many([ringq.Submission("large::echo", {"number": n}) for _ in range(2)])
                firsts.append(tasks[0].id)

    threads = [threading.Thread(target=submit) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first = large.receive().first_id
    assert len(set(firsts)) == 300
    taken = sorted([*range(first, first + 50_000), *firsts, *(n + 1 for n in firsts)])
    assert taken == list(range(1, 50_601))
    wait_for(lambda: counts(served) == {Status.COMPLETED: 50_600})

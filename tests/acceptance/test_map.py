"""A durable map as its user sees it: real servers, real workers, real deaths."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for

import ringq
from ringq import protocol
from ringq.model import Status
from ringq.query import Query

Serve = Callable[..., Any]

HANDLERS = """
import asyncio, ctypes, itertools, os, signal, time
from pathlib import Path
import ringq

app = ringq.App("map")
LEDGER = Path(__file__).with_name("ledger")

def note(number):
    with open(LEDGER, "a", buffering=1) as file:
        file.write(f"{number}\\n")

class Model:
    pid = 0

@app.state
def model() -> Model:
    made = Model()
    made.pid = os.getpid()
    return made

@app.task
def double(number: int) -> int:
    return 2 * number

@app.task
def picky(number: int) -> int:
    if number % 7 == 3:
        raise ValueError(f"not {number}")
    return number

@app.task
def area(width: int, height: int = 10, *, scale: int = 1) -> int:
    return width * height * scale

@app.task
async def later(number: int) -> int:
    await asyncio.sleep(0)
    return number + 1

@app.task
def with_context(ctx: ringq.Context, number: int) -> bool:
    return ctx.state(Model).pid == os.getpid() and ctx.task_id > 0 and ctx.kind == "map::with_context"

@app.task(run_timeout=30)
def time_left(ctx: ringq.Context, seconds: float) -> float:
    time.sleep(seconds)
    return ctx.remaining()

@app.task
def large(number: int) -> str:
    return chr(97 + number % 26) * 1_000_000

@app.task
def anything(number: int) -> object:
    return [None, "\\ud800", float("nan"), {1: 2}, object(), [number]][number % 6]

@app.task(run_timeout=0.5)
def limited(number: int) -> int:
    if number == 5:
        while True:
            time.sleep(0.01)
    time.sleep(0.1)
    return number

@app.task(run_timeout=0.5)
def stuck(number: int) -> int:
    note(number)
    if number == 5:
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
        return 0 in itertools.repeat(1)
    return number

@app.task
def poison(number: int, how: str = "", guilty: tuple[int, ...] = (), seconds: float = 0.0) -> int:
    note(number)
    time.sleep(seconds)
    if number in guilty:
        if how == "abort":
            os.abort()
        if how == "exit":
            os._exit(3)
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "scribble" and not LEDGER.with_name("scribbled").exists():
            LEDGER.with_name("scribbled").touch()
            for line in open("/proc/self/maps"):
                if "ringq." in line:
                    start, end = (int(x, 16) for x in line.split()[0].split("-"))
                    ctypes.memset(start, 0xFF, end - start)
                    break
    return number

@app.task
def slowly(number: int) -> int:
    note(number)
    time.sleep(0.02)
    return number
"""


def ledger(folder: Path) -> Counter[int]:
    """How often each call ran."""
    path = folder / "ledger"
    return Counter(map(int, path.read_text().split())) if path.exists() else Counter()


# -- results --------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 64, 4096, "auto"])
def test_results_come_in_the_order_of_the_inputs_or_as_they_come(serve: Serve, chunk: Any) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        assert list(client.map("map::double", range(1500), chunk=chunk)) == [2 * n for n in range(1500)]
        unordered = list(client.map("map::double", range(1500), chunk=chunk, ordered=False))
        assert sorted(unordered) == [2 * n for n in range(1500)]
        calls = list(client.map("map::double", iter(range(1500)), chunk=chunk, ordered=False).calls())
        assert sorted((call.index, call.result) for call in calls) == [(n, 2 * n) for n in range(1500)]


def test_a_map_of_nothing_is_nothing(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        assert list(client.map("map::double", [])) == []
        assert list(client.map("map::double", [], key="empty")) == []
        assert list(client.starmap("map::area", iter(()))) == []


def test_a_call_that_fails_fails_alone_and_the_map_goes_on(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        results = client.map("map::picky", range(20), chunk=8)
        seen: list[Any] = []
        told: list[tuple[str, str]] = []
        while True:
            try:
                seen.append(next(results))
            except ringq.TaskFailed as error:
                told.append((str(error), "".join(error.__notes__)))
                seen.append("failed")
            except StopIteration:
                break
        assert all("ValueError: not" in text and "in picky" in trace for text, trace in told)
        assert seen == ["failed" if n % 7 == 3 else n for n in range(20)]
        returned = list(client.map("map::picky", range(20), chunk=8, errors="return"))
        assert [isinstance(one, ringq.TaskFailed) for one in returned] == [n % 7 == 3 for n in range(20)]
        calls = list(client.map("map::picky", range(20), chunk=8).calls())
        assert [(c.index, c.result, c.error is None) for c in calls] == [
            (n, None if n % 7 == 3 else n, n % 7 != 3) for n in range(20)
        ]


def test_an_endless_iterable_is_read_no_further_than_it_must_be(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        numbers = itertools.count()
        results = client.map("map::slowly", numbers, chunk=2)
        assert list(itertools.islice(results, 20)) == list(range(20))
        results.close()
        assert next(numbers) < 200
        assert list(results) == []
        assert client.submit("map::double", {"number": 4}).result(timeout=30) == 8


def test_what_the_iterable_raises_comes_after_the_results_before_it(serve: Serve) -> None:
    def broken() -> Iterator[int]:
        yield from range(30)
        raise OSError("the list of files ends here")

    served = serve(HANDLERS)
    with served.client() as client:
        results = client.map("map::double", broken(), chunk=8)
        assert [next(results) for _ in range(30)] == [2 * n for n in range(30)]
        with pytest.raises(OSError, match="ends here"):
            next(results)
        with pytest.raises(StopIteration):
            next(results)


def test_an_input_that_cannot_be_encoded_fails_in_its_place(serve: Serve) -> None:
    inputs: list[Any] = [1, 2, float("nan"), 3, object(), "\udcff", *range(40)]
    served = serve(HANDLERS)
    with served.client() as client:
        for ordered, key in itertools.product([True, False], [None, "again"]):
            calls = list(client.map("map::double", inputs, chunk=8, ordered=ordered, key=key).calls())
            failed = {call.index: call.error for call in calls if call.error is not None}
            assert sorted(failed) == [2, 4, 5]
            assert {type(error) for error in failed.values()} == {ringq.InvalidPayload}
            assert sorted(call.result for call in calls if call.error is None) == sorted([2, 4, 6, *range(0, 80, 2)])


def test_a_starmap_takes_arguments_by_position_and_by_name(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        inputs = [(2,), (2, 3), {"width": 2, "scale": 5}, 7, (1, 2, 3)]
        results = list(client.starmap("map::area", inputs, errors="return"))
        assert results[:3] == [20, 6, 100]
        assert [type(one) for one in results[3:]] == [ringq.InvalidPayload, ringq.TaskFailed]


def test_a_task_object_checks_inputs_before_they_are_sent(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    app = ringq.App("map")

    @app.task
    def double(number: int) -> int:
        return 0

    with served.client() as client:
        assert list(client.map(double, range(5))) == [0, 2, 4, 6, 8]
        results = list(client.map(double, [1, "two", 3], errors="return"))
        assert (results[0], results[2], type(results[1])) == (2, 6, ringq.InvalidPayload)
        assert ringq.Status.FAILED not in Query(served.database).counts()  # none failed in a worker


def test_coroutines_contexts_and_states_work_in_chunks(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        assert list(client.map("map::later", range(50), chunk=16)) == list(range(1, 51))
        assert all(client.map("map::with_context", range(50), chunk=16))
        left = list(client.map("map::time_left", [0.2] * 4, chunk=4))
        assert all(29 < seconds < 29.85 for seconds in left)  # each has its own 30 s


@pytest.mark.parametrize(
    ("options", "words"),
    [({"chunk": 0}, "chunk: expected"), ({"chunk": 4097}, "chunk: expected"), ({"chunk": True}, "chunk: expected"),
     ({"errors": "ignore"}, "errors: expected"), ({"key": ""}, "key: expected"), ({"key": "a\n"}, "key: expected"),
     ({"key": 5}, "key: expected"), ({"run_timeout": -1}, "run_timeout")],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused_at_once(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with ringq.connect(tmp_path / "none.db") as client, pytest.raises(ringq.InvalidOption, match=words):
        client.map("map::double", [1], **options)


def test_a_kind_that_nobody_serves_is_said_once(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client, pytest.raises(ringq.UnknownKind, match="did you mean 'map::double'"):
        list(client.map("map::duble", range(5)))


# -- results of every size ------------------------------------------------------------------------


def test_results_that_outgrow_one_receipt_are_all_delivered(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        sizes = [(len(text), text[0]) for text in client.map("map::large", range(40), chunk=64)]
        assert sizes == [(1_000_000, chr(97 + n % 26)) for n in range(40)]
    assert served.health()["worker_deaths"] == 0
    assert Query(served.database).counts()[ringq.Status.SUPERSEDED] >= 2
    assert list((Path(f"{served.database}-ringq") / "spill").iterdir()) == []


def test_results_that_cannot_be_stored_fail_alone(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        results = list(client.map("map::anything", range(12), chunk=12, errors="return"))
        assert [results[n] for n in (0, 5, 6, 11)] == [None, [5], None, [11]]
        assert {results[n].reason for n in (1, 2, 3, 4, 7, 8, 9, 10)} == {"invalid_result"}


# -- time limits ----------------------------------------------------------------------------------


def test_the_limit_counts_for_each_call_and_ends_one_call(serve: Serve) -> None:
    served = serve(HANDLERS, "--workers", "1")
    with served.client() as client:
        results = list(client.map("map::limited", range(12), chunk=12, errors="return"))
        assert isinstance(results[5], ringq.TaskTimedOut)
        assert results[:5] + results[6:] == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
        assert served.health()["worker_deaths"] == 0


def test_a_call_that_cannot_be_interrupted_is_killed_and_its_neighbours_run(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS, settings={"term_grace_s": 0.2, "kill_grace_s": 0.2})
    with served.client() as client:
        results = list(client.map("map::stuck", range(12), chunk=12, errors="return"))
        assert isinstance(results[5], ringq.TaskTimedOut)
        assert results[:5] + results[6:] == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    runs = ledger(tmp_path)
    assert max(runs[n] for n in range(12)) <= 2
    assert served.health()["worker_deaths"] <= 2


# -- deaths of workers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "guilty", "count", "chunk"),
    [
        ("abort", [500], 1000, "auto"),
        ("exit", [500], 1000, 50),
        ("kill", [503, 507], 1000, 50),
        ("exit", [0, 199], 200, 50),
        ("abort", [0, 199], 200, "auto"),
        ("kill", [3, 4, 5], 64, 64),
    ],
)
def test_poison_kills_itself_alone(
    serve: Serve, tmp_path: Path, how: str, guilty: list[int], count: int, chunk: Any
) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        inputs = [(n, how, guilty) for n in range(count)]
        calls = list(client.starmap("map::poison", inputs, chunk=chunk).calls())
    assert [call.index for call in calls] == list(range(count))
    assert [call.index for call in calls if call.error is not None] == guilty
    assert all(isinstance(call.error, ringq.TaskDead) for call in calls if call.error is not None)
    assert [call.result for call in calls if call.error is None] == [n for n in range(count) if n not in guilty]
    runs = ledger(tmp_path)
    assert all(runs[n] <= 4 for n in guilty)  # once among others, three times alone
    assert served.health()["worker_deaths"] <= 4 * len(guilty)
    assert Query(served.database).counts()[ringq.Status.DEAD_LETTER] == len(guilty)


def test_long_calls_that_were_put_aside_do_not_run_again(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        inputs = [(n, "kill", [33], 0.05) for n in range(60)]
        calls = list(client.starmap("map::poison", inputs, chunk=20).calls())
    assert [call.result for call in calls] == [None if n == 33 else n for n in range(60)]
    runs = ledger(tmp_path)
    repeated = [n for n in range(60) if runs[n] > 1]
    assert set(repeated) <= {30, 31, 32, 33}  # 0.1 s before the death at the most, in calls of 0.05 s
    assert runs[33] == 4
    assert list((Path(f"{served.database}-ringq") / "spill").iterdir()) == []


def test_a_segment_overwritten_in_the_middle_of_a_map_loses_nothing(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        inputs = [(n, "scribble", [12], 0.02) for n in range(80)]
        calls = list(client.starmap("map::poison", inputs, chunk=20).calls())
    assert [(call.index, call.result, call.error) for call in calls] == [(n, n, None) for n in range(80)]
    assert "replaced" in served.stderr
    assert served.stop() == 0
    assert [path for path in (tmp_path / "tasks.db-ringq").rglob("*") if not path.is_dir()] == []


# -- deaths of the server -------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "photos"])
def test_the_iterating_program_goes_on_by_itself_when_the_server_is_killed(
    serve: Serve, tmp_path: Path, key: str | None
) -> None:
    served = serve(HANDLERS)
    seen: list[Any] = []
    with served.client() as client:
        results = client.map("map::slowly", range(200), chunk=10, key=key)
        for _ in range(3):
            seen += [next(results) for _ in range(35)]
            served.kill()
            served = serve(ready=False)
        seen += results
    assert seen == list(range(200))
    assert max(ledger(tmp_path).values()) <= 4


@pytest.fixture
def mortal(serve: Serve) -> Iterator[Callable[[str], Any]]:
    """A server that dies at a failpoint, and is started again when it has."""
    threads = []

    def start(failpoint: str) -> Any:
        served = serve(HANDLERS, env={"RINGQ_FAILPOINT": failpoint})

        def again() -> None:
            served.process.wait()
            serve(ready=False)

        threads.append(threading.Thread(target=again))
        threads[-1].start()
        return served

    yield start
    for thread in threads:
        thread.join(20)


@pytest.mark.parametrize(
    "failpoint",
    [
        "writer.before_commit=kill:2",
        "writer.before_commit=kill:3",
        "writer.after_commit=kill:2",
        "pool.after_death=kill",
    ],
)
def test_a_server_that_dies_while_it_splits_a_chunk_delivers_each_call_once(
    mortal: Callable[[str], Any], failpoint: str
) -> None:
    served = mortal(failpoint)
    with served.client() as client:
        for _ in range(2):
            calls = client.starmap("map::poison", [(n, "exit", [7]) for n in range(30)], chunk=10, key="k").calls()
            assert [(call.index, call.result) for call in calls] == [(n, None if n == 7 else n) for n in range(30)]
    assert "did not stop cleanly" in served.stderr


@pytest.mark.parametrize("point", ["worker.before_receipt", "worker.after_receipt"])
def test_workers_that_die_at_their_receipt_deliver_each_call_once(serve: Serve, tmp_path: Path, point: str) -> None:
    served = serve(HANDLERS, env={"RINGQ_FAILPOINT": f"{point}=kill:2"})
    with served.client() as client:
        assert list(client.map("map::slowly", range(40), chunk=10)) == list(range(40))
    if point == "worker.after_receipt":
        assert max(ledger(tmp_path).values()) == 1


def test_what_was_put_aside_goes_when_a_worker_dies_behind_its_receipt(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS, env={"RINGQ_FAILPOINT": "worker.after_receipt=kill"})
    spill = served.database.with_name(f"{served.database.name}-ringq") / "spill"
    with served.client() as client:
        assert list(client.map("map::slowly", range(20), chunk=10)) == list(range(20))  # 0.2 s each: put aside once
        client.submit("map::double", {"number": 1}).result(timeout=20)  # they go with the next transaction
        wait_for(lambda: not list(spill.iterdir()))


def test_a_long_chunk_of_short_calls_has_a_lease_for_when_the_host_dies(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        calls = client.map("map::slowly", range(40), chunk=40)
        started = threading.Thread(target=list, args=[calls])
        started.start()
        wait_for(lambda: any(task.status == Status.RUNNING for task in client.query.tasks()))
        started.join()


@pytest.mark.parametrize("commit", [2, 3])
def test_results_that_outgrow_a_receipt_survive_the_death_of_the_server(
    mortal: Callable[[str], Any], commit: int
) -> None:
    served = mortal(f"writer.before_commit=kill:{commit}")
    with served.client() as client:
        seen = [(text[0], len(text)) for text in client.map("map::large", range(40), chunk=64, key="k")]
    assert seen == [(chr(97 + n % 26), 1_000_000) for n in range(40)]
    assert "did not stop cleanly" in served.stderr


# Python itself tells of a Ctrl-C that strikes in a callback of its garbage collector, and drops it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("options", [{}, {"ordered": False}, {"key": "k"}, {"chunk": 3}])
def test_ctrl_c_at_any_moment_loses_nothing(serve: Serve, options: dict[str, Any]) -> None:
    served = serve(HANDLERS)
    is_armed = is_over = False

    def strike(*_: object) -> None:
        nonlocal is_armed
        if is_armed:
            is_armed = False
            raise KeyboardInterrupt

    def interrupt() -> None:
        while not is_over:
            time.sleep(random.uniform(0.001, 0.02))
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, strike)
    thread = threading.Thread(target=interrupt)
    thread.start()
    interrupts = 0
    try:
        with served.client() as client:
            until = time.monotonic() + 4
            while time.monotonic() < until:
                results, seen = client.map("map::double", range(2000), **options), list[Any]()
                while not results.is_over:
                    try:
                        is_armed = True
                        for result in results:
                            seen.append(result)
                    except KeyboardInterrupt:
                        interrupts += 1
                is_armed = False
                assert (sorted(seen) if "ordered" in options else seen) == list(range(0, 4000, 2))
    finally:
        is_armed, is_over = False, True
        thread.join()
        signal.signal(signal.SIGUSR2, before)
    assert interrupts > 50


def test_threads_share_a_map(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        results = client.map("map::double", range(3000), chunk=10)
        parts: list[list[int]] = [[] for _ in range(4)]
        threads = [threading.Thread(target=part.extend, args=(results,)) for part in parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert sorted(itertools.chain(*parts)) == list(range(0, 6000, 2))
    assert all(part == sorted(part) for part in parts)


def test_a_timeout_is_kept_while_the_server_is_away(serve: Serve) -> None:
    served = serve(HANDLERS)
    with ringq.connect(served.database, reconnect=1.5) as client, client.map("map::slowly", range(500)) as results:
        next(results)
        served.kill()
        began = time.monotonic()
        spans = []

        def ask() -> None:
            while True:
                asked = time.monotonic()
                results.next_call(0.1)
                spans.append(time.monotonic() - asked)

        with pytest.raises(ringq.ServerUnavailable):
            ask()
        assert 1.4 < time.monotonic() - began < 8
        assert len(spans) > 5
        assert max(spans) < 1.0


# -- a program that dies --------------------------------------------------------------------------

PROGRAM = """
import sys, ringq
database, delivered, count, chunk, ordered = sys.argv[1:]
# A program that never met a server does not wait for one; here it may be started while there is none.
with ringq.connect(database, reconnect=60) as client, open(delivered, "a", buffering=1) as file:
    chunk = int(chunk) if chunk.isdigit() else chunk
    for call in client.map("map::slowly", range(int(count)), chunk=chunk, key="k", ordered=ordered == "1").calls():
        file.write(f"{call.index} {call.result}\\n")
print("complete")
"""


def program(served: Any, delivered: Path, count: int, chunk: Any, *, ordered: bool = True) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(served.database), str(delivered), str(count), str(chunk), str(+ordered)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.parametrize(("chunk", "ordered"), [(5, True), ("auto", False)])
def test_a_program_killed_and_started_again_goes_on_where_it_was(
    serve: Serve, tmp_path: Path, chunk: Any, ordered: bool
) -> None:
    served = serve(HANDLERS)
    for number in range(3):
        delivered = tmp_path / f"delivered{number}"
        running = program(served, delivered, 150, chunk, ordered=ordered)
        wait_for(lambda path=delivered, goal=20 * number + 20: lines(path) >= goal)
        running.kill()
        running.wait()
    last = tmp_path / "last"
    running = program(served, last, 150, chunk, ordered=ordered)
    out, err = running.communicate(timeout=60)
    assert (out, err) == ("complete\n", "")
    told = [line.split() for line in last.read_text().splitlines()]
    assert sorted((int(i), int(r)) for i, r in told) == [(n, n) for n in range(150)]
    assert ledger(tmp_path) == Counter(range(150))  # no call ran twice


def test_everything_killed_at_random_moments_delivers_each_call_once(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    for number in range(4):
        delivered = tmp_path / f"delivered{number}"
        running = program(served, delivered, 200, 10)
        wait_for(lambda path=delivered, goal=25 * number + 10: lines(path) >= goal)
        victims = [served.pid, *[worker["pid"] for worker in served.health()["workers"]]]
        running.kill()
        for pid in victims[number % 2 :]:
            os.kill(pid, signal.SIGKILL)
        running.wait()
        if number % 2 == 0:
            served.kill()
            served = serve()
    last = tmp_path / "last"
    out, err = program(served, last, 200, 10).communicate(timeout=60)
    assert (out, err) == ("complete\n", "")
    assert last.read_text().splitlines() == [f"{n} {n}" for n in range(200)]
    runs = ledger(tmp_path)
    assert sorted(runs) == list(range(200))
    assert sum(runs.values()) < 200 + 4 * 2 * 10  # of each death, what ran since it was last put aside


@pytest.mark.stress
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(4))
def test_a_long_map_survives_any_number_of_deaths(serve: Serve, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    served = serve(HANDLERS)
    count, delivered = 1500, tmp_path / "delivered"
    running = program(served, delivered, count, rng.choice([1, 7, 40, "auto"]))
    deaths = 0
    while deaths < 15 and running.poll() is None:
        time.sleep(rng.uniform(0.1, 0.8))
        deaths += 1
        victim = rng.choice(["program", "server", "worker", "all"])
        if victim in ("program", "all"):
            running.kill()
            running.communicate()
            delivered = tmp_path / f"delivered{deaths}"
        if victim == "worker":
            os.kill(rng.choice(served.health()["workers"])["pid"], signal.SIGKILL)
        if victim in ("server", "all"):
            served.kill()
            served = serve()
        if victim in ("program", "all"):
            running = program(served, delivered, count, rng.choice([1, 7, 40, "auto"]))
    out, err = running.communicate(timeout=120)
    assert (out, err) == ("complete\n", "")
    assert delivered.read_text().splitlines() == [f"{n} {n}" for n in range(count)]
    runs = ledger(tmp_path)
    assert sorted(runs) == list(range(count))
    assert sum(runs.values()) < count + deaths * 2 * 40


# -- keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "number"),
    [
        ([-1, *range(1, 100)], 0),
        ([*range(50), -1, *range(51, 100)], 50),
        ([*range(99), -1], 90),
        (list(range(95)), 95),
        (list(range(40)), 40),
        ([], 0),
        ([*range(50), float("nan"), *range(51, 100)], 50),
    ],
)
def test_a_key_that_was_used_for_other_inputs_says_where_they_differ(
    serve: Serve, inputs: list[Any], number: int
) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        assert list(client.map("map::double", range(100), chunk=10, key="k")) == list(range(0, 200, 2))
        before = Query(served.database).counts()
        with pytest.raises(ringq.MapMismatch, match=f"number {number} on"):
            list(client.map("map::double", inputs, chunk=10, key="k"))
        assert Query(served.database).counts() == before
        assert list(client.map("map::double", range(100), chunk=3, key="k")) == list(range(0, 200, 2))
        assert list(client.map("map::double", range(105), key="k")) == list(range(0, 210, 2))  # more of them


def test_a_key_names_a_map_of_one_kind_until_it_is_forgotten(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        assert list(client.map("map::slowly", range(10), chunk=5, key="k")) == list(range(10))
        assert list(client.map("map::double", range(3), key="k")) == [0, 2, 4]
        assert list(client.map("map::slowly", range(10), key="k")) == list(range(10))
        assert max(ledger(tmp_path).values()) == 1
        assert client.forget_map("map::slowly", "k") == 2
        assert client.forget_map("map::slowly", "k") == 0
        assert list(client.map("map::slowly", range(3), key="k")) == list(range(3))
        assert ledger(tmp_path)[0] == 2


def test_two_programs_cannot_map_with_one_key(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    delivered = tmp_path / "delivered"
    running = program(served, delivered, 100_000, 5)
    wait_for(lambda: lines(delivered))
    with served.client() as client:
        with pytest.raises(ringq.MapInUse, match="another program is mapping with the key 'k'"):
            next(client.map("map::slowly", range(100_000), key="k"))
        with pytest.raises(ringq.MapInUse):
            client.forget_map("map::slowly", "k")
        refused = client.map("map::slowly", range(100_000), key="k")
        with pytest.raises(ringq.MapInUse):
            next(refused)
        running.kill()
        running.communicate()
        assert [next(refused) for _ in range(30)] == list(range(30))  # tried again, it goes on
        refused.close()
        assert wait_for(lambda: client.forget_map("map::slowly", "k")) > 5
    assert max(ledger(tmp_path).values()) == 1


# -- how it is shown ------------------------------------------------------------------------------


def test_a_chunk_is_shown_by_its_calls(serve: Serve, cli: Callable[..., Any]) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        list(client.map("map::picky", range(20), chunk=20, errors="return"))
        list(client.starmap("map::poison", [(n, "exit", [1]) for n in range(3)], chunk=3, errors="return"))
    listed = cli("task", "list").stdout
    assert "20 calls, 3 failed: [[0],[1]" in listed
    assert '1 call: [[1,"exit",[1]]]' in listed
    shown = cli("task", "show", "1").stdout
    for line in ("calls\t20", "returned\t17", "call 3 failed\tValueError: not 3", "call 17 failed\tValueError: not 17"):
        assert line in shown
    split = cli("task", "show", "2").stdout
    for line in ("status\tsuperseded", "calls\t3", "how\tsplit", "exit_code\t3", "went on as task 4\t1 call"):
        assert line in split
    told = [line.split("\t")[-1] for line in cli("history").stdout.splitlines()]
    assert "20 calls, 3 failed" in told
    assert any(one.startswith("3 calls; Split: the worker exited with code 3") for one in told)


# -- hostile frames -------------------------------------------------------------------------------


def ask(served: Any, message: Any) -> Any:
    with served.client() as client:
        try:
            return client._ask(message, protocol.MapChunks)
        except ringq.RingqError as error:
            return error


def submit(firsts: list[int], counts: list[int], digests: list[bytes], payloads: int = 2, key: str = "k") -> Any:
    return protocol.Submit(
        protocol.submission_id(), [protocol.SpecFields("map::double")], None, ["[[1]]"] * payloads, None,
        protocol.Chunks(key, firsts, counts, digests),
    )  # fmt: skip


HUGE = (1 << 64) - 1
D = bytes(16)


def test_frames_that_no_client_of_ours_sends_harm_nothing(serve: Serve) -> None:
    served = serve(HANDLERS)
    hostile = [
        protocol.OpenMap("map::double", "k", HUGE),
        protocol.OpenMap("map::double", "k", 1 << 63),
        protocol.OpenMap("map::double", "k", -5),
        protocol.OpenMap("map::double", ""),
        protocol.OpenMap("map::double", "x" * 500),
        protocol.OpenMap("x" * 100_000, "k"),
        submit([0], [1], [D]),
        submit([0, 1], [1, 1], [D]),
        submit([0, 1, 2], [1, 1, 1], [D] * 3),
        submit([0, 0], [1, 1], [D, D]),
        submit([5, 0], [1, 1], [D, D]),
        submit([-1, 0], [1, 1], [D, D]),
        submit([0, 1], [0, 1], [D, D]),
        submit([0, 1], [-1, 1], [D, D]),
        submit([0, HUGE], [1, 1], [D, D]),
        submit([0, 1], [1, HUGE], [D, D]),
        submit([0, 1], [1, 1], [D, b""]),
        submit([0, 1], [1, 1], [D, D], key="\x00"),
    ]
    for message in hostile:
        assert isinstance(ask(served, message), ringq.InvalidSubmission), message
    assert ask(served, protocol.OpenMap("map::double", "k")) == protocol.MapChunks([], [], [], [], False)
    with served.client() as client:
        for number in range(1000):
            client._ask(protocol.OpenMap("map::double", str(number)), protocol.MapChunks)
        with pytest.raises(ringq.InvalidSubmission, match="1,000 maps at a time"):
            client._ask(protocol.OpenMap("map::double", "one more"), protocol.MapChunks)
        assert client.submit("map::double", {"number": 3}).result(timeout=30) == 6
        assert client.forget_map("map::double", "unknown") == 0
    assert served.health()["worker_deaths"] == 0


def test_many_stored_chunks_are_told_of_in_pages(serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = HANDLERS + "\n"
    (tmp_path / "small.py").write_text("from ringq import protocol\nprotocol.CHUNKS_MAX = 3\n")
    code = (
        "import small\nfrom pathlib import Path\nfrom ringq.config import Config\nfrom ringq.serving import serve\n"
        f"raise SystemExit(serve(Config(database=Path({str(tmp_path / 'tasks.db')!r}), app='handlers:app', workers=2)))"
    )
    (tmp_path / "handlers.py").write_text(source)
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        with ringq.connect(tmp_path / "tasks.db") as client:
            wait_for(lambda: answers(client))
            for _ in range(2):
                assert list(client.map("map::double", range(50), chunk=5, key="k")) == list(range(0, 100, 2))
            assert client.query.counts()[ringq.Status.COMPLETED] == 10
            page = client._ask(protocol.OpenMap("map::double", "k", 6), protocol.MapChunks)
            assert (page.firsts, page.more) == ([10, 15, 20], True)
    finally:
        process.terminate()
        process.wait(20)


def answers(client: Any) -> bool:
    try:
        return bool(client.health())
    except ringq.RingqError:
        return False

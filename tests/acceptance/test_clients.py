"""Clients that err, attack, hang or come in crowds: one clear error each, nothing half done, the others go on."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import wait_for

import ringq
from ringq import config, protocol
from ringq.config import BATCH_TASKS_MAX, PAYLOAD_BYTES_MAX
from ringq.query import Query

Serve = Callable[..., Any]
MIB = 1 << 20

HANDLERS = """
import os, time
import ringq

app = ringq.App("desk")

def note(path, text):
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, (text + "\\n").encode())
    os.close(descriptor)

@app.task
def echo(number: int) -> int:
    return number

@app.task
def length(text: str) -> int:
    return len(text)

@app.task
def fill(size: int) -> str:
    return ("0123456789abcdef" * (size // 16 + 1))[:size]

@app.task
def strange(what: str):
    return {"set": {1, 2}, "object": object(), "nan": float("nan"), "lone": chr(0xd800), "good": [1]}[what]

@app.task
def write_down(path: str, text: str) -> None:
    note(path, text)

@app.task
def until(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.005)
"""


class Raw:
    """A client that says what it likes."""

    def __init__(self, served: Any) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(str(config.socket_path(served.database)))
        self._reader = protocol.FrameReader(protocol.REPLIES)
        self._frames: list[protocol.Frame] = []

    def send(self, frame: bytes) -> Raw:
        """A server that has closed already is what some of these are about."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(frame)
        return self

    def receive(self) -> protocol.Message | None:
        """The next message; None when the server has closed the connection."""
        while not self._frames:
            try:
                chunk = self.socket.recv(1 << 16)
            except ConnectionResetError:
                return None
            if not chunk:
                return None
            self._frames.extend(self._reader.feed(chunk))
        return self._frames.pop(0).message

    def ask(self, message: protocol.Message) -> Any:
        return self.send(protocol.pack(message, 1)).receive()

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def header(size: int, version: int = 1, kind: int = 1, zero: int = 0) -> bytes:
    return protocol.HEADER.pack(size, version, kind, zero, 7)


def batch(payloads: list[str], *, kind: str = "desk::echo", **options: Any) -> protocol.Submit:
    return protocol.Submit(protocol.submission_id(), [protocol.SpecFields(kind, **options)], None, payloads, None)


def echoes(count: int) -> list[ringq.Submission[Any]]:
    return [ringq.Submission("desk::echo", f'{{"number":{n}}}') for n in range(count)]


def rss_peak_mib(served: Any) -> float:
    text = Path(f"/proc/{served.pid}/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) / 1024


def tasks_of(served: Any) -> int:
    return sum(Query(served.database).counts().values())


# -- frames ---------------------------------------------------------------------------------------

SUBMIT = protocol.pack(batch(['{"number":1}']), 7)
FRAMES = {
    "version 0": header(1, version=0) + b"\x90",
    "version 2": header(1, version=2) + b"\x90",
    "type 0": header(1, kind=0) + b"\x90",
    "type 200": header(1, kind=200) + b"\x90",
    "a reply": protocol.pack(protocol.Submitted(1, 1, False), 7),
    "not zero": header(1, zero=1) + b"\x90",
    "an announced size of 4 GiB": header(2**32 - 1),
    "no body": header(0),
    "not msgpack": header(4) + b"\xc1\xc1\xc1\xc1",
    "a map for an array": header(1) + b"\x80",
    "too few fields": header(1) + b"\x90",
    "a body that is cut": header(20) + SUBMIT[12:32],
    "two bodies in one frame": header(2 * (len(SUBMIT) - 12)) + 2 * SUBMIT[12:],
    "more fields": protocol.HEADER.pack(len(SUBMIT) - 11, 1, 1, 0, 7) + b"\x96" + SUBMIT[13:] + b"\xc0",
    "arrays in arrays": header(100_000) + b"\x91" * 100_000,
    "arrays in a wait": header(100_000, kind=2) + b"\x91" * 100_000,
    "text that is no UTF-8": header(len(SUBMIT) - 12) + SUBMIT[12:].replace(b"desk", b"\xff\xfe\xfd\xfc"),
    "text of the web": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a column of four billion": header(23) + b"\x95\xc4\x10" + bytes(16) + b"\xdd\xff\xff\xff",
    "a wait for a float": header(5, kind=2) + b"\x91\x91\x92\xcb\x00",
}


def test_malformed_frames_end_their_connection_and_nothing_else(serve: Serve) -> None:
    served = serve(HANDLERS)
    rng = random.Random(20261122)
    frames = list(FRAMES.values())
    frames += [rng.randbytes(rng.randrange(1, 300)) for _ in range(60)]
    frames += [SUBMIT[:12] + rng.randbytes(len(SUBMIT) - 12) for _ in range(60)]
    with served.client() as client:
        for frame in frames:
            with Raw(served) as raw:
                raw.send(frame).socket.shutdown(socket.SHUT_WR)
                answer = raw.receive()
                assert answer is None or isinstance(answer, protocol.Failure)
                assert answer is None or raw.receive() is None
        for name, frame in FRAMES.items():
            with Raw(served) as raw:
                answer = raw.send(frame).receive()
                assert isinstance(answer, protocol.Failure), name
                assert answer.code == "ProtocolError", name
        assert client.submit("desk::echo", {"number": 1}).result(timeout=10) == 1
        assert client.health()["clients"] <= 2
    assert tasks_of(served) == 1


def test_one_byte_that_stands_for_much_is_not_unpacked(serve: Serve) -> None:
    served = serve(HANDLERS)
    count = 20 * MIB
    start = b"\x95\xc4\x10" + bytes(16)
    many = b"\xdd" + struct.pack(">I", count)
    spec = b"\x91\x91\xaadesk::echo"
    bombs = {
        "payloads": (1, start + spec + b"\xc0" + many + b"\xa0" * count + b"\xc0"),
        "specs": (1, start + b"\xdd" + struct.pack(">I", count // 2) + b"\x91\xa0" * (count // 2) + b"\xc0\x90\xc0"),
        "instants": (1, start + spec + b"\xc0\x91\xa0" + many + b"\xc0" * count),
        "ranges": (2, b"\x91\xdd" + struct.pack(">I", count // 3) + b"\x92\x01\x01" * (count // 3)),
    }
    before = rss_peak_mib(served)
    for kind, body in bombs.values():
        with Raw(served) as raw:
            answer = raw.send(header(len(body), kind=kind) + body).receive()
            assert isinstance(answer, protocol.Failure)
    assert rss_peak_mib(served) - before < 3 * 20  # the frame itself, as it arrived
    assert served.health()["longest_gap_ms"] < 1000
    assert tasks_of(served) == 0


def test_columns_that_do_not_fit_together_are_refused(serve: Serve) -> None:
    served = serve(HANDLERS)
    spec = protocol.SpecFields("desk::echo")
    number = protocol.submission_id
    refused = {
        "no task": protocol.Submit(number(), [spec], None, [], None),
        "no spec": protocol.Submit(number(), [], None, ["{}"], None),
        "two specs, none chosen": protocol.Submit(number(), [spec, spec], None, ["{}", "{}"], None),
        "more specs than tasks": protocol.Submit(number(), [spec] * 2, [0], ["{}"], None),
        "a spec that is not there": protocol.Submit(number(), [spec], [1], ["{}"], None),
        "a negative spec": protocol.Submit(number(), [spec], [-1], ["{}"], None),
        "too few specs chosen": protocol.Submit(number(), [spec], [0], ["{}", "{}"], None),
        "too few instants": protocol.Submit(number(), [spec], None, ["{}", "{}"], [None]),
        "before 1970": protocol.Submit(number(), [spec], None, ["{}"], [-1]),
        "after 9999": protocol.Submit(number(), [spec], None, ["{}"], [2**63]),
        "a short id": protocol.Submit(b"short", [spec], None, ["{}"], None),
        "priority -1": batch(["{}"], priority=-1),
        "priority 256": batch(["{}"], priority=256),
        "priority 2**63": batch(["{}"], priority=2**63),
        "a queue with a NUL": batch(["{}"], queue="a\0b"),
        "an empty group": batch(["{}"], group=""),
        "a limit of nothing": batch(["{}"], run_timeout_ms=0),
        "a limit of ages": batch(["{}"], run_timeout_ms=2**62),
        "200,001 tasks": batch(["{}"] * (BATCH_TASKS_MAX + 1)),
        "too large": batch(["{}", '"' + "x" * (PAYLOAD_BYTES_MAX - 1) + '"']),
        "too large in UTF-8": batch(["\N{SNOWMAN}" * (PAYLOAD_BYTES_MAX // 3 + 1)]),
    }
    with Raw(served) as raw:
        for name, message in refused.items():
            answer = raw.ask(message)
            assert isinstance(answer, protocol.Failure), name
            assert issubclass(getattr(ringq.errors, answer.code), ringq.InvalidSubmission), name
        assert isinstance(raw.ask(protocol.Wait([(2, 1)])), protocol.Failure)
        assert isinstance(raw.ask(protocol.Wait([(1, 10**9)])), protocol.Failure)
        assert raw.ask(batch(['{"number":1}'])) == protocol.Submitted(1, 1, False)  # the connection is as good as new
    assert tasks_of(served) == 1


def test_a_submission_id_means_one_batch(serve: Serve) -> None:
    served = serve(HANDLERS)
    first = batch(['{"number":1}'] * 3)
    with Raw(served) as raw:
        assert raw.ask(first) == protocol.Submitted(1, 3, False)
        assert raw.ask(first) == protocol.Submitted(1, 3, True)
        other = protocol.Submit(first.submission, first.specs, None, ['{"number":1}'] * 5, None)
        assert isinstance(answer := raw.ask(other), protocol.Failure)
        assert answer.code == "InvalidSubmission"
    assert tasks_of(served) == 3


def test_a_batch_cut_off_at_any_byte_is_stored_once_or_not_at_all(serve: Serve) -> None:
    served = serve(HANDLERS)
    size = len(protocol.pack(batch(['{"number":1}'] * 1000), 1))
    rng = random.Random(7)
    cuts = [*range(0, 14, 2), *(rng.randrange(14, size) for _ in range(20)), size - 1, size]
    for cut in cuts:
        message = batch(['{"number":1}'] * 1000)
        with Raw(served) as raw:
            raw.send(protocol.pack(message, 1)[:cut])
        with Raw(served) as raw:
            answer = raw.ask(message)
            assert isinstance(answer, protocol.Submitted)
            assert answer.count == 1000
            assert cut == size or not answer.replayed
    assert tasks_of(served) == 1000 * len(cuts)


def test_half_a_frame_and_silence_ends_in_time_and_only_that(serve: Serve) -> None:
    served = serve(HANDLERS, settings={"client_body_timeout_s": 0.8})
    with Raw(served) as half_header, Raw(served) as half_body, Raw(served) as idle, Raw(served) as busy:
        half_header.send(SUBMIT[:5])
        half_body.send(SUBMIT[:-3])
        started = time.monotonic()
        gone: set[str] = set()
        left, question = b"", protocol.pack(protocol.Health(), 1)
        while len(gone) < 2 or time.monotonic() - started < 1.6:  # busy: always in the middle of its next frame
            busy.send((left + question)[:-1])
            assert not left or isinstance(busy.receive(), protocol.HealthReply)
            left = question[-1:]
            for name, raw in (("header", half_header), ("body", half_body)):
                raw.socket.settimeout(0.01)
                with contextlib.suppress(TimeoutError):
                    if name not in gone and raw.receive() is None:
                        gone.add(name)
            assert time.monotonic() - started < 10
        assert isinstance(idle.ask(protocol.Health()), protocol.HealthReply)
    assert tasks_of(served) == 0


# -- slow, many, hungry ----------------------------------------------------------------------------


def test_who_never_reads_costs_little_and_is_answered_in_full_later(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        large = client.submit_many([ringq.Submission("desk::fill", {"size": MIB}) for _ in range(40)])
        wait_for(lambda: client.query.counts().get(ringq.Status.COMPLETED) == 40)
        before = rss_peak_mib(served)
        with Raw(served) as lazy, Raw(served) as asking:
            lazy.send(protocol.pack(protocol.Wait([(large[0].id, large[-1].id)]), 1))
            asking.socket.setblocking(False)
            question, asked = protocol.pack(protocol.Health(), 1), 0
            with contextlib.suppress(BlockingIOError):
                while asking.socket.send(question * 100) == len(question) * 100:
                    asked += 100
            started = time.monotonic()
            assert client.submit("desk::echo", {"number": 2}).result(timeout=10) == 2
            assert time.monotonic() - started < 2
            assert rss_peak_mib(served) - before < 40
            seen: list[int] = []
            while len(seen) < 40:
                message = lazy.receive()
                assert isinstance(message, protocol.Ended)
                assert all(len(result or "") == MIB + 2 for result in message.results)
                seen += message.task_ids
            assert seen == [task.id for task in large]
            asking.socket.settimeout(20)
            for _ in range(asked):
                assert isinstance(asking.receive(), protocol.HealthReply)


def test_results_of_any_size_and_number_arrive_whole(serve: Serve) -> None:
    """100 MiB of results at once; inline, through the result ring, and through files."""
    served = serve(HANDLERS)
    sizes = [0, 1, 150, 200, 250, 4000, 100_000, 250_000, 300 * 1024, 2 * MIB, 16 * MIB - 2, *[2 * MIB] * 40]
    with served.client() as client:
        tasks = client.submit_many([ringq.Submission("desk::fill", {"size": size}) for size in sizes])
        client.wait_many(tasks, timeout=40)
        for task, size in zip(tasks, sizes, strict=True):
            assert task.result() == ("0123456789abcdef" * (size // 16 + 1))[:size]
        again = client.wait_many([task.id for task in tasks], timeout=40)  # now all of them from the database
        assert [len(end.result or "") for end in again] == [size + 2 for size in sizes]
    assert list((served.folder / "tasks.db-ringq" / "spill").iterdir()) == []


def test_one_byte_at_a_time_is_a_submission_too(serve: Serve) -> None:
    served = serve(HANDLERS)
    with Raw(served) as raw, served.client() as client:
        for index in range(len(SUBMIT)):
            raw.send(SUBMIT[index : index + 1])
            if index % 10 == 0:
                assert client.health()["clients"] == 2
        assert isinstance(raw.receive(), protocol.Submitted)
    assert tasks_of(served) == 1


def test_two_hundred_idle_connections_bother_nobody(serve: Serve) -> None:
    served = serve(HANDLERS)
    with contextlib.ExitStack() as stack, served.client() as client:
        idle = [stack.enter_context(Raw(served)) for _ in range(200)]
        wait_for(lambda: client.health()["clients"] == 201)
        started = time.monotonic()
        assert [task.result(timeout=10) for task in client.submit_many(echoes(500))] == list(range(500))
        assert time.monotonic() - started < 3
        assert all(isinstance(raw.ask(protocol.Health()), protocol.HealthReply) for raw in idle)
    with served.client() as client:
        wait_for(lambda: client.health()["clients"] == 1)


def test_clients_cannot_take_the_descriptors_that_workers_need(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client, contextlib.ExitStack() as stack:
        wait_for(lambda: all(worker["ready"] for worker in client.health()["workers"]))
        resource.prlimit(served.pid, resource.RLIMIT_NOFILE, (64, 64))
        for _ in range(100):
            stack.enter_context(Raw(served))
        wait_for(lambda: "others are refused" in served.stderr)
        victim = client.health()["workers"][0]["pid"]
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: all(w["ready"] and w["pid"] != victim for w in client.health()["workers"]))
        assert client.submit("desk::fill", {"size": MIB}).result(timeout=10)
        assert 10 <= client.health()["clients"] <= 64
        stack.close()
        assert ringq.connect(served.database).submit("desk::echo", {"number": 3}).result(timeout=10) == 3


def test_without_any_descriptor_left_connected_clients_go_on(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        wait_for(lambda: all(worker["ready"] for worker in client.health()["workers"]))
        limit = resource.prlimit(served.pid, resource.RLIMIT_NOFILE)
        used = max(int(name) for name in os.listdir(f"/proc/{served.pid}/fd")) + 1
        resource.prlimit(served.pid, resource.RLIMIT_NOFILE, (used, limit[1]))
        for _ in range(20):
            with Raw(served) as raw:
                assert raw.receive() is None
        assert client.submit("desk::echo", {"number": 3}).result(timeout=10) == 3
        cpu = sum(psutil.Process(served.pid).cpu_times()[:2])
        assert [task.result(timeout=10) for task in client.submit_many(echoes(50))] == list(range(50))
        assert sum(psutil.Process(served.pid).cpu_times()[:2]) - cpu < 1  # it does not spin on the listener
        resource.prlimit(served.pid, resource.RLIMIT_NOFILE, limit)
        with Raw(served) as raw:
            assert isinstance(raw.ask(protocol.Health()), protocol.HealthReply)


def test_threads_and_forked_processes_submit_through_one_client(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        client.health()  # the connection is open when it forks

        def work(number: int) -> bool:
            return [
                client.submit("desk::echo", {"number": n}).result(timeout=30) for n in range(number, number + 5)
            ] == [*range(number, number + 5)]

        children = []
        for child in range(8):
            pid = os.fork()
            if pid == 0:
                os._exit(0 if work(100 * child) else 1)
            children.append(pid)
        with ThreadPoolExecutor(32) as pool:
            assert all(pool.map(work, range(0, 3200, 100)))
        assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 8
    assert Query(served.database).counts()[ringq.Status.COMPLETED] == 5 * 40


def test_a_server_killed_three_times_under_load_keeps_every_promise(serve: Serve, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    served = serve(HANDLERS)
    enough = threading.Event()
    answered: list[list[int]] = [[] for _ in range(8)]
    with ringq.connect(served.database, reconnect=30) as client:

        def work(number: int) -> None:
            while not enough.is_set():
                payload = {"path": str(ledger), "text": "x"}
                tasks = client.submit_many([ringq.Submission("desk::write_down", payload) for _ in range(5)])
                answered[number] += [task.id for task in tasks]

        with ThreadPoolExecutor(8) as pool:
            futures = [pool.submit(work, number) for number in range(8)]
            for _ in range(3):
                count = sum(map(len, answered))
                wait_for(lambda count=count: sum(map(len, answered)) > count + 200)
                served.kill()
                served = serve()
            enough.set()
            for future in futures:
                future.result(timeout=60)
        ids = [task_id for each in answered for task_id in each]
        assert len(set(ids)) == len(ids)
        ends = client.wait_many(ids, timeout=60)
    assert {end.status for end in ends} == {ringq.Status.COMPLETED}
    counts = Query(served.database).counts()
    assert counts[ringq.Status.COMPLETED] == sum(counts.values()) == len(ids)
    extra = len(ledger.read_text().split()) - len(ids)
    assert 0 <= extra <= 3 * 2  # a task per worker and death


# -- another user ---------------------------------------------------------------------------------

STRANGER = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for path in sys.argv[2:]:
    for flags in (os.O_RDONLY, os.O_RDWR):
        try:
            os.open(path, flags)
        except OSError:
            continue
        print("opened", path)
client = socket.socket(socket.AF_UNIX)
client.settimeout(10)
try:
    client.connect(sys.argv[1])
    print("connected", client.recv(1))
except PermissionError:
    print("refused")
except ConnectionResetError:
    print("connected", b"")
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A directory into which everybody may look."""
    folder = Path(tempfile.mkdtemp(prefix="ringq-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_another_user_gets_neither_the_socket_nor_a_file(open_folder: Path, serve: Serve) -> None:
    os.umask(0)  # as careless as can be
    try:
        served = serve(HANDLERS, database=open_folder / "tasks.db")
    finally:
        os.umask(0o022)
    runtime = config.runtime_dir(served.database)
    with served.client() as client:
        client.submit("desk::fill", {"size": 100}).result(timeout=10)
        files = [path for path in open_folder.rglob("*") if path.is_file()]
        files += [Path(f"/proc/{served.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{served.pid}/fd")]
        files += list(Path("/dev/shm").glob("ringq.*"))
        assert len([path for path in files if path.name.startswith("tasks.db")]) == 3

        def look() -> str:
            command = [sys.executable, "-c", STRANGER, str(runtime / "ringq.sock"), *map(str, files)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/", check=False)
            assert done.returncode == 0, done.stderr
            return done.stdout

        assert look() == "refused\n"
        runtime.chmod(0o755)
        (runtime / "ringq.sock").chmod(0o666)
        assert look() == "connected b''\n"  # the kernel says who it is, whatever the modes are
        assert client.submit("desk::echo", {"number": 1}).result(timeout=10) == 1


# -- what is asked for ----------------------------------------------------------------------------


def test_what_makes_no_sense_is_refused_before_anything_is_written(serve: Serve) -> None:
    served = serve(HANDLERS)
    app = ringq.App("desk")

    @app.task
    def echo(number: int) -> int:
        return number

    one = ringq.Submission
    naive, far = datetime(2030, 1, 1), datetime.max.replace(tzinfo=UTC)
    beyond = datetime.max.replace(tzinfo=timezone(timedelta(hours=-12)))
    cases: list[tuple[type[Exception], str, Callable[[Any], Any]]] = [
        (ringq.UnknownKind, "did you mean 'desk::echo'", lambda c: c.submit("desk::ecko", {})),
        (ringq.UnknownKind, "registered are", lambda c: c.submit("other::thing", {})),
        (ringq.InvalidOption, "domain::name", lambda c: c.submit("echo", {})),
        (ringq.InvalidPayload, "did you mean 'number'", lambda c: c.submit(echo, {"numbr": 1})),
        (ringq.InvalidPayload, "number", lambda c: c.submit(echo, {"number": "one"})),
        (ringq.InvalidPayload, "missing", lambda c: c.submit(echo, {})),
        (ringq.InvalidPayload, "nan", lambda c: c.submit("desk::echo", {"number": float("nan")})),
        (ringq.InvalidPayload, "inf", lambda c: c.submit("desk::echo", {"number": [{"a": float("inf")}]})),
        (ringq.InvalidPayload, "object", lambda c: c.submit("desk::echo", {"number": object()})),
        (ringq.InvalidPayload, "", lambda c: c.submit("desk::echo", "{'number': 1}")),
        (ringq.InvalidPayload, "", lambda c: c.submit("desk::echo", "[1]")),
        (ringq.InvalidPayload, "", lambda c: c.submit("desk::echo", {"number": "\ud800"})),
        (ringq.InvalidPayload, "", lambda c: c.submit("desk::echo", {1: 1})),
        (ringq.PayloadTooLarge, "1,048,577", lambda c: c.submit("desk::length", {"text": "x" * (MIB + 1 - 11)})),
        (ringq.InvalidOption, "priority", lambda c: c.submit("desk::echo", {"number": 1}, priority=-1)),
        (ringq.InvalidOption, "priority", lambda c: c.submit("desk::echo", {"number": 1}, priority=256)),
        (ringq.InvalidOption, "priority", lambda c: c.submit("desk::echo", {"number": 1}, priority=2**70)),
        (ringq.InvalidOption, "time zone", lambda c: c.submit("desk::echo", {"number": 1}, run_at=naive)),
        (ringq.InvalidOption, "10000", lambda c: c.submit("desk::echo", {"number": 1}, run_after=1e12)),
        (ringq.InvalidOption, "10000", lambda c: c.submit("desk::echo", {"number": 1}, run_at=beyond)),
        (ringq.InvalidOption, "one of", lambda c: c.submit("desk::echo", {"number": 1}, run_at=far, run_after=1)),
        (ringq.InvalidOption, "run_after", lambda c: c.submit("desk::echo", {"number": 1}, run_after=-1)),
        (ringq.InvalidOption, "queue", lambda c: c.submit("desk::echo", {"number": 1}, queue="a,b")),
        (ringq.InvalidOption, "group", lambda c: c.submit("desk::echo", {"number": 1}, group="g" * 201)),
        (ringq.BatchTooLarge, "200,001", lambda c: c.submit_many([one("desk::echo", {})] * (BATCH_TASKS_MAX + 1))),
        (ringq.UnknownKind, "ecko", lambda c: c.submit_many([*echoes(500), one("desk::ecko", {}), *echoes(500)])),
        (ringq.InvalidSubmission, "returns", lambda c: c.submit_many([*echoes(5), "desk::echo"])),
    ]
    with served.client() as client:
        for error, says, call in cases:
            with pytest.raises(error) as caught:
                call(client)
            assert says.lower() in str(caught.value).lower()
            assert len(str(caught.value)) < 1000
        assert client.submit_many([]) == []
        assert tasks_of(served) == 0
        assert client.submit("desk::length", {"text": "x" * (MIB - 11)}).result(timeout=10) == MIB - 11
        with pytest.raises(ringq.TaskFailed, match="numbr") as failed:
            client.submit("desk::echo", {"numbr": 1}).result(timeout=10)
        assert failed.value.reason == "invalid_payload"
        with pytest.raises(ringq.TaskFailed, match="number"):
            client.submit("desk::echo", {"number": "one"}).result(timeout=10)
        assert client.submit("desk::echo", {"number": 7}, run_at=datetime(1, 1, 1, tzinfo=UTC)).result(timeout=10) == 7
        assert client.submit("desk::echo", {"number": 8}, run_at=far).id == 5
        assert client.query.delayed() == 1


def test_a_result_that_cannot_be_encoded_fails_its_task_alone(serve: Serve) -> None:
    served = serve(HANDLERS, "--workers", "1")
    with served.client() as client:
        for what in ("object", "nan", "lone"):
            task = client.submit("desk::strange", {"what": what})
            with pytest.raises(ringq.TaskFailed) as caught:
                task.result(timeout=10)
            assert caught.value.reason == "invalid_result"
        with pytest.raises(ringq.TaskFailed, match="limit"):
            client.submit("desk::fill", {"size": 16 * MIB}).result(timeout=20)
        assert client.submit("desk::strange", {"what": "good"}).result(timeout=10) == [1]
        assert client.health()["worker_deaths"] == 0


def test_large_payloads_take_turns_in_few_blocks(serve: Serve) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        tasks = client.submit_many([ringq.Submission("desk::length", {"text": "y" * (MIB - 11)}) for _ in range(30)])
        small = client.submit_many(echoes(100))
        assert [task.result(timeout=20) for task in tasks] == [MIB - 11] * 30
        assert [task.result(timeout=20) for task in small] == list(range(100))


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def test_delayed_tasks_start_in_the_order_of_their_times(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS, "--workers", "1")
    ledger = tmp_path / "ledger"

    def task(text: str, **options: Any) -> ringq.Submission[Any]:
        return ringq.Submission("desk::write_down", {"path": str(ledger), "text": text}, **options)

    now = datetime.now(UTC)
    with served.client() as client:
        tasks = client.submit_many(
            [
                task("last", run_after=0.9),
                task("second", run_at=now + timedelta(seconds=0.4)),
                task("third", run_after=timedelta(seconds=0.65)),
                task("first"),
            ]
        )
        client.wait_many(tasks, timeout=10)
        records = [client.query.task(one.id) for one in tasks]
    assert lines(ledger) == ["first", "second", "third", "last"]
    for record in records[:3]:
        assert record.run_at
        assert record.started_at
        assert timedelta(0) <= record.started_at - record.run_at < timedelta(seconds=0.3)


def test_the_more_urgent_starts_first(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS, "--workers", "1")
    ledger, gate = tmp_path / "ledger", tmp_path / "gate"
    with served.client() as client:
        client.submit("desk::until", {"path": str(gate)})
        wait_for(lambda: client.health()["workers"][0]["task_id"])
        order = [200, 0, 128, 255, 64, 128, 0, 192]
        tasks = client.submit_many(
            [
                ringq.Submission("desk::write_down", {"path": str(ledger), "text": f"{p}/{n}"}, priority=p)
                for n, p in enumerate(order)
            ]
        )
        gate.touch()
        client.wait_many(tasks, timeout=10)
    assert lines(ledger) == [f"{p}/{n}" for p, n in sorted((p, n) for n, p in enumerate(order))]


@pytest.mark.parametrize("strange", [0, -1, 2**63, 2**70, 12345])
def test_waiting_for_a_task_that_does_not_exist_is_said(serve: Serve, strange: int) -> None:
    served = serve(HANDLERS)
    with served.client() as client:
        known = client.submit("desk::echo", {"number": 1})
        started = time.monotonic()
        with pytest.raises(ringq.UnknownTask, match=str(strange)):
            client.wait_many([known.id, strange], timeout=5)
        with pytest.raises(ringq.UnknownTask):
            client.handle(known.id + 1).result(timeout=5)  # an id that is still to come
        assert time.monotonic() - started < 2
        with pytest.raises(ringq.InvalidOption, match="handle or the id"):
            client.wait_many(["1"])
        assert known.result(timeout=10) == 1


WAITING = """
import sys
import ringq
with ringq.connect(sys.argv[1]) as client:
    task = client.submit("desk::until", {"path": sys.argv[2]})
    print(task.id, flush=True)
    task.result()
"""


def test_ctrl_c_ends_the_wait_and_not_the_task(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS)
    gate = tmp_path / "gate"
    command = [sys.executable, "-c", WAITING, str(served.database), str(gate)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stdout
        assert waiting.stderr
        task_id = int(waiting.stdout.readline())
        asleep = Path(f"/proc/{waiting.pid}/wchan")
        wait_for(lambda: "wait" in asleep.read_text() or psutil.Process(waiting.pid).status() == "sleeping")
        waiting.send_signal(signal.SIGINT)
        started = time.monotonic()
        assert waiting.wait(10) == -signal.SIGINT
        assert time.monotonic() - started < 2
        assert waiting.stderr.read().rstrip().endswith("KeyboardInterrupt")
    with served.client() as client:
        wait_for(lambda: client.health()["clients"] == 1)
        gate.touch()
        assert client.handle(task_id).wait(timeout=10).status is ringq.Status.COMPLETED


# -- queues, groups, names, paths ------------------------------------------------------------------


def test_only_named_queues_are_served_and_their_caps_hold(serve: Serve, tmp_path: Path) -> None:
    served = serve(HANDLERS, "--queues", "default,bulk:1", "--workers", "3")
    gate = tmp_path / "gate"
    with served.client() as client:
        wait_for(lambda: all(worker["ready"] for worker in client.health()["workers"]))
        capped = [client.submit("desk::until", {"path": str(gate)}, queue="bulk") for _ in range(3)]
        elsewhere = client.submit("desk::echo", {"number": 1}, queue="elsewhere")
        assert [task.result(timeout=10) for task in client.submit_many(echoes(100))] == list(range(100))
        assert sum(worker["task_id"] is not None for worker in client.health()["workers"]) == 1
        gate.touch()
        client.wait_many(capped, timeout=10)
        with pytest.raises(ringq.WaitTimeout):
            elsewhere.result(timeout=0.2)
        assert client.query.task(elsewhere.id).status is ringq.Status.PENDING
        assert client.health()["refusals"].keys() == {"queue_full", "queue_not_served"}
    assert served.stop() == 0
    with serve().client() as client:
        assert client.handle(elsewhere.id).result(timeout=10) == 1


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose own name leaves room: the path of a socket has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="rq") as folder:
        yield Path(folder)


@pytest.mark.parametrize("name", ["with space ?#%41.db", "ünï-\N{SNOWMAN}.db", "-dash.db", "a'b\"c;.db", "\udcff.db"])
def test_any_name_of_a_database_will_do(serve: Serve, short_path: Path, name: str) -> None:
    served = serve(HANDLERS, database=short_path / name)
    with served.client() as client:
        assert client.submit("desk::echo", {"number": 1}).result(timeout=10) == 1
        assert client.query.counts()[ringq.Status.COMPLETED] == 1
    served.kill()
    again = serve(database=short_path / name)
    assert tasks_of(again) == 1
    assert again.stop() == 0
    assert {path.name for path in short_path.iterdir()} == {name, f"{name}-ringq"}


def test_a_link_and_a_relative_path_lead_to_the_same_server(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.db").symlink_to(tmp_path / "real" / "tasks.db")
    serve(HANDLERS, database=tmp_path / "link.db")
    assert (tmp_path / "real" / "tasks.db").exists()
    monkeypatch.chdir(tmp_path)
    with ringq.connect("link.db") as client, ringq.connect(Path("real/tasks.db")) as other:
        monkeypatch.chdir("/")
        assert client.submit("desk::echo", {"number": 1}).result(timeout=10) == 1
        assert other.handle(1).result(timeout=10) == 1
        assert client.query.counts()[ringq.Status.COMPLETED] == 1
        pid = os.fork()
        if pid == 0:
            os._exit(0 if client.submit("desk::echo", {"number": 2}).result(timeout=10) == 2 else 1)
        assert os.waitpid(pid, 0)[1] == 0


def test_the_longest_names_and_many_groups_are_nothing_special(serve: Serve) -> None:
    name = "n" * 200
    served = serve(f"import ringq\napp = ringq.App('{'d' * 200}')\ndef f(): return 1\n"
                   f"f.__name__ = f.__qualname__ = '{name}'\nf = app.task(f)\n")  # fmt: skip
    kind = f"{'d' * 200}::{name}"
    with served.client() as client:
        assert client.submit(kind).result(timeout=10) == 1
        groups = [ringq.Submission(kind, {}, group=f"customer {n}", queue="q" * 200) for n in range(300)]
        tasks = client.submit_many(groups)
        assert [task.result(timeout=10) for task in tasks] == [1] * 300
        assert client.query.task(tasks[299].id).group == "customer 299"
        with pytest.raises(ringq.UnknownKind):
            client.submit(kind[:-1])


def test_a_batch_of_a_hundred_thousand_delays_small_ones_little(serve: Serve) -> None:
    served = serve(HANDLERS)
    large = echoes(100_000)
    done = threading.Event()
    longest = 0.0
    with served.client() as client, ThreadPoolExecutor(1) as pool:

        def work() -> list[Any]:
            try:
                return client.submit_many(large)
            finally:
                done.set()

        future = pool.submit(work)
        count = 0
        while not done.is_set() or count < 20:
            started = time.monotonic()
            client.submit("desk::echo", {"number": 1})
            longest = max(longest, time.monotonic() - started)
            count += 1
        tasks = future.result()
        client.wait_many(tasks, timeout=60)
        assert tasks[-1].result() == 99_999
    assert longest < 5

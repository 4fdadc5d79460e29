"""What handlers print, under a real server: whose it is, how it is shown, what is kept."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from conftest import wait_for

import ringq

APP = """
import ctypes, io, logging, os, subprocess, sys, warnings
from pathlib import Path
import ringq

print("the app is imported")
app = ringq.App("out")
log = logging.getLogger("shop")

@app.task
def line(n: int, way: str) -> None:
    text = f"{way} {n}"
    if way == "print":
        print(text)
    elif way == "half":
        print(text, end="")
    elif way == "stderr":
        sys.stderr.write(text + "\\n")
    elif way == "write":
        os.write(1, text.encode() + b"\\n")
    elif way == "logging":
        log.warning(text)
    elif way == "child":
        subprocess.run(["echo", text], check=True)

@app.task
def raw(hexadecimal: str) -> None:
    os.write(1, bytes.fromhex(hexadecimal))

@app.task
def much(megabytes: int) -> int:
    for number in range(megabytes << 16):
        sys.stdout.write(f"{number:15}\\n")
    return megabytes

@app.task
def tamper(how: str) -> None:
    print("before")
    if how == "close 1":
        os.close(1)
    elif how == "close both":
        os.closerange(1, 3)
    elif how == "close sys.stdout":
        sys.stdout.close()
    elif how == "redirect 1":
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    elif how == "redirect 2":
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    elif how == "replace":
        sys.stdout = io.StringIO()
    elif how == "remove":
        sys.stdout = None
    elif how == "non-blocking":
        os.set_blocking(1, False)
    elif how == "forge":
        given = __import__("json").loads(sys.orig_argv[-1])
        token = bytes.fromhex(given["token"])
        for _ in range(1000):
            os.write(1, b"x" + token + os.urandom(20))
            os.write(1, b"y" + token + (1 << 40).to_bytes(8, "little") + (given["epoch"] << 32).to_bytes(8, "little")
                     + bytes(4))

@app.task
def die(how: str, folder: str) -> str:
    died = Path(folder, how)
    if died.exists():
        print("second time")
        return "survived"
    died.touch()
    print("first time, no line end", end="", flush=True)
    if how == "abort":
        os.abort()
    elif how == "segfault":
        ctypes.string_at(8)
    os._exit(3)

@app.task
def hang(folder: str) -> None:
    print("I hang", flush=True)
    Path(folder, "hangs").touch()
    __import__("signal").pause()
"""


def printed(database: Any, task_id: int) -> bytes:
    """All that the attempts of a task printed."""
    return b"".join(record.head + record.tail for record in ringq.Query(database).output(task_id))


def submit(client: Any, kind: str, **arguments: Any) -> Any:
    return client.submit(f"out::{kind}", arguments)


def test_every_attempt_gets_what_it_printed_by_whatever_way(serve: Callable[..., Any]) -> None:
    served = serve(APP)
    ways = ["print", "half", "stderr", "write", "logging", "nothing"]
    with served.client() as client:
        # one at a time, so that the parent is quick; then many, so that it is late
        singly = [submit(client, "line", n=n, way=ways[n % 6]) for n in range(60)]
        for one in singly:
            one.result(timeout=20)
        many = [
            submitted
            for start in range(0, 900, 300)
            for submitted in client.submit_many(
                [ringq.Submission("out::line", {"n": n, "way": ways[n % 6]}) for n in range(start, start + 300)]
            )
        ]
        children = [submit(client, "line", n=n, way="child") for n in range(20)]
        client.wait_many([*many, *children], timeout=60)
        for numbers, group, way_of in (
            (range(60), singly, ways),
            (range(900), many, ways),
            (range(20), children, ["child"]),
        ):
            for n, one in zip(numbers, group, strict=True):
                way = way_of[n % len(way_of)]
                expected = {
                    "nothing": b"",
                    "half": f"half {n}".encode(),
                    "logging": f"WARNING shop: logging {n}\n".encode(),
                }.get(way, f"{way} {n}\n".encode())
                assert printed(served.database, one.id) == expected
        # the same in what was shown live
        for n, one in zip(range(60), singly, strict=True):
            if ways[n % 6] == "write":
                assert f"out::line#{one.id}| write {n}\n" in served.stderr
        shown = re.findall(r"out::line#(\d+)\| child (\d+)\n", served.stderr)
        assert sorted(shown) == sorted((str(one.id), str(n)) for n, one in enumerate(children))
    assert "| the app is imported" in served.stderr
    assert not re.search(r"#\d+\| the app is imported", served.stderr)


def test_output_is_there_as_soon_as_the_result_is(serve: Callable[..., Any]) -> None:
    served = serve(APP)
    with served.client() as client:
        for n in range(100):
            one = submit(client, "line", n=n, way="print")
            one.result(timeout=20)
            assert printed(served.database, one.id) == f"print {n}\n".encode()


@pytest.mark.parametrize("format_", ["text", "json"])
def test_nothing_that_is_printed_breaks_a_line(
    serve: Callable[..., Any], cli: Callable[..., Any], format_: str
) -> None:
    served = serve(APP, settings={"log_format": format_})
    nasty = (
        '\x1b[2J\x1b]0;owned\x07 \u202egpj \u2028 \x85 {"a": 1}\r12:00:00 forged\n\x00\tend'.encode()
        + b"\xff\xfe\xc3\n"
    )
    with served.client() as client:
        one = submit(client, "raw", hexadecimal=nasty.hex())
        one.result(timeout=20)
    wait_for(lambda: "xff" in served.stderr)
    content = served.stderr_path.read_bytes()
    assert not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", content)
    assert not re.search("[\u202e\u2028\x85]", content.decode())
    if format_ == "json":
        told = [json.loads(line) for line in content.splitlines()]
        ours = [line for line in told if line.get("task_id") == one.id and line.get("printed")]
        assert [line["kind"] for line in ours] == ["out::raw"] * 2
        assert ours[1]["message"] == "\\x00\tend\\xff\\xfe\\xc3"
    else:
        assert f"out::raw#{one.id}| \\x00\tend\\xff\\xfe\\xc3\n" in served.stderr
    assert printed(served.database, one.id) == nasty
    answer = cli("task", "logs", str(one.id)).stdout
    assert answer.splitlines()[1:] == ["\\x00\tend\\xff\\xfe\\xc3"]
    assert answer.count("\x1b") == 0


def test_of_ten_megabytes_both_ends_are_kept_and_the_server_goes_on(
    serve: Callable[..., Any], cli: Callable[..., Any]
) -> None:
    served = serve(APP)
    with served.client() as client:
        flood = submit(client, "much", megabytes=10)
        others = [submit(client, "line", n=n, way="print") for n in range(50)]
        client.wait_many(others, timeout=60)
        assert flood.result(timeout=60) == 10
        assert client.health()["longest_gap_ms"] < 2000
    (record,) = ringq.Query(served.database).output(flood.id)
    everything = b"".join(b"%15d\n" % number for number in range(10 << 16))
    assert record.head == everything[: 64 * 1024]
    assert record.tail == everything[-64 * 1024 :]
    assert record.dropped_bytes == len(everything) - 128 * 1024
    assert "more than 1,000 lines a second: not all are shown" in served.stderr
    answer = cli("task", "logs", str(flood.id))
    assert answer.stdout.splitlines()[4096] == f"… {record.dropped_bytes:,} bytes not kept …"
    assert answer.stdout.splitlines()[-1].strip() == str((10 << 16) - 1)


@pytest.mark.parametrize(
    ("how", "leaves"),
    [
        ("close 1", True), ("close both", True), ("close sys.stdout", True), ("redirect 1", True), ("redirect 2", True),
        ("replace", False), ("remove", False), ("non-blocking", False), ("forge", False),
    ],
)  # fmt: skip
def test_what_a_handler_does_to_standard_output_harms_no_other(
    serve: Callable[..., Any], how: str, leaves: bool
) -> None:
    served = serve(APP, "--workers", "1")
    with served.client() as client:
        culprit = submit(client, "tamper", how=how)
        culprit.result(timeout=20)
        others = [submit(client, "line", n=n, way="print") for n in range(5)]
        for n, one in enumerate(others):
            one.result(timeout=20)
            assert printed(served.database, one.id) == f"print {n}\n".encode()
    if how != "forge":  # which loses what it printed, and nobody else does
        assert printed(served.database, culprit.id) == b"before\n"
    assert ("this worker leaves, another takes its place" in served.stderr) == leaves
    assert served.stop() == 0
    with sqlite3.connect(served.database) as database:
        assert database.execute("SELECT * FROM output WHERE task_id NOT IN (SELECT id FROM task)").fetchall() == []


@pytest.mark.parametrize("how", ["abort", "segfault", "exit"])
def test_a_crash_leaves_what_was_printed_and_the_next_attempt_has_its_own(
    serve: Callable[..., Any], cli: Callable[..., Any], how: str
) -> None:
    served = serve(APP)
    with served.client() as client:
        one = submit(client, "die", how=how, folder=str(served.folder))
        assert one.result(timeout=30) == "survived"
    first, second = ringq.Query(served.database).output(one.id)
    assert (first.attempt, second.attempt) == (1, 2)
    assert first.head.startswith(b"first time, no line end")
    assert second.head == b"second time\n"
    attempts = ringq.Query(served.database).task(one.id).attempts
    assert [attempt.lease for attempt in attempts] == [first.lease, second.lease]
    assert "first time, no line end" in (attempts[0].error or {})["output"]
    assert f"out::die#{one.id}| first time, no line end" in served.stderr
    assert served.stop() == 0
    answer = cli("task", "logs", str(one.id))
    assert (answer.returncode, answer.stderr) == (0, "")
    told = answer.stdout.splitlines()
    assert told[:2] == ["==> attempt 1 <==", told[1]]
    assert told[-2:] == ["==> attempt 2 <==", "second time"]
    assert cli("task", "logs", str(one.id), "--attempt", "2").stdout == "second time\n"
    (only,) = [
        json.loads(line) for line in cli("task", "logs", str(one.id), "--attempt", "2", "--json").stdout.splitlines()
    ]
    assert only == {
        "task_id": one.id, "kind": "out::die", "lease": second.lease, "attempt": 2,
        "head": "second time\n", "tail": "", "dropped_bytes": 0,
    }  # fmt: skip


def test_a_killed_server_has_kept_what_ended_attempts_printed(serve: Callable[..., Any]) -> None:
    served = serve(APP)
    with served.client() as client:
        ended = [submit(client, "line", n=n, way="print") for n in range(20)]
        client.wait_many(ended, timeout=20)
        hanging = submit(client, "hang", folder=str(served.folder))
        wait_for((served.folder / "hangs").exists)
        wait_for(lambda: f"out::hang#{hanging.id}| I hang" in served.stderr)  # live, while it runs
    served.kill()
    for n, one in enumerate(ended):
        assert printed(served.database, one.id) == f"print {n}\n".encode()
        with ringq.connect(served.database) as client:
            assert client.query.output(one.id)[0].kind == "out::line"
    assert ringq.Query(served.database).output(hanging.id) == ()


def test_the_output_of_an_attempt_that_a_stop_ends_is_kept(serve: Callable[..., Any]) -> None:
    served = serve(APP)
    with served.client() as client:
        hanging = submit(client, "hang", folder=str(served.folder))
        wait_for((served.folder / "hangs").exists)
    served.signal(signal.SIGTERM)
    wait_for(lambda: "draining" in served.stderr)
    wait_for(lambda: served.process.poll() is not None or served.signal(signal.SIGTERM))
    assert printed(served.database, hanging.id) == b"I hang\n"


@pytest.mark.parametrize(
    ("settings", "shown"), [({}, "INFO"), ({"log_level": "warning"}, "WARNING"), ({"log_level": "debug"}, "DEBUG")]
)
def test_logging_goes_the_same_way_with_its_level(
    serve: Callable[..., Any], settings: dict[str, str], shown: str
) -> None:
    source = """
import logging
import ringq
app = ringq.App("out")

@app.task
def all_levels() -> None:
    for name in ("debug", "info", "warning"):
        getattr(logging.getLogger("shop"), name)("as %s", name)
"""
    served = serve(source, settings=settings)
    with served.client() as client:
        one = client.submit("out::all_levels")
        one.result(timeout=20)
    levels = ["DEBUG", "INFO", "WARNING"]
    expected = [f"{name} shop: as {name.lower()}" for name in levels[levels.index(shown) :]]
    assert printed(served.database, one.id).decode().splitlines() == expected


def test_logging_that_the_app_has_set_up_is_left_alone(serve: Callable[..., Any]) -> None:
    source = """
import logging
import sys
import ringq
logging.basicConfig(stream=sys.stdout, level="DEBUG", format="MINE %(message)s")
app = ringq.App("out")

@app.task
def one() -> None:
    logging.debug("x")
"""
    served = serve(source)
    with served.client() as client:
        one = client.submit("out::one")
        one.result(timeout=20)
    assert printed(served.database, one.id) == b"MINE x\n"


def test_what_the_verb_says_when_there_is_nothing_to_show(serve: Callable[..., Any], cli: Callable[..., Any]) -> None:
    served = serve(APP)
    with served.client() as client:
        one = submit(client, "line", n=1, way="nothing")
        one.result(timeout=20)
    answer = cli("task", "logs", str(one.id))
    assert (answer.returncode, answer.stdout) == (0, "")
    assert answer.stderr == f"ringq: task {one.id} has printed nothing so far\n"
    unknown = cli("task", "logs", "4711")
    assert (unknown.returncode, unknown.stdout, unknown.stderr) == (1, "", "ringq: there is no task 4711\n")
    assert cli("task", "logs", str(one.id), "--json", "--raw").returncode == 2


def test_raw_gives_the_bytes_back(serve: Callable[..., Any]) -> None:
    served = serve(APP)
    content = bytes(range(256))
    with served.client() as client:
        one = submit(client, "raw", hexadecimal=content.hex())
        one.result(timeout=20)
    command = [sys.executable, "-m", "ringq", "task", "logs", str(one.id), "--raw", "--db", str(served.database)]
    assert subprocess.run(command, capture_output=True, check=True, env=dict(os.environ)).stdout == content

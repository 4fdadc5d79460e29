"""Programs that speak lines, called as plain functions: one for many tasks, and a new one after each that is broken."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import ringq
from ringq.contrib.lines import ProgramBroken, ProgramError, program

PROGRAM = """
import json, os, signal, subprocess, sys

for line in sys.stdin:
    task = json.loads(line)
    given = task["payload"]
    reply = {"id": task["id"], "status": "ok", "result": {"pid": os.getpid(), "given": given}}
    match given.get("do"):
        case "fail":
            reply = {"id": task["id"], "status": "error", "message": given.get("message")}
        case "die":
            os._exit(3)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "close":
            os.close(1)
            signal.pause()
        case "wrong id":
            reply["id"] += 1
        case "no id":
            del reply["id"]
        case "raw":
            os.write(1, given["text"].encode() + b"\\n")
            continue
        case "flood":
            while True:
                os.write(1, b"x" * 65536)
        case "twice":
            os.write(1, 2 * (json.dumps(reply).encode() + b"\\n"))  # at once: what comes later belongs to the next task
            continue
        case "last":
            print(json.dumps(reply), flush=True)
            break
        case "signal":
            reply["result"] = [os.getpid(), subprocess.Popen(["sleep", "300"]).pid]
            with open("pids", "w") as file:
                json.dump(reply["result"], file)
            os.kill(os.getppid(), signal.SIGUSR2)
            signal.pause()
    print(json.dumps(reply), flush=True)
"""

Call = Callable[..., Any]
CTX = ringq.Context(task_id=7)


@pytest.fixture
def call(tmp_path: Path) -> Iterator[Call]:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    handler = program([sys.executable, str(path)], cwd=tmp_path)
    before = psutil.Process().children()
    yield lambda **payload: handler(CTX, **payload)
    for child in psutil.Process().children():
        if child not in before:
            os.killpg(os.getpgid(child.pid), signal.SIGKILL)
            child.wait(10)


def test_one_program_serves_many_tasks(call: Call) -> None:
    answers = [call(number=number, ctx="mine") for number in range(5)]
    assert [answer["given"] for answer in answers] == [{"number": number, "ctx": "mine"} for number in range(5)]
    assert len({answer["pid"] for answer in answers}) == 1
    assert call(text="ä\n\u2028 ")["given"] == {"text": "ä\n\u2028 "}


def test_tasks_and_results_larger_than_a_pipe(call: Call) -> None:
    text = "x" * 3_000_000
    assert call(text=text)["given"] == {"text": text}


def test_an_error_that_the_program_tells_of_costs_the_task_alone(call: Call) -> None:
    pid = call()["pid"]
    with pytest.raises(ProgramError, match=r"^no such picture$"):
        call(do="fail", message="no such picture")
    with pytest.raises(ProgramError, match=r"^The program answered that the task failed"):
        call(do="fail")
    assert call()["pid"] == pid


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        ({"do": "die"}, "exited with code 3"),
        ({"do": "crash"}, "was killed by signal 11"),
        ({"do": "close"}, "closed its output"),
        ({"do": "wrong id"}, "replied to id 8, asked was 7"),
        ({"do": "no id"}, "replied to id None, asked was 7"),
        ({"do": "flood"}, "replied with a line of more than 17,825,792 bytes"),
        *(({"do": "raw", "text": text}, "replied with what is no reply: '") for text in ("hello", "[1]", "")),
        ({"do": "raw", "text": "[" * 9999}, "replied with what is no reply: '[[[[[["),
        ({"do": "raw", "text": '{"id": 7}'}, "replied with what is no reply: '{\"id\": 7}'"),
        ({"do": "raw", "text": '{"id": 7, "status": "fine"}'}, "replied with what is no reply"),
        ({"do": "raw", "text": '{"id": 7, "status": []}'}, "replied with what is no reply"),
        ({"do": "raw", "text": '{"id": 7, "status": "ok", "result": NaN}'}, "replied with what is no reply"),
    ],
)  # fmt: skip
def test_a_program_that_is_broken_is_replaced(call: Call, payload: dict[str, Any], complaint: str) -> None:
    pid = call()["pid"]
    with pytest.raises(ProgramBroken) as caught:
        call(**payload)
    assert str(caught.value).startswith(f"{sys.executable} {complaint}")
    assert len(str(caught.value)) < 300
    assert not psutil.pid_exists(pid)
    assert call()["pid"] != pid


@pytest.mark.parametrize(
    ("do", "said"),
    [("twice", "said something that nobody had asked for"), ("last", "exited with code 0")],
)
def test_what_happens_between_tasks_costs_no_task(
    call: Call, do: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    pid = call(do=do)["pid"]
    if do == "last":
        (program,) = [child for child in psutil.Process().children() if child.pid == pid]
        assert os.waitid(os.P_PID, program.pid, os.WEXITED | os.WNOWAIT)
    assert call()["pid"] != pid
    assert f"{sys.executable} {said} before this task; another one is started\n" in capfd.readouterr().err


def test_a_program_that_cannot_be_started_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ProgramBroken, match=r"^no-such-program cannot be started: No such file or directory$"):
        program(["no-such-program"])(CTX)
    with pytest.raises(
        ProgramBroken, match=rf"^true cannot be started: No such file or directory \({tmp_path}/none\)$"
    ):
        program(["true"], cwd=tmp_path / "none")(CTX)


def test_a_program_that_does_not_read_fails_its_tasks() -> None:
    with pytest.raises(ProgramBroken, match=r"^true exited with code 0$"):
        program(["true"])(CTX, text="x" * 1_000_000)
    reply = '{"id": 7, "status": "ok"}'
    with pytest.raises(ProgramBroken, match=r"^sh replied before it had read the whole task$"):
        program(["sh", "-c", f"echo '{reply}'; sleep 300"])(CTX, text="x" * 1_000_000)


def test_variables_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THERE", "1")
    script = 'read line; printf \'{"id": 7, "status": "ok", "result": "%s"}\\n\' "$THERE$MORE"'
    assert program(["sh", "-c", script], env={"MORE": "2"})(CTX) == "12"


@pytest.mark.parametrize("argv", ["./resize", [], [""], [None], ["a", 1]])
def test_what_is_no_program_is_refused_where_it_stands(argv: Any) -> None:
    with pytest.raises(ringq.InvalidKind, match="lines: argv: expected a program and its arguments"):
        program(argv)


def test_the_soft_exception_kills_the_program_and_what_it_has_started(call: Call, tmp_path: Path) -> None:
    def raise_it(*_: object) -> None:
        raise ringq.RunTimeout

    before = signal.signal(signal.SIGUSR2, raise_it)
    try:
        with pytest.raises(ringq.RunTimeout):
            call(do="signal")
    finally:
        signal.signal(signal.SIGUSR2, before)
    for pid in json.loads((tmp_path / "pids").read_text()):
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).wait(10)
    assert call()["given"] == {}


def test_threads_wait_for_each_other(call: Call) -> None:
    found: list[Any] = []
    threads = [threading.Thread(target=lambda n=n: found.append(call(number=n))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(answer["given"]["number"] for answer in found) == list(range(8))
    assert len({answer["pid"] for answer in found}) == 1


def test_a_fork_starts_a_program_of_its_own(call: Call) -> None:
    pid = call()["pid"]
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(write, json.dumps(call()["pid"]).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with open(read) as pipe:
        assert json.loads(pipe.read()) != pid
    assert call()["pid"] == pid


def test_a_program_is_let_end_by_itself_when_its_process_leaves(tmp_path: Path) -> None:
    reply = '{"id": 0, "status": "ok"}'
    script = f"read line; echo '{reply}'; read line; echo bye >&2; sleep 300"
    source = f"import ringq, ringq.contrib.lines as lines; lines.program(['sh', '-c', {script!r}])(ringq.Context())"
    ran = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stderr == "bye\n"

"""`ringq map`: lines in, results out; killed with everything it started, it goes on where it was."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pty
import random
import re
import signal
import struct
import subprocess
import sys
import sysconfig
import termios
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Served, remove_segments, segments, wait_for

import ringq

HANDLERS = """
import hashlib, os, time
from pathlib import Path
import ringq

app = ringq.App("files")
HERE = Path(__file__).parent
print("a module that prints when it is imported")

def note(line):
    ledger = os.open(HERE / "ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(ledger, f"{line}\\n".encode())
    os.close(ledger)

@app.task
def digest(path: str) -> str:
    note(path)
    time.sleep(0.002)
    content = Path(path).read_bytes()
    return f"{hashlib.sha256(content).hexdigest()} {len(content)} {path}"

@app.task
def half(n: int) -> float:
    note(n)
    if n == 13:
        raise ValueError("no luck")
    return n / 2

@app.task
def nap(seconds: float) -> float:
    note(seconds)
    time.sleep(seconds)
    return seconds

@app.task
def add(a: int, b: int = 10) -> int:
    return a + b

@app.task
def server(anything) -> int:
    return os.getppid()

@app.task
def shown_int(value: int | None) -> str:
    return repr(value)

@app.task
def shown_bool(value: bool) -> str:
    return repr(value)

@app.task
def shown_float(value: float) -> str:
    return repr(value)

@app.task
def shown_text(value: str | None) -> str:
    return repr(value)

@app.task
def shown_path(value: Path) -> str:
    return repr(value)

@app.task
def shown(value) -> str:
    return repr(value)

@app.task
def double(text: str) -> str:
    return text + "\\n" + text

@app.task
def named(*, value: int) -> int:
    return value
"""

WORKERS = 2
CHUNK = 8
Answer = subprocess.CompletedProcess[bytes]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "handlers.py").write_text(HANDLERS)
    yield tmp_path
    remove_segments(tmp_path / "tasks.db")


@pytest.fixture
def mapped(folder: Path) -> Callable[..., Answer]:
    """Run `ringq map` to its end: `mapped("handlers:half", stdin=b"1\\n2\\n")`."""

    def run(*args: str, stdin: bytes = b"", **options: Any) -> Answer:
        return subprocess.run(
            command(folder, *args), input=stdin, capture_output=True, timeout=60, check=False, cwd=folder, **options
        )

    return run


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., Running]]:
    """Start `ringq map` with a pipe that stays open; whatever is left of it is killed at the end."""
    started: list[Running] = []

    def run(*args: str, stdin: Any = subprocess.PIPE) -> Running:
        started.append(Running(folder, len(started), stdin, *args))
        return started[-1]

    yield run
    for one in started:
        one.kill_all()


def command(folder: Path, *args: str) -> list[str]:
    return [sys.executable, "-m", "ringq", "map", *args, "--db", str(folder / "tasks.db")]


class Running:
    """A map that runs."""

    def __init__(self, folder: Path, number: int, stdin: Any, *args: str) -> None:
        self.out, self.err = folder / f"{number}.stdout", folder / f"{number}.stderr"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(command(folder, *args), cwd=folder, stdin=stdin, stdout=out, stderr=err)

    def give(self, lines: bytes) -> None:
        assert self.process.stdin
        self.process.stdin.write(lines)
        self.process.stdin.flush()

    def lines(self) -> list[str]:
        """The whole lines on stdout so far."""
        return self.out.read_text().rpartition("\n")[0].splitlines()

    def wait(self) -> int:
        if self.process.stdin and not self.process.stdin.closed:
            self.process.stdin.close()
        return self.process.wait(60)

    def kill_all(self) -> None:
        """SIGKILL for the map, its server and the workers of that, and wait until they are gone."""
        with contextlib.suppress(psutil.NoSuchProcess):
            own = psutil.Process(self.process.pid)
            family = [own, *own.children(recursive=True)]
            random.shuffle(family)
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self.process.wait(10)
            psutil.wait_procs(family, timeout=10)


def ledger(folder: Path) -> list[str]:
    """What was called, in the order of the calls."""
    with contextlib.suppress(FileNotFoundError):
        return (folder / "ledger").read_text().splitlines()
    return []


def test_everything_killed_at_five_random_moments(folder: Path, start: Callable[..., Running]) -> None:
    library = sysconfig.get_paths()["stdlib"]
    search = ["find", library, "-name", "*.py", "-not", "-path", "*/site-packages/*", "-not", "-name", "bad*"]
    with (folder / "names").open("wb") as names:
        subprocess.run(search, stdout=names, check=True)
    paths = (folder / "names").read_text().splitlines()
    expected = [f"{hashlib.sha256(c).hexdigest()} {len(c)} {path}" for path in paths for c in [Path(path).read_bytes()]]
    assert len(expected) > 1000
    seed = random.randrange(1 << 32)
    print("seed", seed)
    moments = sorted(random.Random(seed).sample(range(1, len(paths) * 9 // 10), 5))

    delivered: set[str] = set()
    calls_before: Counter[str] = Counter()
    for moment in (*moments, None):
        with subprocess.Popen(search, stdout=subprocess.PIPE) as found:
            running = start("handlers:digest", "--workers", str(WORKERS), "--chunk", str(CHUNK), stdin=found.stdout)
            assert found.stdout
            found.stdout.close()
            if moment is None:
                assert running.wait() == 0, running.err.read_text()
            else:
                wait_for(lambda at=moment: len(ledger(folder)) >= at, 60)
                running.kill_all()
        calls = Counter(ledger(folder))
        assert not [path for path in delivered if calls[path] != calls_before[path]], "a published call has run again"
        calls_before = calls
        lines = running.lines()
        assert lines == expected[: len(lines)], "in order, from the first on, each once"
        delivered |= {line.split(" ", 2)[2] for line in lines}
    assert lines == expected
    assert calls.keys() == set(paths)
    assert calls.total() - len(paths) <= len(moments) * WORKERS * CHUNK


def test_a_server_is_started_and_gone_afterwards(folder: Path, mapped: Callable[..., Answer]) -> None:
    answer = mapped("handlers:half", "--workers", "1", stdin=b"1\n\n2\n3")
    assert (answer.stdout, answer.returncode) == (b"0.5\n1.0\n1.5\n", 0), answer.stderr
    assert not segments(folder / "tasks.db")
    with ringq.connect(folder / "tasks.db") as client, pytest.raises(ringq.ServerUnavailable):
        client.health()


def test_a_server_that_runs_is_used_and_left_alone(
    folder: Path, serve: Callable[..., Served], mapped: Callable[..., Answer]
) -> None:
    served = serve(HANDLERS)
    answer = mapped("handlers:server", stdin=b"a\nb\n")
    assert answer.stdout == b"%d\n%d\n" % (served.pid, served.pid)
    assert mapped("files::add", "--ndjson", stdin=b'[1, 2]\n{"a": 3}\n4\n').stdout == b"3\n13\n14\n"
    assert served.health()["pid"] == served.pid


def test_a_server_that_does_not_know_the_task(
    folder: Path, serve: Callable[..., Served], mapped: Callable[..., Answer]
) -> None:
    served = serve("import ringq\napp = ringq.App('files')\n@app.task\ndef halve(n: int): ...\n")
    (folder / "newer.py").write_text(HANDLERS)
    answer = mapped("newer:half", stdin=b"1\n")
    assert answer.returncode == 2
    assert f"(pid {served.pid}) does not know files::half; did you mean files::halve?" in answer.stderr.decode()


def test_settings_that_limit_queues_do_not_keep_a_map_waiting(
    folder: Path, serve: Callable[..., Served], mapped: Callable[..., Answer]
) -> None:
    limited = {**os.environ, "RINGQ_QUEUES": "bulk"}
    answer = mapped("handlers:half", "--workers", "1", stdin=b"1\n", env=limited)
    assert (answer.stdout, answer.returncode) == (b"0.5\n", 0), answer.stderr
    served = serve(HANDLERS, "--queues", "bulk:2,slow")
    answer = mapped("handlers:half", stdin=b"1\n")
    assert answer.returncode == 2
    assert f"(pid {served.pid}) does not serve queue default, only bulk, slow: " in answer.stderr.decode()
    assert mapped("handlers:half", "--queue", "bulk", stdin=b"3\n").stdout == b"1.5\n"
    assert served.stop() == 0
    (folder / "ringq.toml").write_text('[defaults]\nqueue = "bulk"\n')  # of the server that is started for the map
    assert mapped("handlers:half", "--kill-after", "1s", stdin=b"5\n").stdout == b"2.5\n"
    serve(HANDLERS, "--queues", "bulk", "--defaults", "queue=bulk")
    assert mapped("handlers:half", stdin=b"7\n").stdout == b"3.5\n"


def test_text_becomes_what_the_hint_says(serve: Callable[..., Served], mapped: Callable[..., Answer]) -> None:
    serve(HANDLERS)

    def shown(task: str, *lines: str) -> list[str]:
        answer = mapped(f"handlers:shown_{task}", stdin="\n".join(lines).encode())
        assert answer.returncode == 0, answer.stderr
        return answer.stdout.decode().splitlines()

    assert shown("int", "12", "-1", "null") == ["12", "-1", "None"]
    assert shown("bool", "true", "0") == ["True", "False"]
    assert shown("float", "1.5", "2") == ["1.5", "2.0"]
    assert shown("text", "12", "null", " é ") == ["'12'", "'null'", "' é '"]
    assert shown("path", "12", "null") == ["PosixPath('12')", "PosixPath('null')"]
    assert mapped("handlers:shown", stdin=b"12\n").stdout == b"'12'\n"
    assert mapped("files::shown", stdin=b"12\n").stdout == b"'12'\n"
    answer = mapped("handlers:shown_int", stdin=b"1\ntwelve\n2\n")
    assert (answer.stdout, answer.returncode) == (b"1\n2\n", 1)
    assert b"  twelve: input 1: files::shown_int: value: expected int | null, got str\n" in answer.stderr


def test_json_in_and_out(serve: Callable[..., Served], mapped: Callable[..., Answer]) -> None:
    serve(HANDLERS)
    lines = b'\xef\xbb\xbf{"a": 1, "b": 2}\n\n [3, 4] \r\n5\n{"a": "x"}\n{"c": 1}\n'
    answer = mapped("handlers:add", "--ndjson", "--json", stdin=lines)
    found = [json.loads(line) for line in answer.stdout.splitlines()]
    assert found[:3] == [
        {"index": 0, "input": {"a": 1, "b": 2}, "result": 3},
        {"index": 1, "input": [3, 4], "result": 7},
        {"index": 2, "input": 5, "result": 15},
    ]
    assert [(call["index"], call["input"]) for call in found[3:]] == [(3, {"a": "x"}), (4, {"c": 1})]
    assert [call["error"]["reason"] for call in found[3:]] == ["invalid_payload"] * 2
    assert "a: expected int" in found[3]["error"]["message"]
    assert answer.returncode == 1


def test_unordered_results_come_as_they_are_done(serve: Callable[..., Served], mapped: Callable[..., Answer]) -> None:
    serve(HANDLERS)
    options = ("--chunk", "1", "--json", "--unordered")
    found = [json.loads(line) for line in mapped("handlers:nap", *options, stdin=b"1\n0.01\n").stdout.splitlines()]
    assert [(call["index"], call["input"], call["result"]) for call in found] == [(1, "0.01", 0.01), (0, "1", 1.0)]


def test_failures_are_listed_at_the_end(serve: Callable[..., Served], mapped: Callable[..., Answer]) -> None:
    serve(HANDLERS)
    answer = mapped("handlers:half", stdin=b"12\n13\n14\n" + b"x\n" * 22)
    assert (answer.stdout, answer.returncode) == (b"6.0\n7.0\n", 1)
    told = answer.stderr.decode().splitlines()
    head = told.index("ringq: 23 of 25 calls failed:")
    assert told[head + 1].startswith("  13: call 1 in task ")
    assert told[head + 1].endswith("(files::half) failed: ValueError: no luck")
    assert len(told[head:]) == 22
    assert told[-1] == "  and 3 more"


def test_a_result_of_several_lines_is_one_line(serve: Callable[..., Served], mapped: Callable[..., Answer]) -> None:
    serve(HANDLERS)
    assert mapped("handlers:double", stdin=b"a\nb\n").stdout == b"a\\na\nb\\nb\n"


def test_names_of_files_that_end_in_nul(serve: Callable[..., Served], mapped: Callable[..., Answer]) -> None:
    serve(HANDLERS)
    answer = mapped("handlers:shown", "-0", stdin=b"a\nb\0\xc3\xa9\0\0c")
    assert answer.stdout.decode() == "'a\\nb'\n'é'\n'c'\n"
    assert answer.returncode == 0


def test_a_line_that_is_not_utf_8_fails_alone(serve: Callable[..., Served], mapped: Callable[..., Answer]) -> None:
    serve(HANDLERS)
    answer = mapped("handlers:shown", "--json", stdin=b"a\nb\xff\nc\n")
    found = [json.loads(line) for line in answer.stdout.splitlines()]
    assert [call["input"] for call in found] == ["a", "b\udcff", "c"]
    assert [call.get("result") for call in found] == ["'a'", None, "'c'"]
    assert "lone surrogate (a file name that is not UTF-8?)" in found[1]["error"]["message"]
    assert answer.returncode == 1


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"{", "standard input:3 is not JSON: "),
        (b'"\xff"', "standard input:3 is not UTF-8: "),
        (b"x" * 2_000_000, "standard input: an input is longer than 1,048,576 bytes"),
    ],
)
def test_input_that_is_no_json(
    serve: Callable[..., Served], mapped: Callable[..., Answer], line: bytes, told: str
) -> None:
    serve(HANDLERS)
    answer = mapped("handlers:half", "--ndjson", stdin=b"1\n\n" + line)
    assert (answer.stdout, answer.returncode) == (b"0.5\n", 2), "what came before is done and told"
    assert answer.stderr.decode().splitlines()[-1].startswith(f"ringq: {told}")


def test_the_reader_leaves_early(folder: Path, serve: Callable[..., Served]) -> None:
    serve(HANDLERS)
    first = subprocess.Popen(["seq", "13", "200000"], stdout=subprocess.PIPE)
    running = subprocess.Popen(
        command(folder, "handlers:half"), cwd=folder, stdin=first.stdout, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert first.stdout
    assert running.stdout
    assert running.stderr
    first.stdout.close()
    assert running.stdout.readline() == b"7.0\n"
    running.stdout.close()
    assert running.wait(60) == 141
    assert running.stderr.read() == b"a module that prints when it is imported\n"
    running.stderr.close()
    first.wait(10)


def test_a_map_whose_reader_has_left_starts_over(
    folder: Path, serve: Callable[..., Served], mapped: Callable[..., Answer]
) -> None:
    serve(HANDLERS)
    first = subprocess.Popen(
        command(folder, "handlers:half"), cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert first.stdin
    assert first.stdout
    first.stdin.write(b"".join(b"%d\n" % (n + 14) for n in range(20_000)))
    first.stdin.flush()
    assert first.stdout.readline() == b"7.0\n"
    first.stdout.close()
    with contextlib.suppress(BrokenPipeError):
        first.stdin.close()
    assert first.wait(60) == 141
    answer = mapped("handlers:half", stdin=b"3\n")
    assert (answer.stdout, answer.returncode) == (b"1.5\n", 0), answer.stderr


def test_lines_of_windows(serve: Callable[..., Served], mapped: Callable[..., Answer]) -> None:
    serve(HANDLERS)
    assert mapped("handlers:shown", stdin=b"\xef\xbb\xbfa\r\n\r\nb\rc\r\r\nd\r").stdout == b"'a'\n'b\\rc\\r'\n'd'\n"
    assert mapped("handlers:shown", "-0", stdin=b"a\r\n\0b\r\0").stdout == b"'a\\r\\n'\n'b\\r'\n"
    assert json.loads(mapped("handlers:shown", "--json", stdin=b"a\r\n").stdout)["input"] == "a"


def test_results_come_while_the_input_is_silent(start: Callable[..., Running]) -> None:
    running = start("handlers:half")
    for number in range(1, 4):
        running.give(b"%d\n" % number)
        wait_for(lambda n=number: running.lines() == [str(k / 2) for k in range(1, n + 1)])
    running.give(b"8")
    assert running.wait() == 0
    assert running.lines() == ["0.5", "1.0", "1.5", "4.0"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_and_run_again(
    folder: Path, start: Callable[..., Running], mapped: Callable[..., Answer], number: int, code: int
) -> None:
    inputs = b"".join(b"0.0%d\n" % (k % 9 + 1) for k in range(60))
    (folder / "spans").write_bytes(inputs)
    running = start("handlers:nap", "--from", "spans", "--workers", "2", "--chunk", "1")
    wait_for(lambda: len(running.lines()) >= 5)
    running.process.send_signal(number)
    assert running.wait() == code
    done = len(running.lines())
    told = running.err.read_text().splitlines()[-1]
    assert told == f"ringq: interrupted; {done} of 60 calls done; run it again to go on"
    answer = mapped("handlers:nap", "--from", "spans", "--chunk", "1")
    assert answer.stdout == inputs
    assert len(ledger(folder)) == 60, "the server let the calls end that were running"


def test_only_the_map_is_killed(folder: Path, start: Callable[..., Running], mapped: Callable[..., Answer]) -> None:
    inputs = b"0.01\n1.5\n0.02\n0.03\n"
    (folder / "spans").write_bytes(inputs)
    running = start("handlers:nap", "--from", "spans", "--workers", "1", "--chunk", "1")
    wait_for(lambda: ledger(folder) == ["0.01", "1.5"])
    (server,) = psutil.Process(running.process.pid).children()
    running.process.kill()
    running.process.wait(10)
    answer = mapped("handlers:nap", "--from", "spans")
    assert (answer.stdout, answer.returncode) == (inputs, 0)
    assert f"ringq: waiting for the server that is stopping (pid {server.pid})" in answer.stderr.decode()
    assert sorted(ledger(folder)) == ["0.01", "0.02", "0.03", "1.5"], "it let the call end that was running"


def test_the_own_server_is_killed(folder: Path, start: Callable[..., Running]) -> None:
    running = start("handlers:nap", "--workers", "1")
    running.give(b"0.01\n")
    wait_for(lambda: running.lines() == ["0.01"])
    (server,) = psutil.Process(running.process.pid).children()
    server.kill()
    running.give(b"0.02\n")
    wait_for(lambda: running.lines() == ["0.01", "0.02"], 40)
    assert running.wait() == 0
    with ringq.connect(folder / "tasks.db") as client, pytest.raises(ringq.ServerUnavailable):
        client.health()


def test_two_at_the_same_time(
    serve: Callable[..., Served], start: Callable[..., Running], mapped: Callable[..., Answer]
) -> None:
    serve(HANDLERS)
    named, unnamed = start("handlers:half", "--key", "mine"), start("handlers:half")
    for running in (named, unnamed):
        running.give(b"1\n")
        wait_for(lambda one=running: one.lines() == ["0.5"])
    for options in ((), ("--fresh",)):
        answer = mapped("handlers:half", "--key", "mine", *options, stdin=b"1\n")
        assert (answer.stdout, answer.returncode) == (b"", 2)
        assert b"ringq: another program is mapping with the key 'mine': wait for it" in answer.stderr
        answer = mapped("handlers:half", *options, stdin=b"1\n")
        assert (answer.stdout, answer.returncode) == (b"", 2)
        assert b"ringq: the same command runs already" in answer.stderr
    assert mapped("handlers:half", "--key", "yours", stdin=b"1\n").stdout == b"0.5\n"
    assert (named.wait(), unnamed.wait()) == (0, 0)


def test_a_key_keeps_the_results_until_fresh(
    folder: Path, serve: Callable[..., Served], mapped: Callable[..., Answer]
) -> None:
    serve(HANDLERS)
    for calls, options in ((3, ()), (3, ()), (3, ("--chunk", "1")), (6, ("--fresh",))):
        answer = mapped("handlers:half", "--key", "k", *options, stdin=b"1\n2\n13\n")
        assert (answer.stdout, answer.returncode) == (b"0.5\n1.0\n", 1)
        assert len(ledger(folder)) == calls
    assert mapped("handlers:half", "--key", "k", stdin=b"1\n2\n13\n4\n").stdout == b"0.5\n1.0\n2.0\n"
    assert len(ledger(folder)) == 7, "more inputs than before: the rest is run"


def test_without_a_key_it_starts_over_when_all_is_printed(
    folder: Path, serve: Callable[..., Served], mapped: Callable[..., Answer]
) -> None:
    serve(HANDLERS)
    for calls, inputs in ((2, b"1\n2\n"), (4, b"1\n2\n"), (5, b"7\n")):
        assert mapped("handlers:half", stdin=inputs).returncode == 0
        assert len(ledger(folder)) == calls


def test_other_inputs_than_before(serve: Callable[..., Served], mapped: Callable[..., Answer]) -> None:
    serve(HANDLERS)
    assert mapped("handlers:half", "--key", "k", stdin=b"1\n2\n3\n").returncode == 0
    for inputs in (b"1\n2\n4\n", b"1\n2\n"):
        answer = mapped("handlers:half", "--key", "k", stdin=inputs)
        assert answer.returncode == 2
        (line,) = [one for one in answer.stderr.decode().splitlines() if one.startswith("ringq: ")]
        assert line.startswith("ringq: the inputs are not those of the run that goes on here")
        assert line.endswith("start over with --fresh")
    assert mapped("handlers:half", "--key", "k", "--fresh", stdin=b"1\n2\n4\n").stdout == b"0.5\n1.0\n2.0\n"


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (["handlers:halve"], 2, "handlers has no attribute 'halve'; did you mean half?"),
        (["handlers:app"], 2, "app in handlers is an App: name one of its tasks, for example handlers:digest"),
        (["handler:half"], 2, "handler is not found in "),
        (["files::half"], 69, "no server runs for "),
        (["handlers:named"], 2, "files::named: takes no argument by position, only by name"),
        (["broken:half"], 2, "broken:half: ZeroDivisionError: division by zero"),
        (["handlers:half", "--chunk", "0"], 2, 'chunk: expected "auto" or 1 to 4096 calls, got 0'),
        (["handlers:half", "--from", "nowhere"], 74, "nowhere: No such file or directory"),
        (["handlers:half", "--ndjson", "-0"], 2, "give --null or --ndjson, not both"),
    ],
)
def test_what_cannot_be_begun(
    folder: Path, mapped: Callable[..., Answer], args: list[str], code: int, told: str
) -> None:
    (folder / "broken.py").write_text("1 / 0\n")
    answer = mapped(*args, stdin=b"1\n")
    assert answer.returncode == code
    (line,) = [one for one in answer.stderr.decode().splitlines() if one.startswith("ringq: ")]
    assert line.startswith(f"ringq: {told}")
    assert not (folder / "tasks.db").exists(), "nothing was started"


def test_a_database_that_cannot_be_written(folder: Path, mapped: Callable[..., Answer]) -> None:
    (folder / "tasks.db").write_bytes(b"these are somebody's notes" * 100)
    answer = mapped("handlers:half", stdin=b"1\n")
    assert (answer.stdout, answer.returncode) == (b"", 2)
    (line,) = [one for one in answer.stderr.decode().splitlines() if one.startswith("ringq: ")]
    assert "tasks.db" in line
    (folder / "tasks.db").unlink()
    (folder / "tasks.db").symlink_to("/proc/ringq/tasks.db")
    answer = mapped("handlers:half", stdin=b"1\n")
    assert (answer.stdout, answer.returncode) == (b"", 73)


def test_a_closed_standard_input(folder: Path) -> None:
    shell = ["sh", "-c", 'exec "$@" <&-', "sh"]
    answer = subprocess.run([*shell, *command(folder, "handlers:half")], cwd=folder, capture_output=True, check=False)
    assert answer.returncode == 2
    assert b"ringq: standard input is closed: pipe lines into it, or give --from FILE" in answer.stderr


@pytest.mark.parametrize("options", [(), ("--quiet",)])
def test_the_bar_on_a_terminal(folder: Path, serve: Callable[..., Served], options: tuple[str, ...]) -> None:
    serve(HANDLERS)
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    with subprocess.Popen(
        command(folder, "handlers:nap", *options), cwd=folder, stdin=subprocess.PIPE, stdout=terminal, stderr=terminal
    ) as running:
        os.close(terminal)
        assert running.stdin
        running.stdin.write(b"0.05\n" * 20 + b"x\n")
        running.stdin.close()
        shown = b""
        with contextlib.suppress(OSError):  # that is how a terminal ends
            while piece := os.read(master, 65536):
                shown += piece
    os.close(master)
    text = shown.decode().replace("\r\n", "\n")
    assert bool(re.search(r"\d of 21 .*━", text)) == (not options), "calls done"
    assert bool(re.search(r"\d\.\d/s", text)) == (not options), "their rate"
    plain = re.sub(r"\x1b\[\??[0-9;]*[a-zA-Z]", "", text)
    assert len(re.findall(r"^0\.05$", plain.replace("\r", "\n"), re.M)) == 20, "results have lines of their own"
    assert "1 of 21 calls failed:\n  x: input 20: files::nap: seconds: expected float, got str\n" in plain


def test_a_terminal_as_input_is_told_of(folder: Path, serve: Callable[..., Served]) -> None:
    serve(HANDLERS)
    master, terminal = pty.openpty()
    os.write(master, b"1\n2\n\x04")
    answer = subprocess.run(
        command(folder, "handlers:half"), cwd=folder, stdin=terminal, capture_output=True, timeout=60, check=False
    )
    os.close(terminal)
    os.close(master)
    assert answer.stdout == b"0.5\n1.0\n"
    assert b"ringq: the inputs are lines from the keyboard; Ctrl-D ends them\n" in answer.stderr

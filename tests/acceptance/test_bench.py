"""The benchmarks: that each runs, what `ringq bench` and scripts/perf show of them, and that nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from conftest import wait_for

import perf.__main__ as command
import ringq
from ringq.bench import measure, running
from ringq.cli import bench

ROOT = Path(__file__).resolve().parents[2]
Cli = Callable[..., subprocess.CompletedProcess[str]]
LINES_OF_END_TO_END = [line.what for line in bench.benchmarks()["end_to_end"].LINES]


def scripts_perf(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """As scripts/perf does when all is installed."""
    return subprocess.run(
        [sys.executable, "-m", "perf", *arguments],
        capture_output=True, text=True, timeout=100, check=False, cwd=ROOT, env={**os.environ, **env},
    )  # fmt: skip


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a name so short that sockets fit below it."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="rq") as path:
        yield Path(path)


@pytest.mark.parametrize("name", command.benchmarks())
def test_every_benchmark_works(name: str, folder: Path) -> None:
    plot = folder / "plot.svg"
    ran = scripts_perf(name, "--quick", "--rounds", "1", "--json", "--plot", str(plot), TMPDIR=str(folder))
    if name == "peers" and ran.returncode == 1:  # none of their packages is here
        assert ran.stderr.count("\n") == 1
        assert "peers cannot run here: " in ran.stderr
        return
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert (result["benchmark"], result["rounds"], result["quick"], result["durability"]) == (name, 1, True, "full")
    assert result["machine"] == measure.machine()
    assert result["commit"] == command.commit()
    for figure, (low, high) in result["spread"].items():
        assert low <= result[figure] <= high
    assert plot.read_text().startswith("<?xml")
    assert list(folder.iterdir()) == [plot], "it leaves files"


def test_the_script_lists_what_there_is() -> None:
    shown = subprocess.run([ROOT / "scripts/perf", "--help"], capture_output=True, text=True, check=True).stdout
    listed = [line.split()[0] for line in shown.partition("NAME is one of:\n")[2].splitlines()]
    assert listed == sorted(command.benchmarks())


def test_bars_for_a_benchmark_that_draws_nothing_of_its_own(tmp_path: Path) -> None:
    result = {
        **{"benchmark": "any", "durability": "full", "rounds": 5, "machine": "2 cores"},
        **{"tasks_per_s": 10.0, "peer_per_s": 5.0, "ratio_peer": 2.0, "start_ms": 1.0, "curve": [1, 2]},
        "spread": {"tasks_per_s": [9.0, 11.0], "peer_per_s": [5.0, 5.0], "ratio_peer": [1.9, 2.2], "start_ms": [1, 2]},
    }
    for name, start in (("plot.png", b"\x89PNG"), ("plot.svg", b"<?xml")):
        command.plot.save(result, "ringq.bench.measure", tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)


def test_ringq_bench_prints_what_a_user_cares_about(cli: Cli) -> None:
    ran = cli("bench", "--quick", "--rounds", "1", "--durability", "normal", "end_to_end", "cpu_bound")
    assert ran.returncode == 0, ran.stderr
    table, _, context = ran.stdout.partition("\n\n")
    heading, *rows = [line.split("\t") for line in table.splitlines()]
    assert heading == ["measured", "ringq", "spread", "ratio", "peer", "against"]
    by_what = {row[0]: row for row in rows}
    assert list(by_what)[: len(LINES_OF_END_TO_END)] == LINES_OF_END_TO_END
    _, ours, _, ratio, peer, against = by_what["no-op tasks submitted, run and answered"]
    assert ours.endswith(" tasks/s")
    assert peer.endswith(" tasks/s")
    assert ratio.endswith("x")
    assert against == "multiprocessing.Pool, chunksize 1"
    assert by_what["speed with tasks of 10 ms"][1].endswith("%")
    assert "durability normal, medians of 1 round; quick: no figures to quote" in context
    assert measure.machine() in context
    assert ran.stderr.splitlines() == ["ringq: 1 of 2: end_to_end", "ringq: 2 of 2: cpu_bound"]


def test_ringq_bench_for_programs(cli: Cli) -> None:
    ran = cli("bench", "--quick", "--rounds", "1", "map", "--json", RINGQ_QUEUES="others", RINGQ_RECYCLE_TASKS="1")
    assert ran.returncode == 0, ran.stderr
    (result,) = json.loads(ran.stdout).values()
    assert result["benchmark"] == "map"
    assert result["spread"]["calls_per_s"] == [result["calls_per_s"]] * 2


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["end_to_ende"], "there is no benchmark 'end_to_ende'; did you mean end_to_end?"),
        (["zzz"], "there is no benchmark 'zzz': there are end_to_end, map, "),
        (["handlers"], "there is no benchmark 'handlers'"),
        (["map", "--rounds", "0"], "0 is not in the range x>=1"),
        (["map", "--durability", "some"], "'some' is not one of 'full', 'normal'"),
    ],
)
def test_wrong_arguments_of_ringq_bench(cli: Cli, arguments: list[str], word: str) -> None:
    ran = cli("bench", *arguments)
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.count("\n") == 1
    assert word in ran.stderr


def test_what_ringq_bench_shows_is_described() -> None:
    known = bench.benchmarks()
    assert list(known)[: len(bench.FIRST)] == list(bench.FIRST)
    text = " ".join((bench.bench.help or "").split())
    for name, module in known.items():
        assert name in text
        assert len(module.SECONDS) == 2
        assert all(line.figure and line.what and line.unit for line in module.LINES)


class Measuring:
    """`ringq bench`, in the middle of a long measurement, in a process group of its own as a shell starts it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ringq", "bench", "map", "--rounds", "1000"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0,
            env={**os.environ, "TMPDIR": str(folder)},
        )  # fmt: skip
        self.others: list[psutil.Process] = []
        wait_for(self._is_complete)

    def _is_complete(self) -> bool:
        """The measuring process, the server, two workers, two processes of the peer; and who looks after semaphores."""
        self.others = psutil.Process(self.process.pid).children(recursive=True)
        return len(self.others) >= 7

    def is_gone(self) -> bool:
        """Nothing runs and nothing lies about."""
        return not any(one.is_running() for one in self.others) and not list(self.folder.iterdir())


@pytest.fixture
def measuring(folder: Path) -> Iterator[Measuring]:
    found = Measuring(folder)
    yield found
    for one in found.others:
        if one.is_running():
            one.kill()
    found.process.kill()
    found.process.communicate()


def test_ctrl_c_leaves_nothing(measuring: Measuring) -> None:
    os.killpg(measuring.process.pid, signal.SIGINT)  # as a terminal does
    out, err = measuring.process.communicate(timeout=40)
    assert measuring.process.returncode == 130
    assert out == ""
    assert err.split("\n")[1:] == ["ringq: 1 of 1: map", "", "ringq: interrupted", ""]
    wait_for(measuring.is_gone)


def test_a_killed_ringq_bench_leaves_nothing(measuring: Measuring) -> None:
    measuring.process.kill()
    wait_for(measuring.is_gone, 40)


def test_a_benchmark_that_does_not_leave_is_killed_with_all_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stubborn.py").write_text(
        "import os, signal, subprocess, pathlib\n"
        "def run(options):\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    child = subprocess.Popen(['sleep', '1000'])\n"
        f"    pathlib.Path({str(tmp_path / 'pids')!r}).write_text(f'{{os.getpid()}} {{child.pid}}')\n"
        "    from ringq.bench import measure\n"
        "    measure.tell(0, 1)\n"
        "    child.wait()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(running, "GRACE_S", 0.2)

    def press_ctrl_c(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        running.run("stubborn", measure.Options(), press_ctrl_c)
    pids = list(map(int, (tmp_path / "pids").read_text().split()))
    wait_for(lambda: not any(map(psutil.pid_exists, pids)))


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        (
            "import a_package_of_somebody.part",
            measure.Unavailable,
            "needs the package a_package_of_somebody: pip install",
        ),
        ("os._exit(3)", running.BenchmarkFailed, "died without a word"),
        ("return {'figure': float('nan')}", ValueError, "not JSON compliant"),
        ("import ringq; raise ringq.StoreError('the disk is full')", ringq.StoreError, "the disk is full"),
        ("raise measure.Unavailable('needs a Redis server')", measure.Unavailable, "needs a Redis server"),
        (
            "with measure.server(options, app='no.such.module:app'): pass",
            measure.Unavailable,
            "`ringq serve` does not start: .*no is not found",
        ),
    ],
)
def test_a_benchmark_that_fails(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    body: str,
    error: type[Exception],
    message: str,
) -> None:
    (tmp_path / "failing.py").write_text(
        "import os\nfrom ringq.bench import measure\n"
        f"def run(options):\n    os.system('echo last words >&2')\n    {body}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(error, match=message):
        running.run("failing", measure.Options(), lambda done, total: None)
    assert capsys.readouterr().err == "last words\n"


def test_what_a_benchmark_gives_and_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "small.py").write_text(
        "import os\n"
        "from ringq.bench import measure\n"
        "def run(options):\n"
        "    os.system('echo a warning >&2')\n"
        "    (values,) = measure.interleave(options.rounds, iter([100.0, 1.0, 5.0, 3.0]).__next__)\n"
        "    return {'some_ms': measure.spread(values), 'curve': [[1, 2]], 'histogram': {'1': 2}, 'one': 1, 'env':\n"
        "            [name for name in os.environ if name.startswith('RINGQ_')]}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("RINGQ_DB", "/mine.db")
    told: list[tuple[int, int]] = []
    result = running.run("small", measure.Options(rounds=3), lambda done, total: told.append((done, total)))
    assert capsys.readouterr().err == "a warning\n"
    assert told == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert result == {
        **{"benchmark": "small", "some_ms": 3.0, "curve": [[1, 2]], "histogram": {"1": 2}, "one": 1, "env": []},
        **{"spread": {"some_ms": [1.0, 5.0]}, "rounds": 3, "quick": False, "durability": "full"},
        "machine": measure.machine(),
    }

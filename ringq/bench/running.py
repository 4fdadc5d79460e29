"""Cli: runs one benchmark in a process group of its own, so that nothing of it is left, however it ends."""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from ringq.bench import measure

GRACE_S = 10.0
"""How long the processes of a benchmark that is cut short have to leave by themselves."""
LOOK_EVERY_S = 0.05


class BenchmarkFailed(Exception):
    """A benchmark ended without figures."""


def run(module: str, options: measure.Options, on_round: Callable[[int, int], object]) -> dict[str, Any]:
    """Run the benchmark of a dotted name; what `--json` prints of it.

    `on_round(done, total)`: called as its rounds end. Whatever ends this early, as KeyboardInterrupt does, ends the
    processes of the benchmark first. Raises Unavailable, BenchmarkFailed, or what the benchmark itself raises.
    """
    ours, theirs = multiprocessing.Pipe()
    with open(os.memfd_create("stderr"), "rb") as words:
        process = multiprocessing.get_context("spawn").Process(
            target=_measure, args=(module, options, theirs, f"/proc/{os.getpid()}/fd/{words.fileno()}")
        )
        try:
            with _interrupts_held():  # Ctrl-C goes to this process alone: it decides how the others end
                process.start()
                theirs.close()
            figures = _listen(ours, module, on_round)
        except Exception:
            print(words.read().decode(errors="replace"), end="", file=sys.stderr)
            raise
        finally:
            ours.close()  # which ends the benchmark
            _end(process)
        print(words.read().decode(errors="replace"), end="", file=sys.stderr)
    return outcome(module.rpartition(".")[2], options, figures)


def outcome(name: str, options: measure.Options, figures: measure.Figures) -> dict[str, Any]:
    """Medians under their plain names, their smallest and largest under `spread`; then what they depend on."""
    spreads = {key: value for key, value in figures.items() if _is_spread(value)}
    return {
        "benchmark": name,
        **{key: value["median"] if key in spreads else value for key, value in figures.items()},
        "spread": {key: [value["min"], value["max"]] for key, value in spreads.items()},
        "rounds": options.rounds, "quick": options.quick, "durability": options.durability,
        "machine": measure.machine(),
    }  # fmt: skip


def _is_spread(value: object) -> bool:
    return isinstance(value, dict) and value.keys() == {"median", "min", "max"}


def _listen(connection: Connection, module: str, on_round: Callable[[int, int], object]) -> measure.Figures:
    while True:
        try:
            what, *said = connection.recv()
        except EOFError:
            raise BenchmarkFailed(f"{module} died without a word") from None
        if what == "failed":
            raise said[0]
        if what == "figures":
            figures: measure.Figures = json.loads(said[0])
            return figures
        on_round(*said)


def _end(process: BaseProcess) -> None:
    """End what still runs: by its own means first. The group's id is free only when its leader is reaped."""
    assert process.pid is not None
    deadline = time.monotonic() + GRACE_S
    with _interrupts_held():
        wait([process.sentinel], GRACE_S)
        while _has_others(process.pid) and time.monotonic() < deadline:
            time.sleep(LOOK_EVERY_S)
        with contextlib.suppress(ProcessLookupError):  # it died before it had a group
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()


def _has_others(group: int) -> bool:
    """Whether processes of the group run that are not its leader."""
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal() and int(entry.name) != group:
            with contextlib.suppress(OSError):
                if os.getpgid(int(entry.name)) == group:
                    return True
    return False


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C is felt afterwards; processes that are started meanwhile do not feel it until they unblock it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _measure(module: str, options: measure.Options, connection: Connection, stderr: str) -> None:
    """The other process. What it and its own write to stderr is of interest unless they are interrupted: then each of
    them would tell where it was.
    """
    os.setsid()
    os.dup2(os.open(stderr, os.O_WRONLY | os.O_APPEND), 2)
    signal.signal(signal.SIGTERM, _leave)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_leave_with_parent, args=(connection,), daemon=True).start()
    for name in [name for name in os.environ if name.startswith("RINGQ_")]:
        del os.environ[name]  # what the user has set for servers of his own
    os.chdir("/")  # nor does a ringq.toml there say anything here
    measure.listeners.append(lambda done, total: connection.send(("round", done, total)))
    try:
        figures = importlib.import_module(module).run(options)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        connection.send(("figures", json.dumps(figures, allow_nan=False)))
    except ModuleNotFoundError as error:
        needed = (error.name or "").partition(".")[0]
        connection.send(("failed", measure.Unavailable(f"it needs the package {needed}: pip install {needed}")))
    except Exception as error:
        error.add_note(traceback.format_exc())  # which pickle leaves behind
        connection.send(("failed", _portable(error)))


def _leave(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)


def _leave_with_parent(connection: Connection) -> None:
    """Whoever asked may be killed: the end of the pipe is the one sign that always comes."""
    with contextlib.suppress(EOFError, OSError):
        connection.recv_bytes()
    os.kill(os.getpid(), signal.SIGTERM)


def _portable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
        return error
    except Exception:
        return BenchmarkFailed(f"{type(error).__name__}: {error}")

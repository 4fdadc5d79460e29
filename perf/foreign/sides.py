"""Which task queues there are, and one of them at work: broker, two workers, client."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from perf.foreign import processes
from ringq.bench import measure

PYTHON = (sys.executable, "-m")


@dataclass(frozen=True)
class Kind:
    """A task queue in one way of using it.

    `name` in the figures; `module` of this package; `package` that it needs; `tasks`: so many take it 1 to 10 s
    when durable; `redis`: its broker, else a file of SQLite; `workers`: the command lines that make two workers.
    """

    name: str
    module: str
    package: str
    tasks: int
    redis: bool
    workers: Sequence[Sequence[str]]

    def missing(self) -> str:
        """What is not installed, in words; empty if everything is."""
        if importlib.util.find_spec(self.package) is None:
            return "not installed"
        if self.redis and shutil.which("redis-server") is None:
            return "not installed: redis-server"
        return ""


HUEY = (*PYTHON, "huey.bin.huey_consumer", "perf.foreign.with_huey.huey", "-k", "process", "-w", "2", "-n", "-q")
HUEY_POLL = ("-d", "0.01", "-m", "0.01")
RQ = (*PYTHON, "rq.cli", "worker", "peers", "--config", "perf.foreign.with_rq", "-q", "--worker-class")
CELERY = (*PYTHON, "celery", "-A", "perf.foreign.with_celery", "worker", "-P", "prefork", "-c", "2", "-l", "WARNING")
CELERY_ALONE = ("--without-gossip", "--without-mingle", "--without-heartbeat")
DRAMATIQ_MANY = ("env", "dramatiq_queue_prefetch=100")
DRAMATIQ = (*DRAMATIQ_MANY, *PYTHON, "dramatiq", "perf.foreign.with_dramatiq", "--processes", "2", "--threads", "1")

KINDS = (
    Kind("litequeue", "with_litequeue", "litequeue", 2_000, False, ()),
    Kind("huey_sqlite", "with_huey", "huey", 2_000, False, [(*HUEY, *HUEY_POLL)]),
    Kind("huey_redis", "with_huey", "huey", 2_000, True, [HUEY]),
    Kind("celery", "with_celery", "celery", 1_000, True, [(*CELERY, *CELERY_ALONE)]),
    Kind("dramatiq", "with_dramatiq", "dramatiq", 2_000, True, [DRAMATIQ]),
    Kind("rq_simple", "with_rq", "rq", 1_000, True, [(*RQ, "rq.SimpleWorker")] * 2),
    Kind("rq", "with_rq", "rq", 500, True, [(*RQ, "rq.Worker")] * 2),
)


class Client:
    """The process that submits, and every other part of the side, to hear which of them has ended."""

    def __init__(self, process: subprocess.Popen[str], parts: Sequence[subprocess.Popen[str]], folder: Path) -> None:
        self._process = process
        self._parts = [*parts, process]
        self._folder = folder

    def many(self, count: int) -> float:
        """Seconds for so many tasks, submitted together, until every result is there."""
        return self._ask(f"many {count}")

    def one(self, number: int) -> float:
        """Seconds for one task until its result is there."""
        return self._ask(f"one {number}")

    def _ask(self, question: str) -> float:
        print(question, file=self._process.stdin, flush=True)
        answer = self._process.stdout
        processes.wait_for(lambda: readable(answer), self._parts, self._folder, processes.ANSWER_S)
        line = answer.readline()
        if not line:
            raise processes.Broken(f"the client has ended: {processes.last_words(self._folder)}")
        return float(line)


def readable(stream: IO[str]) -> bool:
    """Whether there is an answer, or the end."""
    return bool(select.select([stream], [], [], processes.LOOK_S)[0])


@contextlib.contextmanager
def opened(kind: Kind, durable: bool) -> Iterator[Client]:
    """This queue at work, on files of its own that go with it. Raises Broken if it does not start."""
    with contextlib.ExitStack() as undo:
        folder = undo.enter_context(measure.folder())
        parts: list[subprocess.Popen[str]] = []
        place = folder / "peers.db"
        if kind.redis:
            arguments, place = processes.redis_server(folder, durable)
            parts.append(undo.enter_context(processes.started(arguments, folder, {})))
            processes.wait_for(lambda: processes.listens(place), parts, folder, processes.READY_S)
        surroundings = {"PEERS_PLACE": str(place), "PEERS_DURABLE": "yes" if durable else "no"}
        for worker in kind.workers:
            parts.append(undo.enter_context(processes.started(worker, folder, surroundings)))
        yield undo.enter_context(client(kind.module, folder, surroundings, parts))


@contextlib.contextmanager
def ringq(options: measure.Options) -> Iterator[Client]:
    """ringq itself in the same way."""
    with (
        measure.server(options) as server,
        measure.folder() as folder,
        client("with_ringq", folder, {"PEERS_PLACE": str(server.database)}, []) as ours,
    ):
        yield ours


@contextlib.contextmanager
def client(
    module: str, folder: Path, surroundings: dict[str, str], parts: Sequence[subprocess.Popen[str]]
) -> Iterator[Client]:
    """The client of a side, after its first task has come back."""
    with processes.started((*PYTHON, "perf.foreign", module), folder, surroundings, answers=True) as process:
        ready = Client(process, parts, folder)
        ready.one(0)
        yield ready


def versions() -> dict[str, str]:
    """What is compared."""
    found = {kind.package: importlib.metadata.version(kind.package) for kind in KINDS if not kind.missing()}
    if shutil.which("redis-server"):
        told = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
        found["redis-server"] = told.partition("v=")[2].partition(" ")[0]
    return found

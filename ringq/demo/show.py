"""Demo: the whole show - serve, submit, kill a worker, kill the server, wait, compare, prove."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import ringq
from ringq.config import usable_cores
from ringq.demo import report
from ringq.demo.handlers import HANDLERS
from ringq.demo.library import PlainLoop, library_files, plain_loop
from ringq.demo.stage import Stage
from ringq.model import AttemptRecord, TaskRecord
from ringq.query import Query

KILL_WORKER_AT = 0.3  # of the tasks
KILL_PARENT_AT = 0.6
READY_S = 30.0
STUCK_S = 60.0  # without a single receipt
LOOK_EVERY_S = 0.05
PAGE = 1000


class ShowFailed(ringq.RingqError):
    """The demo could not be carried out."""


class Server:
    """`ringq serve` as a child process, started as often as it is killed."""

    def __init__(self, database: Path, workers: int) -> None:
        self._database = database
        number = str(workers) if workers else "auto"
        self._command = [sys.executable, "-m", "ringq", "serve", "ringq.demo:app"]
        self._command += ["--db", str(database), "--workers", number]
        self._log = database.with_name(database.name + "-serve.log")
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def workers(self) -> list[int]:
        """The process ids of the workers, as soon as all are ready."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise ShowFailed(f"the server ended with {self.process.returncode}: {self.last_words()}")
            with contextlib.suppress(ringq.ServerUnavailable), ringq.connect(self._database) as client:
                health = client.health()
                ready = [worker["pid"] for worker in health["workers"] if worker["ready"]]
                if len(ready) == len(health["workers"]):
                    return ready
            time.sleep(0.02)
        raise ShowFailed(f"the server was not ready after {READY_S:.0f} s: {self.last_words()}")

    def kill_and_restart(self) -> int:
        """SIGKILL, no warning; then the same command again. The process id that died."""
        died = self.process.pid
        self.process.kill()
        self.process.wait()
        self.process = self._start()
        return died

    def stop(self) -> None:
        """TERM, as an init system would; KILL if that takes too long."""
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def last_words(self) -> str:
        """The last line of the server's log."""
        text = self._log.read_text(errors="replace").strip()
        return text.splitlines()[-1] if text else f"nothing in {self._log}"


def run(database: Path | None, files: int | None, workers: int, keep: bool) -> bool:
    """Run the show; True if the proof holds. Without `database` it plays in a temporary folder."""
    stage = Stage()
    with place(database, keep) as path:
        sources = library_files(files)
        server = Server(path, workers)
        try:
            ids, wall_s = _play(stage, server, path, sources)
            with stage.act("the same in a plain loop", len(sources)) as reached:
                plain = plain_loop(sources, reached)
            server.stop()
            proof = _tell(stage, path, ids, wall_s, plain, sources)
        finally:
            server.stop()
        if keep:
            explain(stage, path, "ringq history")
    return proof.holds


def _play(stage: Stage, server: Server, database: Path, sources: Sequence[Path]) -> tuple[list[int], float]:
    """Everything between the first submission and the last receipt; the acknowledged ids, and how long it took."""
    workers = server.workers()
    stage.say(f"serving {database} with {len(workers)} workers: {_pids(workers)}; the server is {server.process.pid}")
    started = time.perf_counter()
    with ringq.connect(database) as client:
        submissions = [handler.submission(path=str(path)) for path in sources for handler in HANDLERS]
        ids = [one.id for one in client.submit_many(submissions)]
    stage.say(f"{len(ids):,} tasks ({len(sources):,} files, {len(HANDLERS)} handlers) are on disk: one batch")
    deeds = [(KILL_WORKER_AT, _kill_worker), (KILL_PARENT_AT, _kill_parent)]
    seen, seen_at = 0, time.monotonic()
    query = Query(database)
    with stage.act("analysing", len(ids)) as reached:
        while seen < len(ids):
            time.sleep(LOOK_EVERY_S)
            count = sum(row.count for row in query.statistics())
            if count != seen:
                seen, seen_at = count, time.monotonic()
            reached(seen)
            if deeds and seen >= deeds[0][0] * len(ids):
                deeds.pop(0)[1](stage, server, seen)
            if server.process.poll() is not None or time.monotonic() - seen_at > STUCK_S:
                raise ShowFailed(f"nothing moves any more at {seen} of {len(ids)} tasks: {server.last_words()}")
    wall_s = time.perf_counter() - started
    stage.say(f"all {len(ids):,} tasks have ended after {wall_s:.1f} s, both deaths included")
    return ids, wall_s


def _kill_worker(stage: Stage, server: Server, seen: int) -> None:
    victim = server.workers()[0]
    os.kill(victim, signal.SIGKILL)
    stage.say(f"[red]kill -9[/] worker {victim} after {seen:,} tasks")


def _kill_parent(stage: Stage, server: Server, seen: int) -> None:
    died = server.kill_and_restart()
    stage.say(f"[red]kill -9[/] the server {died} after {seen:,} tasks; started again as {server.process.pid}")
    workers = server.workers()
    stage.say(f"it has recovered what was published, with new workers {_pids(workers)}")


def _tell(
    stage: Stage, database: Path, ids: list[int], wall_s: float, plain: PlainLoop, sources: Sequence[Path]
) -> report.Proof:
    """Read everything back from the database alone, print the report and the proof."""
    console = stage.console
    query = Query(database)
    ended, again = _read_back(query)
    counted = sum(row.count for row in query.statistics())
    console.print()
    report.print_kinds(console, ended, wall_s)
    console.print()
    report.print_files(console, ended, Path(sysconfig.get_path("stdlib")))
    report.print_unparsed(console, ended)
    console.print()
    busy_s = sum(one.duration_s for one in ended)
    console.print(_speed_up(plain, sources, wall_s, busy_s), soft_wrap=not console.is_terminal)
    console.print()
    proof = report.prove(ids, ended, counted, plain)
    report.print_proof(console, proof, again)
    return proof


def _read_back(query: Query) -> tuple[list[report.Ended], Counter[str]]:
    """Every receipt, joined with what its task was given and returned; and why attempts had to be repeated."""
    tasks: dict[int, TaskRecord] = {}
    after = None
    while page := query.tasks(after=after, limit=PAGE):
        tasks.update((one.id, one) for one in page)
        after = page[-1].id
    ended, again = [], Counter[str]()
    last = None
    while records := query.history(before=last, limit=PAGE):
        ended += [_ended(one, tasks[one.task_id]) for one in records]
        repeated = (one.task_id for one in records if one.attempt > 1)
        again.update(attempt.reason for task_id in repeated for attempt in query.task(task_id).attempts[:-1])
        last = records[-1]
    return ended, again


def _ended(receipt: AttemptRecord, task: TaskRecord) -> report.Ended:
    return report.Ended(
        id=receipt.task_id,
        kind=receipt.kind,
        path=json.loads(task.payload)["path"],
        status=task.status,
        duration_s=receipt.duration_s,
        result=None if task.result is None else json.loads(task.result),
    )


def _speed_up(plain: PlainLoop, sources: Sequence[Path], wall_s: float, busy_s: float) -> str:
    size = sum(path.stat().st_size for path in sources)
    expected_s = plain.seconds * size / plain.bytes if plain.bytes else plain.seconds
    basis = f"A plain loop over the same files took {plain.seconds:.1f} s"
    if plain.files < len(sources):
        part = f"{plain.files:,} of the {len(sources):,} files"
        basis = (
            f"A plain loop over {part} took {plain.seconds:.1f} s, so about {expected_s:.1f} s for all by their bytes"
        )
    return (
        f"{basis}. ringq took {wall_s:.1f} s with both deaths, both recoveries and every result on disk: "
        f"speed-up {expected_s / wall_s:.2f} on {usable_cores()} cores (busy: {busy_s / wall_s:.2f})."
    )


@contextlib.contextmanager
def place(database: Path | None, keep: bool) -> Iterator[Path]:
    """Where the database is: the one that was named, or a new one, which is kept or not. Raises InvalidOption."""
    if database is not None:
        if database.exists():
            raise ringq.InvalidOption(f"{database} exists; the demo counts all that is in its database: name a new one")
        yield database.absolute()
    elif keep:
        yield Path(tempfile.mkdtemp(prefix="ringq-demo-")) / "demo.db"
    else:
        with tempfile.TemporaryDirectory(prefix="ringq-demo-") as folder:
            yield Path(folder) / "demo.db"


def explain(stage: Stage, database: Path, *commands: str) -> None:
    """Tell how the database that was kept can be explored."""
    stage.console.print("\nThe database is yours to explore:")
    for line in (f"export RINGQ_DB={shlex.quote(str(database))}", "ringq stats", *commands, "ringq task show 1"):
        stage.console.print(f"  {line}", soft_wrap=True)


def _pids(workers: Sequence[int]) -> str:
    return ", ".join(map(str, workers))

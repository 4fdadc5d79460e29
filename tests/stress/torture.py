"""A campaign of kills against a real server under load, judged by the ledger.

    scripts/torture --workers 100 --parents 20 [--seed N]
    scripts/torture --graph                       (the other campaign: at each step of what belongs together)

Kills that many workers and parents with SIGKILL, at random moments and at armed failpoints, while clients submit
single tasks and batches. Prints its seed and ends with one line of figures; exit code 0 only if all of it is clean.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import ledger as ledger_module  # noqa: E402

import ringq  # noqa: E402
from ringq import failpoint  # noqa: E402

POOL = 3
FAILPOINT_SHARE = 0.5  # so many of the parents' deaths happen at a failpoint, the rest at a random moment
WAIT_S = 60.0


class Server:
    """`ringq serve`, started again after each death."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.database = folder / "torture.db"
        self._folder = folder
        self._rng = rng
        self._log = (folder / "serve.log").open("ab")
        self.process: subprocess.Popen[bytes] | None = None
        self.worker_kills = 0
        self.parent_kills = 0

    def start(self, armed: str | None = None) -> None:
        """Start a server; with `armed`, one that kills itself (or its workers) at that failpoint."""
        env = {**os.environ, "RINGQ_TORTURE_LEDGER": str(self._folder / "ledger"), "PYTHONPATH": str(HERE)}
        if armed:
            env["RINGQ_FAILPOINT"] = armed
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ringq", "serve", "torture_app:app", "--db", str(self.database)]
            + ["--workers", str(POOL)],
            cwd=self._folder, env=env, stdin=subprocess.DEVNULL, stderr=self._log, stdout=self._log,
        )  # fmt: skip

    def workers(self) -> list[psutil.Process]:
        """The living workers."""
        assert self.process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            return [child for child in psutil.Process(self.process.pid).children() if "ringq.worker" in _words(child)]
        return []

    def kill_worker(self) -> None:
        """SIGKILL to one worker, if there is one."""
        workers = self.workers()
        if len(workers) == POOL:  # so that most kills meet a worker that has had the time to do something
            with contextlib.suppress(psutil.NoSuchProcess):
                self._rng.choice(workers).kill()
                self.worker_kills += 1

    def kill_parent(self) -> None:
        """SIGKILL to the parent, unless a failpoint was quicker."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(WAIT_S)
        self.parent_kills += 1

    def await_death(self, seconds: float) -> None:
        """Give an armed failpoint some time."""
        assert self.process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)


class Load(threading.Thread):
    """Submits until told to stop; remembers what was acknowledged."""

    def __init__(self, database: Path, seed: int) -> None:
        super().__init__(daemon=True)
        self._database = database
        self._rng = random.Random(seed)
        self.acknowledged: set[int] = set()
        self.stop = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            with ringq.connect(self._database, reconnect=WAIT_S) as client:
                wait_ready(client)
                while not self.stop.is_set():
                    self._submit(client)
        except BaseException as error:
            self.error = error

    def _submit(self, client: Any) -> None:
        from torture_app import work

        rng = self._rng
        if rng.random() < 0.5:
            tasks = [client.submit("torture::work", self._payload())]
        else:
            tasks = client.submit_many([work.submission(**self._payload()) for _ in range(rng.randint(2, 200))])
        self.acknowledged.update(task.id for task in tasks)
        self.stop.wait(rng.choice([0, 0, 0.01, 0.05]))

    def _payload(self) -> dict[str, int]:
        rng = self._rng
        size = rng.choice([0, 10, 100, 1000]) if rng.random() < 0.97 else rng.choice([20_000, 400_000])
        return {"number": rng.randint(0, 10**9), "busy_us": rng.choice([0, 50, 500, 3000]), "size": size}


def wait_ready(client: Any) -> None:
    """Until a server answers: only one that was met before is waited for by the client itself."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            client.health()
            return
        except ringq.ServerUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _words(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return " ".join(process.cmdline())
    return ""


def campaign(workers: int, parents: int, seed: int, folder: Path) -> int:
    """Run it; returns the exit code."""
    os.environ["RINGQ_TORTURE_LEDGER"] = str(folder / "ledger")
    rng = random.Random(seed)
    server = Server(folder, rng)
    server.start()
    loads = [Load(server.database, rng.randrange(2**32)) for _ in range(2)]
    for load in loads:
        load.start()
    try:
        _kill_many(server, rng, workers, parents)
    finally:
        for load in loads:
            load.stop.set()
    for load in loads:
        load.join(WAIT_S * 2)
    acknowledged = set().union(*(load.acknowledged for load in loads))
    complaints = [f"a client failed: {load.error!r}" for load in loads if load.error]
    complaints += _settle(server, acknowledged)
    extra_max = server.worker_kills + server.parent_kills * POOL
    found = ledger_module.check(server.database, folder / "ledger", acknowledged, extra_max)
    complaints += found.complaints + _leftovers(server.database)
    for complaint in complaints[:20]:
        print(f"complaint: {complaint}")
    print(
        f"{len(acknowledged)} tasks acknowledged; {found.finished_again} attempts had finished "
        "and not yet published when their worker died"
    )
    print(
        f"workers killed {server.worker_kills}, parents killed {server.parent_kills}, lost {found.lost}, "
        f"doubled {found.doubled}, overlaps {found.overlaps}, extra runs {found.extra_runs}"
    )
    return 1 if complaints else 0


def _kill_many(server: Server, rng: random.Random, workers: int, parents: int) -> None:
    """Spread the workers' deaths over the parents' lives; each life but the last ends with SIGKILL."""
    points = sorted(name for name in failpoint.NAMES - failpoint.GRAPH if not name.startswith("worker."))
    for life in range(1, parents + 1):
        _kill_workers(server, rng, workers * life // (parents + 1))
        time.sleep(rng.uniform(0.0, 0.5))
        server.kill_parent()
        if rng.random() < FAILPOINT_SHARE:
            server.start(f"{rng.choice(points)}=kill:{rng.choice([1, 1, 2, 5, 20])}")
            server.await_death(3.0)
        else:
            server.start()
    _kill_workers(server, rng, workers)


def _kill_workers(server: Server, rng: random.Random, total: int) -> None:
    """Kill workers until `total` are dead; a parent that died of a failpoint meanwhile is started again."""
    while server.worker_kills < total:
        assert server.process is not None
        if server.process.poll() is not None:
            server.kill_parent()
            server.start()
        time.sleep(rng.uniform(0.0, 0.2))
        server.kill_worker()


def _settle(server: Server, acknowledged: set[int]) -> list[str]:
    """Start a server that nobody kills, wait until all is recorded, stop it cleanly."""
    assert server.process is not None
    server.process.kill()
    server.process.wait(WAIT_S)
    server.parent_kills += 1
    server.start()
    complaints = []
    try:
        with ringq.connect(server.database, reconnect=WAIT_S) as client:
            wait_ready(client)
            client.wait_many(sorted(acknowledged), timeout=WAIT_S * 2)
            while client.health()["pending"] or client.health()["in_flight"]:
                time.sleep(0.05)
    except ringq.RingqError as error:
        complaints.append(f"not all was recorded: {error}")
    server.process.send_signal(signal.SIGTERM)
    code = server.process.wait(WAIT_S)
    if code != 0:
        complaints.append(f"the last server ended with exit code {code}")
    return complaints


def _leftovers(database: Path) -> list[str]:
    """Processes, segments, locks, sockets and spilled files that nobody removed."""
    left = [f"process {p.pid} is left" for p in psutil.process_iter() if str(database) in _words(p)]
    left += [f"process {p.pid} is left" for p in psutil.process_iter() if "torture_app:app" in _words(p)]
    runtime = database.with_name(database.name + "-ringq")
    left += [f"{path} is left" for path in runtime.rglob("*") if path.is_file() or path.is_socket()]
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        (uuid,) = connection.execute("SELECT hex(uuid) FROM meta").fetchone()
    left += [f"{path} is left" for path in Path("/dev/shm").glob(f"ringq.{uuid.lower()}*")]
    return left


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=100, help="how many workers to kill (default 100)")
    parser.add_argument("--parents", type=int, default=20, help="how many parents to kill (default 20)")
    parser.add_argument("--seed", type=int, default=None, help="repeat the campaign with this seed")
    parser.add_argument("--keep", action="store_true", help="keep database, ledger and log")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(2**32)
    print(f"seed {seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="ringq-torture-"))
    code = campaign(given.workers, given.parents, seed, folder)
    if given.keep or code:
        print(f"kept in {folder}")
    else:
        import shutil

        shutil.rmtree(folder)
    return code


if __name__ == "__main__":
    sys.exit(main())

"""SIGKILL at each step of what belongs together: spawn, wait, finalize, unblock, callback, follow-up.

    scripts/torture --graph [--kills 10] [--steps graph.waiting,kin.finalizing] [--seed N]

At each step of a parent that many parents are killed, and that many workers while the parent stands there; at each step
of a worker that many workers, and that many parents while the worker stands there. Meanwhile a client keeps a round of
scenarios going, and resolves callbacks. After each step everything has to end, and what is recorded is compared with
what the handlers wrote. Prints its seed and a line of figures for each step; exit code 0 only if all of it is clean.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from graph_ledger import Findings, check  # noqa: E402

import ringq  # noqa: E402
from ringq import failpoint  # noqa: E402

POOL = 2
WAIT_S = 45.0
POLL_S = 0.02
OF_WORKERS = ("worker.", "kin.")
STEPS = sorted(failpoint.NAMES)
# What `ringq serve` runs, with two limits out of the way that only code can set: a task that has been in a
# worker's hands at many kills is no dead letter here.
SERVE = (
    "from pathlib import Path; from ringq.config import Config; from ringq.serving import serve; "
    f"config = Config(database=Path('graph.db'), app='graph_app:app', workers={POOL}, crashes_max=10**6, "
    "lost_max=10**6); raise SystemExit(serve(config))"
)


class NeverPassed(Exception):
    """Nothing came to the step at which somebody was to be killed."""


class Server:
    """A server, started again after each death."""

    def __init__(self, folder: Path) -> None:
        self.database = folder / "graph.db"
        self._folder = folder
        self._log = (folder / "serve.log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, armed: str = "") -> None:
        """`armed`: a failpoint, as RINGQ_FAILPOINT takes it."""
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVE], cwd=self._folder, env={**os.environ, "RINGQ_FAILPOINT": armed},
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
        )  # fmt: skip

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def is_dead(self) -> bool:
        return self.process.poll() is not None

    def workers(self, *, stopped: bool = False) -> list[psutil.Process]:
        """The living ones; or those that stand at a failpoint."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [one for one in psutil.Process(self.process.pid).children() if not stopped or is_stopped(one)]
        return []

    @property
    def is_stopped(self) -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            return is_stopped(psutil.Process(self.process.pid))
        return False

    def kill(self) -> None:
        """SIGKILL to the parent."""
        self.process.kill()
        self.process.wait(WAIT_S)

    def kill_worker(self, rng: random.Random) -> bool:
        """SIGKILL to one of the workers; whether there was one."""
        with contextlib.suppress(psutil.NoSuchProcess, IndexError):
            rng.choice(self.workers()).kill()
            return True
        return False

    def stop(self) -> int:
        """As a user does."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT_S)


class Outside(threading.Thread):
    """Submits a round whenever the last one has ended, and resolves each callback, twice.

    Attributes: `rounds`, submitted; `told`, (task, attempt) -> how its callback was resolved; `complaints`.
    """

    def __init__(self, database: Path, tokens: Path, rng: random.Random) -> None:
        super().__init__(daemon=True)
        self._database, self._tokens, self._rng = database, tokens, rng
        self._seen: set[str] = set()
        self._submits = threading.Lock()
        self._is_over = threading.Event()
        self.wants_more = True
        self.rounds = 0
        self.told: dict[tuple[int, int], str] = {}
        self.complaints: list[str] = []

    def run(self) -> None:
        try:
            with ringq.connect(self._database, reconnect=WAIT_S) as client:
                while not self._is_over.wait(POLL_S):
                    with self._submits:
                        if self.wants_more and (not self.rounds or self.is_done()):
                            client.submit_many(round_of(self.rounds))
                            self.rounds += 1
                    for name in sorted(path.name for path in self._tokens.iterdir()):
                        if not name.startswith((".", "late")) and name not in self._seen:
                            self._resolve(client, name)
        except BaseException as error:
            self.complaints.append(f"the client failed: {error!r}")

    def is_done(self) -> bool:
        """Whether all tasks have ended."""
        with contextlib.closing(sqlite3.connect(f"file:{self._database}?mode=ro", uri=True, timeout=WAIT_S)) as db:
            (left,) = db.execute("SELECT (SELECT COUNT(*) FROM task) - (SELECT COUNT(*) FROM receipt)").fetchone()
            return not left

    def close(self) -> None:
        """No more rounds; there are none under way when it returns."""
        self.wants_more = False
        with self._submits:
            pass

    def finish(self) -> None:
        self._is_over.set()
        self.join(WAIT_S)

    def _resolve(self, client: Any, name: str) -> None:
        mode, task_id, lease = name.split(".")
        token = (self._tokens / name).read_text()
        time.sleep(self._rng.choice([0, 0, 0.02, 0.05]))  # so that some answers find a task that is parked
        answer = (client.complete, int(lease)) if mode == "complete" else (client.fail, "as it must")
        self._seen.add(name)
        try:
            answer[0](token, answer[1])
        except ringq.UnknownCallback:
            return  # that attempt was cut off, else its task will not end
        self.told[int(task_id), int(lease)] = mode
        with contextlib.suppress(ringq.UnknownCallback):
            answer[0](token, answer[1])
            self.complaints.append(f"{name} was resolved twice")


def round_of(number: int) -> list[ringq.Submission[Any]]:
    """One of each scenario."""
    from graph_app import add, broken, double, eager, hurried, late, lenient, one, order, pay, plan, step, strict, tree

    failing = broken.submission()
    refused = strict.submission(1).after(failing)
    return [
        *(tree.submission(2), eager.submission(), plan.submission(), hurried.submission(), step.submission(number, 3)),
        *(pay.submission("complete"), pay.submission("fail"), late.submission(), order.submission()),
        *ringq.chain(one.submission(1), double.submission, double.submission),
        *ringq.gather([one.submission(number) for number in range(4)], then=add.submission),
        *(failing, refused, strict.submission(2).after(refused)),
        lenient.options(on_dependency_failure="ignore").submission(ringq.result_of(failing)),
    ]


def is_stopped(process: psutil.Process) -> bool:
    """Whether it stands at a failpoint."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.status() == psutil.STATUS_STOPPED)
    return False


class Campaign:
    """Kills at steps, on one database. Attributes: `server`; `parents` and `workers` that were killed there."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        tokens = folder / "tokens"
        tokens.mkdir()
        os.environ["RINGQ_TORTURE_LEDGER"], os.environ["RINGQ_TORTURE_TOKENS"] = str(folder / "ledger"), str(tokens)
        os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
        self._rng = rng
        self._ledger = folder / "ledger"
        self.server = Server(folder)
        self._outside = Outside(self.server.database, tokens, rng)
        self._outside.start()
        self.parents = self.workers = 0

    def kill_at(self, step: str, kills: int, *, only_own: bool) -> None:
        """So many of whose step it is and, but for `only_own`, of the others while it stands there.

        Raises NeverPassed.
        """
        is_of_workers = step.startswith(OF_WORKERS)
        if is_of_workers:
            self._kill_workers(step, kills)
        for _ in range(kills):
            if step.startswith("start."):
                self._kill_start(step)
            elif not is_of_workers:
                self._kill_parent(step)
        for _ in range(0 if only_own or step.startswith("start.") else kills):
            if is_of_workers:
                self._kill_parent_of(step)
            else:
                while not self._kill_worker_of(step):
                    pass

    def settle(self) -> Findings:
        """Everything ends in a server that nobody kills; then look."""
        self.server.start()
        self._outside.close()
        try:
            with ringq.connect(self.server.database, reconnect=WAIT_S) as client:
                self._until(lambda: deaths(client) is not None, "a server")
            self._until(self._outside.is_done, "the last round to end")
        except NeverPassed as error:
            self._outside.complaints.append(str(error))
        self._outside.finish()
        code = self.server.stop() if not self.server.is_dead else self.server.process.returncode
        found = check(self.server.database, self._ledger, self._outside.rounds, self._outside.told)
        found.complaints += self._outside.complaints
        found.expect(code == 0, f"the last server ended with exit code {code}")
        return found

    # -- deaths -----------------------------------------------------------------------------------

    def _kill_start(self, step: str) -> None:
        """A parent dies in the midst of a round, its successor as it finds out what was left."""
        self._ledger.touch()
        before = self._ledger.stat().st_size
        self.server.start()
        self._until(lambda: self._ledger.stat().st_size > before, "a handler to begin")
        time.sleep(self._rng.uniform(0.0, 0.3))
        self.server.kill()
        self.server.start(f"{step}=kill")
        self._until(lambda: self.server.is_dead, step)
        self.parents += 1

    def _kill_parent(self, step: str) -> None:
        with self._life(f"{step}=kill:{self._some()}", step) as provoke:
            self._until(lambda: provoke() or self.server.is_dead, step)
            self.parents += 1

    def _kill_worker_of(self, step: str) -> bool:
        """The parent stops there, a worker dies, the parent goes on. False if it came there before it had a worker."""
        with self._life(f"{step}=stop:{self._some()}", step) as provoke:
            self._until(lambda: provoke() or self.server.is_stopped, step)
            is_killed = self.server.kill_worker(self._rng)
            self.workers += is_killed
            self.server.process.send_signal(signal.SIGCONT)
            time.sleep(self._rng.uniform(0.0, 0.3))
        return is_killed

    def _kill_parent_of(self, step: str) -> None:
        """A worker stops there, the parent dies, and with it the worker."""
        with self._life(f"{step}=stop:{self._some()}", step):
            self._until(lambda: self.server.workers(stopped=True), step)
            self.parents += 1

    def _kill_workers(self, step: str, kills: int) -> None:
        """Each dies there at its fourth passing, so that there is time for others between."""
        with self._life(f"{step}=kill:4", step), ringq.connect(self.server.database, reconnect=WAIT_S) as client:
            self._until(lambda: (deaths(client) or 0) >= kills, step)
            self.workers += deaths(client) or 0

    @contextlib.contextmanager
    def _life(self, armed: str, step: str) -> Iterator[Callable[[], None]]:
        """Of one server. Gives what makes it come to a step to which it does not come by itself."""
        self.server.start(armed)

        def provoke() -> None:
            if step == "pool.after_death" and self._rng.random() < 0.05:
                self.server.kill_worker(self._rng)

        yield provoke
        self.server.kill()

    def _some(self) -> int:
        return self._rng.choice([1, 1, 2, 3, 5, 8])

    def _until(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            if time.monotonic() > deadline or not self._outside.is_alive():
                raise NeverPassed(f"waited in vain for {what}")
            time.sleep(POLL_S)


def deaths(client: Any) -> int | None:
    """How many workers of this server have died; None while it does not answer."""
    with contextlib.suppress(ringq.ServerUnavailable):
        return int(client.health()["worker_deaths"])
    return None


def torture(steps: list[str], kills: int, rng: random.Random, *, only_own: bool) -> bool:
    """One campaign, on a database of its own; whether it is clean."""
    folder = Path(tempfile.mkdtemp(prefix="ringq-graph-"))
    campaign = Campaign(folder, rng)
    complaints = []
    try:
        try:
            for step in steps:
                campaign.kill_at(step, kills, only_own=only_own)
        except NeverPassed as error:
            complaints.append(str(error))
        campaign.server.kill()
        found = campaign.settle()
    finally:
        campaign.server.kill()
    complaints += found.complaints
    for complaint in complaints[:20]:
        print(f"complaint: {complaint}")
    print(
        f"{', '.join(steps) if len(steps) < 4 else f'{len(steps)} steps'}: parents killed {campaign.parents}, workers "
        f"{campaign.workers}; {found.tasks} tasks, {found.finalized} finalized, {found.again} calls made again, "
        f"{len(complaints)} complaints",
        flush=True,
    )
    if complaints:
        print(f"kept in {folder}")
    else:
        shutil.rmtree(folder)
    return not complaints


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="how many to kill at each step (default 10)")
    parser.add_argument("--steps", default=",".join(STEPS), help="at which (default: all of them)")
    parser.add_argument("--together", action="store_true", help="on one database, which is looked at once at the end")
    parser.add_argument("--only-own", action="store_true", help="kill only whose step it is")
    parser.add_argument("--seed", type=int, default=None, help="repeat the choices of the campaign with this seed")
    given = parser.parse_args()
    steps = given.steps.split(",")
    if not set(steps) <= set(STEPS):
        parser.error(f"--steps: expected some of {', '.join(STEPS)}")
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(2**32)
    print(f"seed {seed}", flush=True)
    rng = random.Random(seed)
    campaigns = [steps] if given.together else [[step] for step in steps]
    clean = [torture(campaign, given.kills, rng, only_own=given.only_own) for campaign in campaigns]
    return 0 if all(clean) else 1


if __name__ == "__main__":
    sys.exit(main())

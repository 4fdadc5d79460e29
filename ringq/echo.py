"""Flow: what workers print, on its way - shown line by line as it comes, kept per attempt once its end is marked.

One attempt that prints without end costs the loop no more than READS_MAX reads and SHOWN_LINES_MAX lines.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ringq.clock import Clock
from ringq.output import Account, Passage, shown
from ringq.process import Exit, WorkerProcess

READS_MAX = 3  # of one worker at a time; a full pipe is one
SHOWN_LINES_MAX = 1000  # of one worker in WINDOW_NS: 5 us each, so a flood takes half a percent of the loop
WINDOW_NS = 1_000_000_000
LEVELS = {"WARNING": "warning", "ERROR": "error", "CRITICAL": "error"}  # as log records of a worker begin

Attempt = tuple[int, int, int]  # task id, lease, kind number; zeroes: none
Keep = Callable[[int, int, bytes, bytes, int], None]  # task id, lease, first bytes, last bytes, bytes dropped between


@dataclass(slots=True)
class _Window:
    """How many lines of a worker were shown since `began_ns`."""

    began_ns: int = 0
    lines: int = 0
    is_over: bool = False  # some were not


class Echo:
    """Shows with `say` and keeps with `keep` what workers print. `running` says what they run, as the ring does."""

    def __init__(
        self, clock: Clock, *, running: Callable[[], Iterable[tuple[int, ...]]],
        say: Callable[..., None], keep: Keep,
    ) -> None:  # fmt: skip
        self._clock = clock
        self._running = running
        self._say = say
        self._keep = keep
        self._kinds: dict[int, str] = {}
        self._poll = select.poll()
        self._processes: dict[int, tuple[int, WorkerProcess]] = {}  # by the descriptor of their output
        self._windows: dict[int, _Window] = {}

    def learn(self, numbers: Mapping[str, int]) -> None:
        """The numbers of all kinds."""
        self._kinds = {number: name for name, number in numbers.items()}

    def open(self, index: int, process: WorkerProcess) -> None:
        """A worker was started."""
        self._processes[process.output] = index, process
        self._poll.register(process.output, select.POLLIN)

    def hear(self, process: WorkerProcess) -> bool:
        """Take in what a worker has printed; False if nothing can come any more.

        What runs is asked after each read, and another read follows: an attempt that had ended before the question has
        its mark in the pipe by then. So lines without a mark behind them are of the attempt in the answer.
        """
        if process.output not in self._processes:
            return False
        index, _ = self._processes[process.output]
        passages: list[Passage] = []
        attempt: Attempt = (0, 0, 0)
        for _ in range(READS_MAX):
            taken = process.take_output()
            if not taken:
                if taken is None:
                    self.close(process)
                break
            attempt = next(((row[1], row[2], row[3]) for row in self._running() if row[0] == index), (0, 0, 0))
            passages += process.transcript.feed(taken)
        self._pass_on(index, process.epoch, passages, attempt)
        return process.output in self._processes

    def catch_up(self) -> None:
        """Receipts have come: take in what lies in the pipes, so that no attempt is recorded before its output.

        A mark is written before its receipt. One system call for all workers: 0.3 us.
        """
        for descriptor, _ in self._poll.poll(0):
            if descriptor in self._processes:
                self.hear(self._processes[descriptor][1])

    def close(self, process: WorkerProcess) -> None:
        """Nothing comes from this worker any more. Twice is no error."""
        if self._processes.pop(process.output, None):
            self._poll.unregister(process.output)

    def bury(self, index: int, epoch: int, exit_: Exit, attempt: Attempt | None) -> None:
        """A worker has died while it ran `attempt`; None: it ran none."""
        task_id, lease, kind = attempt or (0, 0, 0)
        *passages, last = exit_.passages
        if last.account is not None:
            rest = last.account
            last = Passage(last.lines, Account(task_id, lease, kind, rest.head, rest.tail, rest.dropped_bytes))
        self._pass_on(index, epoch, [*passages, last], (task_id, lease, kind))

    def _pass_on(self, index: int, epoch: int, passages: Iterable[Passage], attempt: Attempt) -> None:
        lines: list[bytes] = []
        for passage in passages:
            lines += passage.lines
            account = passage.account
            if account is None:
                continue
            self._show(index, account.task_id, account.kind, lines)
            lines = []
            # A handler can forge a mark. What it says of another epoch could not have been granted to this worker.
            if account.head and account.lease >> 32 == epoch:
                self._keep(account.task_id, account.lease, account.head, account.tail, account.dropped_bytes)
        self._show(index, attempt[0], attempt[2], lines)

    def _show(self, index: int, task_id: int, kind: int, lines: list[bytes]) -> None:
        if not lines:
            return
        name = self._kinds.get(kind) if task_id else None
        label, fields = f"worker {index}| ", dict[str, Any](worker=index)
        if name is not None:
            label, fields = f"{name}#{task_id}| ", {"worker": index, "kind": name, "task_id": task_id}
        window = self._windows.setdefault(index, _Window())
        now_ns = self._clock.monotonic_ns()
        if now_ns - window.began_ns >= WINDOW_NS:
            window.began_ns, window.lines, window.is_over = now_ns, 0, False
        pieces = (piece for line in lines for piece in shown(line))
        for piece in islice(pieces, max(0, SHOWN_LINES_MAX - window.lines)):
            window.lines += 1
            self._say(piece, level=LEVELS.get(piece.partition(" ")[0], "info"), label=label, printed=True, **fields)
        if next(pieces, None) is not None and not window.is_over:
            window.is_over = True
            hint = f"… more than {SHOWN_LINES_MAX:,} lines a second: not all are shown"
            self._say(hint, label=label, printed=True, **fields)

"""Edge: the types of the compiled ring. Times are nanoseconds of CLOCK_MONOTONIC unless the name says `us`."""

from collections.abc import Sequence
from typing import final

from typing_extensions import Buffer

# (task_id, lease, kind, attempt, status, reason, ended_us, duration_us, worker, cpu_us, rss_kib, result, error)
Row = tuple[int, int, int, int, int, int, int, int, int, int | None, int | None, str | None, str | None]
# (task_id, lease, kind, attempt, worker)
Damaged = tuple[int, int, int, int, int]
# (worker, task_id, lease, kind, attempt, since_ns, fraction, said_ns, message, bytes_done, bytes_total)
Shown = tuple[int, int, int, int, int, int, float | None, int, str, int, int | None]
# (task_id, lease, kind, attempt, worker, call)
Lost = tuple[int, int, int, int, int, int]

INLINE_BYTES_MAX: int
"""Payloads up to this size lie in their slot, larger ones in a block."""
RESULT_INLINE_BYTES_MAX: int
"""Bodies up to this size lie in their slot, larger ones in the worker's result ring."""
LAYOUT_VERSION: int
"""Parent and worker must agree on it."""

class RingDamaged(RuntimeError):
    """The ring's shared memory says something that cannot be true; this process must not go on with it."""

@final
class Parent:
    """The parent's side of the ring: publishes, drains, frees, sweeps. Belongs to one thread at a time.

    It owns a mapping, not the descriptors; after a fork every call raises RuntimeError in the child.
    """

    def __new__(
        cls,
        fd: int,
        size: int,
        *,
        uuid: bytes,
        epoch: int,
        nonce: int,
        slots: int,
        workers: int,
        blocks: Sequence[tuple[int, int]],
        result_ring_bytes: int,
        eventfd: int,
    ) -> Parent:
        """Format a fresh, zeroed segment. Raises ValueError for a shape out of range or a segment in use."""
    def publish(self, tasks: Sequence[tuple[int, int, int, int, str]], first_lease: int) -> int:
        """Publish (task_id, kind, attempt, run_limit_ms, payload) from the front; task i gets first_lease + i.

        Returns how many fitted: no free slot, cell or block ends it. Raises, with nothing published, for a wrong
        row, and ValueError when the first payload is larger than the largest block.
        """
    def drain(self, limit: int) -> tuple[list[Row], list[int], list[Damaged]]:
        """Receipts that are there, at most `limit`: rows, indexes of rows whose body was spilled, damaged ones.

        A peek: they are handed out once, and their slots stay as they are until free(). Out of memory hands out none.
        """
    def free(self) -> int:
        """Free every slot handed out by drain(), sweep() and abandon() since the last free(). Only after COMMIT."""
    def sweep(self, worker: int) -> list[tuple[int, int, int, int, int, bool]]:
        """What a worker held whose death is confirmed: (task_id, lease, kind, attempt, run_limit_ms, started).

        Its published receipts come with the next drain(). Its record may be taken by a new process afterwards.
        """
    def abandon(self) -> list[tuple[int, int, int, int, int, bool]]:
        """When no worker lives any more: all that was published and has no receipt, whatever its word says.

        For replacing a damaged segment; rows as in sweep().
        """
    def revoke_all(self) -> list[tuple[int, int, int, int]]:
        """Take back what no worker has claimed: (task_id, kind, attempt, run_limit_ms), in order of publication."""
    def revoke(self, task_id: int) -> bool | None:
        """Take back one task. True: no worker had claimed it, and none will. None: it is not in the ring.

        False: a worker has claimed it, or its receipt waits for free().
        """
    def scan(self) -> int:
        """Look at every published slot for receipts whose hint was lost; they come with the next drain().

        Returns their number. Also repairs what a scribble did to head and tail, and wakes a worker if a task waits
        beside one that sleeps. Call it a few times a second.
        """
    def running(self) -> list[tuple[int, int, int, int, int, int, int, int]]:
        """What runs now: (worker, task_id, lease, kind, attempt, run_limit_ms, started_ns, call).

        `call` is the index of the call that runs, 0 for a plain task and before the first call. `started_ns` is when
        that call was begun, or the attempt; it may be the next call's, it is never an earlier one's. Both come from
        the worker's memory: check `call` before using it as an index.
        """
    def request_cancel(self, worker: int, lease: int, reason: int, call: int = 0) -> bool:
        """Ask for the end of this call of this attempt (reason 1 to 255); False if it does not run there any more.

        `call`: 0 to 2**56 - 1, as running() has it. True is no promise: the call may end by itself before it looks. But
        no other call and no other attempt ever sees the request.
        """
    def stop_worker(self, worker: int) -> None:
        """Let a worker leave: its claim() returns None and `stopping` is True, until it is swept."""
    def stop_all(self) -> None:
        """stop_worker() for all of them, with one wake-up."""
    def progress(self) -> list[Shown]:
        """What each of the attempts that run now has shown of itself, and nothing that one before it has.

        `since_ns` is when the attempt was begun; for one with calls it may be a quarter of a second later. `fraction`
        is None and `said_ns` 0 as long as it has said none. `bytes_total` is None as long as it is not known.
        """
    def packed_progress(self, task_id: int) -> tuple[bytes, set[int]]:
        """The same of one task, or of all if it is 0, as `ringq.progress.ROW` reads it; and the kinds of these."""
    def heartbeat_ns(self, worker: int) -> int:
        """When a worker was last seen to claim, start, finish or say a fraction; 0: never."""
    def ready(self) -> int:
        """Published and not yet claimed; one that was revoked from among others counts until those before it are."""
    def in_flight(self) -> int:
        """Slots that are not free, including those handed out and not yet freed."""
    def min_task_id(self) -> int | None:
        """The lowest task id in flight."""
    def healthy(self) -> bool:
        """False once the segment shows anything the protocol cannot have caused: replace it."""
    def prepare_sleep(self) -> bool:
        """Ask for a wake-up by the eventfd; False: receipts are there already, do not sleep."""
    def awake(self) -> None:
        """Sleep is over: no wake-up needed, and the eventfd is read empty."""
    def statistics(self) -> dict[str, int]:
        """Counters: published, drained, freed, revoked, swept, found, wakes, damaged, stale, recelled, retired.

        `stale` are hints that led to no new receipt, `recelled` tasks whose cell was lost, `retired` slots given up.
        """

@final
class Worker:
    """A worker's side of the ring. claim(), start(), leave() and finish() belong to one thread at a time."""

    def __new__(cls, fd: int, size: int, *, index: int, uuid: bytes, epoch: int, nonce: int, eventfd: int) -> Worker:
        """Attach to a segment. Raises ValueError naming what does not match, or that the index is taken."""
    def claim(self, timeout_ms: int) -> tuple[int, int, int, int, int, bytes] | None:
        """The next (task_id, lease, kind, attempt, run_limit_ms, payload), or None after the time or when stopping.

        Raises RingDamaged when header or payload fail their CRC: the process must end then.
        """
    def start(self) -> None:
        """The handler is about to be called: from here on this worker's death is this task's attempt."""
    def call(self, index: int) -> None:
        """The next call of the running attempt is about to be made, also after leave(): its time limit begins now.

        `index`: 0 to 2**56 - 1, each one once in an attempt; counted from 1 it differs from 0, "no call yet". The times
        in the receipt stay those of the whole attempt. Raises RuntimeError when nothing is running.
        """
    def leave(self) -> None:
        """The handler has ended: its time is taken, and no cancel is seen until call(). May be called again."""
    def finish(self, status: int, reason: int, body: bytes | None, spilled: bool = False) -> bool:
        """Publish the receipt. False: the body does not fit; write it to a file and call again with spilled=True."""
    def cancel_requested(self) -> int:
        """The reason code requested for the present call of this attempt while its handler runs, else 0."""
    def interrupt(self) -> int:
        """As cancel_requested(), but a request is told once in a call, or in an attempt before its first: then 0."""
    def set_progress(self, lease: int, fraction: float, message: str) -> None:
        """Show how far the attempt of this lease is: clamped to 0..1, the message cut to 63 bytes.

        May come from any thread, as those below; nothing happens if another attempt runs by now.
        """
    def set_bytes(self, lease: int, count: int) -> None:
        """Show how many bytes it has done: 0 to 2**63 - 1."""
    def add_bytes(self, lease: int, count: int) -> None:
        """Show that it has done so many more; the sum ends at 2**63 - 1."""
    def set_total(self, lease: int, count: int) -> None:
        """Show how many bytes it has to do in all: 0 to 2**63 - 1."""
    def unread(self, fd: int, kept: int = ..., /) -> int:
        """Bytes written to the pipe `fd` that its reader has not taken yet.

        -1 if it is not open, or no pipe and not empty; or if `kept`, a descriptor of any kind, is not open.
        """
    @property
    def stopping(self) -> bool:
        """True once the parent wants this worker to leave."""

@final
class Recovery:
    """A read-only look at the segment of a dead parent whose workers are dead too."""

    def __new__(cls, fd: int, size: int, *, uuid: bytes, epoch: int, nonce: int) -> Recovery:
        """Open it. Raises ValueError naming what does not match."""
    def workers(self) -> list[tuple[int, int, int]]:
        """(index, pid, start ticks) of each worker that was attached."""
    def receipts(self) -> tuple[list[Row], list[int], list[Damaged]]:
        """Every published receipt that was not freed, as drain() gives them."""
    def running(self) -> list[Lost]:
        """(task_id, lease, kind, attempt, worker, call) of what was running without a receipt.

        `call` as in Parent.running(); also 0 when the worker had died and been swept before the parent died.
        """

def segment_size(slots: int, workers: int, blocks: Sequence[tuple[int, int]], result_ring_bytes: int) -> int:
    """Bytes of a segment of this shape. Raises ValueError naming what is out of range."""

def watch_parent(pidfd: int) -> None:
    """Start a thread without Python that kills this process when the parent dies.

    SIGKILL goes to the process group if this process leads one. Once in a process; OSError if `pidfd` is none.
    """

def set_death_signal() -> None:
    """SIGKILL this process when the thread that started it ends (PR_SET_PDEATHSIG)."""

def process_start_ticks(pid: int) -> int | None:
    """When a process was started, in clock ticks since boot: with the pid it names a process for the whole uptime."""

def crc32c(data: Buffer, seed: int = 0) -> int:
    """CRC32C (Castagnoli); `seed` is the CRC of what comes before."""

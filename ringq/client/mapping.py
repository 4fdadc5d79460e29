"""Submit and answer: a durable map - calls travel to the workers in chunks, one task each, and come back one by one.

    iterable ─► chunks ─► submit ══► tasks ══► receipts ─► results, in order or as they come
                  ▲                                 │
               pacing ◄──────────── how long calls take

At most so much is under way as keeps the workers busy: the iterable may be endless.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

from ringq import codec, protocol
from ringq.client.follow import Follow
from ringq.client.pacing import Pacing
from ringq.client.source import Source
from ringq.errors import InvalidPayload, InvalidResult, MapMismatch, ProtocolError
from ringq.kinds import Ended, MapCall, Task, failure_of
from ringq.model import Reason, Status

R = TypeVar("R")

BATCH_CHUNKS_MAX = 256  # submitted together: one transaction, and nobody waits for it for long


class Stored(NamedTuple):
    """A chunk that an earlier run of this map has submitted."""

    first: int
    calls: int
    task_id: int
    digest: bytes


class Piece(NamedTuple):
    """Calls under way as one task."""

    first: int
    calls: int
    payload_bytes: int


class MapResults(Iterator[R], Generic[R]):
    """The results of a map, as an iterator that goes on after a call that failed. Made by `Client.map`."""

    def __init__(
        self, source: Source, follow: Follow, *, kind: str | Task[..., R],
        submit: Callable[[bytes, list[str], protocol.Chunks | None], int], pacing: Callable[[], Pacing],
        key: str | None, ordered: bool, raises: bool,
    ) -> None:  # fmt: skip
        self.kind = kind if isinstance(kind, str) else kind.kind
        self._source = source
        self._follow = follow
        self._task = None if isinstance(kind, str) else kind
        self._submit = submit
        self._make_pacing = pacing
        self._pacing: Pacing | None = None
        self._key = key
        self._ordered = ordered
        self._raises = raises
        self._stored: deque[Stored] = deque()  # whose inputs are still to come
        self._next_page = None if key is None else 0  # the call from which on to ask for stored chunks; None: no more
        self._planned: list[tuple[int, int, str]] = []  # (first call, calls, payload), encoded and not yet submitted
        self._submission: bytes | None = None  # the id under which they are sent, until the answer
        self._pieces: dict[int, Piece] = {}
        self._ahead = self._ahead_bytes = 0  # calls that were read and not delivered; bytes of theirs
        # Ended, by the first of them, with the bytes of their results; waiting for their turn.
        self._done: dict[int, tuple[list[MapCall[R]], int]] = {}
        self._turn = 0  # the call to be delivered next
        self._ready: deque[MapCall[R]] = deque()
        self._is_over = False

    def __next__(self) -> R:
        """The next result.

        Raises what the call raised, as TaskFailed or one of its heirs with the traceback of the worker as a note, or
        InvalidPayload for an input that cannot be encoded: the map goes on with the next call. Raises what the
        iterable raised, after the results of everything before, and then StopIteration. Raises MapMismatch,
        ServerUnavailable, StorageFull, ClientClosed: then the same call of `next` may be tried again.
        """
        call = self._ready.popleft() if self._ready else self.next_call()
        if call is None:
            raise StopIteration
        if call.error is None:
            return call.result  # type: ignore[return-value]
        if self._raises:
            raise call.error
        return call.error  # type: ignore[return-value]

    def calls(self) -> Iterator[MapCall[R]]:
        """The calls with their place among the inputs, those that failed too; nothing a call raised is raised."""
        while (call := self.next_call()) is not None:
            yield call

    def next_call(self, timeout: float | None = None) -> MapCall[R] | None:
        """The next call that ended; None at the end, or if none does within about `timeout` seconds.

        `is_over` tells which. Raises as `next` does, but for what calls raised.
        """
        while not self._ready and not self._is_over:
            self._read()
            reads_on = self._is_low() and not self._source.has_ended
            if self._pieces:
                self._collect(self._follow.take(0 if reads_on and not self._source.is_idle else timeout))
            elif self._source.has_ended and not self._planned and not self._ready:
                self._finish()
            if not self._ready and timeout is not None:
                break
        return self._ready.popleft() if self._ready else None

    @property
    def is_over(self) -> bool:
        """Whether all calls of all inputs have been delivered."""
        return self._is_over and not self._ready

    @property
    def read(self) -> int:
        """How many inputs have been read so far."""
        return self._source.index

    def close(self) -> None:
        """Read no more inputs. What was submitted runs all the same; with a key it is found again."""
        self._is_over = True
        self._ready.clear()
        self._follow.close()

    # -- reading ------------------------------------------------------------------------------

    def _under_way(self) -> tuple[int, int, int]:
        return len(self._pieces) + len(self._planned), self._ahead, self._ahead_bytes

    def _is_low(self) -> bool:
        return self._pacing is None or self._pacing.is_low(*self._under_way())

    def _read(self) -> None:
        """Take inputs from the iterable and set them on their way, as far as there is room."""
        if self._pacing is None:
            self._pacing = self._make_pacing()
        self._submit_planned()  # what a server that was away has not taken yet, as it was
        reads_on = self._is_low()
        while reads_on and not self._source.has_ended and len(self._planned) < BATCH_CHUNKS_MAX:
            if not self._pacing.has_room(*self._under_way()):
                break
            stored = self._expected()
            if stored is not None:
                if not self._continue(stored):
                    break
                continue
            first = self._source.index
            wanted = self._pacing.size(self._source.left)
            calls = self._source.read(wanted)
            self._plan(first, calls)
            if len(calls) < wanted:
                break
        self._submit_planned()
        self._deliver()

    def _plan(self, first: int, calls: list[codec.Call | InvalidPayload]) -> None:
        """Encode calls as one chunk; if that fails, halve it until those that cannot be sent stand alone."""
        self._ahead += len(calls)
        halves = [(first, calls)] if calls else []
        while halves:
            start, part = halves.pop()
            try:
                payload = self._encode(part)
                self._planned.append((start, len(part), payload))
                self._ahead_bytes += len(payload)
            except InvalidPayload as error:  # PayloadTooLarge among them
                middle = len(part) // 2
                if middle == 0:
                    self._end(start, [MapCall(start, None, type(error)(f"input {start}: {error}"))])
                else:
                    halves += [(start + middle, part[middle:]), (start, part[:middle])]

    def _encode(self, calls: list[codec.Call | InvalidPayload]) -> str:
        if InvalidPayload in map(type, calls):
            raise next(call for call in calls if isinstance(call, InvalidPayload))
        if self._task is None:
            return codec.encode_calls(self.kind, calls)  # type: ignore[arg-type]
        return self._task.chunks.encode(calls)  # type: ignore[arg-type]

    def _submit_planned(self) -> None:
        if not self._planned:
            return
        planned = self._planned
        chunks = None
        if self._key is not None:
            firsts, counts, payloads = map(list, zip(*planned, strict=True))
            chunks = protocol.Chunks(self._key, firsts, counts, [_digest(payload) for payload in payloads])
        self._submission = self._submission or protocol.submission_id()
        first_id = self._submit(self._submission, [payload for _, _, payload in planned], chunks)
        self._planned, self._submission = [], None
        for task_id, (first, calls, payload) in enumerate(planned, first_id):
            self._pieces[task_id] = Piece(first, calls, len(payload))
        self._follow.add(list(range(first_id, first_id + len(planned))))

    # -- continuing an earlier run ------------------------------------------------------------

    def _expected(self) -> Stored | None:
        """The next stored chunk. What was asked for is kept, so that this may be tried again after an exception."""
        while not self._stored and self._key is not None and self._next_page is not None:
            reply = self._follow.ask(protocol.OpenMap(self.kind, self._key, self._next_page), protocol.MapChunks)
            self._stored.extend(map(Stored, reply.firsts, reply.counts, reply.task_ids, reply.digests))
            self._next_page = reply.firsts[-1] + 1 if reply.more else None
        return self._stored[0] if self._stored else None

    def _continue(self, stored: Stored) -> bool:
        """The inputs of a stored chunk come by again: follow its task. Some before it may have been refused then.

        False if they are not all at hand now.
        """
        first = self._source.index
        if first < stored.first:
            calls = self._source.read(1)
            if calls:
                self._refuse_again(first, calls[0])
            return bool(calls)
        calls = self._source.read(stored.calls, whole=True)
        if len(calls) < stored.calls:
            if self._source.has_ended and self._source.error is None:
                self._mismatch(first + len(calls))
            return False  # if the iterable raised, that is what is told; this chunk is found the next time
        try:
            payload = self._encode(calls)
        except InvalidPayload:
            self._mismatch(first)
        if _digest(payload) != stored.digest:
            self._mismatch(first)
        self._pieces[stored.task_id] = Piece(first, stored.calls, len(payload))
        self._ahead += stored.calls
        self._ahead_bytes += len(payload)
        self._follow.add([stored.task_id])
        self._stored.popleft()
        return True

    def _refuse_again(self, index: int, call: codec.Call | InvalidPayload) -> None:
        """An input that no stored chunk has can only be one that could not be encoded then."""
        try:
            self._encode([call])
        except InvalidPayload as error:
            self._ahead += 1
            self._end(index, [MapCall(index, None, error)])
        else:
            self._mismatch(index)

    def _mismatch(self, first: int) -> NoReturn:
        raise MapMismatch(
            f"{self.kind}: the key {self._key!r} was used for other inputs (they differ from number {first} on, or in "
            "the chunk that begins there): give the old inputs, use another key, or let the map start over"
        )

    # -- results ------------------------------------------------------------------------------

    def _collect(self, ends: list[Ended]) -> None:
        for ended in ends:
            piece = self._pieces.pop(ended.task_id)
            self._ahead_bytes -= piece.payload_bytes
            if ended.status is Status.COMPLETED:
                self._account(ended, piece, codec.read_account(ended.result or ""), len(ended.result or ""))
            elif ended.reason is Reason.SPLIT:
                text = codec.encode_json(ended.error).decode()
                self._account(ended, piece, codec.read_account(text), len(text))
            else:
                calls = [
                    MapCall[R](index, None, failure_of(self.kind, ended, index))
                    for index in range(piece.first, piece.first + piece.calls)
                ]
                self._end(piece.first, calls)
        self._deliver()

    def _account(self, ended: Ended, piece: Piece, account: codec.Account, bytes_: int) -> None:
        """Take in the calls that ended; the others go on as other tasks."""
        told = piece.calls - sum(calls for _, _, calls in account.parts)
        results = codec.read_results(account, self._task.results if self._task else None)
        if len(results) + len(account.errors) != told:
            raise ProtocolError(f"the receipt of task {ended.task_id} does not tell of its {told} calls")
        if told:
            assert self._pacing is not None
            self._pacing.learn(told, account.us / 1e6, max(bytes_, piece.payload_bytes))
            self._end(piece.first, self._calls(ended.task_id, piece.first, results, account.errors), bytes_)
        for task_id, first, calls in account.parts:
            self._pieces[task_id] = Piece(piece.first + first, calls, 0)
        self._follow.add([task_id for task_id, _, _ in account.parts])

    def _calls(
        self, task_id: int, first: int, results: list[Any], failures: dict[int, codec.Failure]
    ) -> list[MapCall[R]]:
        """Results and failures in the order of the calls."""
        calls: list[MapCall[R]]
        if not failures:  # MapCall[R](...) would take ten times as long
            calls = list(map(MapCall, count(first), results))
        else:
            values = iter(results)
            calls = []
            for place in range(len(results) + len(failures)):
                failure = failures.get(place)
                if failure is None:
                    calls.append(MapCall(first + place, next(values)))
                else:
                    error = codec.decode_json(bytes(failure.error), dict[str, Any])
                    ended = Ended(task_id, Status.FAILED, failure.reason, None, error)
                    calls.append(MapCall(first + place, None, failure_of(self.kind, ended, first + place)))
        if self._task is not None and InvalidResult in map(type, results):
            calls = [MapCall(c.index, None, c.result) if isinstance(c.result, InvalidResult) else c for c in calls]
        return calls

    def _end(self, first: int, calls: list[MapCall[R]], bytes_: int = 0) -> None:
        """Calls have ended, with results of so many bytes."""
        if self._ordered:
            self._done[first] = calls, bytes_
            self._ahead_bytes += bytes_  # while one before them takes long, they must not fill the memory
        else:
            self._hand_out(calls)

    def _deliver(self) -> None:
        """Hand out what has its turn."""
        while (done := self._done.pop(self._turn, None)) is not None:
            calls, bytes_ = done
            self._ahead_bytes -= bytes_
            self._hand_out(calls)

    def _hand_out(self, calls: list[MapCall[R]]) -> None:
        self._ready.extend(calls)
        self._turn += len(calls)
        self._ahead -= len(calls)

    def _finish(self) -> None:
        """All calls have ended, unless the iterable raised, or an earlier run knew of more."""
        is_short = self._source.error is None and self._expected() is not None
        self._is_over = True
        self._follow.close()
        if self._source.error is not None:
            raise self._source.error
        if is_short:
            self._mismatch(self._source.index)


def _digest(payload: str) -> bytes:
    return hashlib.blake2b(payload.encode(), digest_size=protocol.DIGEST_BYTES).digest()

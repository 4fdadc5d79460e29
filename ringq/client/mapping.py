"""Submit and answer: a durable map - calls travel to the workers in chunks, one task each, and come back one by one.

    iterable ─► chunks ─► submit ══► tasks ══► receipts ─► results, in order or as they come
                  ▲                                 │
               pacing ◄──────────── how long calls take

At most so much is under way as keeps the workers busy: the iterable may be endless.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Awaitable, Callable
from operator import attrgetter
from typing import Final, Generic, TypeVar

from ringq import codec, protocol
from ringq.client import receipt
from ringq.client.follow import Follow
from ringq.client.pacing import Pacing
from ringq.client.progress import Piece, Progress, Stored
from ringq.client.source import Source
from ringq.errors import InvalidPayload, MapMismatch
from ringq.kinds import Ended, MapCall, Task

R = TypeVar("R")

BATCH_CHUNKS_MAX = 256  # submitted together: one transaction, and nobody waits for it for long
_first: Final = attrgetter("first")


class Course(Generic[R]):
    """A map on its way, whoever waits for its results: what stands here are the steps that `advance` takes."""

    def __init__(
        self, source: Source, follow: Follow, *, kind: str | Task[..., R],
        submit: Callable[[bytes, list[str], protocol.Chunks | None], Awaitable[int]],
        pacing: Callable[[], Awaitable[Pacing]],
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
        self._raises = raises
        self._page: tuple[list[Stored], int | None] = (
            [],
            None if key is None else 0,
        )  # and from where on to ask for more
        self._at: Progress[R] = Progress(ordered)
        self._is_over = False
        self._is_torn = False  # while true, what the server has said may be lost: see _advance

    @property
    def is_over(self) -> bool:
        """Whether all calls of all inputs have been delivered."""
        return self._is_over and not self._at.ready

    @property
    def read(self) -> int:
        """How many inputs have been read so far."""
        return self._source.read

    def close(self) -> None:
        """Read no more inputs. What was submitted runs all the same; with a key it is found again."""
        self._is_over = True
        self._at.ready.clear()
        self._source.close()
        self._follow.close()

    def __repr__(self) -> str:
        state = "over" if self.is_over else f"{self._at.turn - len(self._at.ready):,} delivered"
        return f"<map of {self.kind}: {self.read:,} read, {state}>"

    async def _advance(self, timeout: float | None) -> None:
        """Go on until a call is ready, all is over, or `timeout` is.

        Progress is made by replacing `_at`, before or after which an exception may strike, and reading and submitting
        may be repeated. What the server has said is asked for again, unless all came to its end.
        """
        if self._is_torn:
            self._follow.restart(self._at.pieces)
        self._is_torn = True
        while not self._at.ready and not self._is_over:
            reads_on = False
            if not (self._follow.is_away and self._at.pieces):  # submitting would wait for the server, and longer
                await self._read()
                reads_on = self._is_low() and not self._source.has_ended(self._at.read)
            if self._at.pieces:
                soon = self._at.can_deliver or (reads_on and not self._source.is_idle)
                self._collect(await self._follow.take(0 if soon else timeout))
            elif self._at.can_deliver:
                self._collect([])
            elif self._source.has_ended(self._at.read) and not self._at.planned:
                await self._finish()
            elif self._source.is_idle and timeout is None:
                await self._source.arrival()
            if timeout is not None:
                break
        self._is_torn = False

    # -- reading ------------------------------------------------------------------------------

    def _is_low(self) -> bool:
        return self._pacing is None or self._pacing.is_low(*self._at.under_way)

    async def _read(self) -> None:
        """Take inputs from the iterable and set them on their way, as far as there is room."""
        pacing = self._pacing = self._pacing or await self._make_pacing()
        await self._submit_planned()  # what a server that was away has not taken yet, as it was
        if not self._is_low() or self._source.has_ended(self._at.read):
            return
        at, followed = self._at.copy(), list[int]()
        while not self._source.has_ended(at.read) and len(at.planned) < BATCH_CHUNKS_MAX:
            if not pacing.has_room(*at.under_way):
                break
            stored = await self._expected(at.read)
            if stored is not None:
                await self._source.gather(max(1, stored.calls))
                if not self._continue(at, stored, followed):
                    break
                continue
            wanted = pacing.size(self._source.left(at.read))
            await self._source.gather(wanted)
            calls = self._source.take(at.read, wanted)
            self._plan(at, calls)
            if len(calls) < wanted:
                break
        at.submission = protocol.submission_id()
        self._at = at
        self._source.let_go(at.read)
        self._follow.add(followed)
        await self._submit_planned()

    def _plan(self, at: Progress[R], calls: list[codec.Call | InvalidPayload]) -> None:
        """Encode calls as one chunk; if that fails, halve it until those that cannot be sent stand alone."""
        halves = [(at.read, calls)] if calls else []
        at.read += len(calls)
        while halves:
            start, part = halves.pop()
            try:
                at.plan(start, len(part), self._encode(part))
            except InvalidPayload as error:  # PayloadTooLarge among them
                middle = len(part) // 2
                if middle == 0:
                    at.end(start, [MapCall(start, None, type(error)(f"input {start}: {error}"))])
                else:
                    halves += [(start + middle, part[middle:]), (start, part[:middle])]

    def _encode(self, calls: list[codec.Call | InvalidPayload]) -> str:
        if InvalidPayload in map(type, calls):
            raise next(call for call in calls if isinstance(call, InvalidPayload))
        if self._task is None:
            return codec.encode_calls(self.kind, calls)  # type: ignore[arg-type]
        return self._task.chunks.encode(calls)  # type: ignore[arg-type]

    async def _submit_planned(self) -> None:
        planned, submission = self._at.planned, self._at.submission
        if not planned or submission is None:
            return
        chunks = None
        if self._key is not None:
            firsts, counts, payloads = map(list, zip(*planned, strict=True))
            chunks = protocol.Chunks(self._key, firsts, counts, [_digest(payload) for payload in payloads])
        first_id = await self._submit(submission, [payload for _, _, payload in planned], chunks)
        at = self._at.copy()
        task_ids = at.submitted(first_id)
        self._at = at
        self._follow.add(task_ids)

    # -- continuing an earlier run ------------------------------------------------------------

    async def _expected(self, first: int) -> Stored | None:
        """The next stored chunk, from this call on."""
        while True:
            page, next_page = self._page
            place = bisect.bisect_left(page, first, key=_first)
            if place < len(page):
                return page[place]
            if self._key is None or next_page is None:
                return None
            reply = await self._follow.ask(protocol.OpenMap(self.kind, self._key, next_page), protocol.MapChunks)
            page = list(map(Stored, reply.firsts, reply.counts, reply.task_ids, reply.digests))
            self._page = page, reply.firsts[-1] + 1 if reply.more else None

    def _continue(self, at: Progress[R], stored: Stored, followed: list[int]) -> bool:
        """The inputs of a stored chunk come by again: follow its task. Some before it may have been refused then.

        False if they are not all at hand now.
        """
        if at.read < stored.first:
            calls = self._source.take(at.read, 1)
            if calls:
                self._refuse_again(at, calls[0])
            return bool(calls)
        calls = self._source.take(at.read, stored.calls, whole=True)
        if len(calls) < stored.calls:
            if self._source.has_ended(at.read + len(calls)) and self._source.error is None:
                raise self._mismatch(at.read + len(calls))
            return False  # if the iterable raised, that is what is told; this chunk is found the next time
        try:
            payload = self._encode(calls)
        except InvalidPayload:
            raise self._mismatch(at.read) from None
        if _digest(payload) != stored.digest:
            raise self._mismatch(at.read)
        at.follow(stored.task_id, Piece(at.read, stored.calls, len(payload)))
        at.read += stored.calls
        followed.append(stored.task_id)
        return True

    def _refuse_again(self, at: Progress[R], call: codec.Call | InvalidPayload) -> None:
        """An input that no stored chunk has can only be one that could not be encoded then."""
        try:
            self._encode([call])
        except InvalidPayload as error:
            at.end(at.read, [MapCall(at.read, None, type(error)(f"input {at.read}: {error}"))])
            at.read += 1
        else:
            raise self._mismatch(at.read)

    def _mismatch(self, first: int) -> MapMismatch:
        return MapMismatch(
            f"{self.kind}: the key {self._key!r} was used for other inputs (they differ from number {first} on, or in "
            "the chunk that begins there): give the old inputs, use another key, or let the map start over by "
            f"client.forget_map({self.kind!r}, {self._key!r})"
        )

    # -- results ------------------------------------------------------------------------------

    def _collect(self, ends: list[Ended]) -> None:
        """Take in calls that ended, hand out those that have their turn."""
        at, followed = self._at.copy(), list[int]()
        for ended in ends:
            piece = at.leave(ended.task_id)
            told = receipt.read(self.kind, ended, piece, self._task.results if self._task else None)
            if told.calls:
                assert self._pacing is not None
                self._pacing.learn(len(told.calls), told.us / 1e6, max(told.bytes, piece.payload_bytes))
                at.end(piece.first, told.calls, told.bytes)
            for task_id, first, calls in told.parts:
                at.follow(task_id, Piece(piece.first + first, calls, 0))
                followed.append(task_id)
        at.deliver()
        self._at = at
        self._follow.add(followed)

    async def _finish(self) -> None:
        """All calls have ended, unless the iterable raised, or an earlier run knew of more."""
        error: BaseException | None = self._source.error
        if error is None and await self._expected(self._at.read) is not None:
            error = self._mismatch(self._at.read)
        self._follow.close()
        self._is_over = True
        if error is not None:
            raise error


def _digest(payload: str) -> bytes:
    return hashlib.blake2b(payload.encode(), digest_size=protocol.DIGEST_BYTES).digest()

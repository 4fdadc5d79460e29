"""Submit and answer: the frames on the Unix socket between a client and the server.

A frame is a 12-byte header and a body. The header, little-endian: body bytes (u32), protocol version (u8),
message type (u8), zero (u16), request id (u32). The body is the msgpack of one of the messages below, as an
array. A reply carries the request id of its request. Submissions travel column by column, their payloads as
finished JSON text: the server never parses a payload.
"""

from __future__ import annotations

import inspect
import os
import struct
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Annotated, Any, Final, get_args

import msgspec

from ringq import errors
from ringq.config import FRAME_BYTES_MAX, NAME_CHARS_MAX
from ringq.errors import BatchTooLarge, InvalidSubmission, ProtocolError, RingqError

VERSION: Final = 1
HEADER: Final = struct.Struct("<IBBHI")
SUBMISSION_ID_BYTES: Final = 16
DIGEST_BYTES: Final = 16
CHUNKS_MAX: Final = 10_000
"""How many chunks of a map one frame tells of."""
WAIT_IDS_MAX: Final = 10_000
"""How many ids one Wait may ask for; more are asked for with more frames."""
ENDS_MAX: Final = 1000
"""How many ends one frame tells of."""
ENDS_BYTES_MAX: Final = 256 * 1024
"""How many bytes of results a frame gathers; a larger one travels alone."""
_REQUEST_ID_MASK: Final = 0xFFFF_FFFF
_MESSAGE_CHARS_MAX: Final = 4000
# A column that announces more is refused before any of it is decoded: one byte on the wire may be fifty in memory.
_COLUMN: Final = msgspec.Meta(max_length=1 << 18)


class SpecFields(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What tasks of one submission share. None: not given here, so kind, domain, queue or server decide."""

    kind: str
    queue: str | None = None
    priority: int | None = None
    group: str | None = None
    run_timeout_ms: int | None = None


class Chunks(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Which calls of a map with a key the tasks of one submission carry; a column entry per task."""

    key: str
    firsts: Annotated[list[int], _COLUMN]  # index of the first call in the map
    counts: Annotated[list[int], _COLUMN]  # calls in the chunk
    digests: Annotated[list[bytes], _COLUMN]  # of the payloads, DIGEST_BYTES each


class Submit(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Store these tasks, all or none. A `submission` id seen before answers with the ids given then."""

    submission: bytes
    specs: Annotated[list[SpecFields], _COLUMN]
    spec_of: Annotated[list[int], _COLUMN] | None  # one index into specs per task; None: specs[0] for all
    payloads: Annotated[list[str], _COLUMN]
    run_at_us: Annotated[list[int | None], _COLUMN] | None  # one instant per task; None: all at once
    chunks: Chunks | None = None  # these tasks carry calls of a map that may be continued


class Submitted(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The tasks are committed; their ids are first_id .. first_id + count - 1, in order."""

    first_id: int
    count: int
    replayed: bool


class Wait(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Tell when these tasks have ended: inclusive ranges of ids, at most WAIT_IDS_MAX ids in all."""

    ranges: Annotated[list[tuple[int, int]], _COLUMN]


class Ended(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Some of the tasks waited for have ended. Columns; status and reason are the codes of `model`."""

    task_ids: list[int]
    statuses: list[int]
    reasons: list[int]
    results: list[str | None]  # JSON text
    errors: list[str | None]  # JSON text


class OpenMap(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Continue the map of this kind and key: it belongs to this connection until that closes.

    Asks for the chunks whose first call is `first` or later.
    """

    kind: str
    key: str
    first: int = 0


class MapChunks(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What a map has stored, in order, from where it was asked. Columns; at most CHUNKS_MAX, `more` may follow."""

    firsts: list[int]
    counts: list[int]
    task_ids: list[int]
    digests: list[bytes]
    more: bool


class ForgetMap(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Let a map start over the next time. Its tasks stay in history."""

    kind: str
    key: str


class MapForgotten(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The map is forgotten; `count` of chunks it had, 0 if there was none."""

    count: int


class Health(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Ask how the server is."""


class HealthReply(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """How the server is, as JSON text."""

    body: str


class Failure(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The request was refused: `code` is the name of a class in `ringq.errors`."""

    code: str
    message: str


Request = Submit | Wait | Health | OpenMap | ForgetMap
Reply = Submitted | Ended | HealthReply | MapChunks | MapForgotten | Failure
Message = Request | Reply

_TYPE_OF: dict[type, int] = {
    **{Submit: 1, Wait: 2, Health: 3, OpenMap: 4, ForgetMap: 5},
    **{Submitted: 65, Ended: 66, HealthReply: 67, MapChunks: 68, MapForgotten: 69, Failure: 127},
}
_CLASS_OF: dict[int, type] = {code: message for message, code in _TYPE_OF.items()}
_DECODERS: dict[int, msgspec.msgpack.Decoder[Message]] = {
    code: msgspec.msgpack.Decoder(message) for message, code in _TYPE_OF.items()
}
_ENCODER = msgspec.msgpack.Encoder()

REQUESTS: Final[frozenset[type]] = frozenset(get_args(Request))
REPLIES: Final[frozenset[type]] = frozenset(get_args(Reply))


class Frame(msgspec.Struct, frozen=True):
    """One message as it arrived."""

    request_id: int
    message: Message


def pack(message: Message, request_id: int) -> bytes:
    """The frame of a message. Raises BatchTooLarge if its body is over FRAME_BYTES_MAX bytes.

    `request_id` is reduced to 32 bits.
    """
    body = _ENCODER.encode(message)
    size = len(body)
    if size > FRAME_BYTES_MAX:
        raise BatchTooLarge(f"the request has {size:,} bytes, the limit is {FRAME_BYTES_MAX:,}: send several")
    return HEADER.pack(size, VERSION, _TYPE_OF[type(message)], 0, request_id & _REQUEST_ID_MASK) + body


def unpack(message_type: int, body: bytes | bytearray | memoryview) -> Message:
    """The message in a body. Raises ProtocolError for an unknown type or a malformed body."""
    decoder = _DECODERS.get(message_type)
    if decoder is None:
        raise ProtocolError(f"unknown message type {message_type}")
    try:
        return decoder.decode(body)
    except (ValueError, RecursionError, MemoryError) as error:
        name = _CLASS_OF[message_type].__name__
        raise ProtocolError(f"malformed {name}: {error}") from None


class FrameReader:
    """Cuts a byte stream into frames, however it was split on the way.

    Memory is bounded by what has really arrived, never by the size a header announces.
    """

    def __init__(self, accept: frozenset[type] = REQUESTS | REPLIES, *, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        """`accept`: the messages this side may receive, REQUESTS or REPLIES."""
        self._types = frozenset(_TYPE_OF[message] for message in accept)
        self._frame_bytes_max = frame_bytes_max
        self._buffer = bytearray()

    @property
    def pending_bytes(self) -> int:
        """Bytes of the incomplete frame at the end; 0 between two frames."""
        return len(self._buffer)

    def single(self, chunk: bytes | bytearray | memoryview) -> Frame | None:
        """The frame, if this chunk is exactly one, it is right, and nothing is pending; else None: then `feed` it.

        A reply mostly comes so, and takes a third of the time of `feed`.
        """
        if self._buffer or len(chunk) < HEADER.size:
            return None
        size, version, message_type, zero, request_id = HEADER.unpack_from(chunk)
        if size != len(chunk) - HEADER.size or version != VERSION or zero or message_type not in self._types:
            return None
        try:
            return Frame(request_id, _DECODERS[message_type].decode(chunk[HEADER.size :]))
        except (ValueError, RecursionError, MemoryError):
            return None

    def feed(self, chunk: bytes | bytearray | memoryview) -> Iterator[Frame]:
        """Take bytes; iterate over the frames they complete.

        The bytes are kept even if the iterator is not consumed; the next `feed` goes on from there. Iterating
        raises ProtocolError, after the good frames before it, for a wrong version, type, size or body: the
        stream has no meaning from there on, so close the connection.
        """
        self._buffer += chunk
        return self._frames()

    def _frames(self) -> Iterator[Frame]:
        buffer = self._buffer
        while len(buffer) >= HEADER.size:
            size, version, message_type, zero, request_id = HEADER.unpack_from(buffer)
            self._check(size, version, message_type, zero)
            end = HEADER.size + size
            if len(buffer) < end:
                return
            with memoryview(buffer) as view, view[HEADER.size : end] as body:
                message = unpack(message_type, body)
            del buffer[:end]
            yield Frame(request_id, message)

    def _check(self, size: int, version: int, message_type: int, zero: int) -> None:
        if version != VERSION or zero != 0:
            raise ProtocolError(f"the other side speaks protocol version {version}, this one {VERSION}")
        if message_type not in self._types:
            raise ProtocolError(f"unexpected message type {message_type}")
        if size > self._frame_bytes_max:
            raise ProtocolError(f"a frame of {size:,} bytes is over the limit of {self._frame_bytes_max:,}")


def check_wait(wait: Wait) -> int:
    """How many ids are asked for.

    Raises InvalidSubmission for a range that is none, or more than WAIT_IDS_MAX ids.
    """
    count = 0
    for first, last in wait.ranges:
        if not 0 < first <= last < 2**63:
            raise InvalidSubmission(f"no range of task ids: {first} to {last}")
        count += last - first + 1
    if count > WAIT_IDS_MAX:
        raise InvalidSubmission(f"{count:,} ids in one request, the limit is {WAIT_IDS_MAX:,}: send several")
    return count


def check_map_key(key: str) -> None:
    """Raises InvalidSubmission for what can be no key of a map."""
    if not 0 < len(key) <= NAME_CHARS_MAX or not key.isprintable():
        raise InvalidSubmission(f"key: expected 1 to {NAME_CHARS_MAX} printable characters, got {key[:50]!r}")


def pieces(rows: Sequence[tuple[Any, ...]]) -> Iterator[Sequence[tuple[Any, ...]]]:
    """Ends of tasks, given as (task id, status, reason, result, error), in as many parts as they need frames."""
    start = size = 0
    for index, row in enumerate(rows, 1):
        size += len(row[3] or "") + len(row[4] or "")
        if size >= ENDS_BYTES_MAX or index - start >= ENDS_MAX:
            yield rows[start:index]
            start, size = index, 0
    if start < len(rows):
        yield rows[start:]


def ended(rows: Sequence[tuple[Any, ...]]) -> Ended:
    """The message that tells of these ends, at least one."""
    ids, statuses, reasons, results, failures = map(list, zip(*rows, strict=True))
    return Ended(ids, statuses, reasons, results, failures)


def id_ranges(task_ids: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending ids as inclusive ranges, contiguous ones joined."""
    if not task_ids:
        return []
    if task_ids[-1] - task_ids[0] == len(task_ids) - 1:  # as nearly always
        return [(task_ids[0], task_ids[-1])]
    breaks = [(left, right) for left, right in pairwise(task_ids) if right != left + 1]
    firsts = [task_ids[0], *(right for _, right in breaks)]
    lasts = [*(left for left, _ in breaks), task_ids[-1]]
    return list(zip(firsts, lasts, strict=True))


def submission_id() -> bytes:
    """A new 16-byte id, ordered by time: 6 bytes of Unix milliseconds, 10 random ones."""
    return (time.time_ns() // 1_000_000).to_bytes(6, "big") + os.urandom(10)


def failure_of(error: BaseException) -> Failure:
    """The reply that tells a client of an error; what is not a RingqError is an internal error to it."""
    if isinstance(error, RingqError) and _error_class(type(error).__name__) is not None:
        return Failure(type(error).__name__, _sendable(str(error)))
    return Failure("RingqError", _sendable(f"internal error: {type(error).__name__}: {error}"))


def error_of(reply: Failure) -> RingqError:
    """The exception a Failure stands for; an unknown code becomes a plain RingqError that names it."""
    error_class = _error_class(reply.code)
    if error_class is None:
        return RingqError(f"{reply.code}: {reply.message}")
    return error_class(reply.message)


def _error_class(code: str) -> type[RingqError] | None:
    found = getattr(errors, code, None)
    if not inspect.isclass(found) or not issubclass(found, RingqError) or issubclass(found, errors.TaskFailed):
        return None  # TaskFailed and its heirs tell of a task, never of a request
    return found


def _sendable(text: str) -> str:
    return text[:_MESSAGE_CHARS_MAX].encode(errors="replace").decode()

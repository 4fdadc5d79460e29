"""Submit and answer: the frames on the Unix socket between a client and the server.

A frame is a 12-byte header and a body. The header, little-endian: body bytes (u32), protocol version (u8),
message type (u8), zero (u16), request id (u32). The body is the msgpack of one of the messages, as an array. A reply
carries the request id of its request. Submissions travel column by column, their payloads as finished JSON text: the
server never parses a payload.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, get_args

import msgspec

from ringq.config import FRAME_BYTES_MAX
from ringq.errors import BatchTooLarge, ProtocolError
from ringq.protocol.asking import (
    Events,
    Family,
    FamilyReply,
    Health,
    HealthReply,
    Progress,
    ProgressReply,
    Subscribe,
    Why,
    WhyReply,
)
from ringq.protocol.callbacks import ExtendCallback, OpenCallback, ResolveCallback
from ringq.protocol.messages import (
    Acquire,
    Cancel,
    Cancelled,
    Changed,
    ChangeSchedule,
    Ended,
    Failure,
    ForgetMap,
    Granted,
    HoldRate,
    MapChunks,
    MapForgotten,
    Message,
    OpenMap,
    PurgeDead,
    PutSchedule,
    Reply,
    Request,
    RetryDead,
    RunSchedule,
    SetControl,
    SetPause,
    SetQueue,
    SetRate,
    Submit,
    Submitted,
    Wait,
)

VERSION: Final = 1
HEADER: Final = struct.Struct("<IBBHI")
_REQUEST_ID_MASK: Final = 0xFFFF_FFFF

_TYPE_OF: dict[type, int] = {
    **{Submit: 1, Wait: 2, Health: 3, OpenMap: 4, ForgetMap: 5, RetryDead: 6, PurgeDead: 7, SetQueue: 8, Cancel: 9},
    **{PutSchedule: 20, ChangeSchedule: 21, RunSchedule: 22, SetPause: 30, SetControl: 31},
    **{SetRate: 40, HoldRate: 41, Acquire: 42, Granted: 90, Why: 50, WhyReply: 91, Family: 51, FamilyReply: 92},
    **{OpenCallback: 54, ResolveCallback: 55, ExtendCallback: 56, Subscribe: 52, Events: 93},
    **{Progress: 53, ProgressReply: 94},
    **{Submitted: 65, Ended: 66, HealthReply: 67, MapChunks: 68, MapForgotten: 69, Changed: 70, Cancelled: 71},
    Failure: 127,
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

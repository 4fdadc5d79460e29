"""Frames: any split of a stream gives the same frames, and no bytes do worse than a ProtocolError."""

from __future__ import annotations

import contextlib
import itertools
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringq import errors, protocol
from ringq.config import FRAME_BYTES_MAX

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
optional = st.none() | st.integers(0, 2**31)
specs = st.builds(protocol.SpecFields, text, st.none() | text, optional, st.none() | text, optional)
ids = st.lists(st.integers(1, 2**63 - 1), max_size=5)
messages = st.one_of(
    st.builds(
        protocol.Submit,
        st.binary(min_size=16, max_size=16),
        st.lists(specs, max_size=3),
        st.none() | st.lists(st.integers(0, 9), max_size=5),
        st.lists(text, max_size=5),
        st.none() | st.lists(optional, max_size=5),
    ),
    st.builds(protocol.Submitted, st.integers(1, 2**62), st.integers(1, 10**6), st.booleans()),
    st.builds(protocol.Wait, st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=4)),
    st.builds(protocol.Ended, ids, ids, ids, st.lists(st.none() | text), st.lists(st.none() | text)),
    st.just(protocol.Health()),
    st.builds(protocol.Family, st.integers(1, 2**62)),
    st.builds(protocol.FamilyReply, st.none() | st.integers(1, 9), ids, ids, st.none() | text),
    st.builds(protocol.HealthReply, text),
    st.builds(protocol.Failure, text, text),
    st.builds(protocol.SetPause, st.sampled_from(["server", "group"]), text, st.booleans(), optional),
    st.builds(protocol.SetControl, st.sampled_from(["kind", "group"]), text, st.dictionaries(text, optional)),
)


def read(stream: bytes, cuts: list[int]) -> list[protocol.Frame]:
    reader = protocol.FrameReader()
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    found = [frame for start, end in itertools.pairwise(edges) for frame in reader.feed(stream[start:end])]
    assert reader.pending_bytes == 0
    return found


@given(st.lists(st.tuples(messages, st.integers(0, 2**32 - 1)), max_size=6), st.lists(st.integers(0, 10**6)))
def test_any_split_of_a_stream_gives_the_same_frames(sent: list[tuple[protocol.Message, int]], cuts: list[int]) -> None:
    stream = b"".join(protocol.pack(message, request) for message, request in sent)
    assert read(stream, cuts) == [protocol.Frame(request, message) for message, request in sent]


@given(st.binary(max_size=200), st.integers(1, 20))
def test_random_bytes_raise_nothing_but_protocol_error(stream: bytes, step: int) -> None:
    reader = protocol.FrameReader()
    with contextlib.suppress(errors.ProtocolError):
        for start in range(0, len(stream), step):
            list(reader.feed(stream[start : start + step]))


@given(
    messages,
    st.binary(max_size=100),
    st.sampled_from([1, 2, 3, 30, 31, 51, 65, 66, 67, 92, 127]),
    st.integers(0, 10**6),
)
def test_damaged_bodies_raise_nothing_but_protocol_error(
    message: protocol.Message, noise: bytes, kind: int, at: int
) -> None:
    body = bytearray(protocol.pack(message, 1)[protocol.HEADER.size :])
    at %= len(body) + 1
    body[at : at + len(noise)] = noise
    frame = protocol.HEADER.pack(len(body), protocol.VERSION, kind, 0, 1) + body
    with contextlib.suppress(errors.ProtocolError):
        list(protocol.FrameReader().feed(frame))


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        ((0, 2, 3, 0, 1), "version 2"),
        ((0, 1, 3, 1, 1), "version"),
        ((0, 1, 200, 0, 1), "type 200"),
        ((0, 1, 66, 0, 1), "type 66"),  # a reply where requests are read
        ((FRAME_BYTES_MAX + 1, 1, 3, 0, 1), "limit"),
    ],
)
def test_a_bad_header_is_refused_before_its_body_arrives(
    header: tuple[int, int, int, int, int], complaint: str
) -> None:
    reader = protocol.FrameReader(protocol.REQUESTS)
    with pytest.raises(errors.ProtocolError, match=complaint):
        list(reader.feed(protocol.HEADER.pack(*header)))


def test_good_frames_before_a_bad_one_are_given() -> None:
    good = protocol.pack(protocol.Health(), 5)
    frames = protocol.FrameReader().feed(good + b"\xff" * 12)
    assert next(frames) == protocol.Frame(5, protocol.Health())
    with pytest.raises(errors.ProtocolError):
        next(frames)


def test_an_announced_size_allocates_nothing() -> None:
    reader = protocol.FrameReader()
    tracemalloc.start()
    list(reader.feed(protocol.HEADER.pack(FRAME_BYTES_MAX, 1, 1, 0, 1) + b"\x95"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize("body", [b"\xdd\xff\xff\xff\xff", b"\x95\xc4\x10", b"\x91" * 100_000, b"\xa1\xff", b""])
def test_bodies_that_announce_more_than_they_have(body: bytes) -> None:
    started = time.monotonic()
    with pytest.raises(errors.ProtocolError):
        protocol.unpack(1, body)
    assert time.monotonic() - started < 5


def test_bytes_are_kept_while_nobody_looks() -> None:
    reader = protocol.FrameReader()
    stream = protocol.pack(protocol.Health(), 1) + protocol.pack(protocol.Health(), 2)
    reader.feed(stream[:15])
    assert [frame.request_id for frame in reader.feed(stream[15:])] == [1, 2]


def test_a_wait_asks_for_ranges_in_bounds() -> None:
    assert protocol.check_wait(protocol.Wait([(1, 3), (7, 7)])) == 4
    for wrong in ([(0, 1)], [(3, 2)], [(1, 10_001)], [(1, 2**63)], [(1, 6000), (1, 6000)]):
        with pytest.raises(errors.InvalidSubmission):
            protocol.check_wait(protocol.Wait(wrong))


@given(st.lists(st.integers(1, 60), unique=True).map(sorted))
def test_ranges_cover_exactly_the_ids(task_ids: list[int]) -> None:
    ranges = protocol.id_ranges(task_ids)
    assert [number for first, last in ranges for number in range(first, last + 1)] == task_ids
    assert all(left[1] + 1 < right[0] for left, right in itertools.pairwise(ranges))


def test_a_chunk_that_is_one_frame_is_read_at_once() -> None:
    message = protocol.Submitted(7, 1, False)
    reader = protocol.FrameReader(protocol.REPLIES)
    assert reader.single(protocol.pack(message, 3)) == protocol.Frame(3, message)
    assert reader.single(memoryview(protocol.pack(message, 4))) == protocol.Frame(4, message)
    assert reader.pending_bytes == 0


@pytest.mark.parametrize(
    "chunk",
    [
        b"",
        protocol.pack(protocol.Submitted(7, 1, False), 3)[:11],
        protocol.pack(protocol.Submitted(7, 1, False), 3)[:-1],
        protocol.pack(protocol.Submitted(7, 1, False), 3) + b"\x00",
        protocol.pack(protocol.Submitted(7, 1, False), 3) * 2,
        protocol.pack(protocol.Health(), 3),  # not from a server
        protocol.HEADER.pack(1, protocol.VERSION + 1, 65, 0, 3) + b"\x90",
        protocol.HEADER.pack(1, protocol.VERSION, 65, 1, 3) + b"\x90",
        protocol.HEADER.pack(1, protocol.VERSION, 65, 0, 3) + b"\x90",  # a body that fits no Submitted
        protocol.HEADER.pack(1, protocol.VERSION, 65, 0, 3) + b"\xc1",
    ],
)
def test_a_chunk_that_is_anything_else_is_left_to_feed(chunk: bytes) -> None:
    reader = protocol.FrameReader(protocol.REPLIES)
    assert reader.single(chunk) is None
    assert reader.pending_bytes == 0


def test_a_frame_after_the_begin_of_another_is_not_taken_for_one() -> None:
    frame = protocol.pack(protocol.Submitted(7, 1, False), 3)
    reader = protocol.FrameReader(protocol.REPLIES)
    assert list(reader.feed(protocol.HEADER.pack(len(frame), protocol.VERSION, 65, 0, 3))) == []
    assert reader.single(frame) is None


def test_submission_ids_are_ordered_by_time_and_differ() -> None:
    ids = [protocol.submission_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert {len(one) for one in ids} == {16}
    assert [one[:6] for one in ids] == sorted(one[:6] for one in ids)
    now_ms = time.time_ns() // 10**6
    assert abs(int.from_bytes(ids[-1][:6], "big") - now_ms) < 60_000


@pytest.mark.parametrize(
    "error", [errors.UnknownKind("no such kind"), errors.StorageFull("full"), errors.UnknownTask()]
)
def test_errors_arrive_as_what_they_were(error: errors.RingqError) -> None:
    arrived = protocol.error_of(protocol.failure_of(error))
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)


def test_errors_that_cannot_be_sent_as_they_are() -> None:
    assert protocol.failure_of(KeyError("a")).code == "RingqError"
    assert protocol.failure_of(errors.RingqError("x" * 10**6 + "\ud800")).message.startswith("xxx")
    assert protocol.pack(protocol.failure_of(errors.RingqError("\ud800")), 1)
    newer = protocol.error_of(protocol.Failure("QuotaExceeded", "too many"))
    assert (type(newer), str(newer)) == (errors.RingqError, "QuotaExceeded: too many")
    for code in ("TaskFailed", "Any", "__name__", "SystemExit", "RunTimeout"):
        assert type(protocol.error_of(protocol.Failure(code, "m"))) is errors.RingqError


def test_a_frame_over_the_limit_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol.frames, "FRAME_BYTES_MAX", 100)
    with pytest.raises(errors.BatchTooLarge, match="limit is 100"):
        protocol.pack(protocol.HealthReply("x" * 200), 1)


@given(st.lists(st.tuples(st.integers(0, 400_000), st.booleans()), max_size=40))
def test_ends_are_cut_into_frames_of_bounded_size(sizes: list[tuple[int, bool]]) -> None:
    text = "x" * 400_000
    rows = [
        (n, 10, 0, text[:size] if good else None, None if good else text[:size]) for n, (size, good) in enumerate(sizes)
    ]
    parts = list(protocol.pieces(rows))
    assert [row for part in parts for row in part] == rows
    for part in parts:
        assert 0 < len(part) <= protocol.ENDS_MAX
        assert sum(len(row[3] or row[4] or "") for row in part[:-1]) < protocol.ENDS_BYTES_MAX
        assert protocol.ended(part).task_ids == [row[0] for row in part]


def test_a_column_that_announces_too_much_is_not_unpacked() -> None:
    start = b"\x95\xc4\x10" + bytes(16)
    for body in (start + b"\xdd\x7f\xff\xff\xff", b"\x91\xdd\x7f\xff\xff\xff"):
        with pytest.raises(errors.ProtocolError, match="length"):
            protocol.unpack(1 if body.startswith(start) else 2, body)

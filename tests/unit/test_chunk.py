"""Chunks of calls as JSON: what a call carries comes back as it was, and what cannot be fails alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import date
from typing import Any

import msgspec
import pytest

from ringq import codec
from ringq.codec import ArgumentsCodec, Parameter, ResultCodec
from ringq.codec.chunk import ChunkCodec, join_accounts, read_account, read_results, split
from ringq.config import PAYLOAD_BYTES_MAX, RESULT_BYTES_MAX
from ringq.errors import InvalidPayload, InvalidResult, PayloadTooLarge
from ringq.kinds import App
from ringq.model import Reason


def chunks(handler: Callable[..., Any]) -> ChunkCodec:
    return App("unit").task(handler).chunks


def plain_results(hint: Any = Any) -> ChunkCodec:
    """A kind of one parameter, with that return hint."""
    return ChunkCodec(ArgumentsCodec("unit::kind", [Parameter("value", Any)]), ResultCodec("unit::kind", hint))


def run(handler: Callable[..., Any], calls: list[Any]) -> list[Any]:
    """Send calls to a handler and call it with what arrives."""
    kind = chunks(handler)
    arrived = kind.decode(kind.encode(calls).encode())
    assert not any(isinstance(call, InvalidPayload) for call in arrived), arrived
    return [handler(*args, **named) for args, named in arrived]  # type: ignore[misc]


def resize(path: str, width: int, height: int = 7, *, mode: str = "fit", **more: int) -> list[Any]:
    return [path, width, height, mode, more]


def of_date(day: date, scale: float = 1.0) -> list[Any]:
    return [day, scale]


def loose(value: Any) -> Any:
    return value


def of_ints(value: dict[int, str]) -> Any:
    return value


def needs_a_name(*, value: int) -> int:
    return value


# -- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "arrives"),
    [
        (("a.jpg", 3), ["a.jpg", 3, 7, "fit", {}]),
        (("a.jpg", 3, 4), ["a.jpg", 3, 4, "fit", {}]),
        ({"path": "a.jpg", "width": 3}, ["a.jpg", 3, 7, "fit", {}]),
        ({"width": 3, "path": "ä", "mode": "fill", "extra": 5}, ["ä", 3, 7, "fill", {"extra": 5}]),
    ],
)
def test_a_call_by_position_or_by_name_arrives_with_its_defaults(call: Any, arrives: list[Any]) -> None:
    assert run(resize, [call]) == [arrives]


def test_calls_by_position_and_by_name_travel_in_one_chunk() -> None:
    calls = [("a", 1), {"path": "b", "width": 2, "extra": 9}, ("c", 3, 4)]
    assert run(resize, calls) == [
        ["a", 1, 7, "fit", {}],
        ["b", 2, 7, "fit", {"extra": 9}],
        ["c", 3, 4, "fit", {}],
    ]


def test_values_are_typed_by_their_hints_in_a_chunk_as_in_a_task() -> None:
    day = date(2024, 2, 29)
    assert run(of_date, [(day,), (day, 2), {"day": day}]) == [[day, 1.0], [day, 2.0], [day, 1.0]]
    assert run(of_ints, [({1: "x"},)]) == [{1: "x"}]
    assert run(loose, [(None,), ("null",), ([None],), ({"a": None},)]) == [None, "null", [None], {"a": None}]


def test_a_default_is_the_very_object_of_the_signature() -> None:
    marker: list[Any] = []

    def remembers(value: int, seen: list[Any] = marker) -> list[Any]:
        return seen

    assert run(remembers, [(1,)])[0] is marker


def test_a_kind_that_needs_a_name_takes_calls_by_name_only() -> None:
    assert run(needs_a_name, [{"value": 4}]) == [4]
    with pytest.raises(InvalidPayload, match="at most 0 arguments by position"):
        chunks(needs_a_name).encode([(4,)])


@pytest.mark.parametrize(
    ("handler", "call", "words"),
    [
        (loose, (math.nan,), "nan is not JSON"),
        (loose, ([1.0, math.inf],), "inf is not JSON"),
        (loose, ("\ud800",), "lone surrogate"),
        (loose, ({1: 2},), "the key 1 is not text"),
        (loose, ([{date(2024, 1, 1): 2}],), "is not text"),
        (loose, ({1, 2}, 3), "at most 1 arguments"),
        (loose, (), "'value' is missing"),
        (loose, {"other": 1}, "no parameter 'other'"),
        (loose, (object(),), "object"),
        (of_date, ("no day",), "day"),
        (of_date, (date(2024, 1, 1), math.nan), "nan"),
        (resize, ("a", "wide"), "width"),
        (resize, {"path": "a", "width": 1, "extra": "x"}, "extra"),
    ],
)
def test_a_call_that_json_would_change_is_refused_as_it_is_alone(
    handler: Callable[..., Any], call: Any, words: str
) -> None:
    good = {"path": "a", "width": 1} if handler is resize else (date(2024, 1, 1),) if handler is of_date else (1,)
    with pytest.raises(InvalidPayload, match=words):
        chunks(handler).encode([good, call, good])


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("depth", [198, 199, 200, 500, 100_000])
def test_a_deeply_nested_value_travels_or_is_refused_by_name(depth: int) -> None:
    for encode in (chunks(loose).encode, lambda calls: codec.encode_calls("unit::loose", calls)):
        if depth == 198:
            assert codec.is_chunk(encode([(nested(depth),)]))
        else:
            with pytest.raises(InvalidPayload, match="nested more than 200 deep"):
                encode([(1,), (nested(depth),)])


def test_calls_that_are_too_large_together_or_alone_are_refused() -> None:
    half = "x" * (PAYLOAD_BYTES_MAX // 2)
    for encode in (chunks(loose).encode, lambda calls: codec.encode_calls("unit::loose", calls)):
        assert encode([(half,)])
        with pytest.raises(PayloadTooLarge, match="2 calls take"):
            encode([(half,), (half,)])
        with pytest.raises(PayloadTooLarge, match="write them to a file"):
            encode([(half + half,)])


def test_calls_of_a_kind_as_text_are_checked_as_json() -> None:
    payload = codec.encode_calls("unit::far", [(1, "a"), {"n": 2}, ()])
    assert json.loads(payload) == [[1, "a"], {"n": 2}, []]
    for bad in [(math.nan,), ({1: 1},), {1: 2}, ("\udcff",), (object(),)]:
        with pytest.raises(InvalidPayload):
            codec.encode_calls("unit::far", [(1,), bad])


def test_one_call_that_does_not_fit_leaves_its_neighbours_alone() -> None:
    payload = b'[["a", 1], ["b", "wide"], 5, {"path": "c", "width": 2}, null, {"path": "d"}, ["e", 5, 6, 7]]'
    arrived = chunks(resize).decode(payload)
    assert [isinstance(call, InvalidPayload) for call in arrived] == [False, True, True, False, True, True, True]
    assert resize(**arrived[3][1]) == ["c", 2, 7, "fit", {}]  # type: ignore[index]


@pytest.mark.parametrize(
    "payload", [b"[", b"[1,", b'{"a":1}', b"[" * 100_000, b"[\xff]", b"", b"[[" + b"[" * 200_000 + b"]" * 200_002]
)
def test_what_is_no_chunk_is_refused(payload: bytes) -> None:
    with pytest.raises(InvalidPayload):
        chunks(loose).decode(payload)


# -- results --------------------------------------------------------------------------------------


def account_of(kind: ChunkCodec, values: list[Any]) -> codec.Account:
    gathered = kind.gather()
    for index, value in enumerate(values):
        try:
            gathered.add(index, value)
        except InvalidResult as error:
            gathered.fail(index, Reason.INVALID_RESULT, codec.encode_error(error))
    return read_account(gathered.take(5).decode())


@pytest.mark.parametrize(
    "values",
    [
        [1, 2.5, "a", True, None],
        [None] * 3,
        ["null", None],
        [[1], {"a": None}, [], None],
        ["x" * 10_000, None, 2**70],
        [],
    ],
)
def test_results_come_back_as_they_were(values: list[Any]) -> None:
    account = account_of(plain_results(), values)
    assert read_results(account, None) == values
    assert read_results(account, ResultCodec("unit::kind")) == values
    assert account.errors == {}


def test_a_list_that_each_call_returns_anew_is_stored_as_it_was_then() -> None:
    kind, shared = plain_results(), []
    gathered = kind.gather()
    for index in range(4):
        shared.append(index)
        gathered.add(index, shared)
    assert read_results(read_account(gathered.take(1).decode()), None) == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("hint", "bad"),
    [
        (int, "text"),
        (int, None),
        (float, math.nan),
        (float, -math.inf),
        (str, "\ud800"),
        (Any, "\udcff"),
        (Any, math.nan),
        (Any, [math.nan]),
        (Any, {1: 2}),
        (Any, object()),
        (Any, "x" * (RESULT_BYTES_MAX + 1)),
        (date, "no day"),
    ],
)
def test_a_result_that_cannot_be_stored_fails_alone(hint: Any, bad: Any) -> None:
    good: Any = {int: 3, float: 3.0, str: "3", date: date(2024, 1, 1)}.get(hint, 3)
    kind = plain_results(hint)
    account = account_of(kind, [good, bad, good])
    assert read_results(account, kind.results) == [good, good]
    assert {index: failure.reason for index, failure in account.errors.items()} == {1: Reason.INVALID_RESULT}


def test_an_account_begins_anew_after_it_was_taken() -> None:
    gathered = plain_results().gather()
    gathered.add(0, 1)
    gathered.fail(1, Reason.HANDLER_ERROR, b'{"type":"E"}')
    first = gathered.take(10)
    gathered.add(2, [2])
    second = gathered.take(20)
    joined = read_account(join_accounts([first, second]).decode())
    assert (joined.us, bytes(joined.results), list(joined.errors)) == (30, b"[1,[2]]", [1])


def test_a_chunk_knows_when_its_results_outgrow_a_receipt() -> None:
    gathered = plain_results().gather()
    for index in range(3):
        assert not gathered.is_full
        gathered.add(index, "x" * (RESULT_BYTES_MAX // 3))
        gathered.take(1)
    assert gathered.is_full
    failing = plain_results().gather()
    failing.fail(0, Reason.HANDLER_ERROR, b'"' + b"x" * RESULT_BYTES_MAX + b'"')
    assert failing.is_full


def test_a_result_that_fits_its_hint_no_more_is_an_error_in_its_place() -> None:
    account = account_of(plain_results(), [1, "two", 3])
    read = read_results(account, ResultCodec("unit::kind", int))
    assert [read[0], read[2]] == [1, 3]
    assert isinstance(read[1], InvalidResult)


# -- splitting ------------------------------------------------------------------------------------


def line(results: list[Any], errors: dict[int, Any] | None = None, us: Any = 1) -> str:
    failures = {index: {"reason": "handler_error", "error": error} for index, error in (errors or {}).items()}
    return json.dumps({"us": us, "results": results, "errors": failures}) + "\n"


PAYLOAD = json.dumps([[n] for n in range(10)])


def left_of(found: codec.Split) -> list[int]:
    calls = [call for _, _, piece in found.pieces for call in json.loads(piece)]
    assert [(first, count) for first, count, _ in found.pieces] == [
        (json.loads(piece)[0][0], len(json.loads(piece))) for _, _, piece in found.pieces
    ]
    return [call[0] for call in calls]


def test_what_was_put_aside_does_not_run_again() -> None:
    found = split(PAYLOAD, line([0, 1]) + line([2], {3: {"type": "E"}}), suspect=6, to_blame=True)
    assert (found.ended, found.calls, bytes(found.account.results)) == (4, 10, b"[0,1,2]")
    assert list(found.account.errors) == [3]
    assert [(first, count) for first, count, _ in found.pieces] == [(4, 2), (6, 1), (7, 3)]
    assert left_of(found) == [4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize(
    ("suspect", "bounds"),
    [(0, [(0, 1), (1, 9)]), (9, [(0, 9), (9, 1)]), (None, [(0, 5), (5, 5)]), (10, [(0, 5), (5, 5)]),
     (1 << 60, [(0, 5), (5, 5)]), (-1, [(0, 5), (5, 5)])],
)  # fmt: skip
def test_the_suspect_stands_alone_and_an_impossible_one_halves_the_rest(suspect: int | None, bounds: list[Any]) -> None:
    found = split(PAYLOAD, "", suspect=suspect, to_blame=True)
    assert [(first, count) for first, count, _ in found.pieces] == bounds


def test_nobody_is_set_apart_where_nobody_is_to_blame() -> None:
    found = split(PAYLOAD, line([0]), suspect=4, to_blame=False)
    assert [(first, count) for first, count, _ in found.pieces] == [(1, 9)]


@pytest.mark.parametrize(
    "forged",
    [
        line([1])[:-1],  # torn
        line([1])[:-5] + "\n",
        "\n",
        "null\n",
        "\x00\ufffd\n",
        "[" * 100_000 + "\n",
        '{"us":1,"results":' + "[" * 200_000 + "]" * 200_000 + "}\n",
        '{"us":1,"results":{}}\n',
        '{"us":1,"results":[1],"parts":[[1,0,1]]}\n',
        line([1], us=1 << 80),
        line([1], us=-1),
        line([1], us="1"),
        line([0] * 11),
        line([1], {5: {"type": "E"}}),
        line([1], {-1: {"type": "E"}}),
        line([1], {0: "no object"}),
        '{"us":1,"results":[1],"errors":{"0":{"reason":"nonsense","error":{}}}}\n',
    ],
)
def test_an_account_that_makes_no_sense_counts_for_nothing_nor_what_follows(forged: str) -> None:
    found = split(PAYLOAD, line([0, 1]) + forged + line([2]), suspect=4, to_blame=True)
    assert (found.ended, bytes(found.account.results)) == (2, b"[0,1]")
    assert left_of(found) == [2, 3, 4, 5, 6, 7, 8, 9]
    msgspec.json.encode(found.account)


@pytest.mark.parametrize("payload", ["[1,", "[" * 100_000, '{"a":1}', "[1]]"])
def test_a_payload_that_is_no_chunk_cannot_be_split(payload: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        split(payload, "", to_blame=True)

"""Arguments, results and errors as JSON: what fits comes back as it was, what would change is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import io
import json
import sys
import types
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypedDict
from uuid import UUID

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringq import codec, errors
from ringq.codec import ArgumentsCodec, Parameter, ResultCodec
from ringq.config import PAYLOAD_BYTES_MAX, RESULT_BYTES_MAX


class Color(enum.Enum):
    RED = "red"


class Point(msgspec.Struct):
    x: float
    y: float = 0.0


@dataclasses.dataclass
class Box:
    corner: Point
    name: str | None = None


class Row(TypedDict):
    id: int


class Pair(NamedTuple):
    left: int
    right: int


class Text(str):
    pass


def arguments(**hints: Any) -> ArgumentsCodec:
    return ArgumentsCodec("shop::buy", [Parameter(name, hint) for name, hint in hints.items()])


def back(hint: Any, value: Any) -> Any:
    one = arguments(value=hint)
    return one.decode(one.encode((value,), {}).encode())["value"]


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (None, None),
        (bool, True),
        (int, 2**80),
        (float, 1.5),
        (str, 'ümlaut \0 "quoted" \U0001f600'),
        (bytes, b"\x00\xff"),
        (list[int], [1, 2]),
        (tuple[int, str], (1, "a")),
        (set[str], {"a"}),
        (dict[int, list[str]], {1: ["a"]}),
        (datetime, datetime(2026, 1, 2, 3, tzinfo=UTC)),
        (date, date(2026, 1, 2)),
        (timedelta, timedelta(seconds=5)),
        (Decimal, Decimal("1.10")),
        (UUID, UUID(int=5)),
        (Path, Path("/tmp/a b")),
        (Path | None, None),
        (list[Path], [Path("a")]),
        (Color, Color.RED),
        (Literal["a", "b"], "a"),
        (Point, Point(1.0, 2.0)),
        (Box, Box(Point(1.0), "b")),
        (Row, {"id": 1}),
        (Pair, Pair(1, 2)),
        (int | str | None, "a"),
        (Annotated[int, msgspec.Meta(ge=1)], 1),
        (Any, {"a": [1, None, {"b": "c"}]}),
        (object, [1]),
        (dict[str, object], {"a": 1}),
        (object | None, None),
    ],
)
def test_typed_values_come_back_as_they_were(hint: Any, value: Any) -> None:
    result = ResultCodec("shop::buy", hint)
    assert back(hint, value) == value
    assert result.decode(result.encode(value)) == value


letters = st.text(st.characters(exclude_categories=["Cs"]))
finite = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | finite | letters,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(letters, inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_plain_json_comes_back_as_it_was(value: Any) -> None:
    assert back(Any, value) == value
    assert ResultCodec("k::k").decode(ResultCodec("k::k").encode(value)) == value
    assert json.loads(codec.encode_mapping("k::k", {"a": value}))["a"] == value


DEEP: list[Any] = []
for _ in range(300):
    DEEP = [DEEP]
ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)


@pytest.mark.parametrize(
    ("hint", "value", "complaint"),
    [
        (int, "1", "expected int, got str"),
        (int, True, "expected int, got bool"),
        (str, None, "expected str, got null"),
        (list[int], [1, "2"], r"value\[1\]: expected int, got str"),
        (Box, {"corner": {"x": "1"}}, r"value\.corner\.x: expected float, got str"),
        (Path, 1, "expected Path, got int"),
        (Literal["a"], "b", "value: invalid enum value 'b'"),
        (Annotated[int, msgspec.Meta(ge=1)], 0, "expected int >= 1"),
        (float, float("nan"), "value: nan is not JSON"),
        (float | None, float("inf"), "value: inf is not JSON"),
        (Any, [1, {"a": -float("inf")}], r"value\[1\]\.a: -inf is not JSON"),
        (Point | None, Point(float("nan")), r"value\.x: nan"),
        (Any, {1: "a"}, "value: the key 1 is not text"),
        (Any, [{"a": {b"b": 1}}], r"value\[0\]\.a: the key"),
        (dict[str, Any], {"a": {1.5: 2}}, r"value\.a: the key 1\.5 is not text"),
        (Any, {None: 1}, "value: "),
        (Any, "\ud800", "lone surrogate"),
        (Any, object(), "value: object is not JSON"),
        (Any, [range(3)], r"value\[0\]: range is not JSON: pass list\(\.\.\.\)"),
        (Any, DEEP, "nested more than 200 deep"),
        (Any, ENDLESS, "nested more than 200 deep"),
    ],
)
def test_what_would_not_come_back_is_refused_by_name(hint: Any, value: Any, complaint: str) -> None:
    with pytest.raises(errors.InvalidPayload, match=complaint) as caught:
        back(hint, value)
    assert str(caught.value).startswith("shop::buy: ")
    assert "\n" not in str(caught.value)


def test_null_in_text_is_no_reason() -> None:
    assert back(str, "null") == "null"
    assert back(dict[str, int | None], {"null": None}) == {"null": None}


def test_heirs_of_plain_types_travel_as_what_they_inherit() -> None:
    assert back(str, Text("a")) == "a"
    assert back(Any, [Text("a")]) == ["a"]
    assert back(str, Path("a")) == "a"


@pytest.mark.parametrize(
    ("args", "kwargs", "complaint"),
    [
        ((), {}, "argument 'path' is missing"),
        ((), {"path": "a", "sise": 1}, "no parameter 'sise': did you mean 'size'"),
        ((), {"path": "a", "q": 1}, "no parameter 'q': it takes path, size, deep"),
        (("a",), {"path": "b"}, "argument 'path' is given twice"),
        (("a", 1, True), {}, "at most 2 arguments by position, got 3"),
    ],
)
def test_arguments_are_bound_as_in_a_call(args: tuple[Any, ...], kwargs: dict[str, Any], complaint: str) -> None:
    with pytest.raises(errors.InvalidPayload, match=complaint):
        call().encode(args, kwargs)


def call() -> ArgumentsCodec:
    return ArgumentsCodec(
        "shop::buy",
        [Parameter("path", str), Parameter("size", int, 3), Parameter("deep", bool, False, positional=False)],
    )


def test_defaults_are_the_handlers_and_are_not_encoded() -> None:
    assert call().encode(("a",), {"deep": True}) == '{"path":"a","deep":true}'
    assert call().decode(b'{"path":"a"}') == {"path": "a", "size": 3, "deep": False}
    mutable: list[int] = []
    strange = object()
    one = ArgumentsCodec("k::k", [Parameter("a", list[int], mutable), Parameter("b", int, strange)])
    assert one.decode(b"{}")["a"] is mutable
    assert one.decode(b"{}")["b"] is strange


def test_extra_arguments_have_the_hint_of_kwargs() -> None:
    one = ArgumentsCodec("k::k", [Parameter("a", int)], extra=Path)
    assert one.decode(one.encode((1,), {"b": Path("x")}).encode()) == {"a": 1, "b": Path("x")}
    with pytest.raises(errors.InvalidPayload, match="b: expected Path, got int"):
        one.encode((1,), {"b": 5})
    with pytest.raises(errors.InvalidPayload, match="c: the key 1"):
        ArgumentsCodec("k::k", [], extra=Any).encode((), {"c": {1: 2}})


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"{", b'{"path":1}', b'{"path":"\xff"}', b"[" * 5000, b'{"x":"\\ud800"}']
)
def test_a_payload_that_does_not_fit_is_invalid_in_the_worker(payload: bytes) -> None:
    with pytest.raises(errors.InvalidPayload, match="shop::buy: "):
        call().decode(payload)


@given(st.binary(max_size=60))
def test_random_payloads_raise_nothing_but_invalid_payload(payload: bytes) -> None:
    for one in (call(), ArgumentsCodec("k::k", [Parameter("a", Path)], extra=int)):
        with contextlib.suppress(errors.InvalidPayload):
            one.decode(payload)


def test_sizes_are_limited() -> None:
    fits = "x" * (PAYLOAD_BYTES_MAX - 12)
    assert len(arguments(value=str).encode((fits,), {})) == PAYLOAD_BYTES_MAX
    with pytest.raises(errors.PayloadTooLarge, match=r"1,048,577 bytes, the limit is 1,048,576"):
        arguments(value=str).encode((fits + "x",), {})
    with pytest.raises(errors.InvalidResult, match="16,777,217 bytes, the limit is 16,777,216"):
        ResultCodec("k::k").encode("x" * (RESULT_BYTES_MAX - 1))


def test_wide_is_not_deep() -> None:
    wide = [[{}] for _ in range(1000)]
    assert back(Any, wide) == wide
    level: list[Any] = []
    for _ in range(198):
        level = [level]
    assert back(Any, level) == level


@pytest.mark.parametrize(
    ("hint", "value", "complaint"),
    [
        (int, "a", "result: expected int, got str"),
        (dict[str, int], {"a": "b"}, "expected int, got str"),
        (None, 5, "expected null, got int"),
        (Any, float("nan"), "result: nan is not JSON"),
        (Any, {1: 2}, "result: the key 1"),
        (Any, object(), "result: object is not JSON"),
        (Any, lambda: None, "result: function is not JSON"),
        (Any, DEEP, "nested"),
        (Any, "\ud800", "surrogate"),
    ],
)
def test_a_result_that_does_not_fit_is_refused(hint: Any, value: Any, complaint: str) -> None:
    with pytest.raises(errors.InvalidResult, match=complaint):
        ResultCodec("shop::buy", hint).encode(value)


@dataclasses.dataclass
class Picture:
    name: str
    pixels: Any


class Tile(msgspec.Struct):
    box: Any


class Own:
    pass


class Explodes:
    __dataclass_fields__ = property(lambda self: 1 / 0)


def numbers() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("value", "place", "advice"),
    [
        (
            np.zeros(3),
            "",
            "ndarray of numpy is not JSON: {verb} array.tolist(), or save it to a file and {verb} its path",
        ),
        (np.zeros(3), "", "base64 text"),
        (np.array(5), "", "array.tolist()"),
        ([1, 2, 3, Picture("a", np.zeros(3))], "[3].pixels", "ndarray of numpy"),
        ({"a": {"b": ({"c": np.zeros(3)},)}}, "a.b[0].c", "ndarray of numpy"),
        ([Tile(np.zeros(3))], "[0].box", "ndarray of numpy"),
        ({"at": np.datetime64("2026-01-01")}, "at", "datetime64 of numpy is not JSON: {verb} str(...) of it"),
        (np.complex128(1j), "", "complex128 of numpy"),
        (np.longdouble(1), "", "longdouble of numpy is not JSON: {verb} str(...) of it"),
        (numbers(), "", "generator is not JSON: {verb} list(...) of it"),
        ([{}.keys()], "[0]", "dict_keys is not JSON: {verb} list(...)"),
        (deque([1]), "", "deque is not JSON: {verb} list(...)"),
        (types.MappingProxyType({}), "", "mappingproxy is not JSON: {verb} dict(...)"),
        ({"error": ValueError("x")}, "error", "ValueError is not JSON: {verb} str(error)"),
        (io.StringIO(), "", "StringIO is not JSON: {verb} the path of the file"),
        (1j, "", "complex is not JSON: {verb} float(...)"),
        (Fraction(1, 3), "", "Fraction is not JSON: {verb} float(...)"),
        ([Own()], "[0]", "Own is not JSON: {verb} a dict or a dataclass"),
        ([Own], "[0]", "type is not JSON: {verb} what it gives when called"),
        ({"a": {(1, 2): 3}}, "a", "the key (1, 2) is not text"),
        ({"a": ["b\ud800"]}, "a[0]", "text with a lone surrogate"),
    ],
)
def test_what_json_cannot_carry_is_found_and_one_is_told_what_to_give_instead(
    value: Any, place: str, advice: str
) -> None:
    with pytest.raises(errors.InvalidResult) as caught:
        ResultCodec("k::k").encode(value)
    before = f"{place}: " if place else ""
    assert str(caught.value).startswith(f"k::k: result: {before}")
    assert advice.format(verb="return") in str(caught.value)
    with pytest.raises(errors.InvalidPayload) as refused:
        back(Any, value)
    dot = "." if place and not place.startswith("[") else ""
    assert str(refused.value).startswith(f"shop::buy: value{dot}{place}: ")
    assert advice.format(verb="pass") in str(refused.value)
    with pytest.raises(errors.InvalidPayload) as refused:
        codec.encode_mapping("k::k", {"value": value})
    assert str(refused.value).startswith(f"k::k: value{dot}{place}: ")


def test_a_coroutine_is_to_be_awaited() -> None:
    async def later() -> None: ...

    coroutine = later()
    with pytest.raises(errors.InvalidResult, match="coroutine is not JSON: await it"):
        ResultCodec("k::k").encode(coroutine)
    coroutine.close()


def test_a_value_that_raises_when_it_is_looked_at_is_refused() -> None:
    with pytest.raises(errors.InvalidResult, match="k::k: result: "):
        ResultCodec("k::k").encode([Explodes()])


def test_heirs_of_dates_are_told_of_isoformat() -> None:
    class Stamp(datetime):
        pass

    with pytest.raises(errors.InvalidResult, match=r"Stamp is not JSON: return its \.isoformat"):
        ResultCodec("k::k").encode(Stamp(2026, 1, 1))


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (np.int64(-5), int, -5),
        (np.uint8(200), int, 200),
        (np.float64(1.5), float, 1.5),
        (np.float32(0.1), float, float(np.float32(0.1))),
        (np.float16(0.5), float, 0.5),
        (np.bool_(True), bool, True),
        (np.str_("a"), str, "a"),
        (np.bytes_(b"a"), bytes, b"a"),
        ([np.int32(1)], list[int], [1]),
        ({"n": np.int32(1)}, Any, {"n": 1}),
        ({np.str_("a"): 1}, Any, {"a": 1}),
    ],
)
def test_single_numbers_of_numpy_travel_as_numbers_of_python(value: Any, hint: Any, expected: Any) -> None:
    given = back(hint, value)
    assert given == expected
    result = ResultCodec("k::k", hint)
    assert result.decode(result.encode(value)) == expected
    assert "numpy" not in type(given).__module__


def test_what_numpy_calls_nan_is_refused_as_any_nan() -> None:
    for nan in (np.float32("nan"), np.float64("nan")):
        with pytest.raises(errors.InvalidResult, match=r"result: a\[0\]: nan is not JSON"):
            ResultCodec("k::k").encode({"a": [nan]})
    with pytest.raises(errors.InvalidResult, match="the key 1 is not text"):
        ResultCodec("k::k").encode({np.int64(1): 1})


@pytest.mark.parametrize("hint", [complex, types.ModuleType, Callable[[], int], Path | str, list[int] | list[str]])
def test_hints_that_json_cannot_carry_are_refused_with_the_list_of_those_it_can(hint: Any) -> None:
    with pytest.raises(errors.InvalidKind, match=r"parameter 'value': .* supported are None, bool"):
        arguments(value=hint)
    with pytest.raises(errors.InvalidKind, match="k::k: result: "):
        ResultCodec("k::k", list[hint])


def test_the_schema_describes_the_payload() -> None:
    schema = arguments(path=Path, size=int).schema()
    found = schema["$defs"]["shop__buy"]
    assert found["required"] == ["path", "size"]
    assert found["properties"]["path"] == {"type": "string", "format": "path"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [({"a": 1}, '{"a":1}'), ('{ "a" : 1 }', '{"a":1}'), ({"a": Path("x")}, '{"a":"x"}'), ({}, "{}")],
)
def test_a_mapping_without_handler(given: Any, expected: str) -> None:
    assert codec.encode_mapping("k::k", given) == expected


@pytest.mark.parametrize(
    "given", [{1: 2}, {"a": {1: 2}}, {"a": float("nan")}, "[1]", "{", '{"a":', "\ud800", {"a": DEEP}, "[" * 9999]
)
def test_a_mapping_without_handler_is_checked_as_json(given: Any) -> None:
    with pytest.raises(errors.InvalidPayload, match="k::k: "):
        codec.encode_mapping("k::k", given)


# -- errors ---------------------------------------------------------------------------------------


class HostileError(Exception):
    def __str__(self) -> str:
        raise SystemExit("no")

    __repr__ = __str__


class Hostile(type):
    @property
    def __module__(cls) -> str:  # type: ignore[override]
        raise KeyError


def raised(error: BaseException, depth: int = 0) -> BaseException:
    def fail(depth: int) -> None:
        if depth:
            fail(depth - 1)
        raise error

    try:
        fail(depth)
    except BaseException as caught:
        return caught
    raise AssertionError


def test_details_name_type_message_and_place() -> None:
    details = codec.error_details(raised(ValueError("no such file")))
    assert (details["type"], details["message"]) == ("ValueError", "no such file")
    assert "in fail" in details["traceback"]
    assert details["traceback"].endswith("ValueError: no such file\n")
    assert codec.error_details(errors.NotBound("x"))["type"] == "ringq.errors.NotBound"


def test_details_keep_causes_and_notes() -> None:
    error = ValueError("outer")
    error.__cause__ = raised(KeyError("inner"))
    error.add_note("a note")
    text = codec.error_details(raised(error))["traceback"]
    assert "KeyError: 'inner'" in text
    assert "a note" in text


@pytest.mark.parametrize(
    "error",
    [
        HostileError(),
        ValueError("x" * 10**6),
        ValueError("\n".join(f"line {number}" for number in range(10**5))),
        ValueError("\ud800\x1b[31m\x00\u202e"),
        ExceptionGroup("many", [ValueError(str(number)) for number in range(2000)]),
        KeyboardInterrupt(),
        RecursionError(),
    ],
)
def test_details_are_bounded_plain_text_whatever_was_raised(error: BaseException) -> None:
    details = codec.error_details(raised(error, depth=100))
    assert len(details["traceback"].encode()) <= codec.TRACEBACK_BYTES_MAX
    assert len(details["message"]) < 5000
    everything = "".join(details.values())
    assert "\x1b" not in everything
    assert "\x00" not in everything
    assert json.loads(codec.encode_error(error))["type"]


def test_the_innermost_frames_are_kept() -> None:
    lines = "\n".join(f"def f{n}():\n    f{n - 1}()  # {'x' * 400}" for n in range(1, 60))
    scope: dict[str, Any] = {"f0": lambda: 1 / 0}
    exec(compile(lines, "many.py", "exec"), scope)
    try:
        scope["f59"]()
    except ZeroDivisionError as error:
        text = codec.error_details(error)["traceback"]
    assert "ZeroDivisionError: division by zero" in text
    assert "in f1" in text
    assert "in f59" in text or "cut off" in text


def test_endless_recursion_is_told_in_few_words() -> None:
    def down() -> None:
        down()

    try:
        down()
    except RecursionError as error:
        details = codec.error_details(error)
    assert details["type"] == "RecursionError"
    assert len(details["traceback"]) < 16_384
    assert sys.getrecursionlimit() >= 1000


def test_a_class_that_hides_its_name_is_unknown() -> None:
    strange = Hostile("Strange", (Exception,), {})
    assert codec.error_details(strange("m"))["type"] == "unknown"

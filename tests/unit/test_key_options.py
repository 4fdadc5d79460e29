"""Keys before they reach the database: what a program may write, what a server takes."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

import ringq
from ringq import protocol
from ringq.admission import Admission
from ringq.client.outcome import tell
from ringq.errors import InvalidSubmission, ProtocolError
from ringq.kinds import Submitted
from ringq.kinds.batch import columns
from ringq.protocol import Chunks, SpecFields, Submit

app = ringq.App("media")


@app.task
def thumbnail(path: str, size: int = 128) -> int:
    return size


def test_a_task_without_a_key_sends_no_column() -> None:
    message = columns([thumbnail.submission("a"), ringq.Submission("media::thumbnail", {"path": "b"})])
    assert (message.keys, message.on_duplicate) == (None, None)


def test_keys_travel_as_columns() -> None:
    message = columns(
        [
            thumbnail.options(key="a").submission("a"),
            thumbnail.submission("b"),
            ringq.Submission("media::thumbnail", {"path": "c"}, key="c", on_duplicate="reject"),
        ]
    )
    assert (message.keys, message.on_duplicate) == (["a", None, "c"], [0, 0, 2])


def test_the_payload_as_key_is_that_of_each_submission() -> None:
    once = thumbnail.options(key=ringq.PAYLOAD)
    first, second, other = once.submission("a"), once.submission("a", 128), once.submission("b")
    assert first.key == once.submission(path="a").key
    assert len({first.key, second.key, other.key}) == len({first.payload, second.payload, other.payload})
    assert ringq.Submission(thumbnail, {"path": "a"}, key=ringq.PAYLOAD).key == first.key
    assert pickle.loads(pickle.dumps(ringq.PAYLOAD)) is ringq.PAYLOAD


# -- keys that a kind makes -----------------------------------------------------------------------


@app.task(key=lambda path, size=128: path if size else None, on_duplicate="supersede")
def rotate(path: str, size: int = 128) -> int:
    return size


@app.task(key=ringq.PAYLOAD)
def index(path: str) -> None: ...


def test_a_kind_makes_the_keys_of_its_tasks() -> None:
    message = columns(
        [
            rotate.submission("a"),
            rotate.submission(path="b", size=0),
            rotate.options(priority=1).submission("c"),
            rotate.options(priority=1).submission_of({"path": "d"}),
            rotate.submission_of({"path": "e"}),
            ringq.Submission(rotate, {"path": "f"}),
        ]
    )
    assert message.keys == ["a", None, "c", "d", "e", "f"]
    assert message.on_duplicate == [1, 0, 1, 1, 1, 1]
    assert index.submission("a").key == index.submission("a").key != index.submission("b").key


def test_a_call_decides_before_its_kind() -> None:
    message = columns(
        [
            rotate.options(key="own").submission("a"),
            rotate.options(on_duplicate="reject").submission("a"),
            ringq.Submission(rotate, {"path": "a"}, on_duplicate="reject"),
        ]
    )
    assert (message.keys, message.on_duplicate) == (["own", "a", "a"], [1, 2, 2])


def test_a_kinds_key_that_is_none_is_told_at_once_or_where_it_comes_out() -> None:
    with pytest.raises(ringq.InvalidOption, match="key: expected ringq\\.PAYLOAD or a function"):
        app.task(key="a")  # type: ignore[call-overload]
    with pytest.raises(ringq.InvalidOption, match="on_duplicate goes with a key"):
        app.task(on_duplicate="skip")
    with pytest.raises(ringq.InvalidOption, match="on_duplicate: expected one of"):
        rotate.options(on_duplicate="replace")  # type: ignore[arg-type]
    with pytest.raises(ringq.InvalidOption, match="key: expected 1 to 200"):
        rotate.submission("k" * 201)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"key": ""}, "key: expected 1 to 200 printable characters, got ''"),
        ({"key": "k" * 201}, "key: expected 1 to 200"),
        ({"key": "a\nb"}, "key: expected 1 to 200"),
        ({"key": 5}, "key: expected 1 to 200"),
        ({"key": True}, "key: expected 1 to 200"),
        (
            {"key": "a", "on_duplicate": "replace"},
            "on_duplicate: expected one of skip, supersede, reject, got 'replace'",
        ),
        ({"key": "a", "on_duplicate": ["skip"]}, "on_duplicate: expected one of"),
        ({"on_duplicate": "skip"}, "on_duplicate goes with a key"),
    ],
)
def test_what_can_be_no_key_is_told_where_it_is_written(options: Any, said: str) -> None:
    with pytest.raises(ringq.InvalidOption, match=said):
        thumbnail.options(**options)
    with pytest.raises(ringq.InvalidOption, match=said):
        ringq.Submission("media::thumbnail", **options)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"keys": ["a"]}, "columns do not fit"),
        ({"on_duplicate": [0, 0]}, "columns do not fit"),
        ({"keys": ["a", None], "on_duplicate": [0]}, "columns do not fit"),
        ({"keys": ["a", "k" * 10_000]}, "key: expected 1 to 200 printable characters"),
        ({"keys": ["a", None], "on_duplicate": [0, 3]}, "on_duplicate: expected codes 0 to 2, got 3"),
        ({"keys": ["a", None], "chunks": Chunks("m", [0, 1], [1, 1], [bytes(16)] * 2)}, "chunks of a map have no keys"),
    ],
)
def test_a_server_refuses_keys_that_no_client_of_ours_would_send(columns: Any, said: str) -> None:
    message = Submit(bytes(16), [SpecFields("media::thumbnail")], None, ["{}", "{}"], None, **columns)
    with pytest.raises(InvalidSubmission, match=said):
        Admission(takes_any=True).check(message, lambda *_: None, lambda _: None)


@pytest.mark.parametrize("outcomes", [([9], [1], [0]), ([0, 0], [1, 2], [0, 0]), ([0], [], [0])])
def test_outcomes_that_make_no_sense_are_an_error_of_the_protocol(outcomes: Any) -> None:
    with pytest.raises(ProtocolError, match="do not fit"):
        tell([Submitted(1, "a::b", None)], protocol.Submitted(1, 1, False, protocol.Outcomes(*outcomes)), None)  # type: ignore[arg-type]

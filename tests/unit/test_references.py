"""Lines of one input that depend on each other."""

from __future__ import annotations

import io
from typing import Any

import pytest

from ringq.cli import ndjson_input
from ringq.cli.references import References
from ringq.errors import CyclicDependency, InvalidDependency, InvalidSubmission
from ringq.kinds import Submission, Submitted
from ringq.kinds.batch import columns


def tasks(*lines: str) -> list[dict[str, Any]]:
    source = io.BytesIO("\n".join(lines).encode())
    source.name = "graph.ndjson"
    return list(ndjson_input.tasks(source, {"kind": "media::load"}))


def linked(*lines: str) -> Any:
    fields = tasks(*lines)
    references = References(fields)
    places = [task.pop("where") for task in fields]
    return columns(references.linked([Submission(**task) for task in fields], 0, [], places))


def test_lines_depend_on_ids_and_on_each_other_in_any_order() -> None:
    message = linked(
        '{"ref": "a", "depends_on": 7}',
        '{"depends_on": ["a", 9, "c"], "on_dependency_failure": "ignore"}',
        '{"ref": "c", "depends_on": "a"}',
    )
    assert message.depends_on == [[7], [-1, 9, -3], [-1]]
    assert message.on_dependency_failure == [0, 2, 0]


def test_what_a_line_says_of_failures_is_kept() -> None:
    fields = tasks('{"on_dependency_failure": "fail", "depends_on": 3}')
    references = References(fields)
    places = [task.pop("where") for task in fields]
    (one,) = references.linked([Submission(**task) for task in fields], 0, [], places)
    assert columns([one]).on_dependency_failure == [1]


def test_a_line_of_an_earlier_batch_is_known_by_its_id() -> None:
    fields = tasks('{"ref": "a"}', '{"depends_on": "a"}')
    references = References(fields)
    second = Submission("media::load")
    (one,) = references.linked([second], 1, [Submitted(33, "media::load", None)], ["x:2"])  # type: ignore[arg-type]
    assert columns([one]).depends_on == [[33]]


def test_a_line_cannot_depend_on_one_of_a_later_batch() -> None:
    fields = tasks('{"depends_on": "b"}', '{"ref": "b"}')
    with pytest.raises(InvalidDependency, match=r"x:1: depends_on: 'b' is in a later batch"):
        References(fields).linked([Submission("media::load")], 0, [], ["x:1"])


def test_a_ref_that_no_line_has_is_told_with_the_line() -> None:
    with pytest.raises(
        InvalidDependency, match=r"graph.ndjson:2: depends_on: no line has the ref 'laod'; did you mean load"
    ):
        linked('{"ref": "load"}', '{"depends_on": ["laod"]}')


def test_two_lines_with_one_ref_are_told_of() -> None:
    with pytest.raises(InvalidDependency, match=r"graph.ndjson:2: graph.ndjson:1 has the ref 'a' already"):
        linked('{"ref": "a"}', '{"ref": "a"}')


@pytest.mark.parametrize("wrong", ["true", "[true]", "[1.5]", "{}", "[[1]]", "null"])
def test_what_no_line_can_depend_on_is_told_with_the_line(wrong: str) -> None:
    with pytest.raises(InvalidSubmission, match=r"graph.ndjson:1: depends_on must be an id, a ref, or a list of these"):
        tasks(f'{{"depends_on": {wrong}}}')


def test_an_impossible_id_is_told_with_the_line() -> None:
    with pytest.raises(Exception, match=r"graph.ndjson:1: depends_on: no task has the id 0"):
        linked('{"depends_on": 0}')


def test_lines_in_a_circle_are_told_of() -> None:
    with pytest.raises(CyclicDependency, match=r"media::load \(1\) -> media::load \(2\) -> media::load \(1\)"):
        linked('{"ref": "a", "depends_on": "b"}', '{"ref": "b", "depends_on": "a"}')

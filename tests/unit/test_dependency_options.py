"""Dependencies before they leave the program: what may be written, what travels, what is refused by whom."""

from __future__ import annotations

import json
from typing import Any

import pytest

import ringq
from ringq.codec import filled
from ringq.errors import (
    CyclicDependency,
    InvalidDependency,
    InvalidOption,
    InvalidPayload,
    InvalidSubmission,
    PayloadTooLarge,
)
from ringq.kinds import Submitted
from ringq.kinds.batch import columns
from ringq.model import Status

app = ringq.App("media")
COMPLETED, FAILED = Status.COMPLETED.code, Status.FAILED.code


@app.task
def load(path: str) -> list[int]:
    return [len(path)]


@app.task
def join(parts: list[list[int]], *, base: int = 0) -> int:
    return base + sum(map(sum, parts))


@app.task
def loose(first: str, **others: int) -> None: ...


def handle(task_id: int) -> Submitted[Any]:
    return Submitted(task_id, "media::load", None)  # type: ignore[arg-type]


def payload_of(one: ringq.Submission[Any]) -> Any:
    return json.loads(one.payload)


# -- what a task depends on -----------------------------------------------------------------------


def test_who_depends_on_nothing_sends_no_column() -> None:
    message = columns([load.submission("a"), load.options(on_dependency_failure="ignore").submission("b")])
    assert (message.depends_on, message.on_dependency_failure) == (None, None)
    assert columns([load.submission("a")] * 2).depends_on is None


def test_handles_ids_and_members_of_the_batch_are_one_or_many() -> None:
    first, second = load.submission("a"), load.submission("b")
    several = load.options(depends_on=[handle(7), 9, first, handle(7), ringq.Member(1)]).submission("c")
    one = ringq.Submission("media::join", {"parts": []}, depends_on=several, on_dependency_failure="ignore")
    message = columns([first, second, several, one])
    assert message.depends_on == [None, None, [7, 9, -1, -2], [-3]]
    assert message.on_dependency_failure == [0, 0, 0, 2]


def test_a_member_may_depend_on_a_later_one() -> None:
    later = load.submission("b")
    assert columns([load.options(depends_on=later).submission("a"), later]).depends_on == [[-2], None]


def test_a_submission_after_others_is_another_one() -> None:
    first, second = load.submission("a"), load.options(depends_on=5).submission("b")
    after = second.after(first, 6)
    assert columns([first, after]).depends_on == [None, [5, -1, 6]]
    assert columns([second]).depends_on == [[5]]


@pytest.mark.parametrize("wrong", ["12", b"1", 0, -3, 1 << 63, True, load, 1.5, [None], [[1]]])
def test_what_can_be_no_task_is_refused_where_it_stands(wrong: Any) -> None:
    with pytest.raises(InvalidOption, match="depends_on"):
        load.options(depends_on=wrong)
    with pytest.raises(InvalidOption, match="depends_on"):
        ringq.Submission("media::load", depends_on=wrong)


def test_an_unknown_policy_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidOption, match=r"on_dependency_failure: expected one of cancel, fail, ignore, got 'stop'"):
        load.options(on_dependency_failure="stop")  # type: ignore[arg-type]


def test_a_member_of_no_place_is_refused() -> None:
    with pytest.raises(InvalidOption, match="from 0 on, got -1"):
        ringq.Member(-1)
    with pytest.raises(InvalidDependency, match=r"media::load \(1\): the submission has no task 3"):
        columns([load.options(depends_on=ringq.Member(2)).submission("a")])


def test_more_dependencies_than_the_limit_are_refused_with_the_kind() -> None:
    with pytest.raises(InvalidSubmission, match="media::load depends on 10,001 tasks, the limit is 10,000"):
        load.options(depends_on=range(1, 10_002))


def test_who_depends_on_itself_is_told() -> None:
    with pytest.raises(InvalidDependency, match=r"media::load \(1\) depends on itself"):
        columns([load.options(depends_on=ringq.Member(0)).submission("a")])


def test_a_circle_in_a_batch_is_told_with_its_path() -> None:
    first = ringq.Submission("media::a", depends_on=ringq.Member(1))
    with pytest.raises(CyclicDependency, match=r"media::a \(1\) -> media::b \(2\) -> media::a \(1\)$"):
        columns([first, ringq.Submission("media::b", depends_on=first)])


def test_a_submission_of_another_batch_is_told_with_what_to_do() -> None:
    first = load.submission("a")
    with pytest.raises(
        InvalidDependency, match=r"media::load \(2\) depends on Submission.*submit_many, or pass its handle"
    ):
        columns([load.submission("x"), load.options(depends_on=first).submission("b")])


def test_of_a_submission_that_stands_twice_in_the_batch_none_can_be_meant() -> None:
    first = load.submission("a")
    with pytest.raises(InvalidDependency, match="more than once"):
        columns([first, first, load.options(depends_on=first).submission("b")])


# -- results as arguments -------------------------------------------------------------------------


def test_a_result_as_argument_is_named_in_the_payload_and_implies_a_dependency() -> None:
    first, second = load.submission("a"), load.submission("b")
    both = join.options(depends_on=4).submission([ringq.result_of(second), ringq.result_of(first)], base=3)
    assert payload_of(both) == {"": {"parts": [1, 2]}, "base": 3}
    assert columns([first, second, both]).depends_on == [None, None, [4, -2, -1]]
    whole = ringq.Submission("media::load", {"path": ringq.result_of(handle(8)), "more": 1})
    assert payload_of(whole) == {"": {"path": 0}, "more": 1}
    assert columns([whole]).depends_on == [[8]]


def test_results_and_values_may_share_a_list() -> None:
    mixed = join.submission([[1], ringq.result_of(handle(8)), [2]])
    assert payload_of(mixed) == {"": {"parts": [None, 0, None]}, "parts": [[1], None, [2]]}
    assert filled(mixed.payload.encode(), lambda: {0: (COMPLETED, "[5]")}) == b'{"parts":[[1],[5],[2]]}'


def test_a_worker_fills_in_the_results_and_checks_them_by_the_hints() -> None:
    both = join.submission([ringq.result_of(handle(8)), ringq.result_of(handle(9))], base=3)
    text = filled(both.payload.encode(), lambda: {0: (COMPLETED, "[5]"), 1: (COMPLETED, "[1,2]")})
    assert join.run(None, text) == b"11"
    wrong = filled(both.payload.encode(), lambda: {0: (COMPLETED, "[5]"), 1: (COMPLETED, '"x"')})
    with pytest.raises(InvalidPayload, match=r"parts\[1\]: expected array, got str"):
        join.run(None, wrong)


def test_what_did_not_complete_gives_none() -> None:
    both = join.submission([ringq.result_of(handle(8)), ringq.result_of(handle(9))])
    assert filled(both.payload.encode(), lambda: {0: (FAILED, "[5]"), 1: (COMPLETED, None)}) == b'{"parts":[null,null]}'


@pytest.mark.parametrize(
    "payload",
    ['{"":5}', '{"":{"a":1}}', '{"":{"a":-1}}', '{"":{"a":[null]}}', '{"":{"a":[null],"a":[1]}}', '{"":', "{}"],
)
def test_a_payload_that_no_client_wrote_is_refused_by_the_worker(payload: str) -> None:
    with pytest.raises(InvalidPayload):
        filled(payload.encode(), lambda: {0: (COMPLETED, "1")})


def test_the_other_arguments_are_checked_where_they_are_given() -> None:
    result = ringq.result_of(handle(8))
    with pytest.raises(InvalidPayload, match="base: expected int, got str"):
        join.submission([result], base="x")  # type: ignore[arg-type]
    with pytest.raises(InvalidPayload, match="argument 'parts' is missing"):
        join.submission(base=ringq.result_of(handle(8)))  # type: ignore[call-arg]
    with pytest.raises(InvalidPayload, match="no parameter 'bass': did you mean 'base'"):
        join.submission([result], bass=1)  # type: ignore[call-arg]
    with pytest.raises(PayloadTooLarge):
        ringq.Submission("media::load", {"path": result, "text": "x" * (1 << 20)})


def test_a_result_deeper_in_an_argument_is_refused_with_what_to_do() -> None:
    with pytest.raises(
        InvalidPayload, match=r"parts\[0\]\[0\]: ResultOf is not JSON: pass it as an argument of its own"
    ):
        join.submission([[ringq.result_of(handle(8))]])
    with pytest.raises(InvalidOption, match="expected a submission or a handle, got 5"):
        ringq.result_of(5)  # type: ignore[arg-type]


def test_other_keyword_arguments_may_be_results() -> None:
    one = loose.submission("a", size=ringq.result_of(handle(8)), more=2)
    assert payload_of(one) == {"": {"size": 0}, "first": "a", "more": 2}


def test_an_argument_without_a_name_is_refused() -> None:
    with pytest.raises(InvalidPayload, match="an argument has a name"):
        loose.submission(**{"": 1}, first="a")
    with pytest.raises(InvalidPayload, match="an argument has a name"):
        ringq.Submission("media::loose", '{"": {"first": 0}}')


def test_arguments_that_are_not_known_yet_are_no_key() -> None:
    with pytest.raises(InvalidOption, match="key: the arguments cannot be one"):
        load.options(key=ringq.PAYLOAD).submission(ringq.result_of(handle(8)))


# -- chains ---------------------------------------------------------------------------------------


def test_a_chain_hands_each_result_on() -> None:
    batch = ringq.chain(load.submission("a"), lambda parts: join.submission([parts]), load.submission("b"))
    assert columns(batch).depends_on == [None, [-1], [-2]]
    assert [payload_of(one) for one in batch] == [{"path": "a"}, {"": {"parts": [0]}}, {"path": "b"}]


def test_many_and_then_one_with_the_list_of_their_results() -> None:
    batch = ringq.gather([load.submission("a"), load.submission("b")], then=join.submission)
    assert columns(batch).depends_on == [None, None, [-1, -2]]
    assert payload_of(batch[-1]) == {"": {"parts": [0, 1]}}


def test_chains_and_gathers_are_parts_of_others() -> None:
    first = load.submission("a")
    sides = [ringq.chain(first, load.submission(name)) for name in "bc"]
    batch = ringq.chain(ringq.gather(sides, join), load.options(priority=1).submission("d"))
    assert [one.kind for one in batch] == ["media::load"] * 3 + ["media::join", "media::load"]
    assert columns(batch).depends_on == [None, [-1], [-1], [-2, -3], [-4]]


def test_what_is_no_part_of_a_chain_is_refused() -> None:
    for wrong in (5, [], [5], None):
        with pytest.raises(InvalidOption, match="chain: expected"):
            ringq.chain(wrong, load.submission("a"))  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="chain: expected a submission, or what makes one"):
        ringq.chain(load.submission("a"), 5)  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="made 'x'"):
        ringq.chain(load.submission("a"), lambda _: "x")  # type: ignore[arg-type,return-value]
    with pytest.raises(InvalidOption, match="gather: expected at least one"):
        ringq.gather([], then=join.submission)

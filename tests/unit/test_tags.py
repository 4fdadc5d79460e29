"""Tags, labels and filters as they are written down: what is taken, what is refused, and who wins."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

import ringq
from ringq import protocol
from ringq.admission import Admission
from ringq.errors import InvalidSubmission
from ringq.tags import merged, problem

app = ringq.App("shop", tags={"team": "sales", "level": "domain"})
TOO_MANY = {f"key{n}": "" for n in range(33)}


@app.task(tags={"level": "kind", "app": "kind"})
def price(article: str) -> int:
    return len(article)


@app.task
def plain(article: str) -> int:
    return len(article)


def nothing() -> None: ...


def resolved(submission: ringq.Submission[Any]) -> Any:
    admission = Admission()
    admission.learn(app.reports())
    message = protocol.Submit(protocol.submission_id(), [submission.spec], None, [submission.payload], None)
    return admission.check(message, lambda *_: None, lambda _: None).specs[0]


def test_the_tags_of_call_kind_and_domain_join_and_the_nearest_wins() -> None:
    given = price.options(tags={"app": "call", "order": "7"}).submission("a")
    assert dict(resolved(given).tags) == {"team": "sales", "level": "kind", "app": "call", "order": "7"}
    assert dict(resolved(plain.submission("a")).tags) == {"team": "sales", "level": "domain"}


def test_a_submission_without_a_handler_has_the_tags_of_its_kind_too() -> None:
    given = ringq.Submission("shop::price", {"article": "a"}, tags={"level": "call"}, label="price of a")
    spec = resolved(given)
    assert (dict(spec.tags)["level"], dict(spec.tags)["team"], spec.label) == ("call", "sales", "price of a")


def test_equal_tags_make_equal_specs_whatever_their_order() -> None:
    first, second = (
        price.options(tags=tags).submission("a").spec for tags in ({"a": "1", "b": "2"}, {"b": "2", "a": "1"})
    )
    assert first == second


@pytest.mark.parametrize(
    ("tags", "told"),
    [
        ("customer=acme", "tags: expected a dict of texts"),
        ({"": "a"}, "tags: expected a key of 1 to 64 bytes of printable text, got ''"),
        ({"k" * 65: "a"}, "tags: expected a key of 1 to 64 bytes"),
        ({"ü" * 33: "a"}, "tags: expected a key of 1 to 64 bytes"),
        ({"a\n": "a"}, "tags: expected a key of 1 to 64 bytes"),
        ({7: "a"}, "tags: expected a key of 1 to 64 bytes of printable text, got 7"),
        ({"a": "v" * 257}, "tags: expected printable text of up to 256 bytes for 'a'"),
        ({"a": "\x1b"}, "tags: expected printable text of up to 256 bytes for 'a'"),
        ({"a": None}, "tags: expected printable text of up to 256 bytes for 'a', got None"),
        (TOO_MANY, "tags: a task has at most 32, got 33"),
    ],
)
def test_tags_that_are_none_are_told_where_they_stand(tags: Any, told: str) -> None:
    for write in (
        lambda: price.options(tags=tags),
        lambda: ringq.Submission("shop::price", tags=tags),
        lambda: app.task(tags=tags)(nothing),
        lambda: ringq.App("other", tags=tags),
        lambda: app.domain("other", tags=tags),
    ):
        with pytest.raises(ringq.InvalidOption) as caught:
            write()
        assert told in str(caught.value)


@pytest.mark.parametrize("label", ["", "a\nb", "l" * 257, "ü" * 129, 7])
def test_a_label_that_is_none_is_told_where_it_stands(label: Any) -> None:
    with pytest.raises(ringq.InvalidOption, match="label: expected 1 to 256 bytes of printable text"):
        price.options(label=label)


def test_tags_at_their_limits_are_taken() -> None:
    tags = {f"{n:064}": "v" * 256 for n in range(32)} | {}
    assert len(ringq.Submission("shop::plain", tags=tags, label="l" * 256).spec.tags) == 32
    assert ringq.Submission("shop::plain", tags={"empty": ""}).spec.tags == (("empty", ""),)
    assert ringq.Submission("shop::plain", tags={}).spec.tags == ()


def test_too_many_tags_with_those_of_kind_and_domain_are_refused_where_they_meet() -> None:
    many = {f"key{n}": "" for n in range(31)}
    with pytest.raises(InvalidSubmission, match="at most 32, got 33 with those of its kind, domain and queue"):
        resolved(plain.options(tags=many).submission("a"))
    with pytest.raises(ringq.InvalidOption, match="shop::other has 33 with those of its domain"):
        app.task(name="other", tags=many)(nothing)


@pytest.mark.parametrize("tags", [(("a", "1"), ("a", "2")), (("a\n", ""),), (("a", "v" * 300),)])
def test_a_stranger_is_refused_what_the_library_would_not_send(tags: Any) -> None:
    admission = Admission(takes_any=True)
    for spec in (protocol.SpecFields("a::b", tags=tags), protocol.SpecFields("a::b", label="\n")):
        message = protocol.Submit(protocol.submission_id(), [spec], None, ["{}"], None)
        with pytest.raises(InvalidSubmission, match=r"tags: |label: "):
            admission.check(message, lambda *_: None, lambda _: None)


def test_what_is_nearer_wins_key_by_key() -> None:
    assert merged([("a", "1"), ("b", "1")], [("b", "2"), ("c", "2")]) == (("a", "1"), ("b", "2"), ("c", "2"))
    assert problem([("a", "1")]) is None


def test_a_domain_has_a_default_for_the_group() -> None:
    other = ringq.App("grouped", group="shared")
    named = other.task(name="own", group="own")(nothing)
    shared = other.task(name="shared")(nothing)
    assert (named.report.group, shared.report.group) == ("own", "shared")


def test_a_default_that_no_domain_has_is_told_with_a_guess() -> None:
    with pytest.raises(ringq.InvalidOption, match="there is no option 'tag'; did you mean tags"):
        ringq.App("other", tag={})  # type: ignore[call-arg]


# -- filters ---------------------------------------------------------------------------------------


def test_filters_that_say_the_same_are_equal() -> None:
    assert ringq.Filter(kind=price, status="pending") == ringq.Filter(kind="shop::price", status=ringq.Status.PENDING)
    assert ringq.Filter().is_empty
    assert not ringq.Filter(tags={"a": None}).is_empty


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"kind": "price"}, "kind: expected domain::name"),
        ({"domain": ""}, "domain: expected 1 to 200 printable characters"),
        ({"kind_prefix": 7}, "kind_prefix: expected 1 to 200 printable characters"),
        ({"key": "k"}, "key: it goes with a kind"),
        ({"tags": {}}, "tags: expected a dict of 1 to 32 tags"),
        ({"tags": {"a": 7}}, "tags: expected printable text"),
        ({"status": "done"}, "status: expected one of pending, running"),
        ({"submitted_before": datetime(2030, 1, 1)}, "submitted_before: expected a datetime with a time zone"),
        ({"submitted_after": 7}, "submitted_after: expected a datetime with a time zone"),
    ],
)
def test_a_filter_that_means_nothing_is_told_so(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ringq.InvalidOption) as caught:
        ringq.Filter(**given)
    assert told in str(caught.value)


def test_a_verb_takes_a_filter_or_what_it_would_say_not_both() -> None:
    chosen = ringq.Filter(queue="bulk", submitted_after=datetime(2030, 1, 1, tzinfo=UTC))
    assert ringq.Filter.of("cancel_all", chosen, {}) is chosen
    assert ringq.Filter.of("cancel_all", None, {"queue": "bulk"}) == ringq.Filter(queue="bulk")
    with pytest.raises(ringq.InvalidOption, match="give a filter, or queue, not both"):
        ringq.Filter.of("cancel_all", chosen, {"queue": "bulk"})
    with pytest.raises(ringq.InvalidOption, match="there is no option 'tag'; did you mean tags"):
        ringq.Filter.of("cancel_all", None, {"tag": "a"})  # type: ignore[typeddict-unknown-key]
    with pytest.raises(ringq.InvalidOption, match=r"expected a ringq\.Filter"):
        ringq.Filter.of("cancel_all", lambda task: True, {})  # type: ignore[arg-type]

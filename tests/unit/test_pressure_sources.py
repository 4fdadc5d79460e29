"""Sources of the user: good ones, and those that raise, hang, or answer rubbish - ignored, with one warning each."""

from __future__ import annotations

import json
import math
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import ringq
from ringq.neighbours import Sample
from ringq.sampler import Sources, checked, line

PATIENCE_S = 10


class Fake:
    """A source that answers what `answer` returns."""

    def __init__(self, name: Any, answer: Callable[[], Any]) -> None:
        self.name = name
        self.pressure = answer


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Sources]:
    """Sources of a module `plant`, by the names of its attributes."""

    def make(**attributes: Any) -> Sources:
        module = types.ModuleType("plant")
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, "plant", module)
        return Sources([f"plant:{name}" for name in attributes])

    return make


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Lets a source that hangs go on; at the end it does in any case."""
    event = threading.Event()
    yield event
    event.set()


def asked(sources: Sources) -> dict[str, float]:
    """Ask, wait for every answer, take them."""
    sources.ask()
    settle(sources)
    return sources.take()


def settle(sources: Sources) -> None:
    for one in sources._asked.values():
        assert one._is_idle.wait(PATIENCE_S)


def test_a_good_source_is_asked_each_time(sources: Callable[..., Sources]) -> None:
    answers = iter([0.25, 1, 0])
    found = sources(battery=Fake("battery", lambda: next(answers)))
    assert [asked(found), asked(found), asked(found)] == [{"battery": 0.25}, {"battery": 1.0}, {"battery": 0.0}]
    assert found.warnings == []


def test_a_class_is_called_for_its_source(sources: Callable[..., Sources]) -> None:
    class Battery:
        name = "battery"

        def pressure(self) -> float:
            return 0.5

    source: ringq.PressureSource = Battery()
    assert source.pressure() == 0.5
    assert asked(sources(Battery=Battery)) == {"battery": 0.5}


def test_a_source_that_raises_counts_as_nothing_and_is_told_once(sources: Callable[..., Sources]) -> None:
    def answer() -> float:
        raise OSError("no such\nbattery")

    found = sources(battery=Fake("battery", answer), other=Fake("other", lambda: 0.5))
    assert asked(found) == {"battery": 0.0, "other": 0.5}
    assert found.warnings == ["pressure source battery counts as 0: OSError: no such battery"]
    assert asked(found) == {"battery": 0.0, "other": 0.5}
    assert len(found.warnings) == 1


def test_a_source_that_ends_its_thread_is_asked_again(sources: Callable[..., Sources]) -> None:
    answers: Iterator[Any] = iter([SystemExit(3), 0.5])

    def answer() -> float:
        value = next(answers)
        if isinstance(value, BaseException):
            raise value
        return float(value)

    found = sources(battery=Fake("battery", answer))
    assert [asked(found), asked(found)] == [{"battery": 0.0}, {"battery": 0.5}]


def test_a_source_that_hangs_counts_as_nothing_until_it_answers_in_time(
    sources: Callable[..., Sources], gate: threading.Event
) -> None:
    begun = threading.Event()

    def answer() -> float:
        begun.set()
        gate.wait(PATIENCE_S)
        return 0.9

    found = sources(battery=Fake("battery", answer), other=Fake("other", lambda: 0.5))
    found.ask()
    assert begun.wait(PATIENCE_S)
    assert found._asked["other"]._is_idle.wait(PATIENCE_S)
    assert found.take() == {"battery": 0.0, "other": 0.5}
    assert found.warnings == ["pressure source battery counts as 0: it has not answered within 0.5 s"]
    found.ask()  # the thread still hangs in the first question
    gate.set()
    settle(found)
    assert found.take()["battery"] == 0.0  # an answer to the first question, which nobody waits for any more
    assert asked(found)["battery"] == 0.9
    assert len(found.warnings) == 1


@pytest.mark.parametrize("rubbish", ["0.5", None, True, math.nan, math.inf, -0.1, 1.01, [0.5]])
def test_an_answer_that_is_no_share_counts_as_nothing(sources: Callable[..., Sources], rubbish: Any) -> None:
    found = sources(battery=Fake("battery", lambda: rubbish))
    assert asked(found) == {"battery": 0.0}
    (warning,) = found.warnings
    assert warning.endswith(f"it has answered {rubbish!r}, not a number from 0 to 1")
    with pytest.raises(ValueError, match="not a number from 0 to 1"):
        checked(rubbish)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (Fake("", lambda: 0.5), "its name is ''"),
        (Fake("x" * 65, lambda: 0.5), "not a text of 1 to 64 characters"),
        (Fake("two\nlines", lambda: 0.5), "its name is"),
        (Fake(3, lambda: 0.5), "its name is 3"),
        (Fake("cpu", lambda: 0.5), "its name 'cpu' is taken"),
        (Fake("battery", None), "it has no method pressure()"),  # type: ignore[arg-type]
        (lambda: 0.5, "its name is None"),
    ],
)
def test_what_is_no_source_is_left_out(sources: Callable[..., Sources], source: Any, says: str) -> None:
    found = sources(battery=source)
    (warning,) = found.warnings
    assert warning.startswith("pressure source plant:battery counts as 0: ")
    assert says in warning
    assert asked(found) == {}


def test_two_sources_have_two_names(sources: Callable[..., Sources]) -> None:
    found = sources(one=Fake("battery", lambda: 0.1), two=Fake("battery", lambda: 0.2))
    assert asked(found) == {"battery": 0.1}
    assert found.warnings == ["pressure source plant:two counts as 0: its name 'battery' is taken"]


def test_a_module_that_is_not_there_is_told() -> None:
    found = Sources(["no_such_plant:battery"])
    assert found.warnings == [
        "pressure source no_such_plant:battery counts as 0: "
        "ModuleNotFoundError: No module named 'no_such_plant'"
    ]  # fmt: skip
    assert found.take() == {}


def test_a_line_is_one_line_of_json() -> None:
    sample = Sample({"cpu": 0.123456}, {"disk_read": 3.7})
    written = line(7, sample, {"battery": 1.0}, ["one\ntwo"])
    assert written.count(b"\n") == 1
    told = json.loads(written)
    assert told.pop("cpu_ms") > 0
    assert told == {
        "at_ns": 7, "sources": {"cpu": 0.1235, "battery": 1.0}, "rates": {"disk_read": 4}, "warnings": ["one\ntwo"],
    }  # fmt: skip

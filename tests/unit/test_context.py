"""What a handler is told, and what it may say."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta

import pytest

from ringq import errors
from ringq.context import Context
from ringq.model import Reason


class Port:
    """The worker's record in the ring."""

    def __init__(self) -> None:
        self.said: list[tuple[float, str]] = []
        self.requested = 0

    def set_progress(self, lease: int, fraction: float, message: str) -> None:
        self.said.append((fraction, message))

    def cancel_requested(self) -> int:
        return self.requested


def test_an_inert_context_does_nothing() -> None:
    context = Context()
    context.progress(0.5, "half")
    context.check_cancelled()
    assert (context.remaining(), context.deadline) == (None, None)
    assert (context.task_id, context.lease, context.attempt, context.kind) == (0, 0, 1, "")


def test_an_attempt_knows_who_it_is_and_its_deadline() -> None:
    context = Context(7, 1 << 32 | 5, 2, "media::thumbnail", run_timeout_ms=60_000, port=Port())
    assert (context.task_id, context.lease, context.attempt, context.kind) == (7, 4294967301, 2, "media::thumbnail")
    left = context.remaining()
    assert left is not None
    assert 50 < left <= 60
    assert context.deadline is not None
    assert timedelta(seconds=50) < context.deadline - datetime.now(UTC) <= timedelta(seconds=60)
    assert "media::thumbnail" in repr(context)


def test_time_that_is_up_stays_at_zero() -> None:
    context = Context(run_timeout_ms=1)
    while context.remaining():
        pass
    assert context.remaining() == 0.0


def test_progress_is_clamped_and_must_be_a_number() -> None:
    port = Port()
    context = Context(reports=port)  # type: ignore[arg-type]
    for fraction in (0, 0.25, 1.0000001, -1, float("inf")):
        context.progress(fraction, "m")
    assert [fraction for fraction, _ in port.said] == [0.0, 0.25, 1.0, 0.0, 1.0]
    with pytest.raises(ValueError, match="nan"):
        context.progress(float("nan"))


@pytest.mark.parametrize(
    ("reason", "expected"),
    [(Reason.RUN_TIMEOUT, errors.RunTimeout), (Reason.CANCELLED, errors.AttemptCancelled)],
)
def test_a_request_to_end_is_raised_past_except_exception(reason: Reason, expected: type[BaseException]) -> None:
    port = Port()
    context = Context(port=port)
    context.check_cancelled()
    port.requested = reason.code
    with pytest.raises(expected) as caught, contextlib.suppress(Exception):
        context.check_cancelled()
    assert not isinstance(caught.value, Exception)


class Model: ...


class Small(Model): ...


class Large(Model): ...


class States:
    """The states of an app."""

    def get(self, type_: type) -> object:
        return f"the app's {type_.__name__}"


def test_states_are_those_given_by_hand_else_those_of_the_app() -> None:
    given = Small()
    context = Context(state={Small: given})
    context.offer(States())  # type: ignore[arg-type]
    assert context.state(Small) is given
    assert context.state(Model) is given
    inert = Context()
    with pytest.raises(errors.UnknownState, match="no state of type Model"):
        inert.state(Model)
    inert.offer(States())  # type: ignore[arg-type]
    assert inert.state(Model) == "the app's Model"  # type: ignore[comparison-overlap]


def test_a_state_that_is_ambiguous_unknown_or_no_type_is_one_line() -> None:
    context = Context(state={Small: Small(), Large: Large()})
    with pytest.raises(errors.UnknownState, match="several states are a Model: ask for one of Small, Large"):
        context.state(Model)
    with pytest.raises(errors.UnknownState, match=r"no state of type int; .* \(there is Small, Large\)"):
        context.state(int)
    with pytest.raises(errors.InvalidOption, match="state: expected a type"):
        context.state(Small())  # type: ignore[arg-type]


def test_what_a_handler_records_of_its_io_is_checked_everywhere() -> None:
    context = Context()
    context.record_io(rx=1, tx=2, read=3, write=0)
    for wrong in (-1, 1.5, True):
        with pytest.raises(errors.InvalidOption, match="net_rx: expected bytes"):
            context.record_io(rx=wrong)  # type: ignore[arg-type]

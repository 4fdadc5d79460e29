"""How far a running attempt is said to be: what was said, what is estimated, how fast it goes, when it may be done."""

from __future__ import annotations

import pytest

from ringq.progress import BYTES_UNKNOWN, ROW, TaskProgress, Throughput, progress_of, share, unpacked

S = 1_000_000_000
BEGUN_NS = 100 * S


def told(
    at_s: float, *, said: float | None = None, said_s: float = 0, done: int = 0, total: int | None = None,
    usual_s: float | None = None, bps: float = 0.0, label: str | None = None,
) -> TaskProgress:  # fmt: skip
    """At so many seconds after its start, an attempt that has last said something at `said_s`."""
    said_ns = 0 if said is None else BEGUN_NS + round(said_s * S)
    shown = (3, 7, 900, 2, 1, BEGUN_NS, said, said_ns, "m", done, total)
    return progress_of(shown, BEGUN_NS + round(at_s * S), "a::b", usual_s, label=label, bps=bps)


def test_what_was_said_is_shown_as_it_is() -> None:
    one = told(4, said=0.25, said_s=3.5, done=10, total=None, usual_s=100)
    assert one == TaskProgress(7, "a::b", "a::b", 900, 1, 3, 0.25, False, "m", 10, None, 0.0, 12.0, 4.0)
    assert told(1, label="mine").label == "mine"


def test_without_history_silence_is_no_progress() -> None:
    assert (told(50).fraction, told(50).eta_s, told(50).is_estimated) == (None, None, False)
    late = told(50, said=0.5, said_s=10)
    assert (late.fraction, late.is_estimated) == (0.5, False)


def test_of_who_has_said_nothing_the_history_of_the_kind_tells() -> None:
    one = told(5, usual_s=20)
    assert (one.fraction, one.is_estimated, one.eta_s) == (0.25, True, 15.0)
    late = told(500, usual_s=20)
    assert (late.fraction, late.is_estimated) == (0.99, True)


def test_who_is_silent_after_a_report_goes_on_at_the_mean_of_both_rates() -> None:
    # 0.2 after 2 s is 0.1 a second, the kind's is 0.05: 0.075 a second for 4 s more
    one = told(6, said=0.2, said_s=2, usual_s=20)
    assert one.fraction == pytest.approx(0.5)
    assert one.is_estimated
    assert one.eta_s == pytest.approx(6.0)
    assert told(3, said=0.2, said_s=2, usual_s=20).fraction == 0.2  # a second of silence is none
    assert told(60, said=0.2, said_s=2, usual_s=20).fraction == 0.99
    done = told(60, said=1.0, said_s=2, usual_s=20)
    assert (done.fraction, done.is_estimated, done.eta_s) == (1.0, False, 0.0)


def test_bytes_alone_are_a_fraction_too() -> None:
    one = told(10, done=250, total=1000)
    assert (one.fraction, one.is_estimated, one.eta_s) == (0.25, False, 30.0)
    assert told(10, done=0, total=0).fraction == 1.0
    assert told(10, said=0.9, said_s=10, done=250, total=1000).fraction == 0.9


def test_the_time_left_is_by_the_bytes_where_their_rate_is_known() -> None:
    assert told(10, said=0.9, said_s=10, done=250, total=1000, bps=50.0).eta_s == 15.0
    assert told(10, said=0.5, said_s=10, done=1000, total=1000, bps=50.0).eta_s == 10.0
    assert told(10, said=0.5, said_s=10, done=250, bps=50.0).eta_s == 10.0


@pytest.mark.parametrize(("done", "total", "expected"), [(1, 4, 0.25), (5, 4, 1.0), (-1, 4, 0.0), (0, 0, 1.0)])
def test_a_share_of_nothing_is_all_of_it(done: int, total: int, expected: float) -> None:
    assert share(done, total) == expected


def test_a_throughput_begins_at_zero_averages_and_decays() -> None:
    one = Throughput()
    one.sample(500, S)
    assert one.bps == 0.0
    one.sample(1500, 2 * S)
    assert one.bps == pytest.approx(300.0)
    one.sample(9999, 2 * S + 9_999_999)  # too soon: left to the next one
    assert one.bps == pytest.approx(300.0)
    one.sample(2500, 3 * S)
    assert one.bps == pytest.approx(300 + 0.3 * (1000 - 300))
    before = one.bps
    one.sample(2500, 4 * S)
    assert one.bps == pytest.approx(0.7 * before)
    one.sample(100, 5 * S)  # begun anew: no negative speed
    assert one.bps == pytest.approx(0.49 * before)


def test_rows_are_read_back_from_bytes() -> None:
    text = "grüße".encode()
    first = ROW.pack(1, 2, 3, len(text), 4, 5, 6, 7, 0.5, 8, 9, text)
    second = ROW.pack(0, 0, 1, 0, 1, 1, 1, 0, 0.0, 0, BYTES_UNKNOWN, b"")
    assert list(unpacked(first + second)) == [
        (1, 4, 5, 2, 3, 6, 0.5, 7, "grüße", 8, 9),
        (0, 1, 1, 0, 1, 1, None, 0, "", 0, None),
    ]

"""What `scripts/perf compare` says of two runs, and how it and `scripts/perf` refuse what they cannot read."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import perf.__main__ as command
from perf import compare


def result(**figures: Any) -> dict[str, Any]:
    """What --json prints: (median, smallest, largest) by name, or a plain value."""
    return {
        "benchmark": "end_to_end",
        **{name: value[0] if isinstance(value, tuple) else value for name, value in figures.items()},
        "spread": {name: list(value[1:]) for name, value in figures.items() if isinstance(value, tuple)},
        **{"rounds": 5, "quick": False, "durability": "full", "machine": "2 cores", "commit": "abc"},
    }


def verdict(name: str, old: Any, new: Any) -> compare.Change:
    (change,) = compare.changes(result(**{name: old}), result(**{name: new}))
    return change


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    def save(name: str, content: Any) -> str:
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return save


SLOW, FAST = (100.0, 98.0, 102.0), (120.0, 118.0, 122.0)


@pytest.mark.parametrize(
    ("name", "more", "less", "more_is_better"),
    [
        ("tasks_per_s", "faster", "slower", True),
        ("calls_per_s_auto", "faster", "slower", True),
        ("ratio_pool_chunk1", "more", "less", True),
        ("ratio_1e6_to_1e3", "more", "less", True),
        ("efficiency", "more", "less", True),
        ("share_of_raw_limit", "more", "less", True),
        ("start_p50_ms", "slower", "faster", False),
        ("parent_cpu_us", "slower", "faster", False),
        ("restart_s", "slower", "faster", False),
        ("parent_rss_mib", "more", "less", False),
        ("cpu_percent", "more", "less", False),
        ("writes", "more", "less", False),
        ("wakeups_per_s", "more", "less", False),
    ],
)
def test_the_name_says_which_direction_is_better(name: str, more: str, less: str, more_is_better: bool) -> None:
    up, down = verdict(name, SLOW, FAST), verdict(name, FAST, SLOW)
    assert (up.verdict, down.verdict) == (f"{more} beyond noise", f"{less} beyond noise")
    assert (up.is_better, up.is_worse) == (more_is_better, not more_is_better)
    assert (down.is_better, down.is_worse) == (not more_is_better, more_is_better)


def test_a_name_that_says_nothing_is_neither_better_nor_worse() -> None:
    change = verdict("iterations", SLOW, FAST)
    assert change.verdict == "more beyond noise"
    assert not change.is_better
    assert not change.is_worse


@pytest.mark.parametrize(
    "new",
    [(120.0, 101.0, 130.0), (90.0, 70.0, 98.0), (104.0, 103.0, 105.0), (100.0, 98.0, 102.0)],
    ids=["ranges overlap above", "ranges touch below", "apart but under 5 %", "the same"],
)
def test_what_is_within_noise(new: Any) -> None:
    assert verdict("tasks_per_s", SLOW, new).verdict == "within noise"


def test_a_figure_of_one_value_is_not_judged() -> None:
    change = verdict("longest_gap_ms", 2.0, 20.0)
    assert change.share == 9.0
    assert not change.is_worse
    assert "noise unknown" in change.verdict


def test_from_nothing_to_something_is_a_change() -> None:
    change = verdict("writes", (0, 0, 0), (7, 6, 8))
    assert change.is_worse
    assert change.share is None


def test_figures_of_one_run_only_and_what_is_no_number() -> None:
    old = result(tasks_per_s=SLOW, old_ms=SLOW, kind="a", curve=[1, 2], table={"a": 1}, holds=True)
    new = result(tasks_per_s=SLOW, new_ms=SLOW, kind="b", curve=[1, 3], table={"a": 2}, holds=False)
    assert [(one.name, one.verdict) for one in compare.changes(old, new)] == [
        ("tasks_per_s", "within noise"),
        ("old_ms", "only in one of them"),
        ("new_ms", "only in one of them"),
    ]


@pytest.mark.parametrize(("old", "new", "code"), [(SLOW, FAST, 0), (FAST, SLOW, 1), (SLOW, SLOW, 0)])
def test_the_exit_code_says_whether_anything_got_worse(
    saved: Any, capsys: pytest.CaptureFixture[str], old: Any, new: Any, code: int
) -> None:
    old, new = result(tasks_per_s=old, start_ms=SLOW), result(tasks_per_s=new, start_ms=SLOW)
    assert command.main(["compare", saved("a", old), saved("b", new)]) == code
    printed = capsys.readouterr()
    assert printed.err == ""
    row = next(line for line in printed.out.splitlines() if line.startswith("tasks_per_s"))
    if code:
        assert row.split(maxsplit=4) == ["tasks_per_s", "120.0", "100.0", "-16.7%", "slower beyond noise"]


def test_runs_that_are_hard_to_compare_are_compared_with_a_warning(
    saved: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {**result(tasks_per_s=SLOW), "machine": "64 cores", "durability": "normal", "quick": True, "rounds": 1}
    assert command.main(["compare", saved("a", result(tasks_per_s=SLOW)), saved("b", other)]) == 0
    warned = capsys.readouterr().err
    assert warned.count("warning: ") == 4
    assert "machine differs: 2 cores and 64 cores" in warned
    assert "durability differs: full and normal" in warned
    assert "fewer than 3 rounds" in warned


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as left:
        command.main(list(arguments))
    assert left.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


def test_different_benchmarks_are_not_compared(saved: Any, capsys: pytest.CaptureFixture[str]) -> None:
    other = {**result(tasks_per_s=SLOW), "benchmark": "map"}
    line = refusal(capsys, "compare", saved("a", result(tasks_per_s=SLOW)), saved("b", other))
    assert "different benchmarks: end_to_end and map" in line


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"benchmark": "map"}', '{"a": 1}\n{"a": 2}'])
def test_what_is_no_result_is_refused(saved: Any, capsys: pytest.CaptureFixture[str], content: str) -> None:
    line = refusal(capsys, "compare", saved("bad.json", content), saved("good.json", result()))
    assert "bad.json is not " in line


def test_a_file_that_is_missing_is_named(saved: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere.json: No such file" in refusal(capsys, "compare", "nowhere.json", saved("b", result()))
    assert "required: B.json" in refusal(capsys, "compare", saved("a", result()))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["end_to_ende"], "did you mean end_to_end?"),
        (["measure"], "there is no benchmark 'measure'"),
        (["../map"], "there is no benchmark '../map'"),
        ([], "required: NAME"),
        (["map", "--rounds", "0"], "--rounds: '0' is no number of rounds; give 1 or more"),
        (["map", "--rounds", "-3"], "--rounds: '-3' is no number of rounds"),
        (["map", "--rounds", "many"], "--rounds: 'many' is no number of rounds"),
        (["map", "--durability", "some"], "--durability: invalid choice: 'some'"),
        (["map", "--plot", "plot.bmp"], "--plot: 'plot.bmp' must end in .png or .svg"),
        (["map", "--plot", "/nowhere/plot.png"], "--plot: '/nowhere' is no directory that can be written to"),
        (["map", "--verbose"], "unrecognized arguments: --verbose"),
    ],
)
def test_wrong_arguments_are_told_before_anything_is_measured(
    capsys: pytest.CaptureFixture[str], arguments: list[str], word: str
) -> None:
    assert word in refusal(capsys, *arguments)


def test_a_plot_without_matplotlib_is_told_before_anything_is_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    line = refusal(capsys, "map", "--plot", str(tmp_path / "plot.png"))
    assert "needs the package matplotlib: pip install matplotlib" in line


def test_people_see_no_curves(capsys: pytest.CaptureFixture[str]) -> None:
    command.show(result(tasks_per_s=(60123.4, 58000.0, 61000.0), peer="bare SQLite", curve=[1, 2], histogram={"1": 7}))
    printed = capsys.readouterr().out
    assert [line.split() for line in printed.splitlines()[1:3]] == [
        ["tasks_per_s", "60,123", "58,000", "..", "61,000"],
        ["peer", "bare", "SQLite"],
    ]
    assert "end_to_end: 5 rounds, durability full, commit abc" in printed
    assert "curve" not in printed
    assert "histogram" not in printed

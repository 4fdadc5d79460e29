"""The log: one line per event, whatever it holds and whoever reads it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringq import banner, log
from ringq.config import Config


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(log, "_outlet", log._Outlet())
    yield
    log.configure()


def test_text_is_one_printable_line(capfd: pytest.CaptureFixture[str]) -> None:
    log.say("a\nb\x1b[2J\r\x9b\u202e\udcff é", worker=3)
    told = capfd.readouterr().err
    assert told[8:] == " a\\nb\\x1b[2J\\r\\x9b\\u202e\\udcff é\n"


def test_json_has_time_level_message_and_fields(capfd: pytest.CaptureFixture[str]) -> None:
    log.configure(format="json")
    log.say("worker 3 died", level="warning", worker=3, kind="a::b\n", place=Path("x"), odd=float("nan"))
    line = json.loads(capfd.readouterr().err)
    assert line.pop("time").endswith("Z")
    assert line == {
        **{"level": "warning", "message": "worker 3 died", "worker": 3},
        **{"kind": "a::b\\n", "place": "x", "odd": "nan"},
    }


@given(st.text(st.characters()), st.text())
def test_json_is_valid_whatever_the_text_holds(text: str, value: str) -> None:
    log.configure(format="json")
    line = log._formatted(text, "info", {"task_id": 1, "kind": value, "message": "of a handler", "time": "never"})
    assert line.isprintable()
    assert json.loads(line, parse_constant=pytest.fail)["message"] != "of a handler"


def test_quiet_keeps_warnings_and_what_handlers_print(capfd: pytest.CaptureFixture[str]) -> None:
    log.configure(format="json", quiet=True)
    log.say("serving")
    log.warn("worker 1 died")
    log.say("hello", printed=True, task_id=1)
    first, second = map(json.loads, capfd.readouterr().err.splitlines())
    assert (first["level"], second["message"], second["printed"]) == ("warning", "hello", True)


def test_the_banner_says_what_is_served_and_what_to_do_next(capfd: pytest.CaptureFixture[str]) -> None:
    config = Config(Path("my tasks.db"), "photos:app", workers=2, queues=(("bulk", 2), ("default", None)))
    banner.greet(config, ["photos::add"], 7)
    lines = [line[9:] for line in capfd.readouterr().err.splitlines()]
    assert lines[0].endswith(f" serves my tasks.db with 2 workers: 1 kinds, 7 tasks pending (pid {os.getpid()})")
    assert lines[1] == "  app photos:app, queues bulk:2,default, durability full"
    assert "ringq submit photos::add --payload '{...}' --db 'my tasks.db'" in lines[2]
    assert f"kill -TERM {os.getpid()}" in lines[3]
    log.configure(format="json")
    banner.greet(config, [], 0)
    (line,) = map(json.loads, capfd.readouterr().err.splitlines())
    assert (line["app"], line["workers"], line["queues"]) == ("photos:app", 2, "bulk:2,default")


def test_a_reader_that_reads_nothing_holds_nobody_up_and_then_gets_whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    log.configure(format="json")
    with os.fdopen(writer, "w") as stderr, os.fdopen(reader, "rb") as read:
        monkeypatch.setattr(sys, "stderr", stderr)
        began = time.monotonic()
        for number in range(1000):
            log.say("x" * 6000, number=number)
        assert time.monotonic() - began < 5
        os.set_blocking(reader, False)
        taken = read.read()
        log.say("again")
        taken += read.read()
    lines = [json.loads(line) for line in taken.splitlines()]
    assert lines[-1]["message"] == "again"
    written = len(lines) - 2
    assert lines[-2]["message"] == f"{1000 - written} lines were dropped: nobody read them"
    assert [line["number"] for line in lines[:-2]] == list(range(written))


def test_nobody_is_told_when_nobody_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        log.say("into a broken pipe")
    log.say("into a closed file")
    monkeypatch.setattr(sys, "stderr", None)
    log.say("into nothing")


def test_a_terminal_that_hung_up_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as stderr:
        os.close(ours)
        monkeypatch.setattr(sys, "stderr", stderr)
        log.say("EIO")

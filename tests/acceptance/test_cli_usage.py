"""What a user gets wrong, without any server: one line that says what to do, and the exit code of the table."""

from __future__ import annotations

import inspect
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest

from ringq import errors
from ringq.cli import exit_codes, options, printing
from ringq.cli.command import VERBS

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["serv"], 2, "did you mean serve"),
        (["serve"], 2, "MODULE:APP"),
        (["serve", "photos"], 2, "write e.g. photos:app"),
        (["serve", "photos:app", "--workers", "none"], 2, "auto"),
        (["serve", "photos:app", "--queues", "a:b"], 2, "default,bulk:2"),
        (["serve", "photos:app", "--durability", "some"], 2, "full"),
        (["serve", "photos:app", "--drain-timeout", "soon"], 2, "500ms"),
        (["submit"], 2, "KIND"),
        (["submit", "a::b", "--payload", "{"], 2, "not JSON"),
        (["submit", "a::b", "--payload", "[1]"], 2, "JSON object"),
        (["submit", "a::b", "--payload", '{"a": NaN}'], 2, "NaN"),
        (["submit", "a::b", "--priority", "-1"], 2, "0<=x<=255"),
        (["submit", "a::b", "--run-at", "2030-01-01T00:00"], 2, "offset"),
        (["submit", "a::b", "--run-at", "tomorrow"], 2, "+15m"),
        (["submit", "a::b", "--payload-file", "missing.json"], 2, "missing.json"),
        (["wait"], 2, "ID"),
        (["task", "show", "x"], 2, "integer"),
        (["demo", "--files", "0"], 2, "--files"),
    ],
)
def test_a_mistake_is_one_line(cli: Cli, args: list[str], code: int, says: str) -> None:
    answer = cli(*args)
    assert answer.returncode == code
    assert says in answer.stderr
    assert re.fullmatch(r"ringq: [^\n]+\n", answer.stderr)
    assert answer.stdout == ""


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"kind": "a::b", "payload": {}', "is not JSON"),
        ('{"kind": "a::b", "pyload": {}}', "did you mean payload"),
        ('{"payload": {}}', "no kind"),
        ('{"kind": "a::b", "priority": "high"}', "priority must be an integer"),
        ('{"kind": "a::b", "priority": true}', "priority must be an integer"),
        ('{"kind": "a::b", "payload": [1]}', "payload must be an object"),
        ('{"kind": "a::b", "run_at": "now"}', "run_at"),
        ("[]", "JSON object"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_written(cli: Cli, tmp_path: Path, line: str, says: str) -> None:
    answer = cli("submit", "--from", "-", stdin='{"kind": "a::b"}\n\n' + line + "\n")
    assert answer.returncode == 2
    assert ":3" in answer.stderr
    assert says in answer.stderr
    assert not (tmp_path / "tasks.db").exists()


def test_the_traceback_is_there_when_asked_for(cli: Cli) -> None:
    answer = cli("submit", "a::b", "--payload", "{", RINGQ_DEBUG="1")
    assert "Traceback" in answer.stderr
    assert answer.returncode == 2


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(cli: Cli, verb: str) -> None:
    answer = cli(verb, "--help")
    assert answer.returncode == 0
    assert answer.stdout.startswith(f"Usage: ringq {verb}")


def test_help_lists_verbs_and_exit_codes(cli: Cli) -> None:
    text = cli("--help").stdout
    assert all(re.search(rf"^  {verb} ", text, re.M) for verb in VERBS)
    assert all(re.search(rf"^ *{code}  ", text, re.M) for code in exit_codes.MEANING)


def test_version(cli: Cli) -> None:
    assert re.search(r"^ringq\t\d+\.\d+", cli("version").stdout, re.M)


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m ringq --help | true; exit ${{PIPESTATUS[0]}}"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ran.stderr == ""


def test_every_error_class_has_an_exit_code() -> None:
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.RingqError)]
    for error_class in classes:
        code = exit_codes.exit_code(error_class.__new__(error_class))
        assert code in exit_codes.MEANING
        faults_of_ours = ("RingqError", "CannotStart", "ProtocolError", "ClientClosed")
        assert code != exit_codes.INTERNAL or error_class.__name__ in faults_of_ours


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünïcode 日本", "plain ünïcode 日本"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("evil\u202egnp.exe", r"evil\u202egnp.exe"),
        ("\u2066x\u200b", r"\u2066x\u200b"),
        ("\x9b31m\x7f", r"\x9b31m\x7f"),
        ("lone \ud800", r"lone \ud800"),
    ],
)
def test_nothing_steers_the_terminal(text: str, shown: str) -> None:
    assert printing.visible(text) == shown


def test_a_table_is_for_terminals_and_tabs_for_pipes(tmp_path: Path) -> None:
    code = "from ringq.cli.printing import table; table(['kind'], [['[bold]\\x1b[31m']])"
    piped = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert piped.stdout == "[bold]\\x1b[31m\n"
    seen = _on_terminal([sys.executable, "-c", code])
    assert b"kind" in seen
    assert b"[bold]\\x1b[31m" in seen


def _on_terminal(command: list[str]) -> bytes:
    leader, follower = pty.openpty()
    try:
        with subprocess.Popen(command, stdout=follower, env={**os.environ, "TERM": "xterm"}) as process:
            os.close(follower)
            seen = b""
            while True:
                try:
                    chunk = os.read(leader, 4096)
                except OSError:  # Linux: the last writer has left
                    break
                seen += chunk
            assert process.wait(10) == 0
        return seen
    finally:
        os.close(leader)


@pytest.mark.parametrize(
    ("text", "span"), [("2", 2.0), ("500ms", 0.5), ("1.5m", 90.0), ("2h", 7200.0), ("1d", 86400.0), ("0", 0.0)]
)
def test_spans(text: str, span: float) -> None:
    assert options.span(text) == span


@pytest.mark.parametrize("text", ["", "s", "-1s", "1w", "nan", "inf", "1e999", "1 2"])
def test_what_is_no_span(text: str) -> None:
    with pytest.raises(click.BadParameter):
        options.span(text)


def test_moments() -> None:
    assert options.moment("2030-01-31T12:00:00+01:00") == datetime(2030, 1, 31, 11, tzinfo=UTC)
    assert timedelta(minutes=14) < options.moment("+15m") - datetime.now(UTC) < timedelta(minutes=16)


def test_queues() -> None:
    assert options.queues("default,bulk:2") == (("default", None), ("bulk", 2))

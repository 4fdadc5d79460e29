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
from ringq.cli import command, exit_codes, options, printing
from ringq.cli.command import VERBS

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["serv"], 2, "did you mean serve"),
        (["serve"], 2, "MODULE:APP"),
        (["serve", "photos"], 2, "write e.g. photos:app"),
        (["serve", "photos.py:app"], 2, "write e.g. photos:app"),
        (["serve", "photos.py"], 2, "write e.g. photos:app"),
        (["serve", "./photos:app"], 2, "write e.g. photos:app"),
        (["serve", "a/b:app"], 2, "write e.g. a.b:app"),
        (["serve", "/srv/photos.py:main"], 2, "write e.g. photos:main, in the folder /srv"),
        (["serve", "photos:app", "--workers", "none"], 2, "auto"),
        (["serve", "photos:app", "--queues", "a:b"], 2, "'b' in 'a:b' is no number of tasks"),
        (["serve", "photos:app", "--queues", "a,,b"], 2, "default,bulk:2"),
        (["serve", "photos:app", "--queues", "a,a:2"], 2, "'a' is named twice"),
        (["task", "list", "--status", "stuck"], 2, "dead_letter"),
        (["submit", "a::b", "--timeout", "1s"], 2, "--wait"),
        (["wait", "3..1"], 2, "lowest first"),
        (["wait", "one"], 2, "209..300"),
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
        (["wait", "0"], 2, "from 1 on"),
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


@pytest.mark.parametrize("content", [b"\xff\xfe{\x00}\x00", b'{"kind": "a::b", "payload": {"a": "\xe4"}}'])
def test_what_is_not_utf_8_is_one_line(cli: Cli, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tasks.ndjson").write_bytes(b'{"kind": "a::b"}\n' + content)
    answers = {
        "tasks.ndjson:2": cli("submit", "--from", "tasks.ndjson"),
        "payload.json:3": None,
        "<stdin>:2": subprocess.run(
            [sys.executable, "-m", "ringq", "submit", "--from", "-", "--db", str(tmp_path / "tasks.db")],
            input=b"\n" + content,
            capture_output=True,
            check=False,
        ),
    }
    (tmp_path / "payload.json").write_bytes(b"{\n\n" + content)
    answers["payload.json:3"] = cli("submit", "a::b", "--payload-file", "payload.json")
    for place, answer in answers.items():
        assert answer is not None
        told = answer.stderr if isinstance(answer.stderr, str) else answer.stderr.decode()
        assert answer.returncode == 2
        assert re.fullmatch(rf"ringq: {re.escape(place)} is not UTF-8 [^\n]+\n", told)


def test_faults_of_json_are_named_by_line_and_column(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "payload.json").write_text('{"a":\n  1,,}')
    assert "payload.json:2 is not JSON: " in cli("submit", "a::b", "--payload-file", "payload.json").stderr
    told = cli("submit", "--from", "-", stdin='{"kind": }').stderr
    assert told == "ringq: <stdin>:1 is not JSON: Expecting value at column 10\n"


def test_a_refusal_of_no_line_in_particular_names_all_lines_of_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise errors.BatchTooLarge("too much")

    monkeypatch.setattr("ringq.client.Client.submit_many", refuse)
    for count, lines in ((3, "2-4"), (1, "2")):
        (tmp_path / "tasks.ndjson").write_text("\n" + '{"kind": "a::b"}\n' * count)
        path = str(tmp_path / "tasks.ndjson")
        assert command.run(["submit", "--from", path, "--db", str(tmp_path / "tasks.db")]) == 2
        assert capsys.readouterr().err == f"ringq: {path}:{lines}: too much\n"


def test_the_traceback_is_there_when_asked_for(cli: Cli) -> None:
    answer = cli("submit", "a::b", "--payload", "{", RINGQ_DEBUG="1")
    assert "Traceback" in answer.stderr
    assert answer.returncode == 2
    assert "Traceback" not in cli("submit", "a::b", "--payload", "{", RINGQ_DEBUG="0").stderr


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
    first = cli("version").stdout.splitlines(keepends=True)[0]
    assert re.fullmatch(r"ringq\t\d+\.\d+\.\d+\n", first)
    assert cli("--version").stdout == first


def test_no_database_named(cli: Cli) -> None:
    for verb in (["stats"], ["history"], ["health"], ["task", "list"], ["submit", "a::b"], ["serve", "a:b"]):
        answer = cli(*verb, RINGQ_DB="")
        assert answer.returncode == 2
        assert answer.stderr == "ringq: name the database: --db PATH, or set RINGQ_DB=PATH, or db in ringq.toml\n"


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    for verb, unbuffered in (("--help", ""), ("--help", "1"), ("version", ""), ("version", "1")):
        call = f"PYTHONUNBUFFERED={unbuffered} {sys.executable} -m ringq {verb}"
        line = f"( sleep 0.2; {call} ) | true; exit ${{PIPESTATUS[0]}}"
        ran = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=tmp_path, check=False)
        assert (ran.returncode, ran.stderr) == (141, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("verb", ["--help", "version"])
def test_a_full_disk_behind_the_output_is_named(verb: str, unbuffered: str) -> None:
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "ringq", verb], stdout=full, stderr=subprocess.PIPE, text=True, env=env, check=False
        )
    assert (ran.returncode, ran.stderr) == (74, "ringq: standard output: No space left on device\n")


def test_no_output_at_all_is_no_fault() -> None:
    line = f"{sys.executable} -m ringq version >&-"
    ran = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_nobody_reads_what_goes_wrong() -> None:
    line = f"{sys.executable} -m ringq nonsense 2>&-"
    ran = subprocess.run(["bash", "-c", line], stdout=subprocess.PIPE, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (2, "")


def test_ctrl_c_while_the_command_is_loaded() -> None:
    code = (
        "import sys\n"
        "class Struck:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'click': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Struck())\n"
        "from ringq.cli import main\n"
        "main()\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (130, "ringq: interrupted\n")


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


def test_a_table_is_for_terminals_and_tabs_for_pipes() -> None:
    code = "from ringq.cli.printing import table; table(['kind'], [['[bold]\\x1b[31m']])"
    piped = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert piped.stdout == "kind\n[bold]\\x1b[31m\n"
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


def test_ids() -> None:
    assert options.task_ids("209") == range(209, 210)
    assert options.task_ids("2..4") == range(2, 5)


@pytest.mark.parametrize("text", ["", "..", "1..", "..2", "-1", "3..2", "0..1", "1..99999999", "٣", "9" * 30])
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(click.BadParameter):
        options.task_ids(text)


def test_queues() -> None:
    assert options.queues("default,bulk:2") == (("default", None), ("bulk", 2))

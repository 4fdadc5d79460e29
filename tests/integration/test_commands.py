"""Commands as handlers, called as plain functions: results, failures in one line, bounded output, dead groups."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

import ringq
from ringq.contrib.exec import CommandFailed, Finished, app, command
from ringq.contrib.group import Group, undisturbed

run = command()


def sh(script: str, **options: Any) -> Finished:
    return run(["sh", "-c", script], **options)


def wait_ended(pid: int) -> None:
    """A killed process that is no child of ours: its descriptor tells of its end."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], 10)[0], f"{pid} still runs"
    finally:
        os.close(descriptor)


def test_a_command_that_succeeds_tells_what_it_printed_and_how_long_it_took() -> None:
    done = sh("echo out; echo err >&2")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "out\n", "err\n")
    assert 0 < done.duration < 60


def test_arguments_are_passed_as_they_are() -> None:
    assert run(["printf", "%s|", "a b", "$HOME", "*", ""]).stdout == "a b|$HOME|*||"


def test_the_environment_is_added_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THERE", "1")
    assert sh('echo "$THERE$MORE"', env={"MORE": "2"}).stdout == "12\n"


def test_much_input_and_much_output_do_not_wait_for_each_other() -> None:
    text = "0123456789" * 100_000
    done = run(["cat"], stdin=text)
    assert done.stdout == text[-4096:]
    assert sh("cat >/dev/null; seq 200000; seq 200000 >&2").stdout.endswith("\n200000\n")


def test_a_command_that_does_not_read_its_input_succeeds_all_the_same() -> None:
    assert run(["true"], stdin="x" * 1_000_000).exit_code == 0


def test_without_input_there_is_nothing_to_read() -> None:
    assert run(["cat"]).stdout == ""


def test_output_that_is_no_text_is_replaced() -> None:
    assert sh(r"printf 'a\377b'").stdout == "a\ufffdb"


@pytest.mark.parametrize(
    ("script", "message", "exit_code", "signal_name"),
    [
        ("echo one >&2; echo the disk is full >&2; exit 3", "exit 3: the disk is full", 3, None),
        ("echo only here; exit 1", "exit 1: only here", 1, None),
        ("exit 7", "exit 7", 7, None),
        ("echo cannot go on >&2; kill -SEGV $$", "killed by SIGSEGV: cannot go on", None, "SIGSEGV"),
        ("printf '%0500d' 0 >&2; exit 2", f"exit 2: {'0' * 256}", 2, None),
    ],
)
def test_a_failure_says_in_one_line_what_happened(
    script: str, message: str, exit_code: int | None, signal_name: str | None
) -> None:
    with pytest.raises(CommandFailed) as caught:
        sh(script)
    error = caught.value
    assert (str(error), error.exit_code, error.signal) == (message, exit_code, signal_name)


def test_what_a_failure_printed_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CommandFailed) as caught:
        sh("echo out; echo first >&2; echo last >&2; exit 1")
    assert capfd.readouterr() == ("out\n", "first\nlast\n")
    assert (caught.value.stdout, caught.value.stderr) == ("out\n", "first\nlast\n")


def test_what_cannot_be_started_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    (tmp_path / "binary").write_bytes(b"\x7fELF")
    (tmp_path / "binary").chmod(0o755)
    wrong = {
        "no-such-command": "no-such-command: command not found, and this is no shell",
        str(tmp_path / "none"): f"{tmp_path}/none: command not found",
        str(tmp_path / "text"): f"{tmp_path}/text cannot be started: Permission denied",
        str(tmp_path / "binary"): f"{tmp_path}/binary cannot be started: Exec format error",
    }
    for program, message in wrong.items():
        with pytest.raises(CommandFailed) as caught:
            run([program])
        assert str(caught.value) == message
    with pytest.raises(CommandFailed, match=r"cwd: .*/gone is not a folder here"):
        run(["true"], cwd=str(tmp_path / "gone"))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"argv": []}, "argv: expected a program and its arguments"),
        ({"argv": ["", "a"]}, "argv: expected a program"),
        ({"argv": ["a\0b"]}, "NUL"),
        ({"argv": ["true"], "env": {"A": "\0"}}, "NUL"),
        ({"argv": ["true"], "env": {"A=B": "1"}}, "env: the name of a variable"),
        ({"argv": ["true"], "env": {"": "1"}}, "env: the name of a variable"),
        ({"argv": ["true"], "timeout": 0}, "timeout: expected more than 0"),
        ({"argv": ["true"], "timeout": float("nan")}, "timeout: expected more than 0"),
    ],
)
def test_arguments_that_make_no_sense_are_told(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ringq.InvalidPayload, match=complaint):
        run(**arguments)


def test_a_root_keeps_commands_in_its_folder(tmp_path: Path) -> None:
    top, outside = tmp_path / "top", tmp_path / "top-secret"
    (top / "inner").mkdir(parents=True)
    outside.mkdir()
    (top / "way-out").symlink_to(outside)
    kept = command(root=top)
    assert kept(["pwd"]).stdout == f"{top}\n"
    assert kept(["pwd"], cwd="inner").stdout == kept(["pwd"], cwd=str(top / "inner")).stdout == f"{top}/inner\n"
    for cwd in ("..", "/", "way-out", str(outside), "inner/../../top-secret"):
        with pytest.raises(ringq.InvalidPayload, match=f"cwd: {cwd} is outside of {top}"):
            kept(["pwd"], cwd=cwd)


def test_a_timeout_kills_the_command_and_what_it_started(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=r"^killed after 0.5 s, its timeout: working$") as caught:
        sh(f"sleep 300 & echo $! >{tmp_path}/pid; echo working; trap '' TERM; wait; wait", timeout=0.5)
    assert caught.value.signal == "SIGKILL"
    wait_ended(int((tmp_path / "pid").read_text()))


def test_what_a_command_leaves_behind_holds_nothing_up_and_is_killed(tmp_path: Path) -> None:
    done = sh(f"sleep 300 & echo $! >{tmp_path}/pid; echo done")
    assert done.stdout == "done\n"
    assert done.duration < 60
    wait_ended(int((tmp_path / "pid").read_text()))


def test_a_command_that_signals_its_own_group_ends_as_it_says() -> None:
    with pytest.raises(CommandFailed, match="killed by SIGTERM"):
        sh("kill 0; sleep 300", timeout=60)


def test_no_descriptor_and_no_child_is_left(tmp_path: Path) -> None:
    sh("true")
    before = len(os.listdir("/proc/self/fd")), psutil.Process().children()
    for script in ("true", "exit 1", "kill -9 $$", "sleep 300 &"):
        with contextlib.suppress(CommandFailed):
            sh(script, stdin="some")
    with pytest.raises(CommandFailed):
        run(["no-such-command"])
    assert (len(os.listdir("/proc/self/fd")), psutil.Process().children()) == before


def test_a_command_may_be_run_in_a_thread() -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(sh("echo here").stdout))
    thread.start()
    thread.join(60)
    assert found == ["here\n"]


def test_an_exception_from_a_signal_kills_the_command_wherever_it_comes(tmp_path: Path) -> None:
    """As the run time limit does. The command sends it: at once, or after it has started something."""

    def raise_it(*_: object) -> None:
        raise ringq.RunTimeout

    children = psutil.Process().children()
    before = signal.signal(signal.SIGUSR2, raise_it)
    try:
        for script in ("kill -USR2 $PPID; sleep 300", f"sleep 300 & echo $! >{tmp_path}/pid; kill -USR2 $PPID; wait"):
            with pytest.raises(ringq.RunTimeout):
                sh(script, timeout=60)
    finally:
        signal.signal(signal.SIGUSR2, before)
    wait_ended(int((tmp_path / "pid").read_text()))
    assert psutil.Process().children() == children


def test_the_soft_exception_waits_until_processes_have_names() -> None:
    steps = []

    def raise_it(*_: object) -> None:
        steps.append("raised")
        raise ringq.RunTimeout

    def start_something() -> None:
        with undisturbed():
            signal.raise_signal(signal.SIGUSR2)
            steps.append("named")

    before = signal.signal(signal.SIGUSR2, raise_it)
    try:
        with pytest.raises(ringq.RunTimeout):
            start_something()
        assert steps == ["named", "raised"]
        assert signal.getsignal(signal.SIGUSR2) is raise_it
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_group_dies_with_the_process_that_made_it() -> None:
    """Killed with -9: nobody but the guard is left to do it. What has another parent is in the group as well."""
    source = (
        "import os, signal, subprocess; from ringq.contrib.group import Group; group = Group(); "
        "shell = group.start(['sh', '-c', 'trap \"\" HUP TERM; sleep 300 & echo $!; echo $$; wait'], "
        "stdout=subprocess.PIPE); "
        "print(*[shell.stdout.readline().decode().strip() for _ in range(2)], flush=True); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    ran = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    for pid in ran.stdout.split():
        wait_ended(int(pid))


def test_a_group_is_ended_twice() -> None:
    group = Group()
    process = group.start(["sleep", "300"])
    group.end()
    group.end()
    assert process.wait(10) == -signal.SIGKILL


def test_the_kind_that_comes_along_is_checked_by_its_hints() -> None:
    assert list(app.kinds()) == ["ringq::exec"]
    task = app.kinds()["ringq::exec"]
    assert task.run(None, b'{"argv": ["true"]}').startswith(b'{"exit_code":0,')
    with pytest.raises(ringq.InvalidPayload, match="argv"):
        task.run(None, b'{"argv": "true"}')
    with pytest.raises(ringq.InvalidPayload, match="argv"):
        task.run(None, b"{}")

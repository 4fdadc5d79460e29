"""The examples of a page of documentation: its fenced blocks, and a session that follows them as a reader would.

A comment before a block says what it is:

    <!-- example: run -->               run it; it must succeed
    <!-- example: run fails N -->       run it; it must end with exit code N
    <!-- example: output -->            the block before it prints these lines in this order, maybe others between;
                                        `...` stands for anything, and any white space for any other
    <!-- example: file NAME -->         save it under this name for the blocks that follow
    <!-- example: background -->        a server: start it and leave it running until the end of the page
    <!-- example: run by PATH -->       not run here, because this file of the repository runs it

Every bash and every python block has one: nothing is left out by accident. Blocks in other languages may go without.
Variables that a bash block exports, and the folder it changes to, are there for the blocks after it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(r"(?:<!-- example: ([^\n]*) -->\n)?^```(\w+)\n(.*?)^```$", re.S | re.M)
HOW = re.compile(r"(run by|run fails|run|output|file|background)(?: (\S+))?")
BLOCK_S = 90
SERVER_READY_S = 20.0
STOP_S = 30
CONTINUE = 'if [ -e "$STATE" ]; then . "$STATE"; cd "$PWD"; fi\n'
REMEMBER = '\nexport -p >"$STATE"\n'


@dataclass(frozen=True)
class Block:
    """One fenced block with what its comment says."""

    how: str
    argument: str
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """The blocks of a page that have a part in its examples."""
    found = []
    for comment, language, text in BLOCK.findall(page.read_text()):
        if comment or language in ("bash", "python"):
            assert comment, f"{page.name}: say how to run this block (see tests/examples.py):\n{text}"
            said = HOW.fullmatch(comment)
            assert said, f"{page.name}: what is {comment!r}?"
            found.append(Block(said[1], said[2] or "", language, text))
    return found


class Session:
    """What a reader has: a folder, an environment, and terminals in which servers run."""

    def __init__(self, folder: Path, notes: Path, env: dict[str, str]) -> None:
        """`folder`: where the reader works. `notes`: where the session keeps what it must remember."""
        self._folder, self._notes = folder, notes
        ours = {name: value for name, value in os.environ.items() if not name.startswith("RINGQ_")}
        self._env = {**ours, **env, "STATE": str(notes / "state")}
        self._servers: list[subprocess.Popen[bytes]] = []
        self._printed = ""

    def follow(self, block: Block) -> None:
        """Do what a block says; AssertionError if it does not come out as the page says."""
        if block.how == "file":
            (self._folder / block.argument).write_text(block.text)
        elif block.how == "background":
            self._serve(block.text)
        elif block.how == "output":
            _compare(block.text, self._printed)
        elif block.how in ("run", "run fails"):
            self._run(block)

    def close(self) -> list[int]:
        """End the servers that still run; the exit codes of all, but for those the page has killed with -9."""
        for server in self._servers:
            server.terminate()
        codes = [server.wait(STOP_S) for server in self._servers]
        return [code for code in codes if code != -signal.SIGKILL]

    def _run(self, block: Block) -> None:
        text = block.text if block.language == "bash" else 'python -c "$0"'
        ran = subprocess.run(
            ["bash", "-ec", CONTINUE + text + REMEMBER, block.text], cwd=self._folder, env=self._env, check=False,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BLOCK_S,
        )  # fmt: skip
        self._printed = ran.stdout + ran.stderr
        assert ran.returncode == int(block.argument or 0), f"{block.text}\n{self._printed}"

    def _serve(self, command: str) -> None:
        said = self._notes / f"server-{len(self._servers)}"
        with said.open("wb") as stderr:
            server = subprocess.Popen(
                ["bash", "-ec", f"{CONTINUE}exec {command}"], cwd=self._folder, env=self._env, stderr=stderr
            )
        self._servers.append(server)
        deadline = time.monotonic() + SERVER_READY_S
        while " serves " not in said.read_text(errors="replace"):
            assert server.poll() is None, f"{command}\n{said.read_text()}"
            assert time.monotonic() < deadline, f"{command}\n{said.read_text()}"
            time.sleep(0.05)


def _compare(expected: str, printed: str) -> None:
    lines = iter([" ".join(line.split()) for line in printed.splitlines()])
    for line in expected.splitlines():
        parts = (re.escape(" ".join(part.split())) for part in line.split("..."))
        wanted = re.compile(r"\s*.*?\s*".join(parts))
        assert any(wanted.fullmatch(one) for one in lines), f"not printed, or not in this order: {line}\n{printed}"

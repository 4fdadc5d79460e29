"""Every fenced bash and python block of README.md and docs/*.md is run, in the order of the page.

A comment before a block says how:

    <!-- example: run -->               run it; it must succeed
    <!-- example: file NAME -->         save it under this name for the blocks that follow
    <!-- example: background -->        start it and leave it running until the end of the page (a server)
    <!-- example: run by PATH -->       not run here, because this file of the repository runs it

Each page gets an empty folder and a shell in which `ringq` and `python` are this installation. A block without a
comment is an error: nothing is left out by accident.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from ringq.cli.command import VERBS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?:<!-- example: ([^\n]*) -->\n)?^```(bash|python)\n(.*?)^```$", re.S | re.M)
BLOCK_S = 90
SERVER_READY_S = 20.0

pytestmark = pytest.mark.xdist_group("servers")


@dataclass(frozen=True)
class Block:
    """One fenced block with what its comment says."""

    how: str
    argument: str
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """The blocks of a page."""
    found = []
    for comment, language, text in BLOCK.findall(page.read_text()):
        assert comment, f"{page.name}: say how to run this block (see tests/test_docs.py):\n{text}"
        verb, _, argument = comment.partition(" ")
        if argument.startswith("by "):
            verb, argument = "elsewhere", argument.removeprefix("by ")
        assert verb in ("run", "file", "background", "elsewhere"), f"{page.name}: what is {comment!r}?"
        found.append(Block(verb, argument, language, text))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_example_works(page: Path, tmp_path: Path) -> None:
    bin_folder = Path(sys.executable).parent
    env = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}"}
    servers = []
    try:
        for block in blocks(page):
            command = ["bash", "-euc", block.text] if block.language == "bash" else [sys.executable, "-c", block.text]
            if block.how == "file":
                (tmp_path / block.argument).write_text(block.text)
            elif block.how == "background":
                servers.append(subprocess.Popen(["bash", "-c", f"exec {block.text}"], cwd=tmp_path, env=env))
                _wait_for_sockets(tmp_path, len(servers))
            elif block.how == "run":
                ran = subprocess.run(
                    command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=BLOCK_S, check=False
                )
                assert ran.returncode == 0, f"{block.text}\n{ran.stdout}\n{ran.stderr}"
    finally:
        codes = []
        for server in servers:
            server.terminate()
            codes.append(server.wait(30))
    assert codes == [0] * len(servers)


def _wait_for_sockets(folder: Path, count: int) -> None:
    deadline = time.monotonic() + SERVER_READY_S
    while len(list(folder.glob("*-ringq/ringq.sock"))) < count:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.05)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_run_elsewhere_is_run_there(page: Path) -> None:
    for block in blocks(page):
        if block.how == "elsewhere":
            runner = (ROOT / block.argument).read_text()
            scripts = re.findall(r"scripts/[\w]+", block.text)
            assert scripts
            assert all(script in runner for script in scripts)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_verb_that_is_named_exists(page: Path) -> None:
    for verb in re.findall(
        r"\bringq ([a-z]+)\b", "\n".join(re.findall(r"```.*?```|`[^`\n]+`", page.read_text(), re.S))
    ):
        assert verb in VERBS, f"{page.name} names `ringq {verb}`"


def test_the_readme_names_every_verb() -> None:
    table = (ROOT / "README.md").read_text()
    assert all(f"`ringq {verb}" in table for verb in VERBS)


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_source_package_has_what_the_readme_speaks_of() -> None:
    packed = set(re.findall(r"^graft (\w+)$", (ROOT / "MANIFEST.in").read_text(), re.M))
    named = set(re.findall(r"\b(docs|perf|scripts|tests)/", (ROOT / "README.md").read_text())) | {"perf"}
    assert packed == named
    assert all((ROOT / folder).is_dir() for folder in packed)

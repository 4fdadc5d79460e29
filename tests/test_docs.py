"""Every fenced bash and python block of README.md and docs/*.md is run, in the order of the page (see examples.py).

Each page gets an empty folder and a shell in which `ringq` and `python` are this installation. The tutorial installs
ringq itself, and so has a test of its own.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
from examples import Session, blocks

from ringq.cli.command import VERBS
from ringq.config import Config
from ringq.context import Context

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TUTORIAL = ROOT / "docs" / "TUTORIAL.md"  # followed by acceptance/test_tutorial.py

pytestmark = pytest.mark.xdist_group("servers")


@pytest.mark.parametrize("page", [page for page in PAGES if page != TUTORIAL], ids=lambda page: page.name)
def test_every_example_works(page: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    short = tmp_path_factory.mktemp("docs")  # a test's own path may be too long for a socket in it
    folder, notes = short / "folder", short / "notes"
    folder.mkdir()
    notes.mkdir()
    env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    env["PYTEST_ADDOPTS"] = "-p ringq.testing.plugin"  # also where ringq was installed before it had one
    session = Session(folder, notes, env)
    try:
        for block in blocks(page):
            session.follow(block)
    finally:
        codes = session.close()
    assert set(codes) <= {0}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_run_elsewhere_is_run_there(page: Path) -> None:
    for block in blocks(page):
        if block.how == "run by":
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


def test_the_page_of_the_context_names_all_of_it() -> None:
    page = (ROOT / "docs" / "CONTEXT.md").read_text()
    named = set(re.findall(r"`(?:ctx\.)?(\w+)", page))
    inside = {"offer"}  # for ringq's own use
    assert {name for name in dir(Context) if not name.startswith("_")} - inside <= named


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_source_package_has_what_the_readme_speaks_of() -> None:
    packed = set(re.findall(r"^graft (\w+)$", (ROOT / "MANIFEST.in").read_text(), re.M))
    named = set(re.findall(r"\b(docs|perf|scripts|tests)/", (ROOT / "README.md").read_text())) | {"perf"}
    assert packed == named
    assert all((ROOT / folder).is_dir() for folder in packed)


def test_the_unit_lets_running_tasks_end_and_starts_what_there_is() -> None:
    unit = ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[method-assign,assignment]
    unit.read(ROOT / "docs" / "ringq.service")
    service = unit["Service"]
    assert (service["Type"], service["KillMode"], service["OOMPolicy"]) == ("notify", "mixed", "continue")
    settings = _accepted(shlex.split(service["ExecStart"]))
    assert settings["app"] == "photos:app"
    assert service.getint("TimeoutStopSec") > settings["drain_timeout"] + Config(Path()).term_grace_s


def test_the_image_starts_what_there_is() -> None:
    lines = (ROOT / "docs" / "Dockerfile").read_text().splitlines()
    (variable,) = (line.removeprefix("ENV ").split("=") for line in lines if line.startswith("ENV "))
    (command,) = (json.loads(line.removeprefix("CMD ")) for line in lines if line.startswith("CMD "))
    assert _accepted(command, dict([variable]))["db"] == "/data/photos.db"


def _accepted(command: list[str], env: dict[str, str] | None = None) -> dict[str, Any]:
    """The settings that `ringq serve` would use, if that is what the command is."""
    program, verb, *args = command
    assert (Path(program).name, verb) == ("ringq", "serve")
    show = [sys.executable, "-m", "ringq", "config", "show", "--json", *args]
    shown = subprocess.run(show, cwd="/", env={**os.environ, **(env or {})}, capture_output=True, check=True)
    settings: dict[str, Any] = json.loads(shown.stdout)
    return settings

"""Edge: the settings of a server - how each is written, and the project's file that may hold them.

flag ─► RINGQ_* ─► ringq.toml or [tool.ringq] of pyproject.toml ─► the App ─► built in       (the first that says)
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ringq import defaults, notation
from ringq.config import LOG_LEVELS, TIMELINES, Config
from ringq.errors import InvalidConfig, InvalidOption
from ringq.spelling import meant

FILE, SHARED_FILE = "ringq.toml", "pyproject.toml"

_NO_SETTINGS = ("RINGQ_DEBUG", "RINGQ_FAILPOINT", "RINGQ_INSIDE_WORKER")  # ours, but no settings


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: `name` in the file, `RINGQ_NAME` in the environment, a field of Config."""

    name: str
    field: str
    parse: Callable[[Any], Any]
    unit: str = ""  # of a number without one

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return f"RINGQ_{self.name.upper()}"

    def read(self, written: object) -> Any:
        """The value for Config of what a flag, a variable or a file says. Raises ValueError: what is wrong with it."""
        value = self.parse(written)
        try:
            Config(**{"database": Path(), self.field: value})
        except InvalidConfig as error:  # names the field; what was written is called by its own name
            raise ValueError(str(error).partition(": ")[2]) from None
        return value

    def plain(self, value: Any) -> Any:
        """A value of Config as one could write it into the file: numbers without unit, text, true and false."""
        if self.name == "defaults":
            return defaults.as_text(defaults.shown(dict(value)))
        if self.name == "pressure_sources":
            return ",".join(value)
        if isinstance(value, tuple):
            return ",".join(name if cap is None else f"{name}:{cap}" for name, cap in value)
        if self.name == "workers":
            return value or "auto"
        if value == math.inf:
            return "forever"
        return str(value) if isinstance(value, Path) else value


@dataclass(frozen=True, slots=True)
class Project:
    """The file with a project's settings: its values as Config takes them, and the line of each."""

    path: Path
    values: Mapping[str, Any]
    lines: Mapping[str, int]

    def place(self, name: str) -> str:
        """Where a setting stands: file and line."""
        return f"{self.path}:{self.lines[name]}" if name in self.lines else str(self.path)


def project() -> Project | None:
    """The nearest file with settings: in the working directory, else in the directories above it.

    A ringq.toml holds nothing else; a pyproject.toml counts if it has [tool.ringq]. Two that both have settings in one
    directory are an error: whoever edits one of them must not wonder why nothing changes. A relative `db` is relative
    to the file. Raises InvalidConfig, naming file and line, for a file that is no TOML, an unknown key, a wrong value.
    """
    try:
        here = Path.cwd()
    except FileNotFoundError:  # deleted under us; no reason to refuse what needs no file
        return None
    for folder in (here, *here.parents):
        own, shared = folder / FILE, folder / SHARED_FILE
        found = {path: table for path in (own, shared) if (table := _table(path)) is not None}
        if found.get(own) and found.get(shared):
            raise InvalidConfig(f"both {own} and [tool.ringq] in {shared} have settings: keep them in one of the two")
        if found:
            path = own if found.get(own) or shared not in found else shared
            return _project(path, found[path])
    return None


def stranger_warnings(environment: Iterable[str]) -> list[str]:
    """One line for each variable that begins with RINGQ_ and means nothing to ringq."""
    known = {*_NO_SETTINGS, *(one.variable for one in SETTINGS.values())}
    strangers = sorted(name for name in environment if name.startswith("RINGQ_") and name not in known)
    return [f"the environment variable {name} is no setting of ringq{nearest(name, known)}" for name in strangers]


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean x?` for a name that is no setting, or nothing."""
    other = {"database": "db", "RINGQ_DATABASE": "RINGQ_DB"}.get(name)
    return f"; did you mean {other}?" if other else meant(name, known)


def option(name: str, value: object) -> tuple[str, Any]:
    """A setting that a program gives, as its field of Config and what that takes. Raises InvalidOption."""
    one = SETTINGS[name]
    try:
        return one.field, one.read(value)
    except ValueError as error:
        raise InvalidOption(f"{name}: {error}") from None


SETTINGS = {
    one.name: one
    for one in (
        Setting("app", "app", notation.app),
        Setting("db", "database", notation.path),
        Setting("workers", "workers", notation.workers),
        Setting("queues", "queues", notation.queues),
        Setting("durability", "durability", notation.one_of("full", "normal")),
        Setting("drain_timeout", "drain_timeout_s", notation.span, "s"),
        Setting("retry", "retry", notation.retry),
        Setting("defaults", "defaults", defaults.of_server),
        Setting("aging", "aging", notation.aging),
        Setting("preempt_priority", "preempt_priority", notation.priority),
        Setting("retention", "retention_s", notation.retention, "s"),
        Setting("dead_retention", "dead_retention_s", notation.retention, "s"),
        Setting("timeline", "timeline", notation.one_of(*TIMELINES)),
        Setting("timeline_retention", "timeline_retention_s", notation.retention, "s"),
        Setting("unknown_kind_wait", "unknown_kind_wait_s", notation.span_or_forever, "s"),
        Setting("recycle_tasks", "recycle_tasks", notation.count),
        Setting("recycle_rss", "recycle_rss_mib", notation.size_mib, "MB"),
        Setting("recycle_age", "recycle_age_s", notation.span, "s"),
        Setting("pressure", "pressure", notation.pressure),
        Setting("pressure_sources", "pressure_sources", notation.sources),
        Setting("disk_bandwidth", "disk_bandwidth_mib", notation.bandwidth_mib, "MB"),
        Setting("network_bandwidth", "network_bandwidth_mib", notation.bandwidth_mib, "MB"),
        Setting("reload", "reload", notation.boolean),
        Setting("worker_prefix", "worker_prefix", notation.word),
        Setting("worker_version", "worker_version", notation.word),
        Setting("worker_id", "worker_id", notation.word),
        Setting("shm_dir", "shm_dir", notation.path),
        Setting("log_level", "log_level", notation.one_of(*LOG_LEVELS)),
        Setting("log_format", "log_format", notation.one_of("text", "json")),
        Setting("quiet", "quiet", notation.boolean),
    )
}
"""Every setting by its name, in the order in which they are shown."""


# -- the file -------------------------------------------------------------------------------------


def _table(path: Path) -> dict[str, Any] | None:
    """The settings as they are written in a file; None if there are none or no file."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
    except OSError as error:
        raise InvalidConfig(f"{path} cannot be read: {error.strerror}") from None
    if path.name == SHARED_FILE and b"ringq" not in content:
        return None  # not ours, even if it is broken
    import tomllib  # noqa: PLC0415 - a worker of an App with settings reads no file

    try:
        document = tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidConfig(f"{path}:{line} is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        what, _, where = str(error).removesuffix(")").rpartition(" (at ")
        told = re.search(r"line (\d+)", where)
        line = int(told[1]) if told else content.rstrip().count(b"\n") + 1
        raise InvalidConfig(f"{path}:{line} is not TOML: {what or error}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; nested a thousand times
        raise InvalidConfig(f"{path} cannot be read: {error}") from None
    if path.name == FILE:
        return document
    tools = document.get("tool")
    table = tools.get("ringq") if isinstance(tools, dict) else None
    if table is not None and not isinstance(table, dict):
        raise InvalidConfig(f"{path}: tool.ringq is {table!r}, not a table; write [tool.ringq]")
    return table


def _project(path: Path, table: dict[str, Any]) -> Project:
    values: dict[str, Any] = {}
    found = Project(path, values, _lines(path))
    for key, written in table.items():
        name = key.replace("-", "_")
        place = found.place(name)
        if name not in SETTINGS:
            hint = nearest(name, SETTINGS)
            if name == "tool" and path.name == FILE:
                hint = ": [tool.ringq] is for pyproject.toml; here write the settings without it"
            raise InvalidConfig(f"{place}: unknown setting {key!r}{hint}")
        if name in values:
            raise InvalidConfig(f"{place}: {name} is given twice, as {name} and as {name.replace('_', '-')}")
        try:
            values[name] = SETTINGS[name].read(written)
        except ValueError as error:
            raise InvalidConfig(f"{place}: {name}: {error}") from None
    if "db" in values:
        values["db"] = path.parent / values["db"]
    return found


def _lines(path: Path) -> dict[str, int]:
    """The line of each key: the first in our part of the file that begins like it. tomllib does not tell."""
    lines: dict[str, int] = {}
    is_ours = path.name == FILE
    for number, line in enumerate(path.read_text("utf-8-sig").splitlines(), 1):
        header = re.match(r"\s*\[\s*(?:tool\s*\.\s*ringq\s*\.?\s*)?([\w-]*)", line)
        if header:
            is_ours = path.name == FILE or re.match(r"\s*\[\s*tool\s*\.\s*ringq\b", line) is not None
        key = header[1] if header else line.partition("=")[0].partition(".")[0].strip(" \t\"'")
        if is_ours and key:
            lines.setdefault(key.replace("-", "_"), number)
    return lines

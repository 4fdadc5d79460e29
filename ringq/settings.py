"""Edge: the settings of a server - how each is written, and the project's file that may hold them.

flag ─► RINGQ_* ─► ringq.toml or [tool.ringq] of pyproject.toml ─► the App ─► built in       (the first that says)
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any

from ringq.config import LOG_LEVELS, WORKERS_MAX, Config
from ringq.errors import InvalidConfig, InvalidOption
from ringq.retry import Retry
from ringq.spelling import meant

FILE, SHARED_FILE = "ringq.toml", "pyproject.toml"

Queues = tuple[tuple[str, int | None], ...]

_SPANS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES_MIB = {
    f"{unit}{tail}": mib for unit, mib in (("k", 1 / 1024), ("m", 1), ("g", 1024)) for tail in ("", "b", "ib")
}
_BOOLEANS = {**dict.fromkeys(["1", "true", "yes", "on"], True), **dict.fromkeys(["0", "false", "no", "off"], False)}
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
        if isinstance(value, tuple):
            return ",".join(name if cap is None else f"{name}:{cap}" for name, cap in value)
        if self.name == "workers":
            return value or "auto"
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


# -- how values are written -----------------------------------------------------------------------


def app(written: object) -> str:
    """`module:attribute`, or `script.py:attribute` for a file that exists."""
    if not isinstance(written, str):
        raise ValueError(f"{written!r} does not name an app; write e.g. photos:app")
    script, _, name = written.rpartition(":")
    if name.isidentifier() and Path(script).is_file():
        return written
    module, _, attribute = written.partition(":")
    names = module.split(".")
    if module and attribute and all(part.isidentifier() for part in names) and not module.endswith(".py"):
        return written
    file = PurePosixPath(module.removesuffix(".py"))
    above = file.is_absolute() or ".." in file.parts
    name = ".".join([file.name] if above else file.parts)
    if name and all(part.isidentifier() for part in name.split(".")):
        place = f", in the folder {file.parent}" if above else ""
        raise ValueError(
            f"{written!r} does not name a module and its app; write e.g. {name}:{attribute or 'app'}{place}"
        )
    raise ValueError(f"{written!r} does not name an app; write e.g. photos:app")


def path(written: object) -> Path:
    """The path of a file."""
    if isinstance(written, Path):
        return written
    if not isinstance(written, str) or not written or "\0" in written:
        raise ValueError(f"{written!r} is no path of a file; write e.g. tasks.db")
    return Path(written)


def workers(written: object) -> int:
    """A number of workers; 0 for `auto`, as many as there are usable cores."""
    if written == "auto":
        return 0
    text = _text(written)
    if not (text.isascii() and text.isdecimal()) or len(text) > 9 or not 1 <= int(text) <= WORKERS_MAX:
        raise ValueError(f"{written!r} is neither auto nor 1 to {WORKERS_MAX}")
    return int(text)


def queues(written: object) -> Queues:
    """Queues to serve, each with an optional number of tasks that may run at a time.

    As text `default,bulk:2`; in a file also as a list of such parts, or as a table {default = true, bulk = 2}.
    """
    hint = "write NAME or NAME:MAX_RUNNING, e.g. default,bulk:2"
    if isinstance(written, dict):
        written = [name if cap is True else f"{name}:{_text(cap)}" for name, cap in written.items()]
    parts = (written.split(",") if written else []) if isinstance(written, str) else written
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise ValueError(f"{written!r} is no list of queues; {hint}")
    found: dict[str, int | None] = {}
    for part in parts:
        name, colon, cap = part.strip().partition(":")
        wrong = None
        if not name:
            wrong = f"{part!r} has no name"
        elif name in found:
            wrong = f"{name!r} is named twice"
        elif colon and not (cap.isascii() and cap.isdecimal()):
            wrong = f"{cap!r} in {part!r} is no number of tasks"
        if wrong:
            raise ValueError(f"{wrong}; {hint}")
        found[name] = int(cap) if colon else None
    return tuple(found.items())


def span(written: object) -> float:
    """Seconds, from a number with or without a unit: 500ms, 90s, 15m, 2h, 7d."""
    if isinstance(written, timedelta):
        written = written.total_seconds()
    seconds = _measure(_text(written), _SPANS_S, "s")
    if seconds is None:
        raise ValueError(f"{written!r} is no span; write seconds or e.g. 500ms, 15m, 2h")
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{written!r} is no span of 0 or more")
    return seconds


def size_mib(written: object) -> int:
    """MiB, from a number with or without a unit: 512, 512MB, 1.5GB. Units are powers of 1024, with or without an i."""
    size = _measure(_text(written).lower(), _SIZES_MIB, "m")
    if size is None or not (size == 0 or 1 <= size < math.inf):
        raise ValueError(f"{written!r} is no size; write MiB or e.g. 512MB, 2GB (0: never)")
    return round(size)


def count(written: object) -> int:
    """A whole number from 0 on."""
    text = _text(written)
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise ValueError(f"{written!r} is no whole number of 0 (never) or more")
    return int(text)


def boolean(written: object) -> bool:
    """True or false; as text also yes and no, on and off, 1 and 0."""
    value = written if isinstance(written, bool) else _BOOLEANS.get(_text(written).strip().lower())
    if value is None:
        raise ValueError(f"{written!r} is neither true nor false")
    return value


def retry(written: object) -> str:
    """What happens after a failed attempt, as `Retry.read` takes it."""
    try:
        return str(Retry.read(_text(written)))
    except InvalidOption as error:
        raise ValueError(str(error).removeprefix("retry: ")) from None


def one_of(*words: str) -> Callable[[object], str]:
    """One of these words."""

    def parse(written: object) -> str:
        if not isinstance(written, str) or written.lower() not in words:
            raise ValueError(f"{written!r} is not {', '.join(words[:-1])} or {words[-1]}")
        return written.lower()

    return parse


SETTINGS = {
    one.name: one
    for one in (
        Setting("app", "app", app),
        Setting("db", "database", path),
        Setting("workers", "workers", workers),
        Setting("queues", "queues", queues),
        Setting("durability", "durability", one_of("full", "normal")),
        Setting("drain_timeout", "drain_timeout_s", span, "s"),
        Setting("retry", "retry", retry),
        Setting("recycle_tasks", "recycle_tasks", count),
        Setting("recycle_rss", "recycle_rss_mib", size_mib, "MB"),
        Setting("recycle_age", "recycle_age_s", span, "s"),
        Setting("reload", "reload", boolean),
        Setting("shm_dir", "shm_dir", path),
        Setting("log_level", "log_level", one_of(*LOG_LEVELS)),
        Setting("log_format", "log_format", one_of("text", "json")),
        Setting("quiet", "quiet", boolean),
    )
}
"""Every setting by its name, in the order in which they are shown."""


def _text(written: object) -> str:
    """What was written as text; a number of the file as its digits; nothing for what is neither."""
    if isinstance(written, str):
        return written
    return str(written) if isinstance(written, int | float) and not isinstance(written, bool) else ""


def _measure(text: str, units: Mapping[str, float], default: str) -> float | None:
    """A number with one of these units; None for what is none."""
    text = text.strip()
    unit = text.lstrip("0123456789.+-eE")
    try:
        return float(text.removesuffix(unit)) * units[unit.strip() or default]
    except (ValueError, KeyError):
        return None


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

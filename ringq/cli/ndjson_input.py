"""Cli: tasks and payloads from bytes somebody wrote; whatever is wrong is said with file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any, BinaryIO

import click

from ringq.cli import options
from ringq.errors import InvalidSubmission

BOM = b"\xef\xbb\xbf"

_FIELDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "kind": ("a string", (str,)),
    "payload": ("an object", (dict,)),
    "queue": ("a string", (str,)),
    "priority": ("an integer", (int,)),
    "group": ("a string", (str,)),
    "tags": ("an object", (dict,)),
    "label": ("a string", (str,)),
    "key": ("a string", (str,)),
    "on_duplicate": ("a string", (str,)),
    "serial_key": ("a string", (str,)),
    "ref": ("a string", (str,)),
    "depends_on": ("an id, a ref, or a list of these", (int, str, list)),
    "on_dependency_failure": ("a string", (str,)),
    "run_timeout": ("a number", (int, float)),
    "ttl": ("a number", (int, float)),
    "kill_after": ("a number", (int, float)),
    "total_timeout": ("a number", (int, float)),
    "queue_timeout": ("a number", (int, float)),
    "memory_limit": ("a string or a number", (str, int, float)),
    "retry": ("a string or an integer", (str, int)),
    "run_at": ("a string", (str, datetime)),  # a datetime only as a default, from --run-at
}


def tasks(source: BinaryIO, defaults: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The task of each line that is not empty, with `where` it stands. Raises InvalidSubmission."""
    for number, line in enumerate(source, 1):
        where = f"{source.name}:{number}"
        text = _text(line.removeprefix(BOM) if number == 1 else line, source.name, number)
        if text.strip():
            task = {"payload": {}, **defaults, **object_of(text, where)}
            _check(task, where)
            yield {**task, "where": where}


def payload(source: BinaryIO) -> dict[str, Any]:
    """The one JSON object of a whole file. Raises InvalidSubmission."""
    return object_of(_text(source.read().removeprefix(BOM), source.name, 1), source.name, is_file=True)


def object_of(text: str, where: str, *, is_file: bool = False) -> dict[str, Any]:
    """The JSON object in `text`. `is_file`: a fault is named with its line in it. Raises InvalidSubmission."""
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        place = f"{where}:{error.lineno}" if is_file else where
        raise InvalidSubmission(f"{place} is not JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise InvalidSubmission(f"{where} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidSubmission(f'{where} must be a JSON object, e.g. {{"path": "a.jpg"}}, not {text.strip()[:40]}')
    return value


def _text(content: bytes, name: str, line: int) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line += content.count(b"\n", 0, error.start)
        wrong = f"byte 0x{content[error.start]:02x}"
        raise InvalidSubmission(f"{name}:{line} is not UTF-8 ({wrong}): save the file in that encoding") from None


def _check(task: dict[str, Any], where: str) -> None:
    for name, value in task.items():
        if name not in _FIELDS:
            raise InvalidSubmission(f"{where}: unknown field {name!r}{options.nearest(name, _FIELDS)}")
        word, types = _FIELDS[name]
        parts = value if name == "depends_on" and isinstance(value, list) else ()
        is_wrong = isinstance(value, bool) or any(type(one) not in (int, str) for one in parts)
        if is_wrong or not isinstance(value, types):
            raise InvalidSubmission(f"{where}: {name} must be {word}, not {json.dumps(value)[:60]}")
    if "kind" not in task:
        raise InvalidSubmission(f"{where}: no kind; add the field or name a KIND for all lines")
    if isinstance(task.get("run_at"), str):
        try:
            task["run_at"] = options.moment(task["run_at"])
        except click.BadParameter as error:
            raise InvalidSubmission(f"{where}: run_at: {error.message}") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")

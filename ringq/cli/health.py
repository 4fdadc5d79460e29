"""Cli: `ringq health` - one question over the socket; imports as little as that needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ringq.cli import exit_codes, options, printing


@click.command()
@options.database
@options.as_json("one JSON document")
def health(database: Path, as_json: bool) -> int:
    """Ask the server whether it is well: exit code 0 yes, 1 no worker is ready, 69 no server answers."""
    import ringq

    with ringq.connect(database) as client:
        answer = client.health()
    if as_json:
        printing.document(answer)
    else:
        _show(answer)
    return exit_codes.OK if any(worker["ready"] for worker in answer["workers"]) else exit_codes.NO


def _show(answer: dict[str, Any]) -> None:
    """The facts, one a line; then the workers, who are many."""
    facts = {name: value for name, value in answer.items() if name != "workers" and value is not None}
    printing.table(["", ""], (_fact(name, value) for name, value in facts.items()))
    click.echo()
    labels = ["label"] if any(one["label"] for one in answer["workers"]) else []
    printing.table(
        ["worker", *labels, "pid", "state", "task", "running for", "progress"],
        (
            (
                *(one["index"], *(one[name] for name in labels), one["pid"], _state(one), one["task_id"]),
                *(printing.seconds(one["running_s"]), _progress(one)),
            )
            for one in answer["workers"]
        ),
        right=["worker", "pid", "task", "running for"],
    )


def _fact(name: str, value: Any) -> tuple[str, str]:
    for unit, per_second in (("_s", 1), ("_ms", 1000)):
        if name.endswith(unit):
            name, value = name.removesuffix(unit), printing.seconds(value / per_second)
    return _words(name), _text(value) or ("all" if name == "queues" else "none")


def _text(value: Any) -> str:
    """A fact in words: of what counts, the counts come first, and what is 0 is not worth its place."""
    match value:
        case bool():
            return "yes" if value else "no"
        case list():
            return ("; " if any(isinstance(one, dict) for one in value) else ", ").join(map(_text, value))
        case dict() if all(isinstance(count, int) for count in value.values()):
            return ", ".join(f"{count:,} {_words(what)}" for what, count in value.items() if count)
        case dict():
            told = ((what, _text(one)) for what, one in value.items() if one is not None)
            return ", ".join(f"{_words(what)} {text}" for what, text in told if text)
        case float():
            return f"{value:,.4g}"
    return str(value)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _state(worker: dict[str, Any]) -> str:
    if worker["pid"] is None:
        return "absent"
    if worker["leaving"]:
        return "leaving"
    return "ready" if worker["ready"] else "starting"


def _progress(worker: dict[str, Any]) -> str:
    share = f"{worker['progress']:.0%}" if worker["progress"] or worker["message"] else ""
    return f"{share} {worker['message']}".strip()

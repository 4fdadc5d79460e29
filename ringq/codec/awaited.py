"""Submit and run: arguments that are results of other tasks - named in the payload, filled in by the worker.

    {"": {"image": 0, "parts": [1, 2]}, "size": 128}

`image` is the result of the first task that this one depends on, `parts` a list of those of the next two. A null in
such a list leaves what the payload has at that place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from ringq.errors import InvalidPayload
from ringq.model import Status

AWAITED_PREFIX: Final = b'{"":'
"""How the payload of a task begins that takes results: no argument has an empty name."""
DependencyResult = tuple[int, str | None]
"""The code of the status with which a dependency has ended, and its result as JSON."""

_COMPLETED: Final = Status.COMPLETED.code


class ResultOf:
    """Stands in an argument for the result that another task will have.

    Attributes: `task`, a Submission or a handle.
    """

    __slots__ = ("task",)

    def __init__(self, task: Any) -> None:
        """Made by `ringq.result_of`."""
        self.task = task

    def __repr__(self) -> str:
        return f"result_of({self.task!r})"


def awaits(arguments: Iterable[Any]) -> bool:
    """Whether there is a result of another task among these arguments."""
    return any(map(_is_awaited, arguments))


def without_results(
    given: Mapping[str, Any], number_of: Callable[[ResultOf], int]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments with None in the place of results; and by name, the numbers of the dependencies that have these."""
    left: dict[str, Any] = {}
    marks: dict[str, Any] = {}
    for name, value in given.items():
        if isinstance(value, ResultOf):
            left[name], marks[name] = None, number_of(value)
        elif _is_awaited(value):
            marks[name] = [number_of(one) if isinstance(one, ResultOf) else None for one in value]
            left[name] = [None if isinstance(one, ResultOf) else one for one in value]
        else:
            left[name] = value
    return left, marks


def marked(left: Mapping[str, Any], marks: Mapping[str, Any]) -> dict[str, Any]:
    """The payload of both. What results take the place of altogether is left out."""
    kept = {name: value for name, value in left.items() if name not in marks or None in _places(marks[name])}
    return {"": marks, **kept}


def is_awaiting(payload: bytes) -> bool:
    """Whether a payload has to be filled in first."""
    return payload.startswith(AWAITED_PREFIX)


def renumbered(payload: str, numbers: Sequence[int]) -> str:
    """The payload with other numbers of dependencies, given by the old ones: two may have turned out to be one task.

    One that takes no results, or that no client of ours has written, stays as it is.
    """
    if not is_awaiting(payload.encode()):
        return payload
    try:
        arguments: dict[str, Any] = _arguments(payload)
        marks = _marks(arguments.pop(""))
        anew = {
            name: numbers[mark] if isinstance(mark, int) else [None if at is None else numbers[at] for at in mark]
            for name, mark in marks.items()
        }
        return msgspec.json.encode({"": anew, **arguments}).decode()
    except (ValueError, LookupError):
        return payload


def filled(payload: bytes, results: Callable[[], Mapping[int, DependencyResult]]) -> bytes:
    """The payload as if its caller had known the results. `results`: of what the task depends on, by its numbers.

    A dependency that has not completed gives null. Raises InvalidPayload for what no client of ours has written.
    """
    try:
        arguments: dict[str, Any] = _arguments(payload)
        marks = _marks(arguments.pop(""))
        known = results()
        given = {at: text if status == _COMPLETED and text else "null" for at, (status, text) in known.items()}
        for name, mark in marks.items():
            if isinstance(mark, int):
                arguments[name] = msgspec.Raw(given[mark])
                continue
            own: list[Any] = _list(arguments[name]) if None in mark else list(mark)
            pairs = zip(mark, own, strict=True)
            parts = [bytes(kept) if at is None else given[at].encode() for at, kept in pairs]
            arguments[name] = msgspec.Raw(b"[%b]" % b",".join(parts))
        return msgspec.json.encode(arguments)
    except KeyError as error:
        raise InvalidPayload(f"it takes the result of dependency {error}, and there is none of that number") from None
    except (ValueError, TypeError) as error:
        raise InvalidPayload(f"the results that it takes cannot be filled in: {error}") from None


_arguments = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_marks = msgspec.json.Decoder(dict[str, int | list[int | None]]).decode
_list = msgspec.json.Decoder(list[msgspec.Raw]).decode


def _is_awaited(value: Any) -> bool:
    return isinstance(value, ResultOf) or (
        isinstance(value, (list, tuple)) and any(isinstance(one, ResultOf) for one in value)
    )


def _places(mark: Any) -> Sequence[Any]:
    return mark if isinstance(mark, list) else ()

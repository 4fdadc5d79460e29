"""Run: the function of a kind that is called when the children of a task have ended, and what it takes and returns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, get_args, get_origin

from ringq.codec import ResultCodec, hints
from ringq.context import Context
from ringq.errors import InvalidKind
from ringq.kinds.handler import Handler

SHAPE: Final = "a function of (memo, results), or (ctx, memo, results)"


class Finalizer:
    """What `@task.finalize` was given.

    Attributes: `place`, where it is defined; `is_async`; `results`, the codec of what it returns.
    """

    def __init__(self, kind: str, function: Callable[..., Any], report: str) -> None:
        """`kind`: of the task; `report`: that, and whose function this is, for messages. Raises InvalidKind."""
        handler = Handler(report, function)
        self.function = handler.function
        self.place = handler.place
        self.is_async = handler.is_async
        self.wants_context = handler.wants_context
        self.results = ResultCodec(kind, hints.resolve(report, function).get("return", Any))
        parameters = list(inspect.signature(function).parameters.values())[handler.wants_context :]
        if len(parameters) != 2 or any(one.kind is not one.POSITIONAL_OR_KEYWORD for one in parameters):
            raise InvalidKind(f"{report} takes {SHAPE}")
        found = hints.resolve(report, function)
        memo, results = (found.get(one.name, Any) for one in parameters)
        self._memo = ResultCodec(report, memo, "memo")
        self._child = ResultCodec(report, _entry_of(report, results), "result")

    def call(self, context: Context, memo: str, results: Iterable[tuple[int, str | None]]) -> Any:
        """Call the function, or make its coroutine. `memo` as JSON text; `results`, of the children, with their ids.

        Raises InvalidResult for what does not fit its hints, and whatever it raises.
        """
        arguments = self._memo.decode(memo), list(decoded(self._child, results))
        return self.function(*([context] if self.wants_context else []), *arguments)


def decoded(codec: ResultCodec, results: Iterable[tuple[int, str | None]]) -> Sequence[Any]:
    """Results of several tasks, given as (task id, JSON text); None stays None.

    Raises InvalidResult, which names the task, for the first that does not fit.
    """
    results = list(results)
    texts = [text for _, text in results if text is not None]
    if codec.fits_all(f"[{','.join(texts)}]".encode()):  # one by one they take three times as long
        values = iter(codec.decode_all(f"[{','.join(texts)}]".encode()))
        return [None if text is None else next(values) for _, text in results]
    return [None if text is None else codec.named(f"result of task {id_}").decode(text) for id_, text in results]


def _entry_of(report: str, hint: Any) -> Any:
    """The hint of one child's result. Raises InvalidKind."""
    if hint in (Any, list, Sequence):
        return Any
    if get_origin(hint) not in (list, Sequence):
        raise InvalidKind(f"{report}: results are a list, as `results: list[int]`, got the hint {hint!r}")
    return get_args(hint)[0]

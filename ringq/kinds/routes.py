"""Submit: which queue a kind is in, if neither its submission, nor it, nor its domain says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ringq.errors import InvalidOption
from ringq.kinds import options
from ringq.kinds.report import KindReport, first

Route = Mapping[str, str] | Callable[[str], str | None]


class Routes:
    """`route`: what an App was given - queues by the beginnings of kinds, of which the longest that fits wins; or a
    function of a kind that returns the name of its queue, or None.
    """

    def __init__(self, route: Route | None) -> None:
        """Raises InvalidOption for what is neither, and for a queue that has no name of one."""
        if route is not None and not callable(route) and not isinstance(route, Mapping):
            raise InvalidOption(
                f"route: expected {{'media::': 'bulk'}}, or a function of a kind that returns its queue, got {route!r}"
            )
        self._function = route if callable(route) else None
        self._found: dict[str, str | None] = {}
        self._queues: dict[str, str] = dict(route) if isinstance(route, Mapping) else {}
        for beginning, queue in self._queues.items():
            if not isinstance(beginning, str) or not beginning:
                raise InvalidOption(f"route: expected the beginning of a kind, as 'media::', got {beginning!r}")
            _check(beginning, queue)

    def learn(self, kind: str) -> None:
        """Find the queue of a kind, so that what is wrong is told where it stands.

        Raises InvalidOption for what a function returned, or raised.
        """
        if kind not in self._found:
            self._found[kind] = self._queue(kind)

    def report(self, report: KindReport) -> dict[str, Any]:
        """What the worker tells its parent of a kind that was learned."""
        return {**report.as_dict(), "queue": first(report.queue, self._found[report.name])}

    def _queue(self, kind: str) -> str | None:
        if self._function is None:
            fitting = [beginning for beginning in self._queues if kind.startswith(beginning)]
            return self._queues[max(fitting, key=len)] if fitting else None
        try:
            queue = self._function(kind)
        except Exception as error:
            raise InvalidOption(f"route: asked for {kind}, it raised {type(error).__name__}: {error}") from error
        if queue is not None:
            _check(kind, queue)
        return queue


def _check(where: str, queue: Any) -> None:
    try:
        options.check_queue(queue)
    except InvalidOption as error:
        raise InvalidOption(f"route: {where}: {error}") from None

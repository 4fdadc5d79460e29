"""Submit and answer: durable maps in an event loop."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from typing import Any, Literal, TypeVar, Unpack, overload

from ringq.aio.results import Awaited, MapResults
from ringq.client.maps import Asking, MapNames, MapOptions, course
from ringq.client.source import Source
from ringq.kinds import Task

R = TypeVar("R")
Inputs = Iterable[Any] | AsyncIterable[Any]


class Maps(MapNames):
    """As of a client that blocks; results are awaited, and inputs may be."""

    @overload
    def map(
        self: Asking, kind: Task[..., R], iterable: Inputs, *, errors: Literal["raise"] = "raise",
        **options: Unpack[MapOptions],
    ) -> MapResults[R]: ...  # fmt: skip
    @overload
    def map(
        self: Asking, kind: Task[..., R], iterable: Inputs, *, errors: Literal["return"],
        **options: Unpack[MapOptions],
    ) -> MapResults[R | Exception]: ...  # fmt: skip
    @overload
    def map(
        self: Asking, kind: str, iterable: Inputs, *, errors: Literal["raise", "return"] = "raise",
        **options: Unpack[MapOptions],
    ) -> MapResults[Any]: ...  # fmt: skip
    def map(
        self: Asking, kind: str | Task[..., Any], iterable: Inputs, *, errors: str = "raise",
        **options: Unpack[MapOptions],
    ) -> MapResults[Any]:  # fmt: skip
        """As `ringq.Client.map`, with the same options: the results for `async for`.

        `iterable`: what is awaited is read by a task of its own. What is not is read in the loop: it must not block;
        5 ms of it at a time, and others have their turn. No more is under way than keeps the workers busy.
        """
        return course(MapResults, self, kind, _source(iterable, star=False), errors, options)

    @overload
    def starmap(
        self: Asking, kind: Task[..., R], iterable: Inputs, *, errors: Literal["raise"] = "raise",
        **options: Unpack[MapOptions],
    ) -> MapResults[R]: ...  # fmt: skip
    @overload
    def starmap(
        self: Asking, kind: Task[..., R], iterable: Inputs, *, errors: Literal["return"],
        **options: Unpack[MapOptions],
    ) -> MapResults[R | Exception]: ...  # fmt: skip
    @overload
    def starmap(
        self: Asking, kind: str, iterable: Inputs, *, errors: Literal["raise", "return"] = "raise",
        **options: Unpack[MapOptions],
    ) -> MapResults[Any]: ...  # fmt: skip
    def starmap(
        self: Asking, kind: str | Task[..., Any], iterable: Inputs, *, errors: str = "raise",
        **options: Unpack[MapOptions],
    ) -> MapResults[Any]:  # fmt: skip
        """As `map`, with all arguments of a call in each input: a tuple by position, or a dict by name."""
        return course(MapResults, self, kind, _source(iterable, star=True), errors, options)


def _source(iterable: Inputs, *, star: bool) -> Source:
    return Awaited(iterable, star=star) if isinstance(iterable, AsyncIterable) else Source(iterable, star=star)

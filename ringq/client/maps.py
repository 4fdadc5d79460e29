"""Submit and answer: the client's verbs for maps."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Literal, Protocol, TypedDict, TypeVar, Unpack, overload

import msgspec

from ringq import protocol
from ringq.client import changing
from ringq.client.follow import Follow
from ringq.client.line import Line
from ringq.client.mapping import Course
from ringq.client.pacing import CALLS_MAX, Pacing
from ringq.client.results import MapResults
from ringq.client.source import Source
from ringq.client.steps import Verb
from ringq.config import NAME_CHARS_MAX, usable_cores
from ringq.errors import InvalidOption
from ringq.kinds import Task, options
from ringq.loading import refuse_while_importing

R = TypeVar("R")
M = TypeVar("M", bound=Course[Any])
Chunk = int | Literal["auto"]


class MapOptions(TypedDict, total=False):
    """The options of a map, as `Client.map` says."""

    chunk: Chunk
    ordered: bool
    key: str | None
    queue: str | None
    priority: int | None
    group: str | None
    run_timeout: float | timedelta | None
    kill_after: float | timedelta | None
    memory_limit: float | str | None
    tags: Mapping[str, str] | None
    label: str | None


class Asking(changing.Asking, Protocol):
    """What the verbs below need of a client."""

    _requests: itertools.count[int]

    def _own_line(self) -> Line: ...
    async def _health(self) -> dict[str, Any]: ...


class MapNames:
    """Maps that may be continued."""

    @Verb
    async def forget_map(self: Asking, kind: str | Task[..., Any], key: str) -> int:
        """Let the map of this kind and key start over the next time. Its tasks stay in history.

        Returns how many chunks it had, 0 if there was none. Raises MapInUse while a program is mapping with it,
        InvalidOption, ServerUnavailable, ClientClosed.
        """
        name = options.check_kind(kind.kind if isinstance(kind, Task) else kind)
        return (await self._reply(protocol.ForgetMap(name, _checked_key(key)), protocol.MapForgotten)).count


class Maps(MapNames):
    """Durable maps: one task carries many calls, results come back call by call."""

    @overload
    def map(
        self: Asking, kind: Task[..., R], iterable: Iterable[Any], *, errors: Literal["raise"] = "raise",
        **options: Unpack[MapOptions],
    ) -> MapResults[R]: ...  # fmt: skip
    @overload
    def map(
        self: Asking, kind: Task[..., R], iterable: Iterable[Any], *, errors: Literal["return"],
        **options: Unpack[MapOptions],
    ) -> MapResults[R | Exception]: ...  # fmt: skip
    @overload
    def map(
        self: Asking, kind: str, iterable: Iterable[Any], *, errors: Literal["raise", "return"] = "raise",
        **options: Unpack[MapOptions],
    ) -> MapResults[Any]: ...  # fmt: skip
    def map(
        self: Asking, kind: str | Task[..., Any], iterable: Iterable[Any], *, errors: str = "raise",
        **options: Unpack[MapOptions],
    ) -> MapResults[Any]:  # fmt: skip
        """Call `kind` with each input as its first argument, on all workers; the results as an iterator.

        Nothing is lost by the death of anything: calls that were submitted run, and their results are stored. Calls
        travel in chunks, one task each. One that fails, fails alone; when one kills its worker, the chunk is split
        until it stands alone, three times at most, and its neighbours go on. The iterable is read while results are
        taken, no further ahead than keeps the workers busy, so it may be endless; it is read in this thread.

        `chunk`: calls per chunk, 1 to 4096; "auto" measures the calls and makes chunks of about 5 ms. `ordered`:
        results in the order of the inputs, or as they come. `key`: up to 200 printable characters that name this map
        of this kind, until `forget_map`: a program that died and starts again with the same inputs goes on where it
        was and gets all results, without a second run of calls whose results are stored. `errors`: "raise" raises
        at the call's place, and `next` goes on after it; "return" gives the exception in the place of a result.
        `queue`, `priority`, `group`, `tags`, `label`: as for `submit`. `run_timeout`: seconds or timedelta for each
        call; `kill_after` and `memory_limit` as `LimitOptions` says, likewise for each. A call that raised is not made
        again, whatever `retry` the kind has; nor has a map a `total_timeout` or a `queue_timeout` from there.

        Raises InvalidOption, InvalidPayload at once; while iterating what `MapResults.__next__` says, and MapInUse if
        another program is mapping with this key.
        """
        return course(MapResults, self, kind, Source(iterable, star=False), errors, options)

    @overload
    def starmap(
        self: Asking, kind: Task[..., R], iterable: Iterable[Any], *, errors: Literal["raise"] = "raise",
        **options: Unpack[MapOptions],
    ) -> MapResults[R]: ...  # fmt: skip
    @overload
    def starmap(
        self: Asking, kind: Task[..., R], iterable: Iterable[Any], *, errors: Literal["return"],
        **options: Unpack[MapOptions],
    ) -> MapResults[R | Exception]: ...  # fmt: skip
    @overload
    def starmap(
        self: Asking, kind: str, iterable: Iterable[Any], *, errors: Literal["raise", "return"] = "raise",
        **options: Unpack[MapOptions],
    ) -> MapResults[Any]: ...  # fmt: skip
    def starmap(
        self: Asking, kind: str | Task[..., Any], iterable: Iterable[Any], *, errors: str = "raise",
        **options: Unpack[MapOptions],
    ) -> MapResults[Any]:  # fmt: skip
        """As `map`, with all arguments of a call in each input: a tuple by position, or a dict by name."""
        return course(MapResults, self, kind, Source(iterable, star=True), errors, options)


def course(
    results: type[M], client: Asking, kind: str | Task[..., Any], source: Source, errors: str, given: MapOptions
) -> M:
    """A map of what `source` gives, for who waits for `results` in its way. Raises as `Client.map` at once."""
    refuse_while_importing()
    options.check_names("starmap" if source.is_star else "map", given, ("errors", *MapOptions.__annotations__))
    chunk, key = given.get("chunk", "auto"), given.get("key")
    if chunk != "auto" and not (isinstance(chunk, int) and not isinstance(chunk, bool) and 1 <= chunk <= CALLS_MAX):
        raise InvalidOption(f'chunk: expected "auto" or 1 to {CALLS_MAX} calls, got {chunk!r}')
    if errors not in ("raise", "return"):
        raise InvalidOption(f'errors: expected "raise" or "return", got {errors!r}')
    spec = options.spec_of(
        options.check_kind(kind.kind if isinstance(kind, Task) else kind), queue=given.get("queue"),
        priority=given.get("priority"), group=given.get("group"), run_timeout=given.get("run_timeout"), retry=0,
        kill_after=given.get("kill_after"), memory_limit=given.get("memory_limit"),
        tags=given.get("tags"), label=given.get("label"),
    )  # fmt: skip
    # Not for a chunk, which is as long as it happens to be.
    spec = msgspec.structs.replace(spec, total_timeout_ms=0, queue_timeout_ms=0)
    greeting = None if key is None else protocol.OpenMap(spec.kind, _checked_key(key))

    async def submit(submission: bytes, payloads: list[str], chunks: protocol.Chunks | None) -> int:
        message = protocol.Submit(submission, [spec], None, payloads, None, chunks)
        return (await client._reply(message, protocol.Submitted)).first_id

    async def pacing() -> Pacing:
        return Pacing(_workers(await client._health()), None if chunk == "auto" else chunk)

    return results(
        source, Follow(client._own_line(), client._requests.__next__, greeting), kind=kind, submit=submit,
        pacing=pacing, key=key, ordered=given.get("ordered", True), raises=errors == "raise",
    )  # fmt: skip


def _checked_key(key: str) -> str:
    if not isinstance(key, str) or not 0 < len(key) <= NAME_CHARS_MAX or not key.isprintable():
        raise InvalidOption(f"key: expected 1 to {NAME_CHARS_MAX} printable characters, got {key!r:.300}")
    return key


def _workers(health: dict[str, Any]) -> int:
    """How many calls run at a time; while none is ready yet, as many as there are cores."""
    return sum(worker["ready"] for worker in health["workers"]) or usable_cores()

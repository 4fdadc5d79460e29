"""A map as the client leads it: what is read, sent and delivered while servers, inputs and users misbehave."""

from __future__ import annotations

import itertools
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ringq import protocol
from ringq.calls import Aside
from ringq.client.mapping import _digest
from ringq.client.pacing import AHEAD_BYTES_MAX, Pacing
from ringq.client.results import MapResults
from ringq.client.source import IDLE, Source
from ringq.errors import MapInUse, MapMismatch, ServerUnavailable
from ringq.kinds import Ended
from ringq.model import Reason, Status


class Server:
    """Stores chunks; a test says which end, and how."""

    def __init__(self) -> None:
        self.payloads: dict[int, str] = {}
        self.stored: list[tuple[int, int, int, bytes]] = []
        self.ends: deque[Ended] = deque()
        self.watched: set[int] = set()
        self.troubles: deque[Exception] = deque()  # raised by the next requests
        self.is_echo = True  # calls end as they are submitted
        self.batches = 0
        self.lost: list[Ended] = []  # told, and told again to who asks again

    async def submit(self, _: bytes, payloads: list[str], chunks: protocol.Chunks | None) -> int:
        self._trouble()
        self.batches += 1
        first_id = len(self.payloads) + 1
        for number, payload in enumerate(payloads, first_id):
            self.payloads[number] = payload
            if self.is_echo:
                self.end(number)
        if chunks is not None:
            ids = range(first_id, first_id + len(payloads))
            self.stored += zip(chunks.firsts, chunks.counts, ids, chunks.digests, strict=True)
        return first_id

    def end(self, number: int, results: list[Any] | None = None) -> None:
        values = [call[0] for call in json.loads(self.payloads[number])] if results is None else results
        account = json.dumps({"us": 1000 * len(values), "results": values})
        self.ends.append(Ended(number, Status.COMPLETED, Reason.NONE, account))

    def split(self, number: int, parts: list[tuple[int, int, int]]) -> None:
        calls = json.loads(self.payloads[number])
        for task, first, count in parts:
            self.payloads[task] = json.dumps(calls[first : first + count])
        self.ends.append(Ended(number, Status.SUPERSEDED, Reason.SPLIT, None, {"us": 0, "results": [], "parts": parts}))

    # -- as Follow --

    is_away = False

    def add(self, ids: list[int]) -> None:
        self.watched.update(ids)

    def restart(self, ids: Iterable[int]) -> None:
        lost, self.lost = self.lost, []
        self.ends.extendleft(end for end in reversed(lost) if end.task_id in set(ids))

    async def take(self, timeout: float | None) -> list[Ended]:
        self._trouble()
        assert self.ends or timeout is not None, "waits for ever"
        part = [self.ends.popleft()] if self.ends else []
        self.lost = [*self.lost, *part]
        return part

    async def ask(self, message: Any, _: Any) -> Any:
        self._trouble()
        rows = [row for row in self.stored if row[0] >= message.first]
        columns = list(map(list, zip(*rows[:2], strict=True))) if rows else [[], [], [], []]
        return protocol.MapChunks(*columns, more=len(rows[:2]) == 2)

    def close(self) -> None:
        self.watched.clear()

    def _trouble(self) -> None:
        if self.troubles:
            raise self.troubles.popleft()


def mapped(server: Server, iterable: Any, *, chunk: int | None = 2, key: str | None = None, **options: Any) -> Any:
    async def pacing() -> Pacing:
        return Pacing(2, chunk)

    return MapResults(
        Source(iterable, star=False), server, kind="unit::kind", submit=server.submit,  # type: ignore[arg-type]
        pacing=pacing, key=key,
        **{"ordered": True, "raises": True, **options},
    )  # fmt: skip


def persistently(results: Iterator[Any], error: type[Exception]) -> list[Any]:
    """All results, asking again after each of these errors."""
    found: list[Any] = []
    while True:
        try:
            found.append(next(results))
        except StopIteration:
            return found
        except error:
            pass


def test_a_map_goes_on_after_any_request_that_failed() -> None:
    for at in range(12):
        server = Server()
        server.stored = [
            (n, 2, n // 2 + 1, _digest(json.dumps([[n], [n + 1]], separators=(",", ":")))) for n in (0, 2, 4)
        ]
        for number, (first, *_) in enumerate(server.stored, 1):
            server.payloads[number] = json.dumps([[first], [first + 1]])
            server.end(number)
        calls = itertools.count()
        original = server._trouble

        def trouble(at: int = at, calls: Any = calls, original: Callable[[], None] = original) -> None:
            if next(calls) == at:
                raise ServerUnavailable("away")
            original()

        server._trouble = trouble  # type: ignore[method-assign]
        assert persistently(mapped(server, range(11), key="k"), ServerUnavailable) == list(range(11))
        assert [row[:2] for row in server.stored] == [(0, 2), (2, 2), (4, 2), (6, 2), (8, 2), (10, 1)]


def test_a_map_that_is_in_use_begins_from_the_start_when_it_is_free() -> None:
    server = Server()
    server.troubles.append(MapInUse("in use"))
    results = mapped(server, range(4), key="k")
    with pytest.raises(MapInUse):
        next(results)
    assert list(results) == [0, 1, 2, 3]
    assert len(server.stored) == 2


def test_a_slow_call_at_the_head_does_not_let_results_fill_the_memory() -> None:
    server = Server()
    server.is_echo = False
    results = mapped(server, itertools.count(), chunk=1)
    ended = {1}
    for _ in range(200):
        assert results.next_call(0.0) is None
        for number in sorted(set(server.payloads) - ended):
            server.end(number, ["x" * (AHEAD_BYTES_MAX // 20)])
            ended.add(number)
    assert 20 <= results.read < 60
    server.end(1, ["slow"])
    assert [results.next_call(0.0).index for _ in range(10)] == list(range(10))


def test_splits_leave_nothing_behind_that_slows_the_map() -> None:
    server = Server()
    server.is_echo = False
    results = mapped(server, range(2), chunk=2)
    assert results.next_call(0.0) is None
    server.split(1, [(2, 0, 1), (3, 1, 1)])
    server.end(3)
    server.end(2)
    assert list(results) == [0, 1]
    assert results._at.under_way == (0, 0, 0)


def test_while_the_server_is_away_nothing_is_submitted_and_nobody_hurries() -> None:
    server = Server()
    server.is_echo = False
    results = mapped(server, itertools.count(), chunk=1)
    assert results.next_call(0.0) is None
    asked: list[float | None] = []

    async def away(timeout: float | None) -> list[Ended]:
        asked.append(timeout)
        server.is_away = len(asked) < 3
        if not server.is_away:
            server.end(1)
        return [server.ends.popleft()] if server.ends else []

    server.is_away, server.take = True, away  # type: ignore[method-assign]
    batches = server.batches
    assert results.next_call(0.5) is None
    assert next(results) == 0
    assert asked == [0.5, None, None]
    assert server.batches == batches


def test_ctrl_c_while_the_server_answers_loses_no_answer() -> None:
    server = Server()
    take = server.take

    async def struck(timeout: float | None) -> list[Ended]:
        await take(timeout)
        server.take = take  # type: ignore[method-assign]
        raise KeyboardInterrupt

    results = mapped(server, range(10))
    assert next(results) == 0
    server.take = struck  # type: ignore[method-assign]
    assert next(results) == 1
    with pytest.raises(KeyboardInterrupt):
        next(results)
    assert list(results) == list(range(2, 10))


def test_an_idle_iterable_gives_the_word_back() -> None:
    server = Server()
    results = mapped(server, (one for one in (0, IDLE, 1, 2, IDLE, IDLE, 3)), chunk=2)
    seen: list[Any] = []
    for _ in range(20):
        call = results.next_call(0.0) if not results.is_over else None
        seen += [] if call is None else [call.result]
    assert seen == [0, 1, 2, 3]
    assert results.is_over


def test_a_repeated_map_waits_for_idle_inputs_of_a_stored_chunk() -> None:
    server = Server()
    assert list(mapped(server, range(4), key="k")) == [0, 1, 2, 3]
    server.end(1)
    server.end(2)
    results = mapped(server, (one for one in (0, IDLE, 1, IDLE, 2, 3)), key="k")
    assert results.next_call(0.0) is None
    found = [results.next_call(0.0) for _ in range(9)]
    assert [call.result for call in found if call is not None] == [0, 1, 2, 3]
    with pytest.raises(MapMismatch, match="number 1 on"):
        list(mapped(server, [0], key="k"))


def test_many_quick_results_are_fetched_with_few_submissions() -> None:
    server = Server()
    assert list(mapped(server, range(5000), chunk=1)) == list(range(5000))
    assert server.batches < 5000 / 4


# -- calls put aside ------------------------------------------------------------------------------


def test_nothing_is_put_aside_behind_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aside = Aside(tmp_path, 7)
    aside.put(b"[0]")
    with monkeypatch.context() as full:

        def refuse(*_: Any) -> int:
            raise OSError(28, "No space left on device")

        full.setattr(os, "open", refuse)
        aside.put(b"[1]")
    aside.put(b"[2]")
    assert (tmp_path / "7.calls").read_bytes() == b"[0]\n"
    assert aside.accounts == [b"[0]", b"[1]", b"[2]"]  # the receipt has them all
    aside.remove()
    assert list(tmp_path.iterdir()) == []

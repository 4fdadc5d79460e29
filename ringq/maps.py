"""Face: maps with a key, as clients see them - who has which, and what it has stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ringq import protocol
from ringq.config import NAME_CHARS_MAX
from ringq.connection import Connection
from ringq.entries import Batch
from ringq.errors import InvalidSubmission, MapInUse

MAPS_MAX = 1000  # that one connection may have: bounds what a client makes the server remember …
OWNED_MAX = 10_000  # … and all clients together
INDEX_MAX = (1 << 63) - 1
KIND_CHARS_MAX = 2 * NAME_CHARS_MAX + 2  # domain::name


class MapRows(Protocol):
    """What is needed of the store."""

    def find_map(self, kind: str, key: str) -> int | None: ...
    def map_chunks(self, number: int, first: int, limit: int) -> list[tuple[int, int, int, bytes]]: ...


class Maps:
    """A map belongs to the connection that opened it: two programs that mix their inputs would spoil both."""

    def __init__(self, store: MapRows) -> None:
        self._store = store
        self._owners: dict[tuple[str, str], Connection] = {}
        self._maps: dict[Connection, set[tuple[str, str]]] = {}
        self._arriving: dict[tuple[str, str], int] = {}  # submissions that are neither stored nor refused yet
        self._held: dict[tuple[str, str], list[tuple[Connection, Callable[[], None]]]] = {}  # who opens these meanwhile

    def open(self, connection: Connection, wanted: protocol.OpenMap) -> protocol.MapChunks:
        """Give the map to this connection; what it has stored. Raises MapInUse, InvalidSubmission."""
        protocol.check_map_key(wanted.key)
        if not 0 <= wanted.first <= INDEX_MAX or len(wanted.kind) > KIND_CHARS_MAX:
            raise InvalidSubmission("the map has an impossible kind or number of a call")
        self.check(connection, wanted.kind, wanted.key)
        name = (wanted.kind, wanted.key)
        maps = self._maps.setdefault(connection, set())
        if len(maps) >= MAPS_MAX and name not in maps:
            raise InvalidSubmission(f"a connection may have {MAPS_MAX:,} maps at a time")
        if len(self._owners) >= OWNED_MAX and name not in self._owners:
            raise InvalidSubmission(f"a server may have {OWNED_MAX:,} maps with a key at a time")
        maps.add(name)
        self._owners[name] = connection
        number = self._store.find_map(wanted.kind, wanted.key)
        rows = [] if number is None else self._store.map_chunks(number, wanted.first, protocol.CHUNKS_MAX)
        firsts, counts, task_ids, digests = map(list, zip(*rows, strict=True)) if rows else ([], [], [], [])
        return protocol.MapChunks(firsts, counts, task_ids, digests, len(rows) == protocol.CHUNKS_MAX)

    def expect(self, batch: Batch) -> Batch:
        """The same; if it has chunks, nobody can be told what their map has stored until it is answered or refused.

        Its owner may be gone long before. Who opened the map then would be shown the half that is written and may be
        rolled back, or would not be shown what is about to be stored, and be refused when it stores its own.
        """
        if batch.chunks is None:
            return batch
        name = (batch.specs[0].kind, batch.chunks.key)
        self._arriving[name] = self._arriving.get(name, 0) + 1
        reply, refuse = batch.reply, batch.refuse
        batch.reply = lambda first_id, replayed: self._decided(name, lambda: reply(first_id, replayed))
        batch.refuse = lambda error: self._decided(name, lambda: refuse(error))
        return batch

    def hold(self, connection: Connection, wanted: protocol.OpenMap, again: Callable[[], None]) -> bool:
        """Whether chunks of this map are on their way: then `again` is called when it is known what becomes of them."""
        name = (wanted.kind, wanted.key)
        if name in self._arriving:
            self._held.setdefault(name, []).append((connection, again))
        return name in self._arriving

    def check(self, connection: Connection, kind: str, key: str) -> None:
        """Raise MapInUse if the map belongs to another connection."""
        owner = self._owners.get((kind, key))
        if owner is not None and owner is not connection:
            raise MapInUse(f"{kind}: another program is mapping with the key {key!r}: wait for it, or use another key")

    def release(self, connection: Connection) -> None:
        """The connection is closed: what it had is free."""
        for name in self._maps.pop(connection, ()):
            del self._owners[name]
        for name, held in self._held.items():
            self._held[name] = [one for one in held if one[0] is not connection]

    def _decided(self, name: tuple[str, str], answer: Callable[[], None]) -> None:
        answer()
        self._arriving[name] -= 1
        if not self._arriving[name]:
            del self._arriving[name]
            while self._held.get(name):  # looked at anew each time: one of them may close its connection
                _, again = self._held[name].pop(0)
                again()
            self._held.pop(name, None)

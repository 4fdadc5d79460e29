"""Face: maps with a key, as clients see them - who has which, and what it has stored."""

from __future__ import annotations

from typing import Protocol

from ringq import protocol
from ringq.config import NAME_CHARS_MAX
from ringq.connection import Connection
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

    def check(self, connection: Connection, kind: str, key: str) -> None:
        """Raise MapInUse if the map belongs to another connection."""
        owner = self._owners.get((kind, key))
        if owner is not None and owner is not connection:
            raise MapInUse(f"{kind}: another program is mapping with the key {key!r}: wait for it, or use another key")

    def release(self, connection: Connection) -> None:
        """The connection is closed: what it had is free."""
        for name in self._maps.pop(connection, ()):
            del self._owners[name]

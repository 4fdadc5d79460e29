"""Store: maps that may be continued - which task carries which of a map's calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ringq.store.history import HistoryTables
from ringq.store.session import Rows

# A map by what names it.
SELECT_MAP: Final = "SELECT map.id FROM map JOIN kind ON kind.id = map.kind WHERE kind.name = ? AND map.key = ?"

# Begins a map.
INSERT_MAP: Final = "INSERT INTO map (kind, key, created_us) VALUES (?, ?, ?)"

# What a map has stored, in the order of its calls.
SELECT_CHUNKS: Final = """
SELECT first, count, task_id, digest FROM map_chunk WHERE map = ? AND first >= ? ORDER BY first LIMIT ?
"""

# Where a map goes on: the end of its last chunk.
SELECT_MAP_END: Final = "SELECT first + count FROM map_chunk WHERE map = ? ORDER BY first DESC LIMIT 1"

# A chunk and its task.
INSERT_CHUNK: Final = "INSERT INTO map_chunk (map, first, count, task_id, digest) VALUES (?, ?, ?, ?, ?)"

# A task goes on with a part of a chunk, or of such a part.
INSERT_PIECE: Final = """
INSERT INTO map_piece (task_id, map)
SELECT ?2, map FROM map_chunk WHERE task_id = ?1 UNION SELECT ?2, map FROM map_piece WHERE task_id = ?1
"""

# Forgets a map: first its chunks and what became of them, then itself.
DELETE_CHUNKS: Final = "DELETE FROM map_chunk WHERE map = ?"
DELETE_PIECES: Final = "DELETE FROM map_piece WHERE map = ?"
DELETE_MAP: Final = "DELETE FROM map WHERE id = ?"


class MapTables(HistoryTables):
    """Statements about maps. Those that write belong into `transaction()`."""

    def find_map(self, kind: str, key: str) -> int | None:
        """The number of a map, None if there is none."""
        row = self._read_one(SELECT_MAP, (kind, key))
        return None if row is None else int(row[0])

    def insert_map(self, kind: str, key: str, now_us: int) -> int:
        """Begin a map; its number."""
        return self._insert_one(INSERT_MAP, (self.intern_kind(kind), key, now_us))

    def map_chunks(self, number: int, first: int, limit: int) -> list[tuple[int, int, int, bytes]]:
        """(first call, count, task id, digest) of the chunks from call `first` on, in order."""
        return self._read(SELECT_CHUNKS, (number, first, limit))

    def map_end(self, number: int) -> int:
        """How many calls the map has stored: the index of the next one."""
        row = self._read_one(SELECT_MAP_END, (number,))
        return 0 if row is None else int(row[0])

    def insert_chunks(self, number: int, rows: Rows) -> None:
        """Add (first call, count, task id, digest) to a map."""
        self._write(INSERT_CHUNK, [(number, *row) for row in rows])

    def insert_pieces(self, task_id: int, pieces: Sequence[int]) -> None:
        """These new tasks go on with what a task carried, which may be calls of a map."""
        self._write(INSERT_PIECE, [(task_id, piece) for piece in pieces])

    def delete_map(self, number: int) -> int:
        """Forget a map; how many chunks it had. In one go: 0.3 s for 10^6 chunks, as a submission of so many takes."""
        count = self._write(DELETE_CHUNKS, [(number,)])
        self._write(DELETE_PIECES, [(number,)])
        self._write(DELETE_MAP, [(number,)])
        return count

"""Store: the tables of maps, as text; part of `schema`."""

from __future__ import annotations

from typing import Final

# A map that may be continued by another run of its program.
MAP = """
CREATE TABLE map (
    id INTEGER PRIMARY KEY,
    kind INTEGER NOT NULL REFERENCES kind (id),
    key TEXT NOT NULL CHECK (key <> ''),
    created_us INTEGER NOT NULL,
    UNIQUE (kind, key)
) STRICT
"""

# Which task carries which of its calls. The digest is of the payload: a continued map must have the same inputs.
MAP_CHUNK = """
CREATE TABLE map_chunk (
    map INTEGER NOT NULL REFERENCES map (id),
    first INTEGER NOT NULL CHECK (first >= 0),
    count INTEGER NOT NULL CHECK (count > 0),
    task_id INTEGER NOT NULL REFERENCES task (id),
    digest BLOB NOT NULL CHECK (length(digest) = 16),
    PRIMARY KEY (map, first)
) STRICT, WITHOUT ROWID
"""

# Serves "does this task carry calls of a map": those stay when ended tasks are forgotten.
MAP_CHUNK_TASK = "CREATE INDEX map_chunk_task ON map_chunk (task_id)"

# Tasks that go on with a part of a map's chunk whose attempt was cut off: who continues the map needs their results.
MAP_PIECE = """
CREATE TABLE map_piece (
    task_id INTEGER PRIMARY KEY REFERENCES task (id),
    map INTEGER NOT NULL REFERENCES map (id)
) STRICT
"""

# Serves "forget this map".
MAP_PIECE_MAP = "CREATE INDEX map_piece_map ON map_piece (map)"

MAP_TABLES: Final = (MAP, MAP_CHUNK, MAP_CHUNK_TASK, MAP_PIECE, MAP_PIECE_MAP)

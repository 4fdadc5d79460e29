"""Store: the tables of tasks that belong together, as text; part of `schema`."""

from __future__ import annotations

from typing import Final

# `task_id` waits for the end of `upstream`. `role`, as `model.Role` says: what becomes of it if that does not complete,
# or that it is its child. Open until `upstream` has ended; closed ones stay for life, for who asks what belonged to
# what. `place`: the order in which it was named, or spawned.
EDGE: Final = """
CREATE TABLE edge (
    upstream INTEGER NOT NULL REFERENCES task (id),
    task_id INTEGER NOT NULL REFERENCES task (id),
    role INTEGER NOT NULL CHECK (role BETWEEN 0 AND 3),
    place INTEGER NOT NULL CHECK (place >= 0),
    is_open INTEGER NOT NULL CHECK (is_open IN (0, 1)),
    PRIMARY KEY (upstream, task_id)
) STRICT, WITHOUT ROWID
"""

# Serves "does it still wait", "who does", and with both values of `is_open` "for what". A count of what is left, in a
# row for each task, would be one more row to write for each edge.
EDGE_TASK: Final = "CREATE INDEX edge_task ON edge (is_open, task_id, role, place)"

CHILDREN, FINALIZING, PARKED = range(3)  # phases

# The handler has returned, the task has not ended: `phase` 0, its children have not; 1, it may be finalized; 2,
# somebody outside has to complete it. `lease` is that of the attempt which began it.
WAITING: Final = """
CREATE TABLE waiting (
    task_id INTEGER PRIMARY KEY REFERENCES task (id),
    phase INTEGER NOT NULL CHECK (phase BETWEEN 0 AND 2),
    lease INTEGER NOT NULL,
    finalizes INTEGER NOT NULL CHECK (finalizes IN (0, 1)),
    fail_fast INTEGER NOT NULL CHECK (fail_fast IN (0, 1)),
    since_us INTEGER NOT NULL
) STRICT
"""

# What the handler of such a task has returned, for life.
MEMO: Final = """
CREATE TABLE memo (
    task_id INTEGER PRIMARY KEY REFERENCES task (id),
    text TEXT NOT NULL
) STRICT
"""

# Who knows the token whose digest this is may complete the task, once. Until the attempt that asked for it has ended,
# the answer waits here for it: `status` says where the task goes then, 0 (pending) that it is tried again. The time of
# a parked task is in `expiry`, with those of all others.
CALLBACK: Final = """
CREATE TABLE callback (
    task_id INTEGER PRIMARY KEY REFERENCES task (id),
    digest BLOB NOT NULL UNIQUE CHECK (length(digest) = 32),
    lease INTEGER NOT NULL,
    expires_us INTEGER,
    status INTEGER CHECK (status IN (0, 10, 11)),
    result TEXT CHECK (result IS NULL OR status = 10),
    error TEXT CHECK (error IS NULL OR status <> 10)
) STRICT
"""

# What an attempt has left for the next one of its task, until the task completes.
CHECKPOINT: Final = """
CREATE TABLE checkpoint (
    task_id INTEGER PRIMARY KEY REFERENCES task (id),
    lease INTEGER NOT NULL,
    saved_us INTEGER NOT NULL,
    text TEXT NOT NULL
) STRICT
"""

# What happened, in its order; `body` is JSON. Old rows are deleted: `ringq serve --timeline`.
EVENT: Final = """
CREATE TABLE event (
    id INTEGER PRIMARY KEY,
    at_us INTEGER NOT NULL,
    word TEXT NOT NULL CHECK (word <> ''),
    task_id INTEGER,
    body TEXT NOT NULL
) STRICT
"""

# Serves "what happened to this task".
EVENT_TASK: Final = "CREATE INDEX event_task ON event (task_id, id) WHERE task_id IS NOT NULL"

GRAPH_TABLES: Final = (
    EDGE, EDGE_TASK, WAITING, MEMO, CALLBACK, CHECKPOINT, EVENT, EVENT_TASK,
)  # fmt: skip

"""Face: a real server with real workers, for one test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ringq.kinds import App, Task
from ringq.server import Server
from ringq.testing.place import new_database


@contextmanager
def server(
    app: App | Task[..., Any] | str, folder: str | os.PathLike[str] | None = None, *, workers: int = 1, **options: Any
) -> Iterator[Server]:
    """A `ringq.Server` of a new database, which ends with the block; inside it `task.submit(...)` goes there.

    `app`: one that workers can import, as `ringq.Server` says; `folder`: where the database is made, None for a folder
    of its own that is removed afterwards. `workers`: processes, 1 to 255. `options`: the others of `ringq.Server`.

    Raises what making and starting a Server raises.
    """
    with new_database(folder) as database, Server(app, database, workers=workers, **options) as served:
        yield served

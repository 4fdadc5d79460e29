"""Edge: where the database of one test lies."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from ringq.config import SOCKET_PATH_BYTES_MAX, socket_path

NAME = "ringq.db"


@contextlib.contextmanager
def new_database(folder: str | os.PathLike[str] | None) -> Iterator[Path]:
    """The path of a database that is not there yet, in `folder`, or in one of its own that is removed afterwards.

    The socket of a server lies beside its database, and its path may have 107 bytes. pytest's folders are near that,
    so where a path would be longer the database gets a short folder of its own.
    """
    if folder is not None:
        path = _unused(Path(folder))
        if len(os.fsencode(socket_path(path))) <= SOCKET_PATH_BYTES_MAX:
            yield path
            return
    with TemporaryDirectory(prefix="ringq-", dir=None if folder is None else "/tmp") as own:
        yield Path(own) / NAME


def _unused(folder: Path) -> Path:
    """A test may have several runs, one after the other."""
    path, number = folder / NAME, 1
    while path.exists():
        number += 1
        path = folder / f"ringq-{number}.db"
    return path

"""Submit: which client `task.submit(...)` means."""

from __future__ import annotations

import importlib
import os
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

from ringq.errors import NotBound
from ringq.kinds.submission import Submission
from ringq.kinds.submitted import Submitted

R = TypeVar("R")


class Submitter(Protocol):
    """What binding needs of a client."""

    def _submit_one(self, submission: Submission[R]) -> Submitted[R]:
        """Store this task."""


_bound: ContextVar[tuple[Submitter, ...]] = ContextVar("ringq_bound", default=())
_from_environment: dict[str, Submitter] = {}


def bind(client: Submitter) -> None:
    """Make this the client of the present thread or asyncio task until `unbind`."""
    _bound.set((*_bound.get(), client))


def unbind(client: Submitter) -> None:
    """Undo the latest `bind` of this client; the one bound before is the client again."""
    stack = list(_bound.get())
    for index in range(len(stack) - 1, -1, -1):
        if stack[index] is client:
            del stack[index]
            break
    _bound.set(tuple(stack))


def current() -> Submitter:
    """The client of the innermost `with` (connect, Server) around the caller, else one of the database in RINGQ_DB.

    The project's file names a database too, but does not bind: where the working directory happens to be must not
    decide where a program's tasks go. Raises NotBound if there is neither.
    """
    stack = _bound.get()
    return stack[-1] if stack else served()


def served() -> Any:
    """The client of the database in RINGQ_DB, whatever is bound: in a worker, of its own server. Raises NotBound."""
    database = os.environ.get("RINGQ_DB")
    if not database:
        raise NotBound(
            'no client is bound here: put `with ringq.connect("my.db"):` around it, or '
            '`with ringq.Server(app, "my.db"):`, or set RINGQ_DB=my.db. A thread started inside the block does not '
            "inherit it: give it the client and use its submit"
        )
    path = os.path.abspath(database)
    client = _from_environment.get(path)
    if client is None:
        # By name, because this layer does not know the one that speaks to the server.
        ringq: Any = importlib.import_module("ringq")
        client = _from_environment.setdefault(path, ringq.connect(path))
    return client

"""Submit and answer: the client's verbs for dead letters."""

from __future__ import annotations

import time
from typing import Any, Final

from ringq import protocol
from ringq.client.changing import Asking, change
from ringq.errors import InvalidOption
from ringq.kinds import Submitted, Task, options

AT_ONCE: Final = 1000  # of one request: a transaction of some 20 ms


class DeadLetters:
    """Tasks that are given up: their retries are used up, or they killed too many workers."""

    def retry_dead(
        self: Asking, *tasks: Submitted[Any] | int, kind: str | Task[..., Any] | None = None, queue: str | None = None,
        all: bool = False,  # noqa: A002
    ) -> int:  # fmt: skip
        """Give dead letters another chance, under their ids and with all their options; every limit begins anew.

        `tasks`: handles or ids, all or none of at most 1,000; or all of a `kind` or a `queue` or both, or simply
        `all`, that are dead at the moment of the call. What has ended them stays on record as an attempt. Returns how
        many they were. Handles that are given wait for the new end.

        While no server runs they wait for the next one. Raises NotDead, UnknownTask, InvalidOption, and what
        `submit_many` raises about the server and the database.
        """
        count = _change(self, protocol.RetryDead, tasks, kind, queue, all)
        for task in tasks:
            if isinstance(task, Submitted):
                task._ended = None
        return count

    def purge_dead(
        self: Asking, *tasks: Submitted[Any] | int, kind: str | Task[..., Any] | None = None, queue: str | None = None,
        all: bool = False,  # noqa: A002
    ) -> int:  # fmt: skip
        """Delete dead letters, with payload, attempts and output. Which ones, and what it raises: as `retry_dead`.

        Chunks of a map that may be continued stay. Returns how many were deleted.
        """
        return _change(self, protocol.PurgeDead, tasks, kind, queue, all)


def _change(
    client: Asking, verb: type[protocol.RetryDead | protocol.PurgeDead], tasks: tuple[Submitted[Any] | int, ...],
    kind: str | Task[..., Any] | None, queue: str | None, everything: bool,
) -> int:  # fmt: skip
    filters = kind is not None or queue is not None
    if bool(tasks) + filters + everything != 1:
        raise InvalidOption("dead letters: name tasks, or a kind or a queue, or say all=True")
    if tasks:
        ids = [options.task_id_of(task) for task in tasks]
        if len(ids) > AT_ONCE:
            raise InvalidOption(f"tasks: expected at most {AT_ONCE:,} at a time, got {len(ids):,}")
        return _ask(client, verb, protocol.Dead(ids))
    if queue is not None:
        options.check_queue(queue)
    name = None if kind is None else options.check_kind(kind.kind if isinstance(kind, Task) else kind)
    before_us = time.time_ns() // 1000  # what dies again meanwhile is not meant
    total = 0
    while True:
        chosen = protocol.Dead(None, name, queue, before_us, AT_ONCE)
        count = _ask(client, verb, chosen)
        total += count
        if count < AT_ONCE:
            return total


def _ask(client: Asking, verb: type[protocol.RetryDead | protocol.PurgeDead], dead: protocol.Dead) -> int:
    """One request; asked again after its answer was lost, it is told what it was told before."""
    return change(client, verb(dead, protocol.submission_id()), protocol.Changed).count

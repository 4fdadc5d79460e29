"""Submit and answer: the client's verbs for dead letters."""

from __future__ import annotations

from typing import Any, Final, Unpack

import msgspec

from ringq import protocol
from ringq.client.changing import Asking, change
from ringq.client.steps import Verb
from ringq.clock import SystemClock
from ringq.errors import InvalidOption
from ringq.kinds import Filter, Stored, options
from ringq.kinds.filters import FilterOptions
from ringq.model import Status

AT_ONCE: Final = 1000  # of one request: a transaction of some 20 ms


class DeadLetters:
    """Tasks that are given up: their retries are used up, or they killed too many workers."""

    @Verb
    async def retry_dead(
        self: Asking, *tasks: Stored[Any] | int, filter: Filter | None = None, all: bool = False,  # noqa: A002
        **given: Unpack[FilterOptions],
    ) -> int:  # fmt: skip
        """Give dead letters another chance, under their ids and with all their options; every limit begins anew.

        `tasks`: handles or ids, all or none of at most 1,000. Or all that are dead at the moment of the call and that a
        `filter` means, or what it would say, by name: `retry_dead(queue="bulk", tags={"shop": "12"})`; or simply `all`.
        What has ended them stays on record as an attempt. Returns how many they were. Handles that are given wait for
        the new end.

        While no server runs they wait for the next one. Raises NotDead, UnknownTask, InvalidOption, KeyInUse, and what
        `submit_many` raises about the server and the database.
        """
        count = await _change(self, protocol.RetryDead, tasks, Filter.of("retry_dead", filter, given), all)
        for task in tasks:
            if isinstance(task, Stored):
                task._ended = None
        return count

    @Verb
    async def purge_dead(
        self: Asking, *tasks: Stored[Any] | int, filter: Filter | None = None, all: bool = False,  # noqa: A002
        **given: Unpack[FilterOptions],
    ) -> int:  # fmt: skip
        """Delete dead letters, with payload, attempts, tags and output.

        Which ones, and what it raises: as `retry_dead`. Chunks of a map that may be continued stay. Returns how many
        were deleted.
        """
        return await _change(self, protocol.PurgeDead, tasks, Filter.of("purge_dead", filter, given), all)


async def _change(
    client: Asking, verb: type[protocol.RetryDead | protocol.PurgeDead], tasks: tuple[Stored[Any] | int, ...],
    chosen: Filter, everything: bool,
) -> int:  # fmt: skip
    if bool(tasks) + (not chosen.is_empty) + everything != 1:
        raise InvalidOption("dead letters: name tasks, or say which, as by kind, queue or tags, or say all=True")
    if chosen.status not in (None, Status.DEAD_LETTER):
        raise InvalidOption(f"status: what is {chosen.status} is no dead letter")
    if tasks:
        ids = [options.task_id_of(task) for task in tasks]
        if len(ids) > AT_ONCE:
            raise InvalidOption(f"tasks: expected at most {AT_ONCE:,} at a time, got {len(ids):,}")
        return (await _ask(client, verb, protocol.Dead(ids))).count
    before_us = SystemClock().now_us() + 1  # what dies again meanwhile is not meant
    wanted = protocol.Dead(
        **chosen.wanted(), before_us=before_us, submitted_before_us=chosen.before_us, limit=AT_ONCE
    )  # fmt: skip
    total = 0
    while True:
        reply = await _ask(client, verb, wanted)
        total += reply.count
        if reply.after is None:
            return total
        wanted = msgspec.structs.replace(wanted, after=reply.after)


async def _ask(
    client: Asking, verb: type[protocol.RetryDead | protocol.PurgeDead], dead: protocol.Dead
) -> protocol.Changed:
    """One request; asked again after its answer was lost, it is told what it was told before."""
    return await change(client, verb(dead, protocol.submission_id()), protocol.Changed)

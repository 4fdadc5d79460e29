"""Submit and answer: the client's question why a task does not run."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from ringq import protocol
from ringq.client.changing import Asking
from ringq.client.steps import Verb
from ringq.codec import decode_json
from ringq.kinds import Stored, options
from ringq.model import Why


class Reasons:
    """Why nothing happens."""

    @Verb
    async def why(self: Asking, task: Stored[Any] | int) -> Why:
        """Why this task, given as a handle or an id, does not run: everything that keeps it from that now.

        `why(task).causes` has a word and a line for each; for a task that runs or has ended, these say so. While no
        server runs, it is what the database says: who is paused, delayed or waits behind a key, and that none runs.
        Looks only: nothing is changed or counted.

        Raises UnknownTask, InvalidOption for what can be no task; StoreError if there is neither server nor database;
        ServerUnavailable, ServerStopping, ClientClosed.
        """
        task_id = options.task_id_of(task)

        def by_itself() -> protocol.WhyReply:
            from ringq.query import Query  # noqa: PLC0415 - the store is not loaded by those whom a server serves

            return protocol.WhyReply(json.dumps(asdict(Query(self.database).why(task_id))))

        return decode_json((await self._reply(protocol.Why(task_id), protocol.WhyReply, by_itself)).body, Why)

"""Submit and answer: the client's question why a task does not run."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from ringq import protocol
from ringq.client.controls import Asking
from ringq.codec import decode_json
from ringq.kinds import Submitted, options
from ringq.model import Why


class Reasons:
    """Why nothing happens."""

    def why(self: Asking, task: Submitted[Any] | int) -> Why:
        """Why this task, given as a handle or an id, does not run: everything that keeps it from that now.

        `why(task).causes` has a word and a line for each; for a task that runs or has ended, these say so. While no
        server runs, it is what the database says: who is paused, delayed or waits behind a key, and that none runs.
        Looks only: nothing is changed or counted.

        Raises UnknownTask, InvalidOption for what can be no task; StoreError if there is neither server nor database;
        ServerUnavailable, ServerStopping, ClientClosed.
        """
        task_id = options.task_id_of(task)

        def by_itself() -> protocol.WhyReply:
            return protocol.WhyReply(json.dumps(asdict(self.query.why(task_id))))

        return decode_json(self._ask(protocol.Why(task_id), protocol.WhyReply, by_itself).body, Why)

"""Flow: what becomes of a chunk whose attempt was cut off. Decides and computes; the writer writes it.

     one death ──► [0 .. 29] ended   30 alone   [31 .. 63]
                        │               │            │
                   in the receipt   its own task  another task

A call is blamed for a death only when it stands alone; its neighbours go on, and what had been put aside does not run
again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from ringq import codec
from ringq.backlog import Row
from ringq.model import Reason, Status

BLAMED = (Reason.CRASH, Reason.RUN_TIMEOUT)  # the call that ran did it; else the calls have nothing to do with the end


class Replacement(NamedTuple):
    """How a chunk goes on.

    `status`, `reason`, `result`, `error`: of its receipt; `us`, how long its calls took. `tasks`: rows (id, spec,
    submitted_us, run_at_us, payload) to insert. `rows`: the same for the ring, in the lane of (`priority`, `queue`).
    """

    status: Status
    reason: Reason
    result: str | None
    error: str | None
    us: int
    tasks: list[tuple[int, int, int, int | None, str]]
    priority: int
    queue: str
    rows: list[Row]


def replacement(
    store: Any, task_id: int, kind: int, reason: Reason, cause: str, call: int, published: str, now_us: int
) -> Replacement | None:
    """What takes the place of a task whose attempt ended for `reason`; None if it is no chunk, or stays whole.

    `cause`: the details of that end, as JSON. `call`: the number after the index of the call that ran, 0 if none did.
    `published`: accounts that the worker had put aside.
    """
    found = store.load_tasks_by_id([task_id])
    if not found or not codec.is_chunk(found[0][2]):
        return None
    _, spec_id, payload = found[0]
    suspect = call - 1 if call else None
    try:
        split = codec.split(payload, published, suspect=suspect, to_blame=reason in BLAMED)
    except ValueError:
        return None
    if split.ended == 0 and (split.calls == 1 or reason not in BLAMED):
        return None
    spec = store.specs()[spec_id]
    ids = range(store.next_task_id, store.next_task_id + len(split.pieces))
    limit_ms = spec.run_timeout_ms or 0
    pieces = [(number, piece) for number, (_, _, piece) in zip(ids, split.pieces, strict=True)]
    parts = [(number, first, count) for number, (first, count, _) in zip(ids, split.pieces, strict=True)]
    account = msgspec.structs.replace(split.account, parts=parts)
    result, error = (None, _told(account, cause, ids)) if parts else (codec.encode_json(account).decode(), None)
    return Replacement(
        Status.SUPERSEDED if parts else Status.COMPLETED, Reason.SPLIT if parts else Reason.NONE,
        result, error, account.us,
        [(number, spec_id, now_us, None, piece) for number, piece in pieces],
        spec.priority, spec.queue,
        [(number, kind, 1, limit_ms, piece) for number, piece in pieces],
    )  # fmt: skip


def _told(account: codec.Account, cause: str, ids: range) -> str:
    whom = f"task {ids[0]}" if len(ids) == 1 else f"tasks {ids[0]} to {ids[-1]}"
    why = msgspec.json.decode(cause, type=dict[str, Any])
    told = {
        "type": "Split",
        "message": f"{why.get('message') or 'the attempt was cut off'}; its other calls go on as {whom}",
        "cause": why,
        **msgspec.to_builtins(account, builtin_types=(msgspec.Raw,)),
    }
    return codec.encode_json(told).decode()

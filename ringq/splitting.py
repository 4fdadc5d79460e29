"""Flow: what becomes of a chunk whose attempt was cut off. Decides and computes; the writer writes it.

     one death ──► [0 .. 29] ended   30 alone   [31 .. 63]
                        │               │            │
                   in the receipt   its own task  another task

A call is blamed for a death only when it stands alone; its neighbours go on, and what had been put aside does not run
again.
"""

from __future__ import annotations

from itertools import repeat
from typing import Any, NamedTuple

import msgspec

from ringq import codec
from ringq.entries import Admitted, Interruption
from ringq.model import Reason, Status
from ringq.places import place_of

# The call that ran did it; else the calls have nothing to do with the end.
BLAMED = (Reason.CRASH, Reason.RUN_TIMEOUT, Reason.MEMORY_LIMIT)


class Replacement(NamedTuple):
    """How a chunk goes on.

    `status`, `reason`, `result`, `error`: of its receipt; `us`, how long its calls took. `tasks`: rows (id, spec,
    submitted_us, run_at_us, payload) to insert; `admitted`, the same for the backlog.
    """

    status: Status
    reason: Reason
    result: str | None
    error: str | None
    us: int
    tasks: list[tuple[int, int, int, int | None, str]]
    admitted: Admitted


def replacement(store: Any, end: Interruption, is_final: bool, now_us: int) -> Replacement | None:
    """What takes the place of a task whose attempt was cut off; None if it is no chunk, or stays whole.

    `is_final`: staying whole, the task would end with this, and all of its calls. Then it is split, whoever did it.
    """
    found = store.load_tasks_by_id([end.task_id])
    if not found or not codec.is_chunk(found[0][2]):
        return None
    _, spec_id, payload = found[0]
    suspect = end.call - 1 if end.call else None
    to_blame = end.reason in BLAMED or is_final
    try:
        split = codec.split(payload, end.published, suspect=suspect, to_blame=to_blame)
    except ValueError:
        return None
    if split.ended == 0 and (split.calls == 1 or not to_blame):
        return None
    spec = store.specs()[spec_id]
    ids = range(store.next_task_id, store.next_task_id + len(split.pieces))
    pieces = [piece for _, _, piece in split.pieces]
    parts = [(number, first, count) for number, (first, count, _) in zip(ids, split.pieces, strict=True)]
    account = msgspec.structs.replace(split.account, parts=parts)
    result, error = (None, _told(account, end.error, ids)) if parts else (codec.encode_json(account).decode(), None)
    return Replacement(
        Status.SUPERSEDED if parts else Status.COMPLETED, Reason.SPLIT if parts else Reason.NONE,
        result, error, account.us,
        [(number, spec_id, now_us, None, piece) for number, piece in zip(ids, pieces, strict=True)],
        Admitted(place_of(spec), ids, repeat(end.kind), repeat(spec.run_timeout_ms or 0), pieces),
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

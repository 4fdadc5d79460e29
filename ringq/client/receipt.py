"""Answer: what the receipt of a chunk tells of its calls. Pure."""

from __future__ import annotations

from itertools import count
from typing import Any, NamedTuple

from ringq import codec
from ringq.client.progress import Piece
from ringq.errors import InvalidResult, ProtocolError
from ringq.kinds import Ended, MapCall, failure_of
from ringq.model import Reason, Status


class Told(NamedTuple):
    """What a receipt tells.

    Attributes: `calls`, those that ended, in order; `us`, microseconds they took; `bytes`, of their results; `parts`,
    the others: (task id, index of the first in the chunk, number of calls) each.
    """

    calls: list[MapCall[Any]]
    us: int
    bytes: int
    parts: list[tuple[int, int, int]]


def read(kind: str, ended: Ended, piece: Piece, results: Any) -> Told:
    """`results`: the codec of what the kind returns, None without it. Raises ProtocolError for what makes no sense."""
    if ended.status is Status.COMPLETED:
        text = ended.result or ""
    elif ended.reason is Reason.SPLIT:
        text = codec.encode_json(ended.error).decode()
    else:
        indexes = range(piece.first, piece.first + piece.calls)
        return Told([MapCall(index, None, failure_of(kind, ended, index)) for index in indexes], 0, 0, [])
    account = codec.read_account(text)
    values = codec.read_results(account, results)
    if len(values) + len(account.errors) + sum(calls for _, _, calls in account.parts) != piece.calls:
        raise ProtocolError(f"the receipt of task {ended.task_id} does not tell of its {piece.calls} calls")
    return Told(_calls(kind, ended.task_id, piece.first, values, account.errors), account.us, len(text), account.parts)


def _calls(
    kind: str, task_id: int, first: int, results: list[Any], failures: dict[int, codec.Failure]
) -> list[MapCall[Any]]:
    """Results and failures in the order of the calls."""
    calls: list[MapCall[Any]]
    if not failures:  # MapCall(...) one by one would take ten times as long
        calls = list(map(MapCall, count(first), results))
    else:
        values = iter(results)
        calls = []
        for place in range(len(results) + len(failures)):
            failure = failures.get(place)
            if failure is None:
                calls.append(MapCall(first + place, next(values)))
            else:
                error = codec.decode_json(bytes(failure.error), dict[str, Any])
                ended = Ended(task_id, Status.FAILED, failure.reason, None, error)
                calls.append(MapCall(first + place, None, failure_of(kind, ended, first + place)))
    if InvalidResult in map(type, results):
        calls = [MapCall(c.index, None, c.result) if isinstance(c.result, InvalidResult) else c for c in calls]
    return calls

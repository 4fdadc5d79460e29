"""Run: what a receipt carries besides the result - tasks to be stored with it, and that its task waits for them."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from ringq.errors import ProtocolError
from ringq.protocol.messages import Submit

CHILD: Final = 0
SIBLING: Final = 1
FOLLOW_UP: Final = 2


class Carried(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The body of a receipt with `Reason.WAITING`, as JSON. All of it becomes true in one transaction, or nothing.

    `result`: what the handler has returned, as JSON; the memo if the task goes on. `batch`: the tasks to be stored, and
    `roles`, one per task: a child, a sibling, or a task of its own. `waits`: the task ends when its children have,
    also if there is none. `finalizes`: then its `finalize` is called. `fail_fast`: the first child that does not
    complete ends it, and the others. `parks`: somebody outside completes the task.
    """

    result: str
    batch: Submit | None = None
    roles: Annotated[list[int], msgspec.Meta(max_length=1 << 18)] | None = None
    waits: bool = False
    finalizes: bool = False
    fail_fast: bool = True
    parks: bool = False


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Carried).decode


def encode_carried(carried: Carried) -> bytes:
    """As the body of a receipt."""
    return _encode(carried)


def decode_carried(body: str) -> Carried:
    """Raises ProtocolError for what no worker of ours has written."""
    try:
        return _decode(body)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise ProtocolError(f"malformed receipt: {error}") from None

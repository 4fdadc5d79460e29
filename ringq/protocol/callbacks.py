"""Submit and answer: what is said of tasks that somebody outside completes."""

from __future__ import annotations

import msgspec


class OpenCallback(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Who knows the token with this digest may complete the task; asked for by the attempt with this lease.

    Within `timeout_us`; None: however long it takes.
    """

    task_id: int
    lease: int
    digest: bytes
    timeout_us: int | None = None


class ResolveCallback(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """End the task of a token, once. `status`: the code of completed, with a result; of failed; or of pending, if it
    shall be tried again. JSON texts. A `submission` id seen before is answered as it was then.
    """

    token: str
    submission: bytes
    status: int
    result: str | None = None
    error: str | None = None


class ExtendCallback(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Give who has the token so much time from now on; None: without limit."""

    token: str
    timeout_us: int | None


CallbackChange = OpenCallback | ResolveCallback | ExtendCallback

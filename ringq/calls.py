"""Flow: the calls of a chunk in the child, one after the other; one that fails, fails alone.

What a long chunk has finished is put aside ten times a second, so that a death costs no more than that: the parent
reads it when there will be no receipt.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from ringq import codec
from ringq.context import Context
from ringq.errors import (
    AttemptCancelled,
    AttemptInterrupted,
    Cancel,
    InvalidPayload,
    InvalidResult,
    MemoryLimit,
    Permanent,
    RetryLater,
    Snooze,
    Throttled,
    TotalTimeout,
)
from ringq.kinds import Task
from ringq.model import Reason

PUBLISH_S = 0.1
FILE_MODE = 0o600

_LIMITS = (
    (AttemptCancelled, Reason.CANCELLED),
    (TotalTimeout, Reason.TOTAL_TIMEOUT),
    (MemoryLimit, Reason.MEMORY_LIMIT),
)
_REASONS = (
    (InvalidPayload, Reason.INVALID_PAYLOAD),
    (InvalidResult, Reason.INVALID_RESULT),
    (Permanent, Reason.PERMANENT),
    (RetryLater, Reason.RETRY_LATER),
    (Snooze, Reason.SNOOZED),
    (Throttled, Reason.THROTTLED),
    (Cancel, Reason.CANCELLED),
)


class Caller(Protocol):
    """What a chunk needs of the ring: to say between which two points a call may be interrupted."""

    def call(self, index: int) -> None: ...
    def leave(self) -> None: ...


class Aside:
    """The file in which a chunk's accounts are put aside until its receipt is published."""

    def __init__(self, spill: Path, lease: int) -> None:
        self._path = spill / f"{lease}{codec.ASIDE_SUFFIX}"
        self._is_made = self._is_broken = False
        self.accounts: list[bytes] = []

    def put(self, account: bytes) -> None:
        """Append an account. A full disk costs nothing but the calls' second run, should this process die.

        After a failure nothing is appended any more: what follows a gap would be taken for the calls in the gap. So
        the file is made once, and a parent that has removed it meanwhile finds none.
        """
        self.accounts.append(account)
        if self._is_broken:
            return
        flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | (0 if self._is_made else os.O_CREAT)
        self._is_made = self._is_broken = True
        with contextlib.suppress(OSError), open(os.open(self._path, flags, FILE_MODE), "wb") as file:
            file.write(account + b"\n")
            file.flush()
            self._is_broken = False

    def remove(self) -> None:
        """The receipt is published, the file has no use any more."""
        if self._is_made:
            with contextlib.suppress(OSError):
                self._path.unlink()


def run_calls(
    caller: Caller, task: Task[..., Any], context: Callable[[], Context], payload: bytes, aside: Aside
) -> tuple[bytes, bool]:
    """Run the calls of a chunk, in order, until the results are as large as one receipt should be, or one took too
    much memory.

    `context` makes one for a call, with the whole run time limit. Returns the account of the calls that ran, and
    whether those are all. Raises InvalidPayload if the payload is no chunk of this kind, AttemptCancelled.
    """
    enter, leave, clock, plain = caller.call, caller.leave, time.monotonic, task.plain_function
    leave()  # none has begun: the time for decoding is nobody's
    gathered = task.chunks.gather()
    began = published = clock()
    calls = task.chunks.decode(payload)
    index = -1
    for index, call in enumerate(calls):
        try:
            if not isinstance(call, tuple):
                raise call
            args, names = call
            enter(index + 1)  # the parent is told the number after it: 0 is "not in a call"
            try:
                if plain is not None and not names:
                    value = plain(*args)
                else:
                    value = task.invoke(context() if task.wants_context else None, names, args)
            finally:
                leave()  # from here on no soft exception is raised in this call
            gathered.add(index, value)
        except BaseException as error:
            leave()  # the soft exception may have come between the handler's end and the line above
            if isinstance(error, AttemptCancelled):  # all of the task was
                raise
            gathered.fail(index, reason_of(error), codec.encode_error(error))
            if isinstance(error, MemoryLimit):
                break  # this process ends: the others run in the next one
        if gathered.is_full:
            break
        now = clock()
        if now - published >= PUBLISH_S:
            aside.put(gathered.take(round((now - published) * 1e6)))
            published = now
    last = gathered.take(round((clock() - published) * 1e6))
    return codec.join_accounts([*aside.accounts, last]) if published > began else last, index + 1 == len(calls)


def reason_of(error: BaseException, permanent: tuple[type[BaseException], ...] = ()) -> Reason:
    """Why a call failed that raised `error`; `permanent`: what its kind says that trying again would not help."""
    if isinstance(error, AttemptInterrupted):
        return next((reason for kind, reason in _LIMITS if isinstance(error, kind)), Reason.RUN_TIMEOUT)
    if isinstance(error, permanent):
        return Reason.PERMANENT
    return next((reason for kind, reason in _REASONS if isinstance(error, kind)), Reason.HANDLER_ERROR)

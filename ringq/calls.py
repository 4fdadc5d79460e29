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
    AttemptPreempted,
    AttemptStopped,
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
from ringq.lifecycle import STOPS
from ringq.model import Reason

PUBLISH_S = 0.1
FILE_MODE = 0o600
CONTEXTS_MAX = 100  # of an exception: a handler may have tied them into a ring

_LIMITS = (
    (AttemptCancelled, Reason.CANCELLED),
    (TotalTimeout, Reason.TOTAL_TIMEOUT),
    (MemoryLimit, Reason.MEMORY_LIMIT),
    (AttemptPreempted, Reason.PREEMPTED),
    (AttemptStopped, Reason.PAUSED),
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
) -> tuple[bytes, Reason]:
    """Run the calls of a chunk, in order, until the results are as large as one receipt should be, or one took too
    much memory, or shall begin anew later.

    `context` makes one for a call, with the whole run time limit. Returns the account of the calls that ran, and
    why those are not all: NONE, SPLIT, PAUSED or PREEMPTED. Raises InvalidPayload if the payload is no chunk of this
    kind, AttemptCancelled; AttemptStopped, or what came of it, in the first call.
    """
    enter, leave, clock, plain = caller.call, caller.leave, time.monotonic, task.plain_function
    leave()  # none has begun: the time for decoding is nobody's
    gathered = task.chunks.gather()
    began = published = clock()
    calls = task.chunks.decode(payload)
    index, left = -1, Reason.NONE
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
            reason = reason_of(error)
            if reason in STOPS and index == 0:  # then the task begins anew as it is
                raise
            if reason in STOPS:
                left = reason
                break
            gathered.fail(index, reason, codec.encode_error(error))
            if isinstance(error, MemoryLimit):
                left = Reason.SPLIT  # this process ends: the others run in the next one
                break
        if gathered.is_full:
            left = Reason.SPLIT
            break
        now = clock()
        if now - published >= PUBLISH_S:
            aside.put(gathered.take(round((now - published) * 1e6)))
            published = now
    last = gathered.take(round((clock() - published) * 1e6))
    body = codec.join_accounts([*aside.accounts, last]) if published > began else last
    return body, Reason.NONE if index + 1 == len(calls) and left not in STOPS else left


def reason_of(error: BaseException, permanent: tuple[type[BaseException], ...] = ()) -> Reason:
    """Why a call failed that raised `error`; `permanent`: what its kind says that trying again would not help."""
    if isinstance(error, AttemptInterrupted):
        return next((reason for kind, reason in _LIMITS if isinstance(error, kind)), Reason.RUN_TIMEOUT)
    said = next((reason for kind, reason in _REASONS if isinstance(error, kind)), None)
    stopped = _stop_behind(error) if said is None else None
    if stopped is not None:  # what goes wrong while it tidies up for that is no failure of the task
        return reason_of(stopped)
    if isinstance(error, permanent):
        return Reason.PERMANENT
    return said or Reason.HANDLER_ERROR


def _stop_behind(error: BaseException) -> AttemptStopped | None:
    """The stop in whose handling this was raised."""
    for _ in range(CONTEXTS_MAX):
        if error.__context__ is None or isinstance(error.__context__, AttemptStopped):
            return error.__context__
        error = error.__context__
    return None

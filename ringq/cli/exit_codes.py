"""Cli: what each exit code means, and which error ends in which; the only table of both."""

from __future__ import annotations

from typing import Final

from ringq import errors

OK: Final = 0
NO: Final = 1
USAGE: Final = 2
NO_SERVER: Final = 69
INTERNAL: Final = 70
CANNOT_CREATE: Final = 73
IO_ERROR: Final = 74
ALREADY_SERVED: Final = 75
WAITED_TOO_LONG: Final = 124
INTERRUPTED: Final = 130
READER_LEFT: Final = 141

MEANING: Final = {
    OK: "done, or drained",
    NO: "the answer is no, or a task failed",
    USAGE: "wrong usage, or the application cannot be imported",
    NO_SERVER: "no server answers",
    INTERNAL: "a fault in ringq, or no worker can start",
    CANNOT_CREATE: "a database, socket or shared memory cannot be created",
    IO_ERROR: "reading or writing failed, or there is no database to read",
    ALREADY_SERVED: "another server owns the database",
    WAITED_TOO_LONG: "waited too long",
    INTERRUPTED: "forced to stop (143 by TERM)",
    READER_LEFT: "who read the output has left, as in `| head`",
}

# The first class in the error's own order of ancestors decides.
_OF_ERROR: Final[dict[type[BaseException], int]] = {
    errors.InvalidOption: USAGE,
    errors.InvalidKind: USAGE,
    errors.InvalidSubmission: USAGE,
    errors.InvalidSchedule: USAGE,
    errors.InvalidConfig: USAGE,
    errors.AppImportError: USAGE,
    errors.StateFailed: USAGE,
    errors.UnknownState: USAGE,
    errors.NotBound: USAGE,
    errors.NotADatabase: USAGE,
    errors.NewerSchema: USAGE,
    errors.UnknownSchedule: NO,
    errors.UnknownTask: NO,
    errors.UnknownCallback: NO,
    errors.NotDead: NO,
    errors.UnknownScope: NO,
    errors.BurstExceeded: USAGE,
    errors.KeyInUse: NO,
    errors.TaskFailed: NO,
    errors.InvalidResult: NO,
    errors.InvalidCheckpoint: NO,
    errors.NothingToRun: NO,
    errors.RunsOn: NO,
    **dict.fromkeys((errors.Permanent, errors.RetryLater, errors.Snooze, errors.Throttled, errors.Cancel), NO),
    errors.ServerUnavailable: NO_SERVER,
    errors.ServerStopping: NO_SERVER,
    errors.CannotStart: INTERNAL,
    errors.CannotCreate: CANNOT_CREATE,
    errors.AlreadyServed: ALREADY_SERVED,
    errors.StoreError: IO_ERROR,
    errors.WaitTimeout: WAITED_TOO_LONG,
    errors.RateTimeout: WAITED_TOO_LONG,
    errors.RingqError: INTERNAL,
    OSError: IO_ERROR,
    KeyboardInterrupt: INTERRUPTED,
}


def exit_code(error: BaseException) -> int:
    """The code with which the command ends because of `error`."""
    return next((_OF_ERROR[cls] for cls in type(error).__mro__ if cls in _OF_ERROR), INTERNAL)

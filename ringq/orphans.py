"""Edge: buries processes that handlers left behind, when this process inherits them: as PID 1 or a subreaper."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Collection

_PR_GET_CHILD_SUBREAPER = 37


def inherits_orphans() -> bool:
    """Whether the kernel gives this process the children of dead descendants."""
    if os.getpid() == 1:
        return True
    flag = ctypes.c_int(0)
    failed = ctypes.CDLL(None).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(flag), 0, 0, 0)
    return not failed and flag.value != 0


def bury_orphans(ours: Collection[int]) -> bool:
    """Collect dead children that are not `ours`: whoever started those wants their status.

    False when one of ours lies in front, so that more may lie behind it: call again once it is collected.
    """
    with contextlib.suppress(ChildProcessError):
        while (dead := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if dead.si_pid in ours:
                return False
            os.waitpid(dead.si_pid, 0)
    return True

"""Cli: `serve` as the child of a host program, by `ringq.Server`: why it did not start is told to the host alone.

On the host's standard error the line would stand twice, and the host could not tell it from what handlers print.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys

from ringq.cli.command import explain, ringq
from ringq.cli.printing import visible
from ringq.errors import RingqError


def main() -> None:
    """Run `ringq` with the arguments after the first, which is the descriptor of the host's pipe."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # a host that blocks signals would have made its child deaf to TERM
    report = int(sys.argv[1])
    os.set_inheritable(report, False)
    try:
        code = ringq.main(args=sys.argv[2:], prog_name="ringq", standalone_mode=False)
    except Exception as error:
        line, code = explain(error)
        if isinstance(error, RingqError):
            line = visible(str(error))  # what to do is another thing inside a program
        with contextlib.suppress(OSError):  # the host has gone
            os.write(report, json.dumps({"error": type(error).__name__, "line": line}).encode())
    sys.exit(code)


if __name__ == "__main__":
    main()

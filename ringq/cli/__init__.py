"""Cli: the `ringq` command; one module per noun, loaded only when its verb is called."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """The console script: run one verb and leave with its exit code."""
    # `>&-`, `2>&-`: nobody wants to read it.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    try:
        from ringq.cli.command import run  # Ctrl-C may come while it is loaded

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        print("ringq: interrupted", file=sys.stderr)
        code = 130  # as in exit_codes, which may not be loaded
    sys.exit(code)

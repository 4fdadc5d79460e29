"""Cli: `python -m ringq` is `ringq`."""

from __future__ import annotations

from ringq.cli import main

if __name__ == "__main__":
    main()

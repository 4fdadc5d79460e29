"""The client of a side, in a process of its own: no side's imports, threads or garbage are in another's way.

`python -m perf.foreign with_NAME` answers each line `many COUNT` or `one NUMBER` with the seconds from before the first
submission until the last result was here.
"""

from __future__ import annotations

import importlib
import sys
import time


def main() -> None:
    """Until the end of standard input."""
    side = importlib.import_module(f"perf.foreign.{sys.argv[1]}")
    for line in sys.stdin:
        verb, number = line.split()
        given = int(number)
        started = time.perf_counter()
        result = side.many(given) if verb == "many" else side.one(given)
        took = time.perf_counter() - started
        assert (sum(result) == sum(range(given))) if verb == "many" else (result == given), f"{line}: {result}"
        print(took, flush=True)


if __name__ == "__main__":
    main()

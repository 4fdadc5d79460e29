"""Run one benchmark and print its figures: `python -m perf NAME [--json] [--plot FILE] [--rounds N]`."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from ringq.bench import measure

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/perf", description=__doc__)
    parser.add_argument("name", help="the benchmark")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the figures into a PNG or SVG file")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved pairs (default 5)")
    parser.add_argument("--durability", choices=["full", "normal"], default="full")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works: no figures to quote")
    given = parser.parse_args()
    module = benchmark(given.name)
    if module is None:
        parser.error(f"there is no benchmark {given.name!r}; see scripts/perf --help")
    options = measure.Options(given.rounds, given.durability, given.quick)
    result = outcome(given.name, options, module.run(options))
    if given.json:
        print(json.dumps(result))
    else:
        show(result)
    return 0


def benchmark(name: str) -> ModuleType | None:
    """The module of a benchmark: of perf/, or else one that is installed."""
    for package in ("perf", "ringq.bench"):
        if name.isidentifier() and importlib.util.find_spec(f"{package}.{name}"):
            module = importlib.import_module(f"{package}.{name}")
            return module if hasattr(module, "run") else None
    return None


def outcome(name: str, options: measure.Options, figures: measure.Figures) -> dict[str, Any]:
    """The object that --json prints: medians under their plain names, their ranges under `spread`."""
    plain = {key: value["median"] if isinstance(value, dict) else value for key, value in figures.items()}
    spread = {key: [value["min"], value["max"]] for key, value in figures.items() if isinstance(value, dict)}
    return {
        "benchmark": name, **plain, "spread": spread, "rounds": options.rounds, "quick": options.quick,
        "durability": options.durability, "machine": measure.machine(), "commit": commit(),
    }  # fmt: skip


def show(result: dict[str, Any]) -> None:
    """The figures for a person."""
    for key, value in result.items():
        if key != "spread":
            low_high = result["spread"].get(key)
            print(f"{key:28} {value!s:>12}" + (f"   {low_high[0]} .. {low_high[1]}" if low_high else ""))


def commit() -> str:
    """The commit that is measured, with a + when the tree has changes."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())

"""Demo: four CPU-bound handlers over one source file each; this is what its workers import, and no more.

A file that cannot be parsed is an answer (`"parsed": False` and why), not an error: the library's own tests
keep a few such files on purpose.
"""

from __future__ import annotations

import ast
import hashlib
import lzma
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import ringq

app = ringq.App("stdlib")

BLOCK_LINES = 5  # so many equal lines in a row are a copy
SAMPLED_ONE_IN = 32  # fingerprints divisible by this are kept: the same ones in every file


@app.task
def metrics(path: str) -> dict[str, Any]:
    """Count what the file defines and how deep it branches, from its syntax tree."""
    source = Path(path).read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in old tests
            tree = ast.parse(source, filename=path)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return {"parsed": False, "why": f"{type(error).__name__}: {error}"[:200]}
    counts = Counter(type(node).__name__ for node in ast.walk(tree))
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {
        "parsed": True,
        "nodes": counts.total(),
        "classes": counts["ClassDef"],
        "functions": len(functions),
        "branches": sum(counts[name] for name in _BRANCHES),
        "longest_function": max((_lines(node) for node in functions), default=0),
        "documented": sum(ast.get_docstring(node, clean=False) is not None for node in functions),
    }


@app.task
def compress(path: str) -> dict[str, int]:
    """Compress the file as hard as lzma can."""
    content = Path(path).read_bytes()
    return {"bytes": len(content), "compressed": len(lzma.compress(content, preset=6))}


@app.task
def digest(path: str) -> str:
    """SHA-256 of the file: next to no work, so it shows what the queue itself costs."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@app.task
def duplicates(path: str) -> dict[str, Any]:
    """Fingerprint every run of five lines; copies inside the file are counted here, between files later."""
    lines = [line.strip() for line in Path(path).read_bytes().splitlines()]
    lines = [line for line in lines if len(line) > 3]  # brackets and blank lines are alike everywhere
    blocks = Counter(
        int.from_bytes(hashlib.blake2b(b"\n".join(lines[at : at + BLOCK_LINES]), digest_size=6).digest())
        for at in range(len(lines) - BLOCK_LINES + 1)
    )
    return {
        "blocks": blocks.total(),
        "repeated": sum(count - 1 for count in blocks.values()),
        "fingerprints": sorted(mark for mark in blocks if mark % SAMPLED_ONE_IN == 0),
    }


@app.task
def survey(ctx: ringq.Context, folders: dict[str, list[str]]) -> dict[str, int]:
    """The root of a tree: a child for each folder, which has one for each of its files."""
    ctx.spawn_many(folder.options(label=name).submission(paths) for name, paths in folders.items())
    return {}


@app.task
def folder(ctx: ringq.Context, paths: list[str]) -> dict[str, int]:
    """The files of one folder."""
    ctx.spawn_many(metrics.options(label=Path(path).name).submission(path) for path in paths)
    return {}


@folder.finalize
def add_files(memo: dict[str, int], results: list[dict[str, Any]]) -> dict[str, int]:
    """What its files come to."""
    sums = {name: sum(one.get(name, 0) for one in results) for name in COUNTED}
    return {"files": len(results), "parsed": sum(one["parsed"] for one in results), **sums}


@survey.finalize
def add_folders(memo: dict[str, int], results: list[dict[str, int]]) -> dict[str, int]:
    """What all folders come to."""
    return {"folders": len(results), **{name: sum(one[name] for one in results) for name in (*SUMMED, *COUNTED)}}


@app.task
def verdict(totals: dict[str, int]) -> str:
    """Behind the survey, whose result it is given."""
    share = totals["documented"] / max(1, totals["functions"] + totals["classes"])
    return (
        f"{totals['files']:,} files in {totals['folders']:,} folders have {totals['functions']:,} functions and "
        f"{totals['classes']:,} classes; {share:.0%} of these are documented"
    )


HANDLERS = (metrics, compress, digest, duplicates)

SUMMED = ("files", "parsed")
COUNTED = ("nodes", "classes", "functions", "branches", "documented")
_BRANCHES = ("If", "For", "While", "Try", "ExceptHandler", "IfExp", "BoolOp", "comprehension", "match_case")


def _lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1

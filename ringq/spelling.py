"""Values: the word that somebody may have meant."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word nearest to `word`; None if none is near."""
    import difflib  # noqa: PLC0415 - for who has mistyped something, and not for each worker's start

    return next(iter(difflib.get_close_matches(word, list(known), n=1)), None)


def meant(word: str, known: Iterable[str]) -> str:
    """`; did you mean x?`, or nothing."""
    near = nearest(word, known)
    return f"; did you mean {near}?" if near else ""

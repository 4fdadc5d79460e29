"""Values: what tasks are called and found by - labels; tags, pairs of a key and a value; digests of keys."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

TAGS_MAX: Final = 32
KEY_BYTES_MAX: Final = 64
VALUE_BYTES_MAX: Final = 256
LABEL_BYTES_MAX: Final = 256

Tags = tuple[tuple[str, str], ...]
"""In the order of their keys, so that equal ones are equal."""


def key_problem(key: Any) -> str | None:
    """What is wrong with the key of a tag; None if nothing is."""
    if isinstance(key, str) and key and key.isprintable() and len(key.encode()) <= KEY_BYTES_MAX:
        return None
    return f"tags: expected a key of 1 to {KEY_BYTES_MAX} bytes of printable text, got {key!r:.80}"


def value_problem(key: str, value: Any) -> str | None:
    """What is wrong with the value of a tag; None if nothing is."""
    if isinstance(value, str) and value.isprintable() and len(value.encode()) <= VALUE_BYTES_MAX:
        return None
    return f"tags: expected printable text of up to {VALUE_BYTES_MAX} bytes for {key!r}, got {value!r:.80}"


def problem(tags: Iterable[tuple[Any, Any]]) -> str | None:
    """What is wrong with the tags of one task; None if nothing is."""
    pairs = list(tags)
    keys = [key for key, _ in pairs]
    for key, value in pairs:
        wrong = key_problem(key) or value_problem(key, value)
        if wrong is not None:
            return wrong
    if len(set(keys)) < len(keys):
        return "tags: a key has one value"
    return None if len(keys) <= TAGS_MAX else f"tags: a task has at most {TAGS_MAX}, got {len(keys)}"


def label_problem(label: Any) -> str | None:
    """What is wrong with a label; None if nothing is."""
    if isinstance(label, str) and label and label.isprintable() and len(label.encode()) <= LABEL_BYTES_MAX:
        return None
    return f"label: expected 1 to {LABEL_BYTES_MAX} bytes of printable text, got {label!r:.80}"


def merged(shared: Iterable[tuple[str, str]], own: Iterable[tuple[str, str]]) -> Tags:
    """`own` tags, and those of `shared` whose keys they do not have."""
    return ordered({**dict(shared), **dict(own)})


def digest_of(key: str) -> bytes:
    """What the key of a task is found by."""
    return hashlib.blake2b(key.encode(), digest_size=16).digest()


def ordered(tags: Mapping[str, str]) -> Tags:
    """The pairs in the order of their keys."""
    return tuple(sorted(tags.items()))

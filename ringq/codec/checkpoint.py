"""Run: what an attempt leaves for the next one of its task, as JSON text."""

from __future__ import annotations

from typing import Any

from ringq.codec import plain
from ringq.config import CHECKPOINT_BYTES_MAX
from ringq.errors import InvalidCheckpoint


def encode_checkpoint(value: Any) -> bytes:
    """Raises InvalidCheckpoint for what JSON would not give back, or what takes more than 64 KiB of it."""
    try:
        encoded = plain.encode(value, verb="keep")
        plain.refuse_non_finite("", value)
        plain.refuse_changed_keys("", value, plain.decode_json(encoded, object))
    except plain.LossError as loss:
        raise InvalidCheckpoint(f"checkpoint: {loss}") from None
    if len(encoded) > CHECKPOINT_BYTES_MAX:
        size, limit = len(encoded), CHECKPOINT_BYTES_MAX
        raise InvalidCheckpoint(f"checkpoint: {size:,} bytes of JSON, the limit is {limit:,}: keep the path of a file")
    return encoded

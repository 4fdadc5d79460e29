"""Submit, run and answer: arguments, results and errors as JSON, checked by the hints on both sides.

A payload is a JSON object of the arguments that were given; defaults are the handler's own and are not
encoded. It is checked at submit by decoding it exactly as the worker will. What has no hint arrives as plain
JSON: tuples and sets as lists, dates and decimals as text, bytes as base64 text. Single numbers of numpy are numbers;
arrays, frames, generators and objects are refused with what to give instead, because what they would arrive as is not
what was sent, and a large array does not belong into a queue.
"""

from __future__ import annotations

from ringq.codec.arguments import REQUIRED, ArgumentsCodec, Parameter, by_name, encode_awaiting, encode_mapping
from ringq.codec.awaited import AWAITED_PREFIX, DependencyResult, ResultOf, awaits, filled, is_awaiting, renumbered
from ringq.codec.checkpoint import encode_checkpoint
from ringq.codec.chunk import (
    ASIDE_SUFFIX,
    Account,
    Call,
    ChunkCodec,
    Failure,
    Split,
    encode_calls,
    is_chunk,
    join_accounts,
    read_account,
    read_results,
    split,
)
from ringq.codec.finalizing import FINALIZE_PREFIX, is_finalize
from ringq.codec.mishap import TRACEBACK_BYTES_MAX, asked_delay_s, encode_error, error_details
from ringq.codec.plain import DEPTH_MAX, decode_json, encode_json
from ringq.codec.result import ResultCodec

__all__ = [
    "ASIDE_SUFFIX",
    "AWAITED_PREFIX",
    "DEPTH_MAX",
    "FINALIZE_PREFIX",
    "REQUIRED",
    "TRACEBACK_BYTES_MAX",
    "Account",
    "ArgumentsCodec",
    "Call",
    "ChunkCodec",
    "DependencyResult",
    "Failure",
    "Parameter",
    "ResultCodec",
    "ResultOf",
    "Split",
    "asked_delay_s",
    "awaits",
    "by_name",
    "decode_json",
    "encode_awaiting",
    "encode_calls",
    "encode_checkpoint",
    "encode_error",
    "encode_json",
    "encode_mapping",
    "error_details",
    "filled",
    "is_awaiting",
    "is_chunk",
    "is_finalize",
    "join_accounts",
    "read_account",
    "read_results",
    "renumbered",
    "split",
]

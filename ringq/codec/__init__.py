"""Submit, run and answer: arguments, results and errors as JSON, checked by the hints on both sides.

A payload is a JSON object of the arguments that were given; defaults are the handler's own and are not
encoded. It is checked at submit by decoding it exactly as the worker will. What has no hint arrives as plain
JSON: tuples and sets as lists, dates, bytes and decimals as text.
"""

from __future__ import annotations

from ringq.codec.arguments import REQUIRED, ArgumentsCodec, Parameter, encode_mapping
from ringq.codec.mishap import TRACEBACK_BYTES_MAX, encode_error, error_details
from ringq.codec.plain import DEPTH_MAX, decode_json, encode_json
from ringq.codec.result import ResultCodec

__all__ = [
    "DEPTH_MAX",
    "REQUIRED",
    "TRACEBACK_BYTES_MAX",
    "ArgumentsCodec",
    "Parameter",
    "ResultCodec",
    "decode_json",
    "encode_error",
    "encode_json",
    "encode_mapping",
    "error_details",
]

"""Run and answer: the result of one call, as Python value and as JSON text."""

from __future__ import annotations

from typing import Any

import msgspec

from ringq.codec import hints, plain
from ringq.config import RESULT_BYTES_MAX
from ringq.errors import InvalidResult

SHORT_BYTES = 2 * plain.DEPTH_MAX  # of so few none can be nested too deep
LOSSLESS = frozenset({str, int, bool, type(None)})


class ResultCodec:
    """The results of one kind."""

    def __init__(self, kind: str, hint: Any = Any, what: str = "result") -> None:
        """`hint`: what the handler says it returns; `what`: what messages call it.

        Raises InvalidKind for a hint JSON cannot carry.
        """
        self.kind = kind
        self._hint, self._what = hint, what
        self._loose = hints.is_loose(kind, "return", hint)
        self._decoder = plain.decoder(hint)
        self._array: msgspec.json.Decoder[list[Any]] = plain.decoder(list[hint])

    def named(self, what: str) -> ResultCodec:
        """The same, that calls a value by another name."""
        return ResultCodec(self.kind, self._hint, what)

    def encode(self, value: Any) -> bytes:
        """The JSON of a result.

        Raises InvalidResult if it does not fit the return hint, if JSON would lose something of it, or if it
        is larger than 16 MiB.
        """
        try:
            encoded = plain.write(value)
            if len(encoded) <= SHORT_BYTES and (type(value) in LOSSLESS or self._is_sure(encoded)):
                self._decoder.decode(encoded)
                return encoded
        except Exception:  # what is wrong is told below, in words
            return self._encode_with_care(value)
        return self._encode_with_care(value)

    def _is_sure(self, encoded: bytes) -> bool:
        """Whether nothing but its hint has to be looked at. (`in` takes 0.1 us longer than `find` for short bytes.)"""
        return not self._loose and encoded.find(b"null") < 0

    def _encode_with_care(self, value: Any) -> bytes:
        try:
            encoded = plain.encode(value)
            if len(encoded) > RESULT_BYTES_MAX:
                size, limit = len(encoded), RESULT_BYTES_MAX
                raise plain.LossError(f"{size:,} bytes, the limit is {limit:,}: return the path of a file")
            typed = self.decode(encoded)
            if b"null" in encoded and value is not None:
                plain.refuse_non_finite("", value)
            if self._loose and type(value) not in plain.SCALARS:
                plain.refuse_changed_keys("", value, typed)
            return encoded
        except plain.LossError as loss:
            raise InvalidResult(f"{self.kind}: {self._what}: {loss}") from None

    def fits_all(self, results: bytes) -> bool:
        """Whether every entry of a JSON array fits the return hint."""
        try:
            self._array.decode(results)
        except (ValueError, RecursionError):
            return False
        return True

    def decode_all(self, results: bytes | msgspec.Raw) -> list[Any]:
        """The entries of a JSON array by the return hint. Raises InvalidResult if one does not fit."""
        try:
            return self._array.decode(results)
        except (ValueError, RecursionError) as error:
            raise InvalidResult(f"{self.kind}: results: {plain.in_words(str(error))}") from None

    def decode(self, result: str | bytes) -> Any:
        """The result by the return hint. Raises InvalidResult if it does not fit (the hint has changed?)."""
        try:
            return self._decoder.decode(result)
        except (ValueError, RecursionError) as error:
            what, where = plain.split_place(str(error))
            place = f"{self._what}: {where}" if where else self._what
            raise InvalidResult(f"{self.kind}: {place}: {plain.in_words(what)}") from None

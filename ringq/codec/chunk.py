"""Submit, run and answer: chunks - many calls of one kind carried by one task, and what became of each of them.

A payload that is a JSON array instead of an object is a chunk. Its entries are calls: an array has the arguments by
position, an object by name. What became of it is an `Account`: results of the calls that returned, in order, and errors
by the index of the call.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

import msgspec

from ringq.codec import plain
from ringq.codec.arguments import ArgumentsCodec, encode_mapping
from ringq.codec.mishap import encode_error
from ringq.codec.result import ResultCodec
from ringq.config import KIB, PAYLOAD_BYTES_MAX, RESULT_BYTES_MAX
from ringq.errors import InvalidPayload, InvalidResult, PayloadTooLarge
from ringq.model import Reason

Call = tuple[Any, ...] | Mapping[str, Any]
"""The arguments of one call: by position, or by name."""
ASIDE_SUFFIX: Final = ".calls"
"""Of the file, named by the lease, in which a worker puts the accounts of a long chunk aside."""
LONG_CHARS: Final = 4 * KIB
"""Text from which on a result is measured and encoded by itself."""
US_MAX: Final = 1 << 53
Bound = tuple[tuple[Any, ...], dict[str, Any]]
"""Typed arguments, ready to be passed: by position and by name."""


class Failure(msgspec.Struct):
    """How one call failed: the reason as in `model.Reason`, and the details of the exception."""

    reason: Reason
    error: msgspec.Raw


class Account(msgspec.Struct, omit_defaults=True):
    """What became of the calls of a chunk, or of some of them.

    Attributes: `us`, microseconds the handler ran; `results`, a JSON array; `errors`, by index in the chunk;
    `parts`, for calls that go on as other tasks: (task id, index of the first call, number of calls) each.
    """

    us: int
    results: msgspec.Raw
    errors: dict[int, Failure] = {}
    parts: list[tuple[int, int, int]] = []


def is_chunk(payload: str | bytes) -> bool:
    """Whether a payload carries calls rather than the arguments of one."""
    return payload[:1] == (b"[" if isinstance(payload, bytes) else "[")


class ChunkCodec:
    """The chunks of one kind whose handler is at hand."""

    def __init__(self, arguments: ArgumentsCodec, results: ResultCodec) -> None:
        self.kind = arguments.kind
        self.results = results
        self._arguments = arguments
        row = arguments.row_struct()
        self._rows = None if row is None else plain.decoder(list[row])  # type: ignore[valid-type]

    def encode(self, calls: Sequence[Call]) -> str:
        """The payload of these calls, checked by the hints as the worker will.

        Raises InvalidPayload for the first that does not fit, as `ArgumentsCodec.encode`; PayloadTooLarge if they do
        not fit together.
        """
        doubtful: Iterable[Call] = ()
        try:
            payload = plain.encode(calls)
            self._typed_rows(payload)
            if b"null" in payload or self._arguments.has_loose:
                doubtful = filter(_may_lose, calls)
        except (plain.LossError, ValueError, RecursionError):
            payload, doubtful = None, calls
        for call in doubtful:
            self._arguments.encode(*_given(call))
        return _bounded(self.kind, calls, _encode(self.kind, calls) if payload is None else payload)

    def decode(self, payload: bytes) -> list[Bound | InvalidPayload]:
        """The calls of a payload, each typed or refused alone. Raises InvalidPayload if it is no chunk at all."""
        try:
            return list(self._decode(payload))
        except (ValueError, RecursionError):
            return [self._decode_one(raw) for raw in _raws(self.kind, payload)]

    def gather(self) -> Gathered:
        """A new account of a chunk of this kind."""
        return Gathered(self.results)

    def _decode(self, payload: bytes) -> list[Bound]:
        """All at once: arguments by position, as nearly every chunk has them, cost a third of one by one."""
        astuple = msgspec.structs.astuple
        return [(astuple(row), _NO_NAMES) for row in self._typed_rows(payload)]

    def _typed_rows(self, payload: bytes) -> list[Any]:
        if self._rows is None:
            raise ValueError("this kind needs arguments by name")
        rows: list[Any] = self._rows.decode(payload)
        return rows

    def _decode_one(self, raw: msgspec.Raw) -> Bound | InvalidPayload:
        try:
            call = bytes(raw)
            decode = self._arguments.decode if call[:1] == b"{" else self._arguments.decode_row
            return (), decode(call)
        except InvalidPayload as error:
            return error


class Gathered:
    """The account of a chunk as it grows."""

    def __init__(self, results: ResultCodec) -> None:
        self._results = results
        self._values: list[Any] = []
        self._indexes: list[int] = []
        self._errors: dict[int, Failure] = {}
        self._room = RESULT_BYTES_MAX
        self.is_full = False
        """Whether one receipt should not carry more than all this, what was taken included."""

    def add(self, index: int, value: Any) -> None:
        """Call `index` returned `value`. Raises InvalidResult if that cannot be stored.

        Only short scalars wait for `take`, which checks and encodes them together; what can change after the handler
        has returned it is encoded at once.
        """
        if type(value) not in plain.SCALARS or (type(value) is str and len(value) > LONG_CHARS):
            encoded = self._results.encode(value)
            self._use(len(encoded))
            value = msgspec.Raw(encoded)
        self._values.append(value)
        self._indexes.append(index)

    def fail(self, index: int, reason: Reason, error: bytes) -> None:
        """Call `index` failed; `error` is the JSON of its details."""
        self._use(len(error))
        self._errors[index] = Failure(reason, msgspec.Raw(error))

    def take(self, us: int) -> bytes:
        """The account so far as JSON; begins a new one. `us`: microseconds the handler ran."""
        results = self._encode_values()
        account = plain.encode_json(Account(us, msgspec.Raw(results), self._errors))
        self._values, self._indexes, self._errors = [], [], {}
        return account

    def _use(self, room: int) -> None:
        self._room -= room
        self.is_full = self._room <= 0

    def _encode_values(self) -> bytes:
        try:
            encoded = plain.encode_json(self._values)
            if (b"null" not in encoded or all(map(_is_finite, self._values))) and self._results.fits_all(encoded):
                return encoded
        except ValueError:
            pass  # text that is no UTF-8: found below
        kept = []
        for index, value in zip(self._indexes, self._values, strict=True):
            try:
                kept.append(value if type(value) is msgspec.Raw else msgspec.Raw(self._results.encode(value)))
            except InvalidResult as error:
                self.fail(index, Reason.INVALID_RESULT, encode_error(error))
        return plain.encode_json(kept)


def encode_calls(kind: str, calls: Sequence[Call]) -> str:
    """The payload of calls whose handler is not at hand: checked as JSON here, by its hints in the worker.

    Raises as `ChunkCodec.encode` does.
    """
    for call in calls:
        encode_mapping(kind, call if isinstance(call, Mapping) else {"arguments": call})
    return _bounded(kind, calls, _encode(kind, calls))


def read_account(text: str) -> Account:
    """The account in a receipt. Raises ValueError if it is none."""
    return msgspec.json.decode(text, type=Account)


def read_results(account: Account, results: ResultCodec | None) -> list[Any]:
    """What the calls returned, by the return hint if the handler is at hand. In the place of a value that does not fit
    it any more stands the InvalidResult.
    """
    if results is None:
        return msgspec.json.decode(account.results, type=list[Any])
    try:
        return results.decode_all(account.results)
    except InvalidResult:
        return [_one_result(raw, results) for raw in msgspec.json.decode(account.results, type=list[msgspec.Raw])]


class Split(NamedTuple):
    """What is known of a chunk that did not come to its end, and what is left of it.

    `account`: of the first `ended` calls. `pieces`: (index of the first call, number of calls, payload) of the rest.
    """

    account: Account
    ended: int
    calls: int
    pieces: list[tuple[int, int, str]]


def split(payload: str, published: str, *, suspect: int | None = None, to_blame: bool = False) -> Split:
    """Take a chunk apart after an attempt on it was cut off.

    `published`: the accounts that the worker had put aside, one a line; the last may be torn. `to_blame`: one of the
    calls did it. Then `suspect`, its index as far as is known, becomes a piece of its own; if that makes no sense, the
    rest is cut in half. Raises ValueError if the payload is no chunk.
    """
    try:
        calls = msgspec.json.decode(payload, type=list[msgspec.Raw])
    except RecursionError:
        raise ValueError("nested too deep for a chunk") from None
    account = _joined(published, len(calls))
    ended = _count(account)
    bounds = [ended, len(calls)]
    if to_blame and suspect is not None and ended <= suspect < len(calls):
        bounds[1:1] = [suspect, suspect + 1]
    elif to_blame:
        bounds[1:1] = [(ended + len(calls)) // 2]
    pieces = [
        (first, end - first, plain.encode_json(calls[first:end]).decode())
        for first, end in pairwise(bounds)
        if first < end
    ]
    return Split(account, ended, len(calls), pieces)


def join_accounts(accounts: Sequence[bytes]) -> bytes:
    """One account of the calls of several, which follow each other."""
    return plain.encode_json(_joined("".join(account.decode() + "\n" for account in accounts), sys.maxsize))


def _joined(published: str, count: int) -> Account:
    """One account of all that can be read and makes sense: what a dying worker has left is not trusted."""
    us, results, errors = 0, list[msgspec.Raw](), dict[int, Failure]()
    for line in published.split("\n")[:-1]:
        try:
            part = read_account(line)
            values = msgspec.json.decode(part.results, type=list[msgspec.Raw])
        except (ValueError, RecursionError):
            break
        after = len(results) + len(errors)
        upto = after + len(values) + len(part.errors)
        if part.parts or upto > count or part.us < 0 or us + part.us > US_MAX:
            break
        if not all(after <= index < upto and _is_object(failure.error) for index, failure in part.errors.items()):
            break
        us += part.us
        results += values
        errors |= part.errors
    return Account(us, msgspec.Raw(plain.encode_json(results)), errors)


def _count(account: Account) -> int:
    return len(msgspec.json.decode(account.results, type=list[msgspec.Raw])) + len(account.errors)


def _one_result(raw: msgspec.Raw, results: ResultCodec) -> Any:
    try:
        return results.decode(bytes(raw))
    except InvalidResult as error:
        return error


def _may_lose(call: Call) -> bool:
    """Whether decoding does not show all that JSON may change: numbers that became null, keys that became text."""
    return isinstance(call, Mapping) or any(type(value) is float or type(value) not in plain.SCALARS for value in call)


def _given(call: Call) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return ((), dict(call)) if isinstance(call, Mapping) else (tuple(call), {})


def _raws(kind: str, payload: bytes) -> list[msgspec.Raw]:
    try:
        return msgspec.json.decode(payload, type=list[msgspec.Raw])
    except (ValueError, RecursionError) as error:
        raise InvalidPayload(f"{kind}: the chunk is no list of calls: {plain.in_words(str(error))}") from None


def _is_finite(value: Any) -> bool:
    return type(value) is not float or math.isfinite(value)


def _is_object(raw: msgspec.Raw) -> bool:
    return bytes(raw)[:1] == b"{"


def _encode(kind: str, calls: Sequence[Call]) -> bytes:
    """Each of the calls may be one level less deep than a call alone."""
    try:
        return plain.encode(calls, verb="pass")
    except plain.LossError as loss:
        raise InvalidPayload(f"{kind}: {loss}") from None


def _bounded(kind: str, calls: Sequence[Call], payload: bytes) -> str:
    if len(payload) > PAYLOAD_BYTES_MAX:
        what, advice = "the arguments take", ": write them to a file and pass its path"
        if len(calls) > 1:
            what, advice = f"{len(calls):,} calls take", " for one chunk"
        raise PayloadTooLarge(f"{kind}: {what} {len(payload):,} bytes, the limit is {PAYLOAD_BYTES_MAX:,}{advice}")
    return payload.decode()


_NO_NAMES: Final[dict[str, Any]] = {}

"""Splitting and joining: for any death, no call of a chunk is lost, doubled or moved."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ringq.codec import ResultCodec
from ringq.codec.chunk import Account, Gathered, join_accounts, read_account, split
from ringq.model import Reason

ERROR = b'{"type":"E"}'


def accounts(first: int, fates: list[bool], cuts: list[int]) -> list[bytes]:
    """What a worker publishes for calls that return their index or fail, cut at these places."""
    gathered = Gathered(ResultCodec("unit::kind"))
    lines = []
    for place, is_good in enumerate(fates):
        if is_good:
            gathered.add(place, first + place)
        else:
            gathered.fail(place, Reason.HANDLER_ERROR, ERROR)
        if place in cuts:
            lines.append(gathered.take(1))
    return [*lines, gathered.take(1)]


def outcomes(account: Account, first: int) -> list[tuple[int, Any]]:
    """(index of the call, what it returned or None) as a client reads them."""
    results = iter(json.loads(bytes(account.results)))
    count = len(json.loads(bytes(account.results))) + len(account.errors)
    return [(first + place, None if place in account.errors else next(results)) for place in range(count)]


@given(
    st.lists(st.booleans(), min_size=1, max_size=40),
    st.lists(st.integers(0, 40), max_size=5),
    st.integers(0, 10_000),
    st.none() | st.integers(-3, 45),
    st.booleans(),
    st.binary(max_size=20),
)
def test_each_call_is_told_of_once_or_left_once(
    fates: list[bool], cuts: list[int], cut: int, suspect: int | None, to_blame: bool, noise: bytes
) -> None:
    payload = json.dumps([[n] for n in range(len(fates))])
    written = b"".join(line + b"\n" for line in accounts(0, fates, cuts))
    published = (written[: cut % (len(written) + 1)] + noise).decode(errors="replace")
    found = split(payload, published, suspect=suspect, to_blame=to_blame)
    told = outcomes(found.account, 0)
    assert told == [(n, n if fates[n] else None) for n in range(found.ended)]
    left: list[int] = []
    for first, count, piece in found.pieces:
        calls = [call[0] for call in json.loads(piece)]
        assert calls == list(range(first, first + count))
        left += calls
    assert [n for n, _ in told] + left == list(range(len(fates)))
    if to_blame and suspect is not None and found.ended <= suspect < len(fates):
        assert (suspect, 1) in [(first, count) for first, count, _ in found.pieces]
    if to_blame and len(left) > 1:
        assert max(count for _, count, _ in found.pieces) < len(left)  # so it comes to an end


@given(st.lists(st.booleans(), max_size=40), st.lists(st.integers(0, 40), max_size=8))
def test_joined_accounts_tell_what_each_told(fates: list[bool], cuts: list[int]) -> None:
    joined = read_account(join_accounts(accounts(0, fates, cuts)).decode())
    assert outcomes(joined, 0) == [(n, n if good else None) for n, good in enumerate(fates)]

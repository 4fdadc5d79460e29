"""Callbacks without a server: what is refused before anybody is asked, tokens, handlers as plain functions."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import ringq
from ringq.callback import Callback, digest_of, new_token

app = ringq.App("shop")


@app.task
def pay(ctx: ringq.Context, path: str) -> int:
    Path(path).write_text(ctx.callback(timeout=5).token)
    return 7


@app.task
def checked(number: int) -> dict[str, int]:
    return {"number": number}


def test_tokens_differ_and_name_their_task() -> None:
    tokens = {new_token(12) for _ in range(1000)}
    assert len(tokens) == len(set(map(digest_of, tokens))) == 1000
    assert all(token.startswith("12.") and len(token.partition(".")[2]) == 43 for token in tokens)


def test_a_callback_is_its_token_as_text_and_does_not_show_it_in_a_log() -> None:
    callback = Callback("12.secret", 12)
    assert str(callback) == f"{callback}" == "12.secret"
    assert "secret" not in repr(callback)


@pytest.mark.parametrize("timeout", [0, 0.0009, -1, 366 * 86400 + 1, timedelta(0), "1s", True, float("nan")])
def test_a_time_limit_that_makes_no_sense_is_refused(tmp_path: Path, timeout: Any) -> None:
    with ringq.connect(tmp_path / "none.db") as client:
        with pytest.raises(ringq.InvalidOption, match="timeout"):
            client.extend("1.x", timeout)
        with pytest.raises(ringq.InvalidOption, match="timeout"):
            client._open_callback(1, 1, timeout)


def test_what_makes_no_sense_is_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    with ringq.connect(tmp_path / "none.db") as client:
        for call in (
            lambda: client.complete(""), lambda: client.complete(b"1.x"),  # type: ignore[arg-type]
            lambda: client.fail("1.x", ""), lambda: client.fail("1.x", "e" * 4097),
            lambda: client.extend("1.x", 0), lambda: client.extend("1.x", 367 * 86400),
        ):  # fmt: skip
            with pytest.raises(ringq.InvalidOption):
                call()
        for result in (float("nan"), object(), {1: 2}):
            with pytest.raises(ringq.InvalidResult, match="callback: result"):
                client.complete("1.x", result)
        with pytest.raises(ringq.InvalidResult, match="shop::checked: result"):
            client.complete("1.x", {"a": "text"}, task=checked)
    assert not (tmp_path / "none.db").exists()


def test_called_as_a_plain_function_nobody_knows_the_token(tmp_path: Path) -> None:
    path = tmp_path / "token"
    assert pay(str(path)) == 7
    token = path.read_text()
    assert token.startswith("0.")
    assert len(token) > 40

"""Submit and answer: the client's verbs for tasks that somebody outside completes."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any, Final

from ringq import protocol
from ringq.callback import Callback, digest_of, new_token
from ringq.client.changing import Asking, change
from ringq.client.steps import Verb
from ringq.clock import SystemClock, instant
from ringq.codec import ResultCodec, encode_error, encode_json
from ringq.errors import SPAN_S_MAX, InvalidOption
from ringq.kinds import Task, options
from ringq.model import Status

LEAST_S: Final = 0.001
ERROR_CHARS_MAX: Final = 4096


class Callbacks:
    """Answers for tasks whose handler has called `ctx.callback`. `token`: that of the Callback, or the Callback itself.

    All verbs work while no server runs, too. They raise UnknownCallback, in the same words whether the token was used,
    has had its time or never was one; InvalidOption for what is no token; and what `submit_many` raises about the
    server and the database.
    """

    @Verb
    async def complete(
        self: Asking, token: str | Callback, result: Any = None, *, task: Task[..., Any] | None = None
    ) -> None:
        """The task is done, with this result; who waits for it is told. Works once.

        `result`: what JSON can carry, up to 16 MiB. `task`: whose return hint it has to fit. A token whose handler has
        not returned yet is good too: the task ends when it does, but only if that ends well.

        Raises InvalidResult if the result does not fit, is not JSON or too large: then the token is still good.
        """
        codec = ResultCodec("callback") if task is None else task.results
        await _resolve(self, token, Status.COMPLETED, result=codec.encode(result).decode())

    @Verb
    async def fail(self: Asking, token: str | Callback, error: str | BaseException, *, retry: bool = False) -> None:
        """The task has failed: `error` says why, in up to 4,096 characters, or is an exception. Works once.

        It ends as failed, with the reason `callback_failed`. With `retry` its attempt counts as a failed one: it is
        tried again as its retry policy says, and asks for a new token; without a policy, or after its last retry, it
        ends.
        """
        if isinstance(error, BaseException):
            text = encode_error(error)
        elif isinstance(error, str) and 0 < len(error) <= ERROR_CHARS_MAX:
            text = encode_json({"type": "CallbackFailed", "message": error.encode(errors="replace").decode()})
        else:
            raise InvalidOption(
                f"error: expected 1 to {ERROR_CHARS_MAX:,} characters or an exception, got {error!r:.300}"
            )
        await _resolve(self, token, Status.PENDING if retry else Status.FAILED, error=text.decode())

    @Verb
    async def extend(self: Asking, token: str | Callback, timeout: float | timedelta | None) -> None:
        """Still at work: the task is waited for until `timeout` from now, seconds or timedelta, 1 ms to 366 days.

        None: without limit. May be called as often as one likes, and shortens the time as well.
        """
        await change(self, protocol.ExtendCallback(_text_of(token), _timeout_us(timeout)), protocol.Changed)

    @Verb
    async def _open_callback(self: Asking, task_id: int, lease: int, timeout: float | timedelta | None) -> Callback:
        """Ask for a token, as the attempt with this lease; it is on disk when this returns.

        Raises InvalidOption, StaleAttempt, ServerUnavailable: what runs has a server.
        """
        timeout_us, token = _timeout_us(timeout), new_token(task_id)
        await self._reply(protocol.OpenCallback(task_id, lease, digest_of(token), timeout_us), protocol.Changed)
        expires_at = None if timeout_us is None else instant(SystemClock().now_us() + timeout_us)
        return Callback(token, task_id, expires_at)


async def _resolve(
    client: Asking, token: str | Callback, status: Status, result: str | None = None, error: str | None = None
) -> None:
    text, submission = _text_of(token), protocol.submission_id()
    await change(client, protocol.ResolveCallback(text, submission, status.code, result, error), protocol.Changed)


def _text_of(token: Any) -> str:
    text = token.token if isinstance(token, Callback) else token
    if not isinstance(text, str) or not text:
        raise InvalidOption("token: expected the text of a callback, as ctx.callback gives it")
    return text.encode(errors="replace").decode()


def _timeout_us(timeout: Any) -> int | None:
    if timeout is None:
        return None
    seconds = options.span_s("timeout", timeout, LEAST_S)
    if seconds > SPAN_S_MAX:
        raise InvalidOption(f"timeout: expected 1 ms to 366 days, got {timeout!r}")
    return math.ceil(round(seconds * 1e6, 3))

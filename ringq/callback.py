"""Values: the token by which somebody outside completes a task. Whoever knows it may, once."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Final

SECRET_BYTES: Final = 32
TOKEN_CHARS_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class Callback:
    """How somebody outside completes a task: `client.complete(token, result)`. As text it is its token.

    Attributes: `token`, not to be guessed, to be kept as a password is; `task_id`; `expires_at`, until when, None
    without limit.
    """

    token: str
    task_id: int
    expires_at: datetime | None = None

    def __str__(self) -> str:
        return self.token

    def __repr__(self) -> str:
        return f"Callback(task_id={self.task_id}, expires_at={self.expires_at})"  # it may come into a log


def new_token(task_id: int) -> str:
    """A token for this task."""
    return f"{task_id}.{secrets.token_urlsafe(SECRET_BYTES)}"


def digest_of(token: str) -> bytes:
    """What is kept of a token: it says nothing of it, so a copy of the database completes no task."""
    return sha256(token.encode(errors="surrogatepass")).digest()

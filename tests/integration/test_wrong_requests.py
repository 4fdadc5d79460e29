"""What no client of ours sends: it is refused before the writer sees it, whose transaction it would break."""

from __future__ import annotations

import pytest

from ringq import changes, protocol
from ringq.admission import Admission
from ringq.errors import InvalidOption, InvalidSubmission


@pytest.mark.parametrize(
    "message",
    [
        protocol.PurgeDead(protocol.Dead(None, before_us=2**63, limit=1)),
        protocol.RetryDead(protocol.Dead(None, before_us=-1, limit=1)),
        protocol.RetryDead(protocol.Dead(None, limit=0)),
        protocol.SetQueue("q", {"cooldown": ""}),
        protocol.SetQueue("q", {"cooldown": "  "}),
        protocol.SetQueue("q", {"retry": ""}),
        protocol.SetQueue("q", {"throttles": -1}),
        protocol.SetQueue("", {"paused": True}),
        protocol.SetRate("github", protocol.RateFields(10.0, 0, 10.0)),
        protocol.SetRate("github", protocol.RateFields(0.0, 1_000_000, 10.0)),
        protocol.SetRate("github", protocol.RateFields(10.0, 1_000_000, 0.5)),
        protocol.SetRate("team:a", None),
        protocol.HoldRate("github", -1),
        protocol.HoldRate("github", 2**63 - 1),
        protocol.Acquire("github", float("nan"), bytes(16)),
        protocol.Acquire("github", 1.0, b""),
        protocol.Cancel(protocol.Selection([2**63])),
        protocol.Cancel(protocol.Selection(None, limit=0)),
    ],
    ids=repr,
)
def test_a_request_that_the_database_would_choke_on_is_refused(message: protocol.Message) -> None:
    answers: list[object] = []
    with pytest.raises((InvalidSubmission, InvalidOption)):
        changes.of(message, Admission(), 0, answers.append, answers.append)
    assert answers == []

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
        protocol.SetQueue("", {"max_workers": 1}),
        protocol.SetQueue("q", {"paused": True}),
        protocol.SetPause("queue", "", True),
        protocol.SetPause("server", "all", True),
        protocol.SetPause("group", "a\nb", True),
        protocol.SetPause("group", "a", True, 0),
        protocol.SetPause("group", "a", False, 1 << 60),
        protocol.SetPause("group", "a", True, 1 << 62),
        protocol.SetControl("group", "a", {}),
        protocol.SetControl("group", "a", {"weight": 0.0}),
        protocol.SetControl("group", "a", {"weight": -1}),
        protocol.SetControl("group", "a", {"weight": float("nan")}),
        protocol.SetControl("group", "a", {"min_slots": -1}),
        protocol.SetControl("group", "a", {"max_concurrency": 1.5}),
        protocol.SetControl("kind", "a::b", {"weight": 2}),
        protocol.SetControl("domain", "a", {"colour": 2}),
        protocol.SetControl("server", "x", {"max_concurrency": 2}),
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

"""Face: the questions of clients that this server answers from memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ringq import families, protocol
from ringq.clock import Clock
from ringq.dispatch import Dispatcher
from ringq.progressing import Progressing
from ringq.ring import Parent
from ringq.traffic import Traffic
from ringq.turns import Turns
from ringq.whereabouts import Whereabouts
from ringq.writer import Writer


class Answers:
    """Attributes: `by_type`, what answers each type of message; `look`, to be called four times a second."""

    def __init__(
        self, store: Any, clock: Clock, dispatcher: Dispatcher, turns: Turns, traffic: Traffic, writer: Writer, *,
        ring: Callable[[], Parent], ready: Callable[[], int], health: Callable[[], str],
    ) -> None:  # fmt: skip
        whereabouts = Whereabouts(store, clock, dispatcher, turns, traffic, writer.stops, ring=ring, ready=ready)
        progressing = Progressing(store, clock, ring)
        self.look = progressing.look
        self.by_type: Mapping[type, Callable[[Any], protocol.Message]] = {
            protocol.Health: lambda _: protocol.HealthReply(health()),
            protocol.Why: lambda message: protocol.WhyReply(whereabouts.told(message.task_id)),
            protocol.Family: partial(families.family, store),
            protocol.Progress: progressing.told,
        }

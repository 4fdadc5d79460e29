"""Flow: pauses, limits and weights that an operator asks for, each as one part of a transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ringq import protocol
from ringq.admission import Admission, check_queue_name
from ringq.clock import TIME_US_MAX
from ringq.committed import Committed, Said
from ringq.errors import InvalidSubmission, RingqError, UnknownDomain, UnknownKind
from ringq.kinds.controls import SETTINGS, name_problem, problem_of
from ringq.spelling import nearest

Request = protocol.SetPause | protocol.SetControl
Answer = Callable[[protocol.Message], None]
Refuse = Callable[[RingqError], None]


def check(message: Request, now_us: int) -> None:
    """Raises InvalidSubmission: what is wrong with what is asked for, whatever the database has."""
    if message.scope == "queue":
        check_queue_name(message.name)
    elif message.scope == "server":
        if message.name:
            raise InvalidSubmission(f"server: there is one, without a name, got {message.name[:50]!r}")
    else:
        _refuse(name_problem(message.scope, message.name))
    if isinstance(message, protocol.SetPause):
        _check_until(message, now_us)
        return
    if not message.changes:
        raise InvalidSubmission(f"{message.scope}: say at least one of {', '.join(SETTINGS[message.scope])}")
    for name, value in message.changes.items():
        _refuse(problem_of(message.scope, name, value))


@dataclass(frozen=True, slots=True)
class Control:
    """Something is paused, goes on, or has other limits."""

    message: Request
    admission: Admission
    now_us: int
    answer: Answer
    refuse: Refuse

    def apply(self, store: Any, _verdicts: object, committed: Committed) -> Callable[[], None]:
        """See `writer.Change`."""
        message = self.message
        resume_due(store, self.now_us, committed)
        has_row = (message.scope, message.name) in (
            store.pauses() if isinstance(message, protocol.SetPause) else store.controls()
        )
        wrong = None if has_row else self._unknown(store)
        if wrong is not None:
            return lambda: self.refuse(wrong)
        if isinstance(message, protocol.SetPause):
            is_other = _pause(store, message, self.now_us)
        else:
            before = store.control(message.scope, message.name)
            is_other = store.set_control(message.scope, message.name, **message.changes) != before
        if is_other:
            stops = isinstance(message, protocol.SetPause) and message.paused and message.running == "stop"
            _say(committed, message.scope, message.name, stops)
        return lambda: self.answer(protocol.Changed(int(is_other)))

    def _unknown(self, store: Any) -> RingqError | None:
        """Why there is no such kind or domain, if it is known which there are. One with tasks of old is one too."""
        if self.message.scope not in ("kind", "domain") or not self.admission.kinds:
            return None
        kinds = {
            *store.kinds().values(),
            *(name for kind in self.admission.kinds for name in self.admission.names_of(kind)),
        }
        if self.message.scope == "kind":
            return _missing(UnknownKind, "kind", self.message.name, kinds)
        return _missing(UnknownDomain, "domain", self.message.name, {kind.partition("::")[0] for kind in kinds})


@dataclass(frozen=True, slots=True)
class ResumeDue:
    """What was paused until now or before goes on. `done` is called when that is durable, or could not be written."""

    now_us: int
    done: Callable[[], None]

    def apply(self, store: Any, _verdicts: object, committed: Committed) -> Callable[[], None]:
        """See `writer.Change`."""
        resume_due(store, self.now_us, committed)
        return self.done

    def refuse(self, _error: RingqError) -> None:
        """See `writer.Change`."""
        self.done()


def resume_due(store: Any, now_us: int, committed: Committed) -> None:
    """Let go on what was paused until now or before."""
    for scope, name in store.resume_due(now_us):
        _say(committed, scope, name)


def _refuse(wrong: str | None) -> None:
    if wrong is not None:
        raise InvalidSubmission(wrong)


def _check_until(message: protocol.SetPause, now_us: int) -> None:
    until_us = message.until_us
    if until_us is None:
        return
    if not message.paused:
        raise InvalidSubmission(f"{message.scope}: what goes on does so at once, not at an instant")
    if until_us <= now_us:
        raise InvalidSubmission("until: that is over already; give an instant to come, or none")
    if until_us > TIME_US_MAX:
        raise InvalidSubmission("until: it must lie before the year 10000")


def _pause(store: Any, message: protocol.SetPause, now_us: int) -> bool:
    if message.paused:
        return bool(store.pause(message.scope, message.name, now_us, message.until_us))
    is_other: bool = store.resume(message.scope, message.name, now_us)
    cooling_until_us = store.queue(message.name).throttled_until_us if message.scope == "queue" else None
    if cooling_until_us is not None:
        store.set_queue(message.name, throttles=0, throttled_until_us=None)
        is_other |= cooling_until_us > now_us
    return is_other


def _say(committed: Committed, scope: str, name: str, stops: bool = False) -> None:
    committed.controls.append(Said(scope, name, stops))
    if scope == "queue":
        committed.queues.append(name)


def _missing(error: type[RingqError], what: str, name: str, known: Iterable[str]) -> RingqError | None:
    known = sorted(known)
    if name in known:
        return None
    near = nearest(name, known)
    return error(
        f"there is no {what} {name!r}; " + (f"did you mean {near!r}?" if near else f"there are: {', '.join(known)}")
    )

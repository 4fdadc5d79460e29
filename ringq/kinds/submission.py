"""Submit: one requested call, ready to be sent - its payload is encoded exactly once, here."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack

from ringq.codec import ResultCodec, by_name, encode_awaiting, encode_mapping, is_awaiting
from ringq.errors import InvalidOption, InvalidPayload
from ringq.kinds import options
from ringq.kinds.options import PAYLOAD, DuplicateMode, Once, Payload, TtlFrom
from ringq.kinds.report import KindReport
from ringq.kinds.serial import in_line, lined
from ringq.kinds.submitted import Stored
from ringq.kinds.traits import mode_of
from ringq.kinds.waits import CallOptions, Member, Waits, awaiting, others_of, said_of
from ringq.protocol import SpecFields
from ringq.retry import Retry

if TYPE_CHECKING:
    from ringq.kinds.task import Task

R_co = TypeVar("R_co", covariant=True)


class Submission(Generic[R_co]):
    """One call that shall become a task. Immutable; submitting it twice makes two tasks, unless it has a key.

    `task.submission(...)` makes one whose arguments are checked by the handler's hints. This constructor
    needs no handler: the arguments are checked as JSON here, by the hints in the worker.
    """

    __slots__ = ("_once", "_payload", "_report", "_results", "_run_at_us", "_spec", "_waits")

    _once: Once | None
    _payload: str
    _report: KindReport | None
    _results: ResultCodec | None
    _run_at_us: int | None
    _spec: SpecFields
    _waits: Waits | None

    def __init__(
        self: Submission[Any],
        kind: str | Task[..., Any],
        payload: Mapping[str, Any] | str | None = None,
        *,
        queue: str | None = None,
        priority: int | None = None,
        group: str | None = None,
        run_timeout: float | timedelta | None = None,
        retry: Retry | str | int | None = None,
        ttl: float | timedelta | None = None,
        ttl_from: TtlFrom | None = None,
        tags: Mapping[str, str] | None = None,
        label: str | None = None,
        run_at: datetime | None = None,
        run_after: float | timedelta | None = None,
        key: str | Payload | None = None,
        on_duplicate: DuplicateMode | None = None,
        serial_key: str | None = None,
        **more: Unpack[CallOptions],
    ) -> None:
        """A call of `kind`: `domain::name`, or the task itself, whose hints then check the arguments.

        `payload`: the arguments by name, or for a kind as text the same as JSON text. `queue`: the lane, up to 200
        characters without comma or colon. `priority`: 0 (most urgent) to 255. `group`: a label, up to 200 characters.
        `run_timeout`: seconds or timedelta an attempt may take, from 1 ms to 366 days. `ttl`, alike: how long after
        its submission, or its first attempt as `ttl_from` says, another attempt may begin. `retry`: a Retry, or text
        as "5 exponential 1s..1h". `run_at`: an aware datetime before which it does not run; or `run_after`: seconds
        or timedelta from now. `key`: 1 to 200 characters that no other active task of the kind has, or PAYLOAD for the
        arguments themselves; `on_duplicate`: if one has it, "skip" (else), "supersede" or "reject".
        `serial_key`: 1 to 200 characters; tasks that have the same one run one at a time, in order. `tags`: texts by
        which it is found, beside those of kind and domain, up to 32 in all; keys of up to 64 bytes, values of up to
        256. `label`: what it is called where tasks are listed, up to 256 bytes; its kind if not given. `more`: as
        `LimitOptions` and `DependencyOptions` say. What is not given is decided by the kind, its domain, the server.

        Raises InvalidOption, InvalidPayload, PayloadTooLarge.
        """
        task = None if isinstance(kind, str) else _task(kind)
        name = options.check_kind(kind if task is None else task.kind)
        spec = options.spec_of(
            name, queue=queue, priority=priority, group=group, run_timeout=run_timeout, retry=retry,
            ttl=ttl, ttl_from=ttl_from, tags=tags, label=label, **others_of(more),
        )  # fmt: skip
        self._run_at_us = options.instant_us(run_at, run_after)
        arguments = {} if payload is None else payload
        self._payload, self._waits = encoded(name, task, arguments, said_of(name, more))
        if key is None and task is not None and task.derived is not None:
            once = task.derived.but(on_duplicate).once((), by_name(name, arguments))  # text was refused above
        else:
            derived = None if task is None else task.derived
            once = options.once_of(key, mode_of(key, on_duplicate, derived))
        self._once = None if once is None else _of(once, self._payload)
        self._spec = spec = in_line(spec, serial_key)
        if task is not None and task.serial_key is not None:
            self._spec = lined(spec, task.serial_key, (), by_name(name, arguments))
        self._results = None if task is None else task.results
        self._report = None if task is None else task.report

    @property
    def kind(self) -> str:
        """What is called, as `domain::name`."""
        return self._spec.kind

    @property
    def payload(self) -> str:
        """The arguments as JSON text."""
        return self._payload

    @property
    def run_at(self) -> datetime | None:
        """The instant before which it does not run, in UTC; None for at once."""
        if self._run_at_us is None:
            return None
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=self._run_at_us)

    @property
    def key(self) -> str | None:
        """What no other active task of the kind has; None if it may be there any number of times."""
        return None if self._once is None else str(self._once.key)

    @property
    def spec(self) -> SpecFields:
        """Kind and options as the protocol carries them; submissions of one `options(...)` share it."""
        return self._spec

    @property
    def run_at_us(self) -> int | None:
        """`run_at` in Unix microseconds."""
        return self._run_at_us

    @property
    def results(self) -> ResultCodec | None:
        """How results are decoded; None without a handler at hand."""
        return self._results

    @property
    def report(self) -> KindReport | None:
        """The kind's own defaults, for when no server runs that knows them; None without a handler at hand."""
        return self._report

    @property
    def waits(self) -> Waits | None:
        """What it depends on; None for nothing."""
        return self._waits

    def after(self, *tasks: Stored[Any] | Submission[Any] | Member | int) -> Submission[R_co]:
        """The same call, depending on these tasks as well: another submission, this one stays as it is.

        Raises as `depends_on` does.
        """
        waits = (self._waits or Waits()).and_also(self.kind, tasks)
        same: Submission[R_co] = prepared(
            self._spec, self._payload, self._run_at_us, self._results, self._report, None, waits
        )  # fmt: skip
        same._once = self._once
        return same

    def __repr__(self) -> str:
        payload = self._payload if len(self._payload) <= 80 else f"{self._payload[:77]}..."
        return f"Submission({self.kind}, {payload})"


def prepared(
    spec: SpecFields, payload: str, run_at_us: int | None, results: ResultCodec | None, report: KindReport | None,
    once: Once | None = None, waits: Waits | None = None,
) -> Submission[Any]:  # fmt: skip
    """A submission of parts that were checked before. For ringq's own use."""
    submission: Submission[Any] = _new(Submission)  # a classmethod that asks its class would take 0.3 us, not 0.17
    submission._spec = spec
    submission._payload = payload
    submission._run_at_us = run_at_us
    submission._once = None if once is None else _of(once, payload)
    submission._results = results
    submission._report = report
    submission._waits = waits
    return submission


def encoded(
    kind: str, task: Task[..., Any] | None, arguments: Mapping[str, Any] | str, waits: Waits | None
) -> tuple[str, Waits | None]:
    """The payload of arguments by name, and what it waits for: also the tasks whose results are among them.

    Raises InvalidPayload, PayloadTooLarge, and InvalidSubmission for too many dependencies.
    """
    try:
        return encode_mapping(kind, arguments) if task is None else task.encode(arguments), waits
    except InvalidPayload as error:
        if not isinstance(arguments, Mapping):
            raise
        encode = partial(encode_awaiting, kind, arguments) if task is None else task.encoder((), arguments)
        return awaiting(kind, arguments.values(), encode, waits, error)


def _of(once: Once, payload: str) -> Once:
    if once.key is PAYLOAD and is_awaiting(payload.encode()):
        raise InvalidOption(
            "key: the arguments cannot be one, since results of other tasks are among them: give a text"
        )
    return once.of(payload)


_new = object.__new__


def _task(kind: object) -> Task[..., Any] | None:
    from ringq.kinds.task import Task  # noqa: PLC0415 - which makes submissions

    return kind if isinstance(kind, Task) else None

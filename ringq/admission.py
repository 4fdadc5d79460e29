"""Flow: checks a submission and fills in what it leaves open. Pure: nothing is written here.

Precedence of every option: call > kind > domain (both reported by the worker) > queue > server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from ringq import defaults, graph, retry, tags
from ringq.clock import TIME_US_MAX
from ringq.config import BATCH_TASKS_MAX, MEMORY_KIB_MAX, MEMORY_KIB_MIN, NAME_CHARS_MAX, PAYLOAD_BYTES_MAX
from ringq.entries import Batch, Chunks, Family, Spec, Told
from ringq.errors import BatchTooLarge, InvalidOption, InvalidSubmission, PayloadTooLarge, RingqError, UnknownKind
from ringq.model import NORMAL, OnDependencyFailure, OnDuplicate
from ringq.protocol import (
    DIGEST_BYTES,
    SUBMISSION_ID_BYTES,
    Outcomes,
    SpecFields,
    Submit,
    Submitted,
    check_key,
    check_map_key,
)
from ringq.spelling import nearest

DEFAULT_QUEUE = "default"
SPAN_MS_MAX = 366 * 24 * 3600 * 1000
LIMITS: Final = ("kill_after_ms", "total_timeout_ms", "queue_timeout_ms", "memory_limit_kib")  # 0: none
MODES = frozenset(mode.code for mode in OnDuplicate)
POLICIES = frozenset(policy.code for policy in OnDependencyFailure)


class Admission:
    """Knows the registered kinds and their defaults, and those of queues and the server."""

    def __init__(self, *, takes_any: bool = False, server: Iterable[tuple[str, Any]] = ()) -> None:
        """`takes_any`: nobody knows yet which kinds there are, so a kind not learned has the server's defaults.

        `server`: these defaults, by fields of a spec.
        """
        self._server = dict(server)
        self._queues: dict[str, dict[str, Any]] = {}
        self._takes_any = takes_any
        self._defaults: dict[str, dict[str, Any]] = {}
        self._resolved: dict[SpecFields, Spec] = {}

    def learn(self, reports: list[dict[str, Any]]) -> None:
        """Take the registry that a worker reported."""
        self._defaults = {report["name"]: report for report in reports}
        self._resolved = {}

    def follow(self, queues: Iterable[tuple[str, str | None]]) -> None:
        """Take what is said of the tasks of queues: (name, defaults as they are stored)."""
        self._queues = {name: defaults.loaded(said) for name, said in queues if said is not None}
        self._resolved = {}

    @property
    def kinds(self) -> list[str]:
        """The registered kinds, sorted."""
        return sorted(self._defaults)

    def is_preemptible(self, kind: str) -> bool:
        """Whether a running task of this kind may have to make room for a more urgent one."""
        return self._defaults.get(kind, {}).get("preemptible") is not False

    def names_of(self, kind: str) -> list[str]:
        """All names of a kind, its own among them: what was stored under an alias is of this kind too."""
        report = self._defaults.get(kind, {})
        names: list[str] = report.get("names") or [kind]
        return names

    def check(self, message: Submit, reply: Callable[..., None], refuse: Callable[[RingqError], None]) -> Batch:
        """The batch to write. Raises a subclass of InvalidSubmission naming the first offender."""
        count = len(message.payloads)
        if not 0 < count <= BATCH_TASKS_MAX:
            raise BatchTooLarge(
                f"a submission has 1 to {BATCH_TASKS_MAX:,} tasks, this one has {count:,}: send several"
            )
        if len(message.submission) != SUBMISSION_ID_BYTES:
            raise InvalidSubmission(f"the submission id must have {SUBMISSION_ID_BYTES} bytes")
        _check_columns(message, count)
        _check_sizes(message.payloads)
        specs = [self._resolve(fields) for fields in message.specs]
        columns = (message.spec_of, message.payloads, message.run_at_us)
        chunks = _chunks(message)
        if message.keys is not None or message.on_duplicate is not None:
            _check_keys(message, count)
        names = {spec.kind: self.names_of(spec.kind) for spec in specs} if message.keys is not None else {}
        if message.depends_on is not None or message.on_dependency_failure is not None:
            _check_dependencies(message, count)
        return Batch(
            message.submission, specs, *columns, reply, refuse, chunks, message.keys, message.on_duplicate, names,
            message.depends_on, message.on_dependency_failure, _family(message),
        )  # fmt: skip

    def _resolve(self, fields: SpecFields) -> Spec:
        known = self._resolved.get(fields)
        if known is not None:
            return known
        kind = self._defaults.get(fields.kind)
        if kind is None and not self._takes_any:
            raise UnknownKind(self._unknown(fields.kind))
        kind = kind or {}
        queue = _first(fields.queue, kind.get("queue"), self._server.get("queue"), DEFAULT_QUEUE)
        said = (kind, self._queues.get(queue, {}), self._server)  # the nearest first; the kind's has its domain's

        def nearest_of(name: str, otherwise: Any = None) -> Any:
            return _first(getattr(fields, name), *(one.get(name) for one in said), otherwise)

        spec = Spec(
            kind=fields.kind,
            queue=queue,
            priority=nearest_of("priority", NORMAL),
            group=nearest_of("group"),
            run_timeout_ms=nearest_of("run_timeout_ms"),
            retry=_first(fields.retry, kind.get("retry")),
            ttl_ms=nearest_of("ttl_ms"),
            ttl_from=nearest_of("ttl_from", 0),
            **{name: nearest_of(name) or None for name in LIMITS},
            label=fields.label,
            tags=_tags(fields, [one.get("tags") or {} for one in said]),
            serial_key=fields.serial_key,
        )
        _check_spec(spec)
        if len(self._resolved) > 10_000:  # groups may be as many as customers
            self._resolved.clear()
        self._resolved[fields] = spec
        return spec

    def _unknown(self, kind: str) -> str:
        near = nearest(kind, self._defaults)
        hint = f"did you mean {near!r}?" if near else f"registered are: {', '.join(self.kinds) or 'none'}"
        return f"no handler of kind {kind[:NAME_CHARS_MAX]!r} is registered; {hint}"


def submitted(
    count: int, first_id: int, replayed: bool, told: Told | None = None, paused: list[int] | None = None
) -> Submitted:
    """What is answered about a batch of so many tasks: see `Batch.reply`."""
    return Submitted(first_id, count, replayed, None if told is None else Outcomes(*told), paused)


def _check_columns(message: Submit, count: int) -> None:
    """The columns of a submission must promise each other the same number of tasks."""
    spec_of, run_at = message.spec_of, message.run_at_us
    if not message.specs or (spec_of is None and len(message.specs) != 1):
        raise InvalidSubmission("the submission does not say which spec its tasks have")
    if len(message.specs) > count:
        raise InvalidSubmission("the submission has more specs than tasks")
    if spec_of is not None and (len(spec_of) != count or min(spec_of) < 0 or max(spec_of) >= len(message.specs)):
        raise InvalidSubmission("the submission's columns do not fit together")
    if run_at is None:
        return
    if len(run_at) != count:
        raise InvalidSubmission("the submission's columns do not fit together")
    if any(at is not None and not 0 <= at <= TIME_US_MAX for at in run_at):
        raise InvalidSubmission("run_at must lie between the years 1970 and 9999")


def _chunks(message: Submit) -> Chunks | None:
    """The part of a map that the tasks carry, checked: ascending calls, none in two chunks."""
    given = message.chunks
    if given is None:
        return None
    count = len(message.payloads)
    if len(message.specs) != 1 or not all(len(c) == count for c in (given.firsts, given.counts, given.digests)):
        raise InvalidSubmission("the columns of the map's chunks do not fit together")
    check_map_key(given.key)
    if message.specs[0].serial_key is not None:
        raise InvalidSubmission("the chunks of a map have no serial key")
    ends = [0, *(first + calls for first, calls in zip(given.firsts, given.counts, strict=True))]
    if min(given.counts) < 1 or any(first < end for first, end in zip(given.firsts, ends, strict=False)):
        raise InvalidSubmission("the calls of the map's chunks do not ascend")
    if ends[-1] >= 1 << 62 or any(len(digest) != DIGEST_BYTES for digest in given.digests):
        raise InvalidSubmission("the map's chunks have impossible numbers or digests")
    return Chunks(given.key, given.firsts, given.counts, given.digests)


def _check_keys(message: Submit, count: int) -> None:
    """Keys and what is to be done about duplicates, one per task."""
    keys, modes = message.keys, message.on_duplicate
    if keys is None or len(keys) != count or (modes is not None and len(modes) != count):
        raise InvalidSubmission("the submission's columns do not fit together")
    if message.chunks is not None:
        raise InvalidSubmission("the chunks of a map have no keys of their own")
    for key in keys:
        if key is not None:
            check_key(key)
    if modes is not None and not set(modes) <= MODES:
        raise InvalidSubmission(f"on_duplicate: expected codes {min(MODES)} to {max(MODES)}, got {max(modes)}")


def _check_dependencies(message: Submit, count: int) -> None:
    """What tasks depend on, one list per task, and what becomes of each if that does not complete."""
    upstream, policies = message.depends_on, message.on_dependency_failure
    if upstream is None or len(upstream) != count or (policies is not None and len(policies) != count):
        raise InvalidSubmission("the submission's columns do not fit together")
    if message.chunks is not None:
        raise InvalidSubmission("the chunks of a map depend on nothing")
    if policies is not None and not set(policies) <= POLICIES:
        raise InvalidSubmission(f"on_dependency_failure: expected codes 0 to {max(POLICIES)}, got {max(policies)}")
    spec_of = message.spec_of
    graph.check_depends(upstream, count, lambda n: message.specs[0 if spec_of is None else spec_of[n]].kind)


def _family(message: Submit) -> Family | None:
    """Whose children the tasks are."""
    if message.parent is None:
        return None
    if message.chunks is not None:
        raise InvalidSubmission("the chunks of a map are nobody's children")
    return Family(*message.parent, None, [fields.priority is not None for fields in message.specs])


def _check_sizes(payloads: list[str]) -> None:
    """A character takes one to four bytes: only a payload that could be too large is measured."""
    if len(max(payloads, key=len)) * 4 <= PAYLOAD_BYTES_MAX:
        return
    size = max(len(payload.encode()) for payload in payloads if len(payload) * 4 > PAYLOAD_BYTES_MAX)
    if size > PAYLOAD_BYTES_MAX:
        raise PayloadTooLarge(f"the payload has {size:,} bytes, the limit is {PAYLOAD_BYTES_MAX:,}")


def _first(*values: Any) -> Any:
    return next((value for value in values[:-1] if value is not None), values[-1])


def check_queue_name(name: str) -> None:
    """Raises InvalidSubmission for what can be no name of a queue."""
    _check_label("queue", name)
    if set(name) & set(",:"):
        raise InvalidSubmission(f"queue: a name has no comma or colon, got {name!r}")


def _check_label(label: str, name: str) -> None:
    if not 0 < len(name) <= NAME_CHARS_MAX or not name.isprintable():
        raise InvalidSubmission(f"{label}: expected 1 to {NAME_CHARS_MAX} printable characters, got {name[:50]!r}")


def _tags(fields: SpecFields, shared: Sequence[Mapping[str, str]]) -> tags.Tags:
    """The tags of the call, and of those that are `shared` the nearest, which come first, of each other key."""
    wrong = tags.problem(fields.tags)
    if wrong is not None:
        raise InvalidSubmission(wrong)
    found = tags.ordered({**{key: one[key] for one in reversed(shared) for key in one}, **dict(fields.tags)})
    if len(found) > tags.TAGS_MAX:
        text = f"tags: a task has at most {tags.TAGS_MAX}, got {len(found)} with those of its kind, domain and queue"
        raise InvalidSubmission(text)
    return found


def _check_spec(spec: Spec) -> None:
    check_queue_name(spec.queue)
    if spec.group is not None:
        _check_label("group", spec.group)
    if spec.serial_key is not None:
        _check_label("serial_key", spec.serial_key)
    wrong = None if spec.label is None else tags.label_problem(spec.label)
    if wrong is not None:
        raise InvalidSubmission(wrong)
    if not 0 <= spec.priority <= 255:
        raise InvalidSubmission(f"priority: expected 0 (most urgent) to 255, got {spec.priority}")
    if spec.run_timeout_ms is not None and not 0 < spec.run_timeout_ms <= SPAN_MS_MAX:
        raise InvalidSubmission(f"run_timeout: expected 1 ms to 366 days, got {spec.run_timeout_ms / 1000} s")
    if (spec.ttl_ms is not None and not 0 < spec.ttl_ms <= SPAN_MS_MAX) or spec.ttl_from not in (0, 1):
        raise InvalidSubmission(f"ttl: expected 1 ms to 366 days, got {(spec.ttl_ms or 0) / 1000} s")
    for name in ("kill_after", "total_timeout", "queue_timeout"):
        span_ms = getattr(spec, f"{name}_ms")
        if span_ms is not None and not 0 < span_ms <= SPAN_MS_MAX:
            raise InvalidSubmission(f"{name}: expected 1 ms to 366 days, got {span_ms / 1000} s")
    if spec.memory_limit_kib is not None and not MEMORY_KIB_MIN <= spec.memory_limit_kib <= MEMORY_KIB_MAX:
        mib = spec.memory_limit_kib / 1024
        raise InvalidSubmission(f"memory_limit: expected {MEMORY_KIB_MIN // 1024} MiB to 1 PiB, got {mib:g} MiB")
    if spec.retry is not None:
        try:
            retry.read(spec.retry)
        except InvalidOption as error:
            raise InvalidSubmission(str(error)) from None

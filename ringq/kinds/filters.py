"""Submit and answer: which tasks somebody means - what they have in common, as a value; never code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, TypedDict

from ringq.clock import microseconds_of
from ringq.errors import InvalidOption
from ringq.kinds import options
from ringq.kinds.task import Task
from ringq.model import Status
from ringq.tags import TAGS_MAX, key_problem, value_problem


class FilterOptions(TypedDict, total=False):
    """What a `Filter` may say, by name."""

    kind: str | Task[..., Any] | None
    domain: str | None
    kind_prefix: str | None
    queue: str | None
    group: str | None
    key: str | None
    tags: Mapping[str, str | None] | None
    tag_prefix: str | None
    status: Status | str | None
    submitted_before: datetime | None
    submitted_after: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """The tasks that have all of what is given. The same one serves to list, to cancel, to retry and to purge.

    Attributes: `kind`, `domain::name` or the task itself; `domain`, the part of the kind before `::`; `kind_prefix`,
    how the kind begins; `queue`; `group`; `key`, which goes with a kind; `tags`, with None in place of a value for a
    tag that may have any; `tag_prefix`, how the key of one of its tags begins; `status`; `submitted_before` and
    `submitted_after`, aware datetimes, from the latter on until before the former. Names are compared as they are: `%`
    and `_` mean themselves.

    Raises InvalidOption for what no task can have.
    """

    kind: str | Task[..., Any] | None = None
    domain: str | None = None
    kind_prefix: str | None = None
    queue: str | None = None
    group: str | None = None
    key: str | None = None
    tags: Mapping[str, str | None] | None = None
    tag_prefix: str | None = None
    status: Status | str | None = None
    submitted_before: datetime | None = None
    submitted_after: datetime | None = None

    def __post_init__(self) -> None:
        """The task becomes its kind, so that equal filters are equal; the tags are copied."""
        if self.kind is not None:
            kind = self.kind.kind if isinstance(self.kind, Task) else self.kind
            object.__setattr__(self, "kind", options.check_kind(kind))
        for name in ("domain", "kind_prefix", "queue", "group", "key", "tag_prefix"):
            text = getattr(self, name)
            if text is not None:
                options.check_label(name, text)
        if self.key is not None and self.kind is None:
            raise InvalidOption("key: it goes with a kind, since tasks of two kinds may have the same one")
        object.__setattr__(self, "tags", _checked(self.tags))
        object.__setattr__(self, "status", _status(self.status))
        for name in ("submitted_before", "submitted_after"):
            _microseconds(name, getattr(self, name))

    @classmethod
    def of(cls, verb: str, filter: Filter | None, given: FilterOptions) -> Filter:  # noqa: A002 - its name outside
        """The filter that a verb was given, as such or by the names of what it says. Raises InvalidOption."""
        options.check_names(verb, given, FilterOptions.__annotations__)
        if filter is None:
            return cls(**given)
        if not isinstance(filter, Filter):
            raise InvalidOption(f"{verb}: expected a ringq.Filter, got {filter!r:.80}")
        if given:
            raise InvalidOption(f"{verb}: give a filter, or {', '.join(given)}, not both")
        return filter

    @property
    def is_empty(self) -> bool:
        """Whether every task is meant."""
        return all(getattr(self, field.name) is None for field in fields(self))

    @property
    def before_us(self) -> int | None:
        """`submitted_before` in Unix microseconds."""
        return _microseconds("submitted_before", self.submitted_before)

    def wanted(self) -> dict[str, Any]:
        """What messages say of it, by their names: all but the status and `submitted_before`."""
        return {
            "kind": self.kind, "domain": self.domain, "kind_prefix": self.kind_prefix, "queue": self.queue,
            "group": self.group, "key": self.key, "tags": None if self.tags is None else list(self.tags.items()),
            "tag_prefix": self.tag_prefix,
            "submitted_after_us": _microseconds("submitted_after", self.submitted_after),
        }  # fmt: skip


def _checked(tags: Any) -> dict[str, str | None] | None:
    if tags is None:
        return None
    if not isinstance(tags, Mapping) or not 0 < len(tags) <= TAGS_MAX:
        text = f"tags: expected a dict of 1 to {TAGS_MAX} tags, as {{'customer': 'acme'}}, got {tags!r:.80}"
        raise InvalidOption(text)
    for key, value in tags.items():
        wrong = key_problem(key) or (None if value is None else value_problem(key, value))
        if wrong is not None:
            raise InvalidOption(wrong)
    return dict(tags)


def _status(status: Any) -> Status | None:
    found = next((known for known in Status if status == known), None)
    if status is not None and found is None:
        raise InvalidOption(f"status: expected one of {', '.join(Status)}, got {status!r}")
    return found


def _microseconds(name: str, instant: Any) -> int | None:
    if instant is None:
        return None
    if not isinstance(instant, datetime) or instant.utcoffset() is None:
        raise InvalidOption(f"{name}: expected a datetime with a time zone, got {instant!r}")
    return max(0, microseconds_of(instant))

"""Flow: which tags active tasks have, and which active tasks have some tags, from the database alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ringq.errors import InvalidOption
from ringq.model import Status
from ringq.store.filters import LAST
from ringq.store.questions import asking
from ringq.store.tag_questions import TagQuestions, Wanted

SECONDS_MAX = 5.0  # some answers look at active tasks one by one: 10^6 take 0.3 to 2.5 s
ACTIVE = tuple(status for status in Status if not status.is_terminal)


class ActiveTags:
    """Tags of the tasks that have not ended: of all, or of one domain. Given by `Query.active_tags`.

    Keys, values and prefixes are compared as they are: `%`, `_` and `\\` mean themselves. Every method raises
    StoreError as those of `Query`, after five seconds rather than one, and InvalidOption for an argument that makes no
    sense.
    """

    def __init__(self, path: Path, domain: str | None = None) -> None:
        self._path = path
        self._domain = domain

    def of(self, domain: str) -> ActiveTags:
        """The same for the tasks of one domain: the part of their kinds before `::`."""
        return ActiveTags(self._path, _text("domain", domain))

    def keys(self, prefix: str = "") -> list[str]:
        """The keys that begin so, in order."""
        start = _text("prefix", prefix)
        with self._asking() as (ask, specs):
            return ask.keys(start, specs)

    def values(self, key: str) -> dict[str, int]:
        """The values of a tag, with the number of tasks; the most frequent first, of as frequent ones the lower."""
        name = _text("key", key)
        with self._asking() as (ask, specs):
            return dict(ask.values(name, specs))

    def tasks(
        self, tags: Mapping[str, str | None] | None = None, *, prefix: str | None = None,
        status: Status | str | None = None,
    ) -> list[int]:  # fmt: skip
        """The ids of the tasks that have all of what is given, in order.

        `tags`: these tags, None in place of a value for any. `prefix`: a tag whose key begins so; "" is any tag.
        `status`: pending, running, paused, waiting or blocked. Without tags and prefix no task is meant; of one domain,
        all are.
        """
        wanted, code = _wanted(tags, prefix), _code(status)
        with self._asking() as (ask, specs):
            return ask.ids(wanted, specs, code)

    def count(
        self, tags: Mapping[str, str | None] | None = None, *, prefix: str | None = None,
        status: Status | str | None = None,
    ) -> int:  # fmt: skip
        """How many tasks `tasks` would give."""
        wanted, code = _wanted(tags, prefix), _code(status)
        with self._asking() as (ask, specs):
            return ask.count(wanted, specs, code)

    @contextmanager
    def _asking(self) -> Iterator[tuple[TagQuestions, str | None]]:
        with asking(self._path, SECONDS_MAX) as questions:
            ask = questions.active_tags
            yield ask, None if self._domain is None else ask.specs_of(self._domain)


def _wanted(tags: Mapping[str, str | None] | None, prefix: str | None) -> list[Wanted]:
    if not isinstance(tags, Mapping | None):
        raise InvalidOption(f"tags: expected a dict, as {{'customer': 'acme'}}, got {tags!r:.80}")
    wanted: list[Wanted] = []
    for given, value in (tags or {}).items():
        key = _text("tags", given)
        wanted.append((key, key, None if value is None else _text("tags", value)))
    if prefix is not None:
        start = _text("prefix", prefix)
        wanted.append((start, start + LAST, None))
    return wanted


def _code(status: Status | str | None) -> int | None:
    found = next((known for known in ACTIVE if status == known), None)
    if status is not None and found is None:
        raise InvalidOption(f"status: expected one of {', '.join(ACTIVE)}, which active tasks have, got {status!r}")
    return None if found is None else found.code


def _text(name: str, text: str) -> str:
    if not isinstance(text, str):
        raise InvalidOption(f"{name}: expected text, got {text!r:.80}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidOption(f"{name}: {text!r:.80} is no Unicode text: no tag has it") from None
    return text

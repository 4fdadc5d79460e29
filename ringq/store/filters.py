"""Store: conditions that statements about chosen tasks have in common."""

# ruff: noqa: S608 - statements are put together from constants; values are always bound

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Any, Final

from ringq.store.submissions import SpecRow

LAST: Final = chr(0x10FFFF)  # no printable text has it: behind every text that begins with another


def tagged(number: int) -> str:
    """A condition about `task.id`: it has all tags that parameter `number` wants, see `wanted_tags`. NULL: any."""
    return f"""
    AND (?{number} IS NULL OR NOT EXISTS (
        SELECT 1 FROM json_each(?{number}) AS wanted WHERE NOT EXISTS (
            SELECT 1 FROM tag
            WHERE tag.task_id = task.id
                AND tag.key BETWEEN json_extract(wanted.value, '$[0]') AND json_extract(wanted.value, '$[1]')
                AND COALESCE(tag.value = json_extract(wanted.value, '$[2]'), 1))))"""


def wanted_tags(wanted: Any) -> str | None:
    """The parameter of `tagged`: its `tags`, a value None for any; and one whose key begins with its `tag_prefix`."""
    found = [(key, key, value) for key, value in wanted.tags or ()]
    if wanted.tag_prefix is not None:
        found.append((wanted.tag_prefix, wanted.tag_prefix + LAST, None))
    return json.dumps(found) if found else None


def whole_tag(wanted: Any) -> tuple[str, str] | None:
    """One of the wanted tags with its value: who has it is told by an index."""
    return next(((key, value) for key, value in wanted.tags or () if value is not None), None)


def specs_of(wanted: Any, specs: Iterable[tuple[int, SpecRow]], kinds: Collection[str] | None = None) -> str | None:
    """The numbers of the specs that wanted tasks may have, as a JSON array; None: any.

    `kinds`: the names of the kind that is wanted, if it has others than its own.
    """
    if not asks_for_specs(wanted):
        return None
    return json.dumps([number for number, spec in specs if fits(wanted, spec, kinds)])


def asks_for_specs(wanted: Any) -> bool:
    """Whether not all specs are as good."""
    asked = (wanted.kind, wanted.domain, wanted.kind_prefix, wanted.queue, wanted.group)
    return any(one is not None for one in asked)


def fits(wanted: Any, spec: SpecRow, kinds: Collection[str] | None) -> bool:
    """Whether a wanted task may have this spec."""
    return (
        (wanted.kind is None or spec.kind in (kinds or (wanted.kind,)))
        and (wanted.domain is None or spec.kind.startswith(f"{wanted.domain}::"))
        and (wanted.kind_prefix is None or spec.kind.startswith(wanted.kind_prefix))
        and wanted.queue in (None, spec.queue)
        and wanted.group in (None, spec.group)
    )

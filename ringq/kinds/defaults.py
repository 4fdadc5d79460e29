"""Submit: what domains and kinds say of their tasks, and what is left of it for a kind that says more."""

from __future__ import annotations

from collections.abc import Iterable

from ringq.errors import InvalidOption
from ringq.kinds import options
from ringq.kinds.handler import Handler
from ringq.kinds.limits import limit_fields, limits_of
from ringq.kinds.options import DomainOptions
from ringq.kinds.report import KindReport, first
from ringq.protocol import SpecFields
from ringq.tags import TAGS_MAX, merged


def defaults_of(whose: str, name: str, given: DomainOptions) -> SpecFields:
    """What a domain or a kind says of its tasks, checked. Raises InvalidOption."""
    options.check_names(whose, given, DomainOptions.__annotations__)
    return options.spec_of(
        name, queue=given.get("queue"), priority=given.get("priority"), group=given.get("group"),
        run_timeout=given.get("run_timeout"), retry=given.get("retry"), ttl=given.get("ttl"),
        ttl_from=given.get("ttl_from"), tags=given.get("tags"), **limits_of(given),
    )  # fmt: skip


def report_of(
    handler: Handler, own: SpecFields, shared: SpecFields, aliases: Iterable[str], preemptible: bool
) -> KindReport:
    """A kind with what it says itself, else its domain; its tags join those of the domain.

    Raises InvalidOption if that makes too many tags.
    """
    tags = merged(shared.tags, own.tags)
    if len(tags) > TAGS_MAX:
        raise InvalidOption(f"tags: {own.kind} has {len(tags)} with those of its domain, of at most {TAGS_MAX}")
    return KindReport(
        name=own.kind,
        queue=first(own.queue, shared.queue),
        priority=first(own.priority, shared.priority),
        group=first(own.group, shared.group),
        run_timeout_ms=first(own.run_timeout_ms, shared.run_timeout_ms),
        retry=first(own.retry, shared.retry),
        ttl_ms=first(own.ttl_ms, shared.ttl_ms),
        ttl_from=first(own.ttl_from, shared.ttl_from),
        **{name: first(getattr(own, name), getattr(shared, name)) for name in limit_fields({})},
        parameters=handler.arguments.schema(),
        tags=dict(tags),
        names=[own.kind, *aliases],
        preemptible=preemptible,
    )

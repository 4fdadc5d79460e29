"""Submit and answer: the client's verbs for pauses, limits and weights of groups, domains, kinds and of everything."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict, Unpack, get_args

from ringq import protocol
from ringq.client import changing
from ringq.client.changing import change
from ringq.errors import InvalidOption
from ringq.kinds import Task, options
from ringq.kinds.controls import SETTINGS, name_problem, problem_of, until_us_of
from ringq.overview import ControlRecord

if TYPE_CHECKING:
    from ringq.active_tags import ActiveTags
    from ringq.query import Query

Running = Literal["stop", "finish"]
PauseScope = Literal["server", "queue", "domain", "group"]
ControlScope = Literal["server", "domain", "group", "kind"]
Until = datetime | timedelta | None


class LimitSettings(TypedDict, total=False):
    """What can be said of a server, a domain or a kind."""

    max_concurrency: int | None


class GroupSettings(LimitSettings, total=False):
    """What can be said of a group."""

    weight: float | None
    min_slots: int | None


class Asking(changing.Asking, Protocol):
    """What the verbs below need of a client."""

    @property
    def query(self) -> Query: ...


class Controls:
    """What is said here is stored, holds at once and over restarts, and wins over what the code says.

    All of it works while no server runs, for the next one. All verbs that change something raise InvalidOption, and
    what `submit_many` raises about the server and the database.
    """

    def pause_group(self: Asking, name: str, until: Until = None, *, running: Running = "stop") -> bool:
        """Start no more tasks of a group, in whatever queue; submissions are taken. False if it was paused already.

        Then it stays as it was, also `until` when. Until `resume_group`; or `until` an aware datetime, or a timedelta
        from now. `running`: its tasks that run are asked to "stop", and run again later, or may "finish". A group needs
        no declaration: one that has no tasks yet may be paused.
        """
        return set_pause(self, "group", name, until, running)

    def resume_group(self: Asking, name: str) -> bool:
        """Start tasks of a group again, unless something else holds them. False if it was not paused."""
        return end_pause(self, "group", name)

    def is_group_paused(self: Asking, name: str) -> bool:
        """Whether a group is paused. Raises as `Query`."""
        _check_name("group", name)
        return self.query.is_paused("group", name)

    def paused_groups(self: Asking) -> list[ControlRecord]:
        """The groups that are paused, by name, and how many of their tasks wait and run. Raises as `Query`."""
        return self.query.controls("group", paused=True)

    def pause_domain(self: Asking, name: str, until: Until = None, *, running: Running = "stop") -> bool:
        """As `pause_group`, of the tasks of a domain. Raises UnknownDomain if it is known that there is none."""
        return set_pause(self, "domain", name, until, running)

    def resume_domain(self: Asking, name: str) -> bool:
        """As `resume_group`, of a domain. Raises UnknownDomain if it is known that there is none."""
        return end_pause(self, "domain", name)

    def pause_all(self: Asking, until: Until = None, *, running: Running = "stop") -> bool:
        """As `pause_group`, of all tasks."""
        return set_pause(self, "server", "", until, running)

    def resume_all(self: Asking) -> bool:
        """As `resume_group`, of all tasks. What was paused by itself stays so."""
        return end_pause(self, "server", "")

    def set_group(self: Asking, name: str, **settings: Unpack[GroupSettings]) -> None:
        """Say something of a group; None takes it back.

        `max_concurrency`: how many of its tasks run at a time, from 0 on. `weight`: its part of the workers beside
        other groups that have tasks, 0.001 to 1,000,000; 1 if nobody has said. `min_slots`: how many of its tasks may
        run whatever the weights, from 0 on; minimums for which there are not enough workers are met by name, as far as
        they go.
        """
        _set(self, "group", name, settings)

    def set_domain(self: Asking, name: str, **settings: Unpack[LimitSettings]) -> None:
        """Say how many tasks of a domain run at a time: `max_concurrency`, from 0 on; None takes it back.

        Then `app.domain(max_concurrency=)` decides. Raises UnknownDomain if it is known that there is none.
        """
        _set(self, "domain", name, settings)

    def set_kind(self: Asking, kind: str | Task[..., Any], **settings: Unpack[LimitSettings]) -> None:
        """Say how many tasks of a kind run at a time: `max_concurrency`, from 0 on; None takes it back.

        Then `@task(max_concurrency=)` decides. Raises UnknownKind if it is known that there is none.
        """
        _set(self, "kind", options.check_kind(kind.kind if isinstance(kind, Task) else kind), settings)

    def set_server(self: Asking, **settings: Unpack[LimitSettings]) -> None:
        """Say how many tasks run at a time altogether: `max_concurrency`, from 0 on; None takes it back."""
        _set(self, "server", "", settings)

    def domain(self: Any, name: str) -> DomainControl:
        """What can be said of one domain. Raises InvalidOption for what is no name."""
        _check_name("domain", name)
        return DomainControl(self, name)


class DomainControl:
    """One domain, for who has no other in mind. Groups are no part of a domain: their verbs are those of the client.

    Attributes: `name`.
    """

    def __init__(self, client: Controls, name: str) -> None:
        """Made by `client.domain`."""
        self.name = name
        self._client: Any = client

    @property
    def active_tags(self) -> ActiveTags:
        """As `Query.active_tags`, for the tasks of this domain."""
        tags: ActiveTags = self._client.query.active_tags.of(self.name)
        return tags

    def pause(self, until: Until = None, *, running: Running = "stop") -> bool:
        """As `Client.pause_domain`."""
        return set_pause(self._client, "domain", self.name, until, running)

    def resume(self) -> bool:
        """As `Client.resume_domain`."""
        return end_pause(self._client, "domain", self.name)

    def is_paused(self) -> bool:
        """Whether the domain is paused. Raises as `Query`."""
        is_so: bool = self._client.query.is_paused("domain", self.name)
        return is_so

    def set(self, **settings: Unpack[LimitSettings]) -> None:
        """As `Client.set_domain`."""
        _set(self._client, "domain", self.name, settings)

    def pause_group(self, name: str, until: Until = None, *, running: Running = "stop") -> bool:
        """As `Client.pause_group`."""
        return set_pause(self._client, "group", name, until, running)

    def resume_group(self, name: str) -> bool:
        """As `Client.resume_group`."""
        return end_pause(self._client, "group", name)

    def is_group_paused(self, name: str) -> bool:
        """As `Client.is_group_paused`."""
        is_so: bool = self._client.is_group_paused(name)
        return is_so

    def paused_groups(self) -> list[ControlRecord]:
        """As `Client.paused_groups`."""
        records: list[ControlRecord] = self._client.paused_groups()
        return records


def set_pause(client: changing.Asking, scope: PauseScope, name: str, until: Until, running: Running) -> bool:
    """Pause something; False if it was already. Raises as the verbs of `Controls`."""
    _check_name(scope, name)
    if running not in get_args(Running):
        raise InvalidOption(f"running: expected 'stop' or 'finish', got {running!r:.50}")
    message = protocol.SetPause(scope, name, True, until_us_of(until), running)
    return change(client, message, protocol.Changed).count > 0


def end_pause(client: changing.Asking, scope: PauseScope, name: str) -> bool:
    """Let something go on; False if it was not paused. Raises as the verbs of `Controls`."""
    _check_name(scope, name)
    return change(client, protocol.SetPause(scope, name, False), protocol.Changed).count > 0


def _set(client: changing.Asking, scope: ControlScope, name: str, settings: Any) -> None:
    _check_name(scope, name)
    options.check_names(f"set_{scope}", settings, SETTINGS[scope])
    for option, value in settings.items():
        wrong = problem_of(scope, option, value)
        if wrong is not None:
            raise InvalidOption(wrong)
    if not settings:
        raise InvalidOption(f"set_{scope}: say at least one of {', '.join(SETTINGS[scope])}")
    change(client, protocol.SetControl(scope, name, dict(settings)), protocol.Changed)


def _check_name(scope: str, name: Any) -> None:
    if scope == "queue":
        options.check_queue(name)
        return
    wrong = None if scope == "server" else name_problem(scope, name)
    if wrong is not None:
        raise InvalidOption(wrong)

"""Submit and answer: the client's verbs for pauses, limits and weights of groups, domains, kinds and of everything."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, get_args

from ringq import protocol
from ringq.client.changing import Asking, change
from ringq.client.steps import Blocking, Verb
from ringq.errors import InvalidOption
from ringq.kinds import Task, options
from ringq.kinds.controls import SETTINGS, name_problem, problem_of, until_us_of
from ringq.overview import ControlRecord

if TYPE_CHECKING:
    from ringq.active_tags import ActiveTags

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


class Controls:
    """What is said here is stored, holds at once and over restarts, and wins over what the code says.

    All of it works while no server runs, for the next one. All verbs that change something raise InvalidOption, and
    what `submit_many` raises about the server and the database.
    """

    @Verb
    async def pause_group(self: Asking, name: str, until: Until = None, *, running: Running = "stop") -> bool:
        """Start no more tasks of a group, in whatever queue; submissions are taken. False if it was paused already.

        Then it stays as it was, also `until` when. Until `resume_group`; or `until` an aware datetime, or a timedelta
        from now. `running`: its tasks that run are asked to "stop", and run again later, or may "finish". A group needs
        no declaration: one that has no tasks yet may be paused.
        """
        return await set_pause(self, "group", name, until, running)

    @Verb
    async def resume_group(self: Asking, name: str) -> bool:
        """Start tasks of a group again, unless something else holds them. False if it was not paused."""
        return await end_pause(self, "group", name)

    @Verb
    async def is_group_paused(self: Asking, name: str) -> bool:
        """Whether a group is paused. Raises as `Query`."""
        return await _is_group_paused(self, name)

    @Verb
    async def paused_groups(self: Asking) -> list[ControlRecord]:
        """The groups that are paused, by name, and how many of their tasks wait and run. Raises as `Query`."""
        return await _paused_groups(self)

    @Verb
    async def pause_domain(self: Asking, name: str, until: Until = None, *, running: Running = "stop") -> bool:
        """As `pause_group`, of the tasks of a domain. Raises UnknownDomain if it is known that there is none."""
        return await set_pause(self, "domain", name, until, running)

    @Verb
    async def resume_domain(self: Asking, name: str) -> bool:
        """As `resume_group`, of a domain. Raises UnknownDomain if it is known that there is none."""
        return await end_pause(self, "domain", name)

    @Verb
    async def pause_all(self: Asking, until: Until = None, *, running: Running = "stop") -> bool:
        """As `pause_group`, of all tasks."""
        return await set_pause(self, "server", "", until, running)

    @Verb
    async def resume_all(self: Asking) -> bool:
        """As `resume_group`, of all tasks. What was paused by itself stays so."""
        return await end_pause(self, "server", "")

    @Verb
    async def set_group(self: Asking, name: str, **settings: Unpack[GroupSettings]) -> None:
        """Say something of a group; None takes it back.

        `max_concurrency`: how many of its tasks run at a time, from 0 on. `weight`: its part of the workers beside
        other groups that have tasks, 0.001 to 1,000,000; 1 if nobody has said. `min_slots`: how many of its tasks may
        run whatever the weights, from 0 on; minimums for which there are not enough workers are met by name, as far as
        they go.
        """
        await _set(self, "group", name, settings)

    @Verb
    async def set_domain(self: Asking, name: str, **settings: Unpack[LimitSettings]) -> None:
        """Say how many tasks of a domain run at a time: `max_concurrency`, from 0 on; None takes it back.

        Then `app.domain(max_concurrency=)` decides. Raises UnknownDomain if it is known that there is none.
        """
        await _set(self, "domain", name, settings)

    @Verb
    async def set_kind(self: Asking, kind: str | Task[..., Any], **settings: Unpack[LimitSettings]) -> None:
        """Say how many tasks of a kind run at a time: `max_concurrency`, from 0 on; None takes it back.

        Then `@task(max_concurrency=)` decides. Raises UnknownKind if it is known that there is none.
        """
        await _set(self, "kind", options.check_kind(kind.kind if isinstance(kind, Task) else kind), settings)

    @Verb
    async def set_server(self: Asking, **settings: Unpack[LimitSettings]) -> None:
        """Say how many tasks run at a time altogether: `max_concurrency`, from 0 on; None takes it back."""
        await _set(self, "server", "", settings)


class DomainVerbs:
    """One domain, for who has no other in mind. Groups are no part of a domain: their verbs are those of the client.

    Attributes: `name`.
    """

    def __init__(self, client: Asking, name: str) -> None:
        """Made by `client.domain`. Raises InvalidOption for what is no name."""
        _check_name("domain", name)
        self.name = name
        self._client = client

    @Verb
    async def pause(self, until: Until = None, *, running: Running = "stop") -> bool:
        """As `Client.pause_domain`."""
        return await set_pause(self._client, "domain", self.name, until, running)

    @Verb
    async def resume(self) -> bool:
        """As `Client.resume_domain`."""
        return await end_pause(self._client, "domain", self.name)

    @Verb
    async def is_paused(self) -> bool:
        """Whether the domain is paused. Raises as `Query`."""
        return await self._client._look(lambda query: query.is_paused("domain", self.name))

    @Verb
    async def set(self, **settings: Unpack[LimitSettings]) -> None:
        """As `Client.set_domain`."""
        await _set(self._client, "domain", self.name, settings)

    @Verb
    async def pause_group(self, name: str, until: Until = None, *, running: Running = "stop") -> bool:
        """As `Client.pause_group`."""
        return await set_pause(self._client, "group", name, until, running)

    @Verb
    async def resume_group(self, name: str) -> bool:
        """As `Client.resume_group`."""
        return await end_pause(self._client, "group", name)

    @Verb
    async def is_group_paused(self, name: str) -> bool:
        """As `Client.is_group_paused`."""
        return await _is_group_paused(self._client, name)

    @Verb
    async def paused_groups(self) -> list[ControlRecord]:
        """As `Client.paused_groups`."""
        return await _paused_groups(self._client)


class DomainControl(Blocking, DomainVerbs):
    """The domain of a client that blocks."""

    @property
    def active_tags(self) -> ActiveTags:
        """As `Query.active_tags`, for the tasks of this domain."""
        return self._client._query_of().active_tags.of(self.name)


async def set_pause(client: Asking, scope: PauseScope, name: str, until: Until, running: Running) -> bool:
    """Pause something; False if it was already. Raises as the verbs of `Controls`."""
    _check_name(scope, name)
    if running not in get_args(Running):
        raise InvalidOption(f"running: expected 'stop' or 'finish', got {running!r:.50}")
    message = protocol.SetPause(scope, name, True, until_us_of(until), running)
    return (await change(client, message, protocol.Changed)).count > 0


async def end_pause(client: Asking, scope: PauseScope, name: str) -> bool:
    """Let something go on; False if it was not paused. Raises as the verbs of `Controls`."""
    _check_name(scope, name)
    return (await change(client, protocol.SetPause(scope, name, False), protocol.Changed)).count > 0


async def _set(client: Asking, scope: ControlScope, name: str, settings: Any) -> None:
    _check_name(scope, name)
    options.check_names(f"set_{scope}", settings, SETTINGS[scope])
    for option, value in settings.items():
        wrong = problem_of(scope, option, value)
        if wrong is not None:
            raise InvalidOption(wrong)
    if not settings:
        raise InvalidOption(f"set_{scope}: say at least one of {', '.join(SETTINGS[scope])}")
    await change(client, protocol.SetControl(scope, name, dict(settings)), protocol.Changed)


async def _is_group_paused(client: Asking, name: str) -> bool:
    _check_name("group", name)
    return await client._look(lambda query: query.is_paused("group", name))


async def _paused_groups(client: Asking) -> list[ControlRecord]:
    return await client._look(lambda query: query.controls("group", paused=True))


def _check_name(scope: str, name: Any) -> None:
    if scope == "queue":
        options.check_queue(name)
        return
    wrong = None if scope == "server" else name_problem(scope, name)
    if wrong is not None:
        raise InvalidOption(wrong)

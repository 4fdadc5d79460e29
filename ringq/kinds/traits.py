"""Submit: what a kind has besides defaults for its tasks - older names, how it makes keys, how often it may start."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ringq.errors import InvalidOption
from ringq.kinds.limits import rate_of
from ringq.kinds.options import PAYLOAD, DuplicateMode, Once, Payload, check_kind, once_of
from ringq.kinds.serial import SerialKey, line_of

DerivedKey = Payload | Callable[..., str | None]


@dataclass(frozen=True, slots=True)
class Derived:
    """How a kind makes keys of arguments."""

    key: DerivedKey
    on_duplicate: DuplicateMode | None

    def but(self, on_duplicate: DuplicateMode | None) -> Derived:
        """The same with the mode of a call, if that gives one. Raises InvalidOption."""
        if on_duplicate is None:
            return self
        once_of(PAYLOAD, on_duplicate)  # a wrong mode is told of here
        return Derived(self.key, on_duplicate)

    def once(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Once | None:
        """Key and mode of a submission with these arguments. Raises InvalidOption for what is no key."""
        key = self.key if isinstance(self.key, Payload) else self.key(*args, **kwargs)
        return None if key is None else once_of(key, self.on_duplicate)


class Traits(NamedTuple):
    """What a kind has besides the defaults of its tasks.

    Attributes: `permanent`, exceptions after which a task is not tried again; `aliases`, kinds it had before;
    `derived`, how it makes keys; `serial_key`, how it makes serial keys; `rate`, how often its tasks may start;
    `fail_fast`, whether the first child that does not complete ends a task and its other children.
    """

    permanent: tuple[type[BaseException], ...] = ()
    aliases: tuple[str, ...] = ()
    derived: Derived | None = None
    serial_key: SerialKey | None = None
    rate: str | None = None
    fail_fast: bool = True


def traits_of(
    permanent: Any, aliases: Any, key: Any, on_duplicate: Any, serial_key: Any, rate: Any, fail_fast: Any = True
) -> Traits:
    """What a kind has besides the defaults of its tasks. Raises InvalidOption."""
    said = None if rate is None else str(rate_of(rate))
    derived = _derived_of(key, on_duplicate)
    if not isinstance(fail_fast, bool):
        raise InvalidOption(f"fail_fast: expected True or False, got {fail_fast!r}")
    return Traits(_exceptions_of(permanent), _kinds_of(aliases), derived, line_of(serial_key), said, fail_fast)


def mode_of(key: Any, on_duplicate: Any, derived: Derived | None) -> Any:
    """What becomes of duplicates of a call with this key: as it says, else as its kind says."""
    return derived.on_duplicate if on_duplicate is None and key is not None and derived is not None else on_duplicate


def _exceptions_of(types: Any) -> tuple[type[BaseException], ...]:
    """Types of exceptions, from one or several. Raises InvalidOption."""
    given = tuple(types) if isinstance(types, Iterable) and not isinstance(types, str) else (types,)
    for one in given:
        if not (isinstance(one, type) and issubclass(one, BaseException)):
            raise InvalidOption(f"permanent: expected types of exceptions, as ValueError, got {one!r}")
    return given


def _kinds_of(aliases: Any) -> tuple[str, ...]:
    """Kinds as text. Raises InvalidOption."""
    if isinstance(aliases, str) or not isinstance(aliases, Iterable):
        raise InvalidOption(f"aliases: expected a list of kinds, as ['photos::shrink'], got {aliases!r}")
    return tuple(map(check_kind, aliases))


def _derived_of(key: Any, on_duplicate: Any) -> Derived | None:
    """How a kind makes keys, None if it makes none. Raises InvalidOption."""
    if key is not None and key is not PAYLOAD and not callable(key):
        raise InvalidOption(f"key: expected ringq.PAYLOAD or a function of the arguments, got {key!r}")
    once_of(None if key is None else PAYLOAD, on_duplicate)  # a wrong mode is told of here
    return None if key is None else Derived(key, on_duplicate)

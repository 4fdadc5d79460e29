"""Start: what the app wants called when something has happened - `@app.on("completed")`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from ringq.errors import InvalidKind, InvalidOption
from ringq.events import PROGRESS, WORDS, Event
from ringq.kinds.task import Task
from ringq.spelling import meant

F = TypeVar("F", bound=Callable[[Event], object])


@dataclass(frozen=True, slots=True)
class Hook:
    """A function and the events it is called with; of kind, domain and group None means any."""

    function: Callable[[Event], object]
    words: frozenset[str]
    kind: str | None = None
    domain: str | None = None
    group: str | None = None

    def wants(self, event: Event) -> bool:
        """Whether it is to be called with this one."""
        own = ((self.kind, event.kind), (self.domain, event.domain), (self.group, event.group))
        return event.word in self.words and all(wanted is None or wanted == found for wanted, found in own)


class Hooking:
    """An App's hooks. What stands in an included App belongs to all that have taken it in."""

    def __init__(self) -> None:
        self._hooks: list[Hook] = []

    def on(
        self, *words: str, kind: str | Task[..., Any] | None = None, domain: str | None = None, group: str | None = None
    ) -> Callable[[F], F]:
        """Have a function called with each event that has one of these words: `@app.on("failed", kind=resize)`.

        The function takes a `ringq.Event`. It is called in a process of its own beside the server, which imports the
        App as workers do, after what has happened is durable; one call after the other, so a slow one delays the
        others. Best effort: an exception is printed, and what happens while that process is not there, or is 100,000
        events behind, it is not called with. `task.submit(...)` works in it.

        `words`: one or more of `ringq.events.WORDS`, or progress. `kind`: a task, or its kind as text; `domain`,
        `group`: names. What is not given may be any.

        Returns the function as it was. Raises InvalidOption for an unknown word, or a filter that is no text;
        InvalidKind for what cannot be called with one argument, or is async.
        """
        known = (*WORDS, PROGRESS)
        for word in words:
            if word not in known:
                raise InvalidOption(f"on: there is no event {word!r}{meant(str(word), known)}")
        if not words:
            raise InvalidOption('on: name the events, as in @app.on("completed")')
        name = kind.kind if isinstance(kind, Task) else kind
        for option, value in (("kind", name), ("domain", domain), ("group", group)):
            if value is not None and not isinstance(value, str):
                raise InvalidOption(f"on: {option}: expected text, got {value!r:.80}")

        def decorate(function: F) -> F:
            _check(function)
            hook = Hook(function, frozenset(words), name, domain, group)
            for app in self._takers():
                app._hooks.append(hook)
            return function

        return decorate

    def hooks(self) -> list[Hook]:
        """Every hook, in the order of declaration."""
        return list(self._hooks)

    def _takers(self) -> Iterable[Hooking]:
        """This App and all that have taken it in."""
        return [self]


def _check(function: Any) -> None:
    if not callable(function) or isinstance(function, Task):
        raise InvalidKind(f"on: expected a function of an event, got {function!r:.80}")
    if inspect.iscoroutinefunction(function):
        raise InvalidKind(f"{function.__qualname__} is async: a hook is a plain function, called one at a time")
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        raise InvalidKind(f"{function.__qualname__} must take the event as its only argument") from None
    except ValueError:
        return  # of C: nobody can tell

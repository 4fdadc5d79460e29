"""States of one domain beside those of the App, and what a test puts in their place."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import ringq
import ringq.testing
from ringq import errors


class Model:
    def __init__(self, name: str = "") -> None:
        self.name = name


class Small(Model): ...


class Pool: ...


@pytest.fixture
def app() -> ringq.App:
    return ringq.App("photos")


def asking(domain: ringq.Domain) -> Callable[..., Any]:
    """What a handler of that domain is given for a type."""

    @domain.task(name=f"ask{len(domain._app.kinds())}")
    def ask(ctx: ringq.Context) -> None: ...

    ask.function = lambda ctx, wanted: ctx.state(wanted)
    return ask


def declare(scope: ringq.Domain, name: str, type_: type[Any] = Model) -> list[str]:
    """Declare a state of that type there; what is returned grows when it is made."""
    made: list[str] = []

    def state() -> Any:
        made.append(name)
        return type_(name) if issubclass(type_, Model) else type_()

    state.__annotations__["return"] = type_
    scope.state(state)
    return made


# -- whose ----------------------------------------------------------------------------------------


def test_a_domain_is_given_its_own_state_before_that_of_the_app(app: ringq.App) -> None:
    media, mail = app.domain("media"), app.domain("mail")
    declare(app, "of all")
    declare(media, "of media")
    assert asking(media)(Model).name == "of media"
    assert asking(mail)(Model).name == asking(app)(Model).name == "of all"


def test_a_domain_does_not_see_the_states_of_another_and_is_told_what_it_has(app: ringq.App) -> None:
    media, mail = app.domain("media"), app.domain("mail")
    made = declare(media, "of media")
    declare(mail, "", Pool)
    with pytest.raises(ringq.UnknownState) as of_a_domain:
        asking(mail)(Model)
    line = "no state of type Model; declare it with @app.state or its domain's (there is Pool in mail)"
    assert str(of_a_domain.value) == line
    with pytest.raises(ringq.UnknownState, match=r"declare it with @app.state \(there is none\)"):
        asking(app)(Model)
    declare(app, "", Small)
    with pytest.raises(ringq.UnknownState, match=r"\(there is Pool in mail; Small in photos\)"):
        asking(mail)(int)
    assert not made


def test_two_domains_may_have_states_of_one_type_and_one_may_not(app: ringq.App) -> None:
    media, mail = app.domain("media"), app.domain("mail")
    declare(media, "of media")
    declare(mail, "of mail")
    assert (asking(media)(Model).name, asking(mail)(Model).name) == ("of media", "of mail")
    with pytest.raises(errors.InvalidKind, match="two states are a Model, at "):
        declare(media, "again")


def test_the_scope_of_the_domain_is_asked_first_for_a_parent_class_too(app: ringq.App) -> None:
    media = app.domain("media")
    declare(app, "of all")
    declare(media, "small", Small)
    assert asking(media)(Model).name == "small"
    assert asking(app)(Model).name == "of all"


def test_on_cancel_has_the_states_of_the_domain(app: ringq.App) -> None:
    media = app.domain("media")
    declare(app, "of all")
    declare(media, "of media")
    seen = []

    @media.task
    def shrink(path: str) -> None: ...

    @shrink.on_cancel
    def tidy(ctx: ringq.Context, path: str) -> None:
        seen.append(ctx.state(Model).name)

    shrink.answer_cancel(ringq.Context(), b'{"path": "a.jpg"}')
    assert seen == ["of media"]


def test_finalize_has_the_states_of_the_domain(app: ringq.App) -> None:
    media = app.domain("media")
    declare(app, "of all")
    declare(media, "of media")

    @media.task
    def pack(ctx: ringq.Context) -> str:
        return ""

    @pack.finalize
    def packed(ctx: ringq.Context, memo: str, results: list[int]) -> str:
        return ctx.state(Model).name

    assert pack.run_finalize(ringq.Context(), '""', []) == b'"of media"'


def test_async_handlers_and_calls_of_a_worker_have_the_states_of_the_domain(app: ringq.App) -> None:
    media = app.domain("media")
    declare(media, "of media")

    @media.task
    async def ask(ctx: ringq.Context) -> str:
        return ctx.state(Model).name

    assert ask.run(ringq.Context(), b"{}") == b'"of media"'


def test_included_apps_keep_the_scopes_of_their_domains(app: ringq.App) -> None:
    other = ringq.App("films")
    cuts = other.domain("cuts")
    declare(app, "photos")
    declare(other, "films")
    declare(cuts, "cuts", Small)
    mine, theirs, of_cuts = asking(app), asking(other), asking(cuts)
    app.include(other)
    app.states.start()
    assert [ask(Model).name for ask in (mine, theirs, of_cuts)] == ["photos", "films", "cuts"]
    with pytest.raises(ringq.UnknownState, match=r"there is Model in films\)"):
        theirs(Pool)


# -- when -----------------------------------------------------------------------------------------


def test_a_start_makes_all_in_the_order_of_declaration_wherever_they_were_declared(app: ringq.App) -> None:
    made: list[str] = []
    media, mail, other = app.domain("media"), app.domain("mail"), ringq.App("films")

    def noting(name: str, scope: ringq.Domain) -> None:
        scope.state(lambda: made.append(name) or Model(name))

    app.include(other)
    for name, scope in (("a", media), ("b", app), ("c", mail), ("d", other.domain("cuts"))):
        noting(name, scope)
    app.states.start()
    app.states.start()
    assert made == ["a", "b", "c", "d"]


def test_what_fails_at_the_start_is_named_with_its_domain(app: ringq.App) -> None:
    media = app.domain("media")

    @media.state
    def broken() -> Model:
        raise ValueError("no GPU")

    with pytest.raises(ringq.StateFailed, match=r"^state broken of media: ValueError: no GPU$"):
        app.states.start()
    with pytest.raises(errors.InvalidKind, match=r"^state nothing of media: its hint says that it gives None"):

        @media.state
        def nothing() -> None: ...


def test_two_states_of_one_scope_that_are_told_apart_only_when_made_are_refused_at_the_start(app: ringq.App) -> None:
    media = app.domain("media")
    media.state(lambda: Model())  # noqa: PLW0108 - a class itself is no initialiser
    app.state(lambda: Model())  # noqa: PLW0108
    app.states.start()
    media.state(lambda: Model())  # noqa: PLW0108
    with pytest.raises(errors.InvalidKind, match="two states are a Model"):
        app.states.start()


def test_a_forked_child_makes_the_states_of_domains_anew(app: ringq.App) -> None:
    media = app.domain("media")
    media.state(lambda: os.getpid())  # noqa: PLW0108 - a built-in is no initialiser
    ask = asking(media)
    assert ask(int) == os.getpid()
    child = os.fork()
    if child == 0:
        os._exit(0 if ask(int) == os.getpid() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_states_that_ask_for_those_of_another_domain_do_not_wait_for_each_other(app: ringq.App) -> None:
    """Two threads, each of which makes one: with a lock for each scope they would hold one each."""
    media, mail = app.domain("media"), app.domain("mail")
    ask_media, ask_mail = asking(media), asking(mail)
    together = threading.Barrier(2)

    def meet() -> None:
        try:
            together.wait(0.2)
        except threading.BrokenBarrierError:
            return

    @media.state
    def of_media() -> Pool:
        meet()
        ask_mail(Small)
        return Pool()

    @mail.state
    def of_mail() -> Pool:
        meet()
        ask_media(Small)
        return Pool()

    for scope in (media, mail):
        declare(scope, "", Small)
    threads = [threading.Thread(target=ask, args=(Pool,)) for ask in (ask_media, ask_mail)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)


TEARDOWN = """
from collections.abc import Iterator
import ringq

app = ringq.App("t")
media = app.domain("media")

class A: pass
class B: pass

def closing(scope, type_, name):
    def state():
        yield type_()
        print("end", name)
    state.__annotations__["return"] = Iterator[type_]
    scope.state(state)

closing(media, A, "a of media")
closing(app, A, "a of the app")
closing(media, B, "b of media")
app.states.start()
print("made")
"""


def test_teardowns_of_all_scopes_run_in_reverse_order_of_declaration() -> None:
    done = subprocess.run([sys.executable, "-c", TEARDOWN], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["made", "end b of media", "end a of the app", "end a of media"]


# -- in tests -------------------------------------------------------------------------------------


def test_a_test_puts_another_state_in_place_for_a_while(app: ringq.App) -> None:
    made = declare(app, "real")
    ask = asking(app)
    fake = Small("fake")
    with app.override(Model, fake) as given:
        assert given is fake
        assert ask(Model) is fake
    assert not made
    assert ask(Model).name == "real"


def test_what_was_put_in_place_is_taken_away_after_an_error_too(app: ringq.App) -> None:
    declare(app, "real")
    with pytest.raises(ValueError, match="broken"), app.override(Model, Model("fake")):
        raise ValueError("broken")
    assert asking(app)(Model).name == "real"


def test_the_innermost_of_several_counts(app: ringq.App) -> None:
    ask = asking(app)
    with app.override(Model, "outer"):
        with app.override(Model, "inner"):
            assert ask(Model) == "inner"
        assert ask(Model) == "outer"
    with pytest.raises(ringq.UnknownState):
        ask(Model)


def test_a_domain_is_given_what_was_put_in_place_for_it_alone(app: ringq.App) -> None:
    media, mail = app.domain("media"), app.domain("mail")
    declare(app, "of all")
    with media.override(Model, "fake"):
        assert asking(media)(Model) == "fake"
        assert asking(mail)(Model).name == asking(app)(Model).name == "of all"


def test_a_state_of_the_domain_goes_before_what_was_put_in_place_for_the_app(app: ringq.App) -> None:
    media = app.domain("media")
    declare(media, "of media")
    with app.override(Model, "fake"):
        assert asking(media)(Model).name == "of media"
        assert asking(app)(Model) == "fake"


def test_what_a_context_was_given_goes_before_all(app: ringq.App) -> None:
    ask = asking(app)
    with app.override(Model, "fake"):
        assert ask(ringq.Context(state={Model: "by hand"}), Model) == "by hand"


def test_a_parent_class_finds_what_was_put_in_place(app: ringq.App) -> None:
    declare(app, "", Pool)
    with app.override(Small, "fake"):
        assert asking(app)(Model) == "fake"
        with pytest.raises(ringq.UnknownState, match=r"there is Pool, Small in photos"):
            asking(app)(int)


def test_none_may_be_put_in_place(app: ringq.App) -> None:
    with app.override(Model, None):
        assert asking(app)(Model) is None


def test_what_is_no_type_cannot_be_put_in_place(app: ringq.App) -> None:
    with (
        pytest.raises(errors.InvalidOption, match=r"expected a type, as in override\(Model, fake\), got 'Model'"),
        app.override("Model", 1),  # type: ignore[arg-type]
    ):
        pass


def test_blocks_of_two_threads_that_overlap_each_take_back_their_own(app: ringq.App) -> None:
    ask = asking(app)
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with app.override(Model, "theirs"):
            inside.set()
            assert leave.wait(10)

    thread = threading.Thread(target=hold)
    with app.override(Model, "ours"):
        thread.start()
        assert inside.wait(10)
        assert ask(Model) == "theirs"
    assert ask(Model) == "theirs"
    leave.set()
    thread.join(10)
    with pytest.raises(ringq.UnknownState):
        ask(Model)


def test_inline_runs_see_what_was_put_in_place(app: ringq.App) -> None:
    media = app.domain("media")
    made = declare(media, "real")

    @media.task
    def name(ctx: ringq.Context) -> str:
        return ctx.state(Model).name

    def states() -> Iterator[str | None]:
        with ringq.testing.inline(app) as run:
            with media.override(Model, Model("fake")):
                name.submit()
                yield run.run_all()[0].result
            name.submit()
            yield run.run_all()[0].result

    found = states()
    assert next(found) == '"fake"'
    assert not made
    assert next(found) == '"real"'

"""States: made once per process by what the App declares, found by type, torn down in reverse order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

import ringq
from ringq import errors


class Model:
    def __init__(self) -> None:
        self.pid = os.getpid()


class Small(Model):
    pass


class Large(Model):
    pass


class Pool:
    pass


def model() -> Model:
    return Model()


def small() -> Iterator[Small]:
    yield Small()


def large() -> Generator[Large, None, None]:
    yield Large()


def pool():  # type: ignore[no-untyped-def]
    yield Pool()


def table() -> dict[str, int]:
    return {"a": 1}


@pytest.fixture
def app() -> ringq.App:
    return ringq.App("photos")


def asking(app: ringq.App) -> Callable[..., Any]:
    """What a handler of that app is given for a type."""

    @app.task
    def ask(ctx: ringq.Context) -> None: ...

    ask.function = lambda ctx, wanted: ctx.state(wanted)
    return ask


def test_a_state_is_made_once_and_found_by_the_hint_of_its_initialiser(app: ringq.App) -> None:
    for function in (model, small, table, pool):
        assert app.state(function) is function
    ask = asking(app)
    assert type(ask(Model)) is Model
    assert ask(Model) is ask(Model)
    assert type(ask(Small)) is Small
    assert type(ask(Pool)) is Pool
    assert ask(dict) == {"a": 1}


def test_a_parent_class_stands_for_its_only_heir(app: ringq.App) -> None:
    app.state(small)
    app.state(pool)
    ask = asking(app)
    assert ask(Model) is ask(Small)
    app.state(large)
    with pytest.raises(ringq.UnknownState, match="several states are a Model: ask for one of Small, Large"):
        ask(Model)


def test_a_type_that_nobody_declares_is_told_with_those_that_are(app: ringq.App) -> None:
    ask = asking(app)
    declare = r"no state of type Model; declare it with @app\.state"
    with pytest.raises(ringq.UnknownState, match=rf"{declare} \(there is none\)") as caught:
        ask(Model)
    assert isinstance(caught.value, LookupError)
    app.state(table)
    app.state(pool)
    with pytest.raises(ringq.UnknownState, match=rf"{declare} \(there is dict, Pool in photos\)"):
        ask(Model)
    with pytest.raises(errors.InvalidOption, match=r"expected a type, as in ctx\.state\(Model\), got 'Model'"):
        ask("Model")


def test_a_state_nobody_asks_for_is_not_made_in_a_plain_call(app: ringq.App) -> None:
    made = []

    @app.state
    def costly() -> Large:
        made.append(1)
        return Large()

    app.state(small)
    assert asking(app)(Small)
    assert not made


def test_what_an_initialiser_raises_in_a_plain_call_is_raised_there_and_it_may_succeed_later(app: ringq.App) -> None:
    attempts = iter([ValueError("no GPU"), None])

    @app.state
    def flaky() -> Model:
        error = next(attempts)
        if error:
            raise error
        return Model()

    ask = asking(app)
    with pytest.raises(ValueError, match="no GPU"):
        ask(Model)
    assert ask(Model)


def test_threads_that_ask_at_once_get_one_state(app: ringq.App) -> None:
    together = threading.Barrier(8)
    made: list[int] = []

    @app.state
    def counted() -> Model:
        made.append(1)
        return Model()

    ask = asking(app)
    found: list[Any] = []

    def run() -> None:
        together.wait(10)
        found.append(ask(Model))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (len(made), len(set(map(id, found))), len(found)) == (1, 1, 8)


def test_a_forked_child_makes_its_own_while_another_thread_is_making_one(app: ringq.App) -> None:
    inside, leave = threading.Event(), threading.Event()
    slow = [True]

    @app.state
    def model() -> Model:
        if slow[0]:
            inside.set()
            assert leave.wait(20)
        return Model()

    ask = asking(app)
    thread = threading.Thread(target=ask, args=(Model,))
    thread.start()
    assert inside.wait(10)
    slow[0] = False
    child = os.fork()
    if child == 0:  # the lock was held as it was forked
        os._exit(0 if ask(Model).pid == os.getpid() else 1)
    _, status = os.waitpid(child, 0)
    leave.set()
    thread.join(10)
    assert os.waitstatus_to_exitcode(status) == 0
    assert ask(Model).pid == os.getpid()


def test_an_async_handler_asks_the_same_way(app: ringq.App) -> None:
    app.state(small)

    @app.task
    async def ask(ctx: ringq.Context) -> int:
        return ctx.state(Small).pid

    assert asyncio.run(ask()) == os.getpid()
    assert ask.invoke(None, {}) == os.getpid()


def test_the_tasks_of_every_domain_have_the_states_of_the_app(app: ringq.App) -> None:
    app.state(small)

    @app.domain("media").task
    def ask(ctx: ringq.Context) -> int:
        return ctx.state(Small).pid

    assert ask() == os.getpid()


def test_a_test_gives_states_of_its_own(app: ringq.App) -> None:
    @app.state
    def never() -> Model:
        raise AssertionError

    @app.task
    def ask(ctx: ringq.Context, number: int) -> int:
        return ctx.state(Model).pid + number

    fake = Small()
    fake.pid = 5
    assert ask(ringq.Context(state={Model: fake}), 2) == 7
    assert ask(ringq.Context(state={Small: fake}), number=3) == 8
    with pytest.raises(ringq.UnknownState, match="no state of type Model"):
        ask(ringq.Context(state={}), 2)
    with pytest.raises(AssertionError):
        ask(2)


# -- initialisers that cannot be ------------------------------------------------------------------


async def asynchronous() -> Model:
    return Model()


async def asynchronous_generator():  # type: ignore[no-untyped-def]
    yield Model()


def with_parameters(path: str, size: int = 1) -> Model: ...


@contextlib.contextmanager
def managed() -> Iterator[Model]:
    yield Model()


def nothing() -> None: ...


def unresolved() -> Missing: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("function", "advice"),
    [
        (asynchronous, "state asynchronous: an initialiser cannot be async: use asyncio.run inside a plain function"),
        (asynchronous_generator, "cannot be async"),
        (with_parameters, "state with_parameters: an initialiser takes no parameters, this one has path, size"),
        (managed, "state managed: leave @contextmanager out"),
        (nothing, "state nothing: its hint says that it gives None"),
        (unresolved, "state unresolved: result: the hint 'Missing' cannot be evaluated"),
        (Model, "state Model: a state is made by a function"),
        ("model", "state 'model': a state is made by a function"),
        (None, "a state is made by a function"),
    ],
)
def test_what_is_no_initialiser_is_refused_where_it_stands(app: ringq.App, function: Any, advice: str) -> None:
    with pytest.raises(errors.InvalidKind) as caught:
        app.state(function)
    assert advice in str(caught.value)
    assert "\n" not in str(caught.value)


def another() -> Iterator[Model]:
    yield Model()


def without_hint():  # type: ignore[no-untyped-def]
    return Model()


def test_two_states_of_one_type_are_refused_naming_both_places(app: ringq.App) -> None:
    app.state(model)
    with pytest.raises(errors.InvalidKind, match="two states are a Model, at ") as caught:
        app.state(another)
    app.state(without_hint)
    with pytest.raises(errors.InvalidKind, match="two states are a Model, at ") as later:
        app.states.start()
    for error, second in ((caught, another), (later, without_hint)):
        for function in (model, second):
            assert f"{__file__}:{function.__code__.co_firstlineno}" in str(error.value)


def test_a_start_that_fails_names_the_initialiser(app: ringq.App) -> None:
    @app.state
    def broken() -> Model:
        raise ValueError("no GPU")

    with pytest.raises(ringq.StateFailed, match=r"^state broken: ValueError: no GPU$") as caught:
        app.states.start()
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("source", ["return None", "return; yield", "yield None"])
def test_a_state_is_something(app: ringq.App, source: str) -> None:
    scope: dict[str, Any] = {}
    exec(f"def empty():\n    {source}", scope)
    app.state(scope["empty"])
    with pytest.raises(ringq.StateFailed, match=r"^state empty: it gives None: return or yield the object$"):
        app.states.start()


# -- teardown -------------------------------------------------------------------------------------

TEARDOWN = """
import atexit, os, sys
from collections.abc import Iterator
import ringq

app = ringq.App("t")
atexit.register(print, "exit of the app")

class A: pass
class B: pass
class C: pass
class D: pass

@app.state
def a() -> Iterator[A]:
    yield A()
    print("end a")

@app.state
def b() -> Iterator[B]:
    yield B()
    raise ValueError("broken pipe")

@app.state
def c() -> Iterator[C]:
    yield C()
    print("end c")
    yield C()
    print("never")

@app.state
def d() -> Iterator[D]:
    yield D()
    print("never")

@app.task
def use(ctx: ringq.Context) -> None:
    for one in (A, B, C):
        ctx.state(one)

use()
sys.stdout.flush()
if os.fork() == 0:
    sys.exit()  # the child made none of its own
os.wait()
print("main")
"""


def test_teardowns_run_at_exit_in_reverse_order_and_one_that_raises_stops_no_other() -> None:
    done = subprocess.run([sys.executable, "-c", TEARDOWN], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n") == [
        *("exit of the app", "main", "end c", "end a", "exit of the app", ""),
    ]
    assert "state b: its teardown raised ValueError: broken pipe\n" in done.stderr
    assert "in b\n" in done.stderr
    assert "state c: it yields more than once" in done.stderr

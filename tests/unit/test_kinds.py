"""What becomes of a decorated function: a task that can be called, submitted, reported and run."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import json
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import ringq
from ringq import errors
from ringq.kinds import KindReport
from ringq.kinds.options import seconds_of

Plain = Callable[..., Any]


@pytest.fixture
def app() -> ringq.App:
    return ringq.App("photos")


def test_a_task_is_still_the_function(app: ringq.App) -> None:
    @app.task
    def grow(path: str, *, size: int = 2) -> int:
        """Make it larger."""
        return len(path) * size

    assert grow("abc") == 6
    assert grow("abc", size=5) == 15
    assert (grow.kind, grow.__name__, grow.__doc__) == ("photos::grow", "grow", "Make it larger.")
    assert str(inspect.signature(grow)) == "(path: 'str', *, size: 'int' = 2) -> 'int'"
    assert f"photos::grow at {__file__}" in repr(grow)


def first_annotated(ctx: ringq.Context, path: str) -> str:
    return f"{ctx.kind} {ctx.task_id} {path}"


def other_name(attempt: ringq.Context, /, path: str) -> str:
    return f"{attempt.kind} {attempt.task_id} {path}"


def not_annotated(ctx, path):  # type: ignore[no-untyped-def]
    return f"{ctx.kind} {ctx.task_id} {path}"


@pytest.mark.parametrize("function", [first_annotated, other_name, not_annotated])
def test_a_first_parameter_for_the_context_gets_one(app: ringq.App, function: Plain) -> None:
    task = app.task(name="f")(function)
    assert task.wants_context
    assert task("a") == "photos::f 0 a"
    assert task.submission("a").payload == '{"path":"a"}'
    context = ringq.Context(7, kind="photos::f")
    assert task.run(context, b'{"path":"b"}') == b'"photos::f 7 b"'
    assert task.function(context, "c") == "photos::f 7 c"
    assert task(context, "d") == task(context, path="d") == "photos::f 7 d"


def ctx_of_another_kind(ctx: int) -> int:
    return ctx


def context_like(context):  # type: ignore[no-untyped-def]
    return context


def named_only(*, ctx=1):  # type: ignore[no-untyped-def]
    return ctx


@pytest.mark.parametrize("function", [ctx_of_another_kind, context_like, named_only])
def test_any_other_parameter_is_an_argument(app: ringq.App, function: Plain) -> None:
    task = app.task(name="f")(function)
    assert not task.wants_context
    name = next(iter(inspect.signature(function).parameters))
    assert task.submission(**{name: 5}).payload == f'{{"{name}":5}}'
    assert task.invoke(None, {name: 5}) == 5


def test_async_handlers_are_run_and_are_coroutines_when_called(app: ringq.App) -> None:
    @app.task
    async def double(ctx: ringq.Context, number: int) -> int:
        await asyncio.sleep(0)
        return 2 * number

    assert isinstance(double, ringq.AsyncTask)
    assert asyncio.run(double(2)) == 4
    assert asyncio.run(double(ringq.Context(7), 2)) == 4
    assert double.run(None, b'{"number":4}') == b"8"


def by_decorator(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(**by_name: Any) -> Any:
        return function(**by_name)

    return wrapper


def plain(a: int, b: int = 2) -> list[int]:
    return [a, b]


def named(a: int, *, b: int = 2) -> list[int]:
    return [a, b]


def open_ended(a: int, **more: int) -> list[int]:
    return [a, more["b"]]


@pytest.mark.parametrize("function", [plain, named, open_ended, by_decorator(plain)])
def test_a_worker_calls_any_handler_as_it_is_written(app: ringq.App, function: Callable[..., Any]) -> None:
    task = app.task(name="f")(function)
    assert (task.plain_function is plain) is (function is plain)
    assert task.run(None, b'{"b":4,"a":3}') == b"[3,4]"
    with pytest.raises(errors.InvalidPayload, match="argument 'a' is missing"):
        task.run(None, b'{"b":4}')


def test_wrapped_functions_keep_their_signature(app: ringq.App) -> None:
    def twice(function: Plain) -> Plain:
        @functools.wraps(function)
        def inner(*args: Any, **kwargs: Any) -> Any:
            return 2 * function(*args, **kwargs)

        return inner

    @app.task
    @twice
    def count(number: int) -> int:
        return number

    assert count.submission(3).payload == '{"number":3}'
    assert count.invoke(None, {"number": 3}) == 6


def variadic(*paths: str) -> None: ...
def positional(path: str, /) -> None: ...
def late(path: str, ctx: ringq.Context) -> None: ...
def method(self, path: str) -> None: ...  # type: ignore[no-untyped-def]
def unresolved(path: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821
def nested(paths: list[Missing]) -> None: ...  # type: ignore[name-defined]  # noqa: F821
def no_json(stream: complex) -> None: ...
def no_json_result() -> complex: ...
def maybe_context(ctx: ringq.Context | None) -> None: ...
def yields() -> Iterator[int]:
    yield 1


class Callable_:
    def __call__(self) -> None: ...


@pytest.mark.parametrize(
    ("function", "advice"),
    [
        (variadic, r"\*paths cannot be: take a list, `paths: list"),
        (positional, "'path' cannot be positional-only: remove the `/`"),
        (late, "'ctx' must come first"),
        (method, "a method cannot be a handler"),
        (unresolved, r"parameter 'path': the hint 'Missing' cannot be evaluated .*TYPE_CHECKING"),
        (nested, r"parameter 'paths': the hint 'list\[Missing\]'"),
        (no_json, "parameter 'stream': .*complex"),
        (no_json_result, "result: .*complex"),
        (maybe_context, "parameter 'ctx': JSON cannot carry Context"),
        (yields, "return a list"),
        (lambda: None, "task of photos: expected a letter"),
        (Callable_(), "task of photos: expected a letter"),
        (int, "a handler is a function"),
        ("name", "by keyword"),
    ],
)
def test_what_a_worker_could_not_call_is_refused_with_advice(app: ringq.App, function: Any, advice: str) -> None:
    with pytest.raises(errors.InvalidKind, match=advice) as caught:
        app.task(function)
    assert "\n" not in str(caught.value)
    assert app.kinds() == {}


@pytest.mark.parametrize("name", ["", "1a", "a b", "a::b", "ä", "a/b", "x" * 201, "a\n", 5])
def test_names_are_checked(app: ringq.App, name: Any) -> None:
    for attempt in (lambda: app.task(name=name), lambda: lambda f: app.domain(name), lambda: lambda f: ringq.App(name)):
        with pytest.raises(errors.InvalidKind, match="letter"):
            attempt()(first_annotated)  # type: ignore[no-untyped-call]


def test_names_may_be_dotted_and_long(app: ringq.App) -> None:
    long = "x" * 200
    assert app.domain(long).task(name="v2.resize-all_")(first_annotated).kind == f"{long}::v2.resize-all_"


def test_a_kind_is_defined_once_and_both_places_are_named(app: ringq.App) -> None:
    app.task(name="f")(first_annotated)
    with pytest.raises(errors.InvalidKind, match="photos::f is defined twice") as caught:
        app.task(name="f")(other_name)
    for function in (first_annotated, other_name):
        assert f"{__file__}:{function.__code__.co_firstlineno}" in str(caught.value)
    app.domain("media").task(name="f")(other_name)
    for name in ("media", "photos"):
        with pytest.raises(errors.InvalidKind, match="exists already"):
            app.domain(name)


def test_reports_have_kind_over_domain(app: ringq.App) -> None:
    media = app.domain("media", queue="bulk", priority=ringq.IDLE, run_timeout=timedelta(minutes=1))
    media.task(name="plain")(first_annotated)
    media.task(name="own", queue="q", priority=ringq.REALTIME, group="g", run_timeout=0.5)(first_annotated)
    app.task(name="bare")(first_annotated)
    plain, own, bare = (KindReport(**report) for report in json.loads(json.dumps(app.reports())))
    assert (plain.name, plain.queue, plain.priority, plain.group) == ("media::plain", "bulk", 255, None)
    assert plain.run_timeout_ms == 60_000
    assert (own.queue, own.priority, own.group, own.run_timeout_ms) == ("q", 0, "g", 500)
    assert (bare.queue, bare.priority, bare.group, bare.run_timeout_ms) == (None, None, None, None)
    assert "path" in json.dumps(bare.parameters)
    assert list(app.kinds()) == ["media::plain", "media::own", "photos::bare"]


def test_an_app_has_the_defaults_of_its_own_domain_and_no_others() -> None:
    app = ringq.App("photos", queue="bulk", priority=5, run_timeout=timedelta(seconds=2))
    app.task(first_annotated)
    app.task()(not_annotated)
    app.task(name="own", queue="q", priority=0, run_timeout=1)(first_annotated)
    app.domain("media").task(other_name)
    reports = {report["name"]: report for report in app.reports()}
    for kind in ("photos::first_annotated", "photos::not_annotated"):
        assert [reports[kind][key] for key in ("queue", "priority", "run_timeout_ms")] == ["bulk", 5, 2000]
    assert [reports["photos::own"][key] for key in ("queue", "priority", "run_timeout_ms")] == ["q", 0, 1000]
    assert [reports["media::other_name"][key] for key in ("queue", "priority", "run_timeout_ms")] == [None, None, None]


def test_the_settings_of_an_app_are_those_given_by_the_names_of_the_configuration() -> None:
    assert ringq.App("a").settings == {}
    given = ringq.App("a", workers="auto", durability="normal", drain_timeout=timedelta(minutes=1))
    assert given.settings == {"workers": 0, "durability": "normal", "drain_timeout_s": 60.0}
    assert json.loads(json.dumps(given.settings)) == given.settings


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"workers": -1}, "workers: -1 is neither auto nor 1 to 255"),
        ({"workers": 0}, "workers: 0 is neither auto nor 1 to 255"),
        ({"workers": 300}, "workers: 300 is neither auto nor 1 to 255"),
        ({"workers": True}, "workers: True is neither auto nor"),
        ({"workers": 1.5}, "workers: 1.5 is neither auto nor"),
        ({"durability": "fast"}, "durability: 'fast' is not full or normal"),
        ({"durability": ["full"]}, "durability"),
        ({"drain_timeout": -1}, "drain_timeout: -1 is no span of 0 or more"),
        ({"drain_timeout": 1e6}, "drain_timeout: expected 0 to 86400"),
        ({"drain_timeout": "soon"}, "drain_timeout: 'soon' is no span"),
        ({"queue": "a,b"}, "queue: expected a name without comma"),
        ({"priority": 256}, "priority"),
        ({"run_timeout": 0}, "run_timeout: expected seconds"),
    ],
)
def test_settings_and_defaults_of_an_app_are_checked_where_they_stand(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(errors.InvalidOption, match=complaint) as caught:
        ringq.App("a", **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"priority": -1}, r"priority: expected 0 \(most urgent\) to 255"),
        ({"priority": 256}, "priority"),
        ({"priority": True}, "priority"),
        ({"priority": 1.5}, "priority"),
        ({"queue": ""}, "queue: expected 1 to 200"),
        ({"queue": "a,b"}, "queue: expected a name without comma"),
        ({"queue": "a:b"}, "queue"),
        ({"queue": "a\n"}, "queue"),
        ({"queue": 5}, "queue"),
        ({"group": "x" * 201}, "group"),
        ({"group": "\ud800"}, "group"),
        ({"run_timeout": 0}, "run_timeout: expected seconds"),
        ({"run_timeout": -1.0}, "run_timeout"),
        ({"run_timeout": float("nan")}, "run_timeout"),
        ({"run_timeout": timedelta(days=400)}, "run_timeout: expected at most"),
        ({"run_timeout": "5"}, "run_timeout"),
    ],
)
def test_options_are_checked_where_they_stand(app: ringq.App, options: dict[str, Any], complaint: str) -> None:
    task = app.task(name="f")(first_annotated)
    attempts: list[Callable[[], Any]] = [
        lambda: app.task(name="g", **options)(first_annotated),
        lambda: task.options(**options),
        lambda: ringq.Submission("a::b", **options),
    ]
    if "group" not in options:
        attempts.append(lambda: app.domain("d", **options))
    for attempt in attempts:
        with pytest.raises(errors.InvalidOption, match=complaint):
            attempt()


def test_times_of_a_submission(app: ringq.App) -> None:
    task = app.task(name="f")(first_annotated)
    at = datetime(2030, 1, 1, tzinfo=UTC)
    assert task.options(run_at=at).submission("a").run_at == at
    assert task.submission("a").run_at is None
    before = datetime.now(UTC)
    later = task.options(run_after=timedelta(hours=1))
    first = later.submission("a").run_at
    assert first is not None
    assert before + timedelta(hours=1) - timedelta(milliseconds=1) <= first <= datetime.now(UTC) + timedelta(hours=1)
    second = later.submission("a").run_at
    assert second is not None
    assert second >= first
    for wrong, complaint in [
        ({"run_at": datetime(2030, 1, 1)}, "time zone"),
        ({"run_at": 5}, "time zone"),
        ({"run_after": -1}, "run_after"),
        ({"run_after": 1e15}, "year 10000"),
        ({"run_at": at, "run_after": 1}, "one of them"),
    ]:
        with pytest.raises(errors.InvalidOption, match=complaint):
            task.options(**wrong)  # type: ignore[arg-type]


def test_a_run_timeout_is_rounded_up_to_milliseconds(app: ringq.App) -> None:
    task = app.task(name="f")(first_annotated)
    for seconds, expected in [(0.001, 1), (0.0011, 2), (2, 2000), (0.3, 300), (1.1, 1100)]:
        assert task.options(run_timeout=seconds).submission("a").spec.run_timeout_ms == expected


def test_submissions_of_one_options_object_share_their_spec(app: ringq.App) -> None:
    task = app.task(name="f")(first_annotated)
    urgent = task.options(priority=ringq.HIGH)
    assert urgent.submission("a").spec is urgent.submission("b").spec
    assert task.submission("a").spec is task.submission("b").spec
    assert urgent.submission("a").payload == '{"path":"a"}'
    with pytest.raises(errors.InvalidPayload, match="photos::f"):
        urgent.submission(5)


@pytest.mark.parametrize("kind", ["f", "a::", "::b", "a::b::c", "a b::c", "a:b", "", None])
def test_a_kind_as_text_is_a_kind(kind: Any) -> None:
    with pytest.raises(errors.InvalidOption, match="domain::name"):
        ringq.Submission(kind)


def test_a_submission_of_the_task_itself_is_checked_by_its_hints(app: ringq.App) -> None:
    task = app.task(name="f")(first_annotated)
    submission = ringq.Submission(task, {"path": "a"}, priority=5)
    assert (submission.kind, submission.payload, submission.spec.priority) == ("photos::f", '{"path":"a"}', 5)
    assert submission.results is task.results
    with pytest.raises(errors.InvalidPayload, match="photos::f: path: expected str, got int"):
        ringq.Submission(task, {"path": 5})
    with pytest.raises(errors.InvalidPayload, match="JSON text goes with a kind as text, got the task itself"):
        ringq.Submission(task, '{"path": "a"}')
    with pytest.raises(errors.InvalidOption, match="or the task itself, got <function"):
        ringq.Submission(first_annotated)  # type: ignore[arg-type]


def test_submissions_are_read_only_and_short_to_look_at() -> None:
    submission: ringq.Submission[Any] = ringq.Submission("a::b", {"text": "x" * 1000})
    with pytest.raises(AttributeError):
        submission.kind = "c::d"  # type: ignore[misc]
    assert len(repr(submission)) < 120


def test_what_the_worker_needs_is_light() -> None:
    check = (
        "import sys, ringq.kinds, ringq.codec, ringq.context;"
        "heavy = {'sqlalchemy', 'alembic', 'click', 'rich', 'psutil', 'asyncio', 'socket', 'ringq.client'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", check], check=True, cwd=Path(ringq.__file__).parent.parent)


@pytest.mark.parametrize(
    "name", [n for n, c in vars(errors).items() if inspect.isclass(c) and c.__module__ == errors.__name__]
)
@pytest.mark.parametrize("again", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy])
def test_an_exception_comes_through_a_pool_of_processes_as_it_was(name: str, again: Plain) -> None:
    cls = getattr(errors, name)
    how = {"task_id": 7, "status": "failed", "reason": "crash", "error": {"signal": 9}, "index": 3}
    if cls is errors.Snooze:
        error = cls(5, "it failed")
    else:
        error = cls("it failed", **(how if issubclass(cls, errors.TaskFailed) else {}))
    error.add_note("In the worker: ...")
    found = again(error)
    assert (type(found), found.args, str(found), vars(found)) == (cls, ("it failed",), "it failed", vars(error))


pickled = ringq.App("pickled")


@pickled.task
def by_name(path: str) -> str:
    return path


def test_a_task_and_its_app_are_pickled_by_their_names() -> None:
    assert pickle.loads(pickle.dumps(by_name)) is by_name
    assert pickle.loads(pickle.dumps(pickled)) is pickled
    assert copy.deepcopy(by_name) is by_name


def test_a_task_without_a_name_at_the_top_level_is_not_pickled(app: ringq.App) -> None:
    @app.task
    def inner() -> None: ...

    with pytest.raises(errors.InvalidOption, match=r"photos::inner .* cannot be pickled, .*: pass its kind"):
        pickle.dumps(inner)
    with pytest.raises(errors.InvalidOption, match="cannot be pickled"):
        pickle.dumps(app)


@pytest.mark.parametrize("payload", [5, [1], [("path", 1)], 0, ""])
@pytest.mark.parametrize("kind", [by_name, "pickled::by_name"])
def test_a_payload_is_a_mapping(kind: Any, payload: Any) -> None:
    with pytest.raises(errors.InvalidPayload, match=r"expected the arguments by name|JSON"):
        ringq.Submission(kind, payload)
    with pytest.raises(errors.InvalidPayload, match=r"expected the arguments by name|JSON"):
        ringq.connect("t.db").submit(kind, payload)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (
            lambda client: client.submit(by_name, {}, retries=3),
            "submit: there is no option 'retries'; did you mean retry",
        ),
        (lambda client: client.submit("a::b", {}, prioriti=3), "'prioriti'; did you mean priority?"),
        (lambda client: client.map(by_name, [], run_after=5), "map: there is no option 'run_after'"),
        (lambda client: client.starmap("a::b", [], payload={}), "starmap: there is no option 'payload'"),
        (lambda client: client.map(5, []), "kind: expected domain::name"),
        (lambda client: client.forget_map(5, "k"), "kind: expected domain::name"),
        (lambda client: client.forget_map("bad kind", "k"), "kind: expected domain::name"),
        (lambda client: client.wait_many([1], timeout="3"), "timeout: expected seconds"),
        (lambda client: client.as_completed([1], timeout=float("nan")), "timeout: expected seconds"),
        (lambda client: client.as_completed(["x"]), "expected a handle or the id"),
        (lambda client: client.handle(1).result(True), "timeout: expected seconds"),
        (lambda client: client.map("a::b", []).next_call("3"), "timeout: expected seconds"),
    ],
)
def test_what_a_client_cannot_do_is_told_before_anybody_is_asked(wrong: Plain, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidOption, match=re.escape(complaint)):
        wrong(ringq.connect(tmp_path / "t.db"))


@pytest.mark.parametrize(
    ("span", "seconds"),
    [(None, None), (2, 2.0), (timedelta(minutes=1), 60.0), (float("inf"), None), (1e12, None), (-3, 0.0)],
)
def test_spans_that_somebody_waits(span: Any, seconds: float | None) -> None:
    assert seconds_of("timeout", span) == seconds

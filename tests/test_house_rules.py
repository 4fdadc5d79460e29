"""The shape of the package as a test: who may import whom, how long things may get, which words are ours.

An exception is an entry in a table below, with its reason. The tables of lengths may only shrink.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ringq"

VALUES, EDGES, FLOWS, FACES, CLI = range(5)

LAYER_OF = {
    **dict.fromkeys(["clock", "config", "entries", "errors", "failpoint", "lifecycle", "model", "receipts"], VALUES),
    **dict.fromkeys(["labels", "retry", "schedule", "spelling", "tags", "version", "places", "runs"], VALUES),
    **dict.fromkeys(["aging", "bucket", "pace", "rates"], VALUES),
    **dict.fromkeys(["codec", "context", "kinds", "loading", "log", "native", "notify", "orphans", "output"], EDGES),
    **dict.fromkeys(["process", "protocol", "reload", "ring", "settings", "signals", "store", "notation"], EDGES),
    **dict.fromkeys(["admission", "backlog", "banner", "berth", "calls", "dispatch", "echo", "feed", "gate"], FLOWS),
    **dict.fromkeys(
        ["intake", "launch", "limits", "merge", "pool", "query", "recover", "registry", "rotation", "runner"],
        FLOWS,
    ),
    **dict.fromkeys(["fairness", "ranking", "sharing", "together", "traffic"], FLOWS),
    **dict.fromkeys(["budgets", "callback", "neighbours", "pressure"], VALUES),
    "callbacks": FLOWS,
    **dict.fromkeys(["cgroup", "machine", "sampler"], EDGES),
    **dict.fromkeys(["pressure_watch", "records", "timetable", "whereabouts"], FLOWS),
    "reasons": VALUES,
    **{"progress": VALUES, "reporting": EDGES, "answers": FACES, "sleeping": FACES},
    **dict.fromkeys(["checkpoints", "keeping", "progressing"], FLOWS),
    "overview": VALUES,
    **dict.fromkeys(["drawing", "graph"], VALUES),
    "belonging": FLOWS,
    **dict.fromkeys(
        ["bounds", "cancelling", "cancels", "controlling", "controls", "lane", "standing", "steering"], FLOWS
    ),
    **dict.fromkeys(["budgeting", "preempted", "preemption", "rating", "stops"], FLOWS),
    **dict.fromkeys(["memory", "defaults", "metering", "kin"], EDGES),
    **dict.fromkeys(
        ["changes", "committed", "expiry", "keys", "queues", "splitting", "verdicts", "worker", "writer"],
        FLOWS,
    ),
    **dict.fromkeys(["active_tags", "families", "inquiry", "offspring", "returning"], FLOWS),
    "events": VALUES,
    **dict.fromkeys(["bus", "channel", "lines", "timeline", "witness"], FLOWS),
    **dict.fromkeys(["companions", "hooks"], FACES),
    **dict.fromkeys(
        ["duties", "firing", "retention", "scheduling", "serial", "stranded", "turns", "upkeep", "vanishing"], FLOWS
    ),
    **dict.fromkeys(["depending", "recording", "resolving", "spawning"], FLOWS),
    # "" is ringq/__init__.py
    **dict.fromkeys(["", "aio", "client", "connection", "harvest", "health", "listener", "maps", "renewal"], FACES),
    **dict.fromkeys(["server", "serving", "settle", "shutdown", "supervisor", "waiters"], FACES),
    **dict.fromkeys(["__main__", "bench", "cli", "contrib", "demo", "testing"], CLI),
}

# Inside a layer, parts do not know each other; except that who knows whom, because:
NEIGHBOURS = {
    ("kinds", "codec"): "a handler checks its arguments by its hints",
    ("kinds", "context"): "a handler may want one",
    ("context", "kin"): "a part of it",
    ("kin", "kinds"): "in whose form things are asked for",
    ("runner", "offspring"): "what its receipts carry",
    ("kinds", "settings"): "an App's settings are written as any",
    ("settings", "notation"): "how each is written",
    ("settings", "defaults"): "likewise, of those that are a table",
    ("defaults", "notation"): "how each option is written",
    ("kinds", "protocol"): "a submission is kept as it is sent",
    ("ring", "native"): "the face of the compiled part",
    ("machine", "cgroup"): "what limits the part of it that we have",
    ("sampler", "machine"): "what it looks at",
    ("sampler", "ring"): "it dies with the server as a worker does",
    ("dispatch", "backlog"): "its order",
    ("dispatch", "gate"): "its limits",
    ("dispatch", "merge"): "takes from several lanes at once by it",
    ("dispatch", "ranking"): "which lanes are the most urgent",
    ("dispatch", "sharing"): "how groups share",
    ("sharing", "fairness"): "how many each may have",
    ("sharing", "merge"): "takes from lanes by it",
    ("ranking", "lane"): "whose oldest task it looks at",
    ("duties", "traffic"): "one of them",
    **{
        ("traffic", part): "a part of it"
        for part in ("admission", "controls", "dispatch", "preempted", "preemption", "pressure_watch", "queues")
    },
    **{("traffic", part): "a part of it" for part in ("ranking", "rating", "steering", "writer", "committed")},
    ("traffic", "budgeting"): "a part of it",
    ("whereabouts", "dispatch"): "who would publish the task",
    ("whereabouts", "lane"): "who is before it there",
    ("whereabouts", "ranking"): "what it counts as",
    ("whereabouts", "traffic"): "what else decides",
    ("whereabouts", "turns"): "for whom it waits",
    ("dispatch", "stranded"): "what it leaves out",
    ("duties", "admission"): "tells it what was said of queues",
    ("duties", "dispatch"): "whether it has more to do at once",
    ("duties", "pool"): "whose workers it is about",
    ("duties", "registry"): "knows which kinds nobody has",
    ("duties", "retention"): "one of them",
    ("duties", "vanishing"): "one of them",
    ("retention", "committed"): "in its form",
    ("returning", "dispatch"): "stands before it",
    ("returning", "feed"): "has it put them where they belong",
    ("retention", "verdicts"): "in its form",
    ("retention", "writer"): "has it written",
    ("duties", "writer"): "has it written",
    ("vanishing", "committed"): "adds to it",
    ("vanishing", "dispatch"): "has met those that nobody serves",
    ("vanishing", "pool"): "whether there is newer code",
    ("vanishing", "registry"): "knows which kinds nobody has",
    ("vanishing", "verdicts"): "how many attempts each has had",
    ("vanishing", "writer"): "has it written",
    ("merge", "lane"): "what it takes from",
    ("backlog", "lane"): "what it is made of",
    ("dispatch", "lane"): "which of them are refused",
    ("feed", "lane"): "how much one asks for",
    ("changes", "rating"): "what clients ask for about rates",
    ("rating", "committed"): "in its form",
    ("rating", "verdicts"): "in its form",
    ("rating", "writer"): "has it written",
    ("merge", "gate"): "their limits",
    ("feed", "backlog"): "fills it",
    ("writer", "committed"): "what it gives",
    ("verdicts", "committed"): "adds to it",
    ("cancels", "committed"): "adds to it",
    ("cancelling", "cancels"): "has it end them, or note that they shall",
    ("cancelling", "committed"): "adds to it",
    ("cancelling", "verdicts"): "how many attempts each has had",
    ("callbacks", "committed"): "adds to it",
    ("callbacks", "verdicts"): "has it decide about those in vain",
    ("changes", "callbacks"): "one of them",
    ("expiry", "callbacks"): "whose time may be over too",
    ("changes", "cancelling"): "one of them",
    ("changes", "committed"): "adds to it",
    ("changes", "controlling"): "one of them",
    ("controlling", "admission"): "which kinds there are",
    ("controlling", "committed"): "adds to it",
    ("controls", "committed"): "what has become other",
    ("controls", "controlling"): "has it end pauses",
    ("steering", "committed"): "of what something was said in it",
    ("steering", "controls"): "what is true of it",
    ("steering", "dispatch"): "whom it tells",
    ("expiry", "cancelling"): "takes from workers what has not begun as it does",
    ("expiry", "committed"): "adds to it",
    ("expiry", "feed"): "knows when",
    ("expiry", "writer"): "has it written",
    ("expiry", "verdicts"): "how many attempts each has had",
    ("changes", "admission"): "the names of queues it takes",
    ("budgeting", "gate"): "tells it of them",
    ("queues", "gate"): "tells it of them",
    ("query", "records"): "what it makes of rows",
    ("query", "standing"): "a part of it",
    ("query", "active_tags"): "a part of it",
    ("query", "belonging"): "a part of it",
    ("belonging", "records"): "what it makes of rows",
    ("standing", "records"): "how an instant is read",
    ("verdicts", "queues"): "how long one cools down",
    ("changes", "scheduling"): "what clients ask for about schedules",
    ("scheduling", "admission"): "checks what they will submit",
    ("scheduling", "committed"): "adds to it",
    ("scheduling", "firing"): "makes their tasks by it",
    ("firing", "admission"): "as submissions of clients",
    ("firing", "committed"): "adds to it",
    ("firing", "intake"): "has it write them",
    ("changes", "verdicts"): "tells it of dead letters that live again",
    ("changes", "writer"): "parts of its transactions",
    ("writer", "verdicts"): "has it decide about attempts that failed",
    ("intake", "keys"): "has it decide about those that have one",
    ("writer", "keys"): "what they do to other tasks",
    ("writer", "admission"): "which kinds there are, for what receipts carry",
    ("writer", "recording"): "a part of it",
    ("writer", "spawning"): "a part of it",
    ("intake", "depending"): "what they depend on",
    ("recording", "committed"): "adds to it",
    ("recording", "keys"): "those of tasks that have ended are free",
    ("recording", "resolving"): "what comes of ends",
    ("recording", "spawning"): "what they carry",
    ("recording", "verdicts"): "what becomes of those that failed",
    ("resolving", "cancelling"): "how tasks are cancelled",
    ("resolving", "committed"): "adds to it",
    ("resolving", "verdicts"): "how many attempts each has had",
    ("spawning", "admission"): "checks what receipts carry as what clients submit",
    ("spawning", "callbacks"): "who completes it",
    ("spawning", "committed"): "adds to it",
    ("spawning", "depending"): "whether a child would wait for its parent",
    ("spawning", "intake"): "writes what receipts carry as what clients submit",
    ("spawning", "keys"): "what tasks with one need",
    ("spawning", "resolving"): "whose children may have ended",
    ("spawning", "verdicts"): "which tasks are cancelled",
    ("writer", "checkpoints"): "has it write what attempts keep",
    ("bounds", "checkpoints"): "answers workers, as it does",
    ("runner", "keeping"): "what its attempts report",
    ("context", "reporting"): "a part of it",
    ("reporting", "codec"): "a checkpoint is JSON",
    **{("answers", part): "a question about it" for part in ("families", "progressing", "whereabouts")},
    ("sleeping", "listener"): "whether a turn is needed",
    ("supervisor", "sleeping"): "between its turns",
    ("supervisor", "answers"): "what the listener is told to answer",
    ("writer", "upkeep"): "every few thousand receipts",
    **{("timetable", part): "a part of it" for part in ("admission", "expiry", "feed", "firing", "writer")},
    ("turns", "committed"): "what it follows",
    ("turns", "dispatch"): "stands before it",
    ("turns", "returning"): "by which tasks go back",
    ("turns", "serial"): "keeps them",
    ("together", "intake"): "says what it came to as that does",
    ("together", "keys"): "what those with one need",
    ("writer", "together"): "has it write small submissions",
    ("verdicts", "cancels"): "which tasks end, whatever their attempt came to",
    ("verdicts", "splitting"): "writes what it decides",
    ("pool", "berth"): "fills them",
    ("pool", "limits"): "when they are looked at",
    ("pool", "rotation"): "who is replaced next",
    ("limits", "berth"): "how far up its ladder each is",
    ("limits", "stops"): "what else shall end now",
    ("pool", "stops"): "hands it on to the limits",
    ("verdicts", "stops"): "for what the attempts ended that were asked to",
    ("preempted", "committed"): "adds to it",
    ("preempted", "verdicts"): "in its form",
    ("preempted", "writer"): "has it written",
    ("limits", "bounds"): "what else limits what runs",
    ("bounds", "berth"): "whose memory is looked at",
    ("pool", "bounds"): "what it knows of attempts that have ended",
    ("kinds", "notation"): "how a size is written",
    ("rotation", "berth"): "replaces what is in them",
    ("registry", "admission"): "tells it which kinds may be submitted",
    ("registry", "berth"): "what each worker has reported",
    ("registry", "dispatch"): "tells it which kinds nobody serves",
    ("registry", "feed"): "gives back what was published of them",
    ("reload", "settings"): "a project's directory is watched from below it too",
    ("reload", "ring"): "the watcher dies with the server as a worker does",
    ("renewal", "harvest"): "takes from the old segment what is valid",
    ("renewal", "settle"): "commits by it",
    ("shutdown", "harvest"): "takes the last receipts",
    ("shutdown", "listener"): "lets nobody in any more",
    ("supervisor", "renewal"): "when it is seen to",
    ("supervisor", "shutdown"): "when it begins, and whether it is over",
    ("pool", "echo"): "hears its workers by it",
    ("recover", "writer"): "reports the predecessor's attempts as its interruptions",
    ("log", "output"): "escapes as it does",
    ("process", "output"): "takes what comes out of its pipe apart",
    ("loading", "kinds"): "what it looks for is an App",
    ("worker", "inquiry"): "what its handlers want to know",
    ("runner", "calls"): "what it does with a chunk",
    ("worker", "runner"): "the part of its life between ready and leaving",
    ("launch", "recover"): "the names of the files a successor will look for",
    ("supervisor", "harvest"): "the half of it that takes from the ring",
    ("supervisor", "health"): "shows what meets there",
    ("listener", "connection"): "serves them",
    ("listener", "maps"): "who has which",
    ("listener", "waiters"): "whom to tell",
    ("waiters", "connection"): "one of those that wait",
    ("maps", "connection"): "a map belongs to one",
    ("serving", "supervisor"): "runs it",
    ("supervisor", "settle"): "commits by it",
    ("settle", "harvest"): "tells it what is durable",
    ("settle", "listener"): "tells clients what is durable",
    ("supervisor", "listener"): "flows and faces meet there",
    ("witness", "committed"): "what it tells of",
    ("witness", "dispatch"): "how many tasks wait where something was paused",
    ("witness", "steering"): "where running tasks belong",
    ("lines", "witness"): "what it writes down",
    **{("timeline", part): "in its form" for part in ("committed", "lines", "verdicts", "witness", "writer")},
    **{("bus", part): "a part of it" for part in ("channel", "lines", "timeline", "witness")},
    ("channel", "lines"): "has heads written that a filter looks at",
    ("channel", "witness"): "what it keeps",
    ("bus", "committed"): "what it hears of",
    ("bus", "dispatch"): "has it tell what is published",
    ("bus", "writer"): "whose transactions write the timeline",
    ("duties", "bus"): "the timeline is written in time",
    ("hooks", "client"): "reads events as any client",
    ("waiters", "maps"): "what both need of the store",
    ("supervisor", "companions"): "runs beside it",
    ("", "aio"): "the public names",
    ("", "client"): "the public names",
    ("aio", "client"): "the same client, awaited",
    ("", "server"): "the public names",
    ("server", "client"): "has one of its own database",
    ("cli", "demo"): "the verb `demo`",
    ("cli", "bench"): "the verb `bench`",
    ("__main__", "cli"): "python -m ringq",
}

LIBRARY_OF = {
    "cronsim": {"schedule"},
    "sqlalchemy": {"store"},
    "alembic": {"store"},
    "sqlite3": {"store"},
    "msgspec": {
        *("client", "codec", "events", "keys", "kinds", "pressure_watch", "protocol", "process", "recover"),
        "splitting",
    },
    "psutil": {"machine"},
    "pytest": {"testing"},  # the plugin: loaded by pytest itself, and by nobody else
    "click": {"cli"},
    "rich": {"cli", "demo"},
    "watchfiles": {"reload"},
    "matplotlib": {"bench"},  # its types alone: whoever draws brings the figure
}

MODULE_LINES_MAX = 350
FUNCTION_LINES_MAX = 60
LONGER_MODULES: dict[str, int] = {}
LONGER_FUNCTIONS: dict[str, int] = {}

NOT_OUR_WORDS = {
    *("ack", "acks", "base", "checkout", "common", "data", "fetch", "helper", "helpers", "info", "item", "items"),
    *("job", "jobs", "manager", "reserve", "util", "utils"),
}


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name below `ringq`, parsed."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if "migrations" not in parts:
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_bytes())
    return found


def imports(tree: ast.Module) -> Iterator[str]:
    """Every module named by an import, wherever in the module it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole path"
            assert node.module
            if node.module == "ringq":
                yield from (f"ringq.{a.name}" if a.name in LAYER_OF else "ringq" for a in node.names)
            else:
                yield node.module


def top(name: str) -> str:
    """The part of the package a dotted name belongs to: `store.tasks` is `store`."""
    return name.partition(".")[0]


def test_every_module_has_its_layer() -> None:
    assert not {top(name) for name in modules()} - set(LAYER_OF), "give these a layer in LAYER_OF"


def test_the_list_of_neighbours_is_needed() -> None:
    known = {
        (top(name), top(target.removeprefix("ringq").removeprefix(".")))
        for name, tree in modules().items()
        for target in imports(tree)
    }
    assert known >= NEIGHBOURS.keys()


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_point_downwards(name: str) -> None:
    for target in imports(modules()[name]):
        if top(target) != "ringq":
            continue
        whom, who = top(target.removeprefix("ringq").removeprefix(".")), top(name)
        if who == whom or (who, whom) in NEIGHBOURS or (LAYER_OF[who] == LAYER_OF[whom] == VALUES):
            continue
        assert LAYER_OF[whom] < LAYER_OF[who], f"{who} may not import {whom}"


def test_values_have_no_cycles() -> None:
    graph = {
        name: {target.removeprefix("ringq.") for target in imports(tree) if target.startswith("ringq.")}
        for name, tree in modules().items()
        if LAYER_OF[top(name)] == VALUES
    }
    while leaves := {name for name, targets in graph.items() if not targets & graph.keys()}:
        graph = {name: targets for name, targets in graph.items() if name not in leaves}
    assert not graph, "these import each other in a circle"


@pytest.mark.parametrize("name", sorted(modules()))
def test_each_foreign_library_has_its_place(name: str) -> None:
    for target in imports(modules()[name]):
        places = LIBRARY_OF.get(top(target))
        assert places is None or top(name) in places, f"{top(target)} belongs to {places}"


def test_no_library_but_the_declared_ones() -> None:
    import sys

    for name, tree in modules().items():
        for target in imports(tree):
            known = sys.stdlib_module_names | LIBRARY_OF.keys() | {"ringq"}
            assert top(target) in known, f"{name} imports {target}"


def test_the_worker_knows_no_store_and_the_gate_does_no_io() -> None:
    forbidden = {"worker": {"ringq.store"}, "gate": {"os", "time", "socket"}, "lifecycle": {"os", "time"}}
    for name, words in forbidden.items():
        assert not [t for t in imports(modules()[name]) if t in words or t.startswith("ringq.store")]


def test_what_comes_along_stands_on_the_public_face() -> None:
    for name, tree in modules().items():
        if top(name) == "contrib":
            ours = [target for target in imports(tree) if top(target) == "ringq"]
            assert all(target == "ringq" or target.startswith("ringq.contrib.") for target in ours), name


def test_only_the_store_speaks_sql() -> None:
    sql = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|CREATE (TABLE|INDEX)|PRAGMA|BEGIN|COMMIT|ROLLBACK)\b")
    for name, tree in modules().items():
        if top(name) != "store":
            texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
            assert not [text for text in texts if sql.match(text)], f"SQL in {name}"


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method of a module."""
    yield from (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("name", sorted(modules()))
def test_modules_and_functions_stay_short(name: str) -> None:
    tree = modules()[name]
    last = max((node.end_lineno or 0 for node in tree.body), default=0)
    assert last <= LONGER_MODULES.get(name, MODULE_LINES_MAX)
    for node in functions(tree):
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        limit = LONGER_FUNCTIONS.get(f"{name}.{node.name}", FUNCTION_LINES_MAX)
        assert length <= limit, f"{name}.{node.name} has {length} lines"


def test_the_lists_of_long_things_are_needed() -> None:
    lengths = {name: max((n.end_lineno or 0 for n in t.body), default=0) for name, t in modules().items()}
    assert all(limit >= lengths[name] > MODULE_LINES_MAX for name, limit in LONGER_MODULES.items())
    spans = {
        f"{name}.{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for name, tree in modules().items()
        for node in functions(tree)
    }
    assert all(limit >= spans[name] > FUNCTION_LINES_MAX for name, limit in LONGER_FUNCTIONS.items())


def names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every name the module gives: classes, functions, arguments, variables, attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno


@pytest.mark.parametrize("name", sorted(modules()))
def test_one_word_per_idea(name: str) -> None:
    for given, line in [(name, 0), *names(modules()[name])]:
        words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", given)
        wrong = {word.lower() for word in words} & NOT_OUR_WORDS
        assert not wrong, f"{name}:{line} {given}: say what it is in our words, not {wrong}"


@pytest.mark.parametrize("name", sorted(modules()))
def test_what_is_public_is_described(name: str) -> None:
    tree = modules()[name]
    assert not tree.body or ast.get_docstring(tree), "the first line names the module's place in the way of a task"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name[0] != "_":
            assert ast.get_docstring(node), f"{name}.{node.name} has no docstring"


def test_exports_are_sorted() -> None:
    def place(name: str) -> tuple[int, str]:
        return (0 if name.isupper() else 1 if name[0].isupper() else 2), name

    for name, tree in modules().items():
        for node in tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                exported = ast.literal_eval(node.value)
                assert exported == sorted(set(exported), key=place), name


@pytest.mark.parametrize("tree", ["unit", "property", "integration"])
def test_fast_tests_do_not_sleep(tree: str) -> None:
    for path in (ROOT / "tests" / tree).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            asleep = isinstance(node, ast.Call) and ast.unparse(node.func) in ("time.sleep", "sleep")
            assert not asleep, f"{path.name}:{node.lineno} sleeps"  # type: ignore[attr-defined]


def test_nothing_is_left_for_later() -> None:
    marker = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"]) + r")\b")
    trees = ["ringq", "tests", "perf", "scripts", "docs", ".ci"]
    kinds = {".py", ".pyi", ".c", ".h", ".md", ".toml", ""}
    paths = [path for tree in trees for path in (ROOT / tree).rglob("*") if path.is_file() and path.suffix in kinds]
    for path in [*paths, ROOT / "README.md", ROOT / "pyproject.toml"]:
        if path.exists() and "__pycache__" not in path.parts:
            found = marker.search(path.read_text(errors="replace"))
            assert not found, f"{path.relative_to(ROOT)}: {found and found[0]}"

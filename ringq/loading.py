"""Edge: the App or Task that "module:attribute" names, the name of an App; says in the user's files what is wrong."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import sys
import traceback
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from ringq.errors import AppImportError
from ringq.kinds import App, Task
from ringq.spelling import meant

SCRIPT_MODULE = "__ringq_main__"
"""The name under which a script is imported: its `if __name__ == "__main__":` is false, pickling finds it."""

_MAIN = ("__main__", "__mp_main__")  # the second one is multiprocessing's, in children that it spawns
_HANDED_OVER = "ringq:"
_MISSING = object()
_importing: str | None = None


def load_app(target: str) -> App:
    """Import "module:attribute" or "path/to/script.py:attribute": an App, or a Task, whose App it is.

    Raises whatever the module raises, or AppImportError with one line if there is no such module or attribute.
    """
    _, found = _load(target, "app", "photos:app")
    return found.app if isinstance(found, Task) else found


def load_task(target: str) -> Task[..., Any]:
    """The Task that "module:attribute" or "path/to/script.py:attribute" names; raises what `load_app` raises."""
    module, found = _load(target, "task", "photos:thumbnail")
    if isinstance(found, Task):
        return found
    place, _, attribute = target.rpartition(":")
    tasks = [name for name, value in vars(module).items() if isinstance(value, Task)]
    example = f", for example {place}:{tasks[0]}" if tasks else ""
    raise AppImportError(f"{attribute} in {place} is an App: name one of its tasks{example}")


def importing() -> str | None:
    """The module or script whose import `load_app` has begun and not ended: its top level runs at this moment."""
    return _importing


def refuse_while_importing() -> None:
    """Raise AppImportError if a worker is importing the caller: each would do again what the program does."""
    if _importing is not None:
        raise AppImportError(
            f"{_importing} submits tasks when it is imported, and workers import it: put "
            '`if __name__ == "__main__":` around that'
        )


def line_of(target: str, error: BaseException) -> str:
    """Why `target` could not be loaded, in one line."""
    return str(error) if isinstance(error, AppImportError) else f"{target}: {type(error).__name__}: {error}"


def own_frames(error: BaseException) -> list[str]:
    """Where in the user's files it happened; nothing when the module was not found at all."""
    found = traceback.TracebackException.from_exception(error, compact=True)
    foreign = (f"{Path(__file__).parent}/", str(Path(importlib.__file__ or "").parent), "<frozen")
    own = [frame for frame in found.stack if not frame.filename.startswith(foreign)]
    return "".join(traceback.format_list(own)).splitlines()


# -- from a name to the object --------------------------------------------------------------------


def _load(target: str, what: str, example: str) -> tuple[ModuleType, App | Task[..., Any]]:
    global _importing  # noqa: PLW0603 - there is one import path, and one import at a time
    place, _, attribute = target.rpartition(":")
    if not place or not attribute.isidentifier():
        raise AppImportError(f"{target!r} names no {what}: write module:attribute, for example {example}")
    _importing = place
    is_handed_over = _take_path_over()
    try:
        if _is_script(place):
            module = _import_script(place)
        else:
            module = _import_module(place, os.getcwd() if not is_handed_over else None)
    finally:
        _importing = None
    found = getattr(module, attribute, _MISSING)
    if found is _MISSING:
        raise AppImportError(_no_attribute(place, module, attribute))
    if not isinstance(found, (App, Task)):
        raise AppImportError(f"{attribute} in {place} is a {type(found).__name__}, not a ringq.App")
    return module, found


def _is_script(place: str) -> bool:
    return place.endswith(".py") or "/" in place


def _import_script(place: str) -> ModuleType:
    file = os.path.abspath(place)
    if not os.path.isfile(file):
        raise AppImportError(f"{file} is not a file: name the script by its path, as in path/to/photos.py:app")
    _put_first(os.path.dirname(os.path.realpath(file)))  # as `python script.py` does
    loader = SourceFileLoader(SCRIPT_MODULE, file)  # named, since a script may have no suffix
    spec = importlib.util.spec_from_file_location(SCRIPT_MODULE, file, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[SCRIPT_MODULE] = module  # before it runs: dataclasses and hints look themselves up there
    loader.exec_module(module)
    return module


def _import_module(name: str, folder: str | None) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise AppImportError(f"{name!r} is no module: write photos:app, or a script's path, ./my-photos.py:app")
    if folder is not None:
        _put_first(folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name
        if missing is None or not f"{name}.".startswith(f"{missing}."):
            raise  # something that the module itself imports
    raise AppImportError(_not_found(missing))


def _put_first(folder: str) -> None:
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)


def _not_found(name: str) -> str:
    parent, _, last = name.rpartition(".")
    places = getattr(sys.modules.get(parent), "__path__", None) if parent else [os.getcwd()]
    known = [module.name for module in pkgutil.iter_modules(places)] if places is not None else []
    near = meant(last, known)
    if parent:
        return f"{parent} has no module {last!r}{near}"
    advice = near or f": run in its folder, or name its file, path/to/{last}.py:app"
    return f"{name} is not found in {os.getcwd()}{advice}"


def _no_attribute(place: str, module: ModuleType, attribute: str) -> str:
    known = [name for name, value in vars(module).items() if isinstance(value, App)]
    if known:
        tasks = [name for name, value in vars(module).items() if isinstance(value, Task)]
        advice = meant(attribute, [*known, *tasks]) or f"; its App is {known[0]}"
    elif module.__name__ == SCRIPT_MODULE:
        advice = ' when it is imported: make the App outside of `if __name__ == "__main__":`'
    else:
        advice = f', nor any ringq.App: make one, {attribute} = ringq.App("{place.rpartition(".")[2]}")'
    return f"{place} has no attribute {attribute!r}{advice}"


# -- from the object to a name --------------------------------------------------------------------


def name_of(app: App) -> str:
    """The "module:attribute" or "/path/to/script.py:attribute" by which another process can import this App.

    Raises AppImportError, saying what to do, for one that no module holds or whose module is no file.
    """
    for name, attribute in _places(app):
        importable = _importable(name)
        if importable is not None:
            return f"{importable}:{attribute}"
    if "ipykernel" in sys.modules:
        raise AppImportError(
            f"workers cannot import {app!r} from a notebook: put it into a file (begin its cell with "
            f"`%%writefile {app.name}.py`), and import it from there"
        )
    raise AppImportError(
        f"workers cannot import {app!r}, made in a function, an interactive session, by -c or from standard input: "
        "put it at the top level of a file, and import it from there"
    )


def _places(app: App) -> Iterator[tuple[str, str]]:
    """Where the App can be had: the module that made it first, modules that were given it next, a script last."""
    names = [app.module, *(name for name in sys.modules if name not in _MAIN), *_MAIN]
    for name in names:
        module = sys.modules.get(name)
        if isinstance(module, ModuleType):
            held = object.__getattribute__(module, "__dict__")  # a lazy module would be loaded by vars()
            for attribute, value in list(held.items()):
                if value is app and attribute.isidentifier():
                    yield name, attribute


def _importable(name: str) -> str | None:
    if name not in _MAIN:
        return name
    main = sys.modules[name]
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name not in _MAIN:  # python -m package.module
        return str(spec.name)
    file = getattr(main, "__file__", None)
    return os.path.abspath(file) if file and os.path.isfile(file) else None


# -- the import path of the host program ----------------------------------------------------------


def import_path() -> dict[str, str]:
    """Environment in which another interpreter finds the modules that this one finds, in the same order.

    PYTHONSAFEPATH, because `python -m` would put the working directory before all that; its value tells the worker
    to take it back, so that it does not reach what handlers start.
    """
    entries = [os.path.abspath(entry) for entry in sys.path if os.path.abspath(entry) not in _own_places()]
    passed = [entry for entry in dict.fromkeys(entries) if os.pathsep not in entry]
    safe = os.environ.get("PYTHONSAFEPATH", "").removeprefix(_HANDED_OVER)
    return {"PYTHONPATH": os.pathsep.join(passed), "PYTHONSAFEPATH": _HANDED_OVER + safe}


def _own_places() -> set[str]:
    """What every interpreter like this one has by itself; a handler's other Python must not be given it."""
    import site  # noqa: PLC0415 - only a host program needs these
    import sysconfig  # noqa: PLC0415

    library = sysconfig.get_paths()
    number = f"{sys.version_info.major}{sys.version_info.minor}"
    zipped = {os.path.join(prefix, sys.platlibdir, f"python{number}.zip") for prefix in (sys.base_prefix, sys.prefix)}
    return {
        *(library[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        os.path.join(library["platstdlib"], "lib-dynload"),
        os.path.join(library["stdlib"], "lib-dynload"),
        *zipped,
        *site.getsitepackages([sys.prefix, sys.base_prefix]),
        site.getusersitepackages(),
    }


def _take_path_over() -> bool:
    """Whether the import path is that of a host program, to which the working directory is not added."""
    value = os.environ.get("PYTHONSAFEPATH", "")
    if not value.startswith(_HANDED_OVER):
        return False
    before = value.removeprefix(_HANDED_OVER)
    if before:
        os.environ["PYTHONSAFEPATH"] = before
    else:
        del os.environ["PYTHONSAFEPATH"]
    return True

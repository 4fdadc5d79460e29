"""What "module:attribute" means, in both directions; each case in an interpreter of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

APP = """
import dataclasses
import ringq

app = ringq.App("photos")

@dataclasses.dataclass
class Size:
    width: int
    note: "Note | None" = None

@dataclasses.dataclass
class Note:
    text: str

@app.task
def thumbnail(size: Size) -> Size:
    return size
"""

LOAD = """
import sys
from ringq.loading import *
try:
    print(repr({call}))
except AppImportError as error:
    print(error)
except Exception as error:
    print(line_of({target!r}, error))
    print(*own_frames(error), sep="\\n")
"""


def run(folder: Path, source: str, **environment: str) -> str:
    """What a program prints, started in `folder` but not from there."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", source], cwd=folder, env={**os.environ, **environment}, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.rstrip("\n")


def load(folder: Path, target: str, function: str = "load_app", **environment: str) -> str:
    return run(folder, LOAD.format(call=f"{function}({target!r})", target=target), **environment)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos.py").write_text(APP)
    (tmp_path / "gallery").mkdir()
    (tmp_path / "gallery" / "__init__.py").write_text("")
    (tmp_path / "gallery" / "tasks.py").write_text(APP)
    return tmp_path


@pytest.mark.parametrize(
    "target", ["photos:app", "gallery.tasks:app", "photos.py:app", "./photos.py:app", "photos:thumbnail"]
)
def test_an_app_is_found_by_module_by_file_and_by_its_task(folder: Path, target: str) -> None:
    assert load(folder, target) == "<app photos: 1 kinds>"


def test_a_task_is_found_as_itself_and_an_app_is_none(folder: Path) -> None:
    assert load(folder, "photos:thumbnail", "load_task").startswith("<task photos::thumbnail at ")
    line = "app in photos is an App: name one of its tasks, for example photos:thumbnail"
    assert load(folder, "photos:app", "load_task") == line
    line = "'photos' names no task: write module:attribute, for example photos:thumbnail"
    assert load(folder, "photos", "load_task") == line


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("photos:ap", "photos has no attribute 'ap'; did you mean app?"),
        ("photos:server", "photos has no attribute 'server'; its App is app"),
        ("photos:Size", "Size in photos is a type, not a ringq.App"),
        ("photo:app", "photo is not found in {folder}; did you mean photos?"),
        ("zzz:app", "zzz is not found in {folder}: run in its folder, or name its file, path/to/zzz.py:app"),
        ("gallery.task:app", "gallery has no module 'task'; did you mean tasks?"),
        ("photos.tasks:app", "photos has no module 'tasks'"),
        ("photos", "'photos' names no app: write module:attribute, for example photos:app"),
        ("photos:", "'photos:' names no app: write module:attribute, for example photos:app"),
        ("photos:app.task", "'photos:app.task' names no app: write module:attribute, for example photos:app"),
        ("my-photos:app", "'my-photos' is no module: write photos:app, or a script's path, ./my-photos.py:app"),
        ("gone.py:app", "{folder}/gone.py is not a file: name the script by its path, as in path/to/photos.py:app"),
        ("gallery:app", "gallery has no attribute 'app', nor any ringq.App: make one, app = ringq.App(\"gallery\")"),
    ],
)
def test_a_name_that_is_wrong_is_one_line_that_says_what_is_near(folder: Path, target: str, line: str) -> None:
    assert load(folder, target) == line.format(folder=folder)


def test_what_the_module_itself_cannot_import_keeps_its_own_frames(folder: Path) -> None:
    (folder / "broken.py").write_text("import os\nimport nonsense_that_is_not_there\n")
    told = load(folder, "broken:app").splitlines()
    assert told[0] == "broken:app: ModuleNotFoundError: No module named 'nonsense_that_is_not_there'"
    assert f'  File "{folder}/broken.py", line 2, in <module>' in told
    assert not [line for line in told if "importlib" in line or "loading.py" in line]


def test_a_script_is_imported_with_its_guard_false_its_folder_first_and_its_name_known(folder: Path) -> None:
    scripts = folder / "scripts"
    scripts.mkdir()
    (scripts / "beside.py").write_text("here = 'beside'\n")
    (scripts / "run").write_text(
        APP + "import beside, pickle, sys\nassert pickle.loads(pickle.dumps(Size(1))) == Size(1)\n"
        "assert sys.path[0] == __file__.rpartition('/')[0]\n"
        "if __name__ == '__main__':\n    raise SystemExit('the guard is true')\n"
    )
    assert load(folder, "scripts/run:app") == "<app photos: 1 kinds>"


def test_an_app_made_under_the_guard_says_so(folder: Path) -> None:
    (folder / "script.py").write_text("import ringq\nif __name__ == '__main__':\n    app = ringq.App('a')\n")
    advice = ' when it is imported: make the App outside of `if __name__ == "__main__":`'
    assert load(folder, "script.py:app") == f"script.py has no attribute 'app'{advice}"


def test_the_working_directory_is_not_searched_when_a_host_handed_its_path_over(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "photos.py").write_text("raise RuntimeError('the wrong photos')\n")
    assert "the wrong photos" in load(other, "photos:app", PYTHONPATH=str(folder))
    handed = {"PYTHONPATH": str(folder), "PYTHONSAFEPATH": "ringq:"}
    assert load(other, "photos:app", **handed) == "<app photos: 1 kinds>"
    told = run(other, "from ringq.loading import *; load_app('photos:app'); print(dict(os.environ))", **handed)
    assert "PYTHONSAFEPATH" not in told
    again = {**handed, "PYTHONSAFEPATH": "ringq:1"}
    told = run(other, "from ringq.loading import *; load_app('photos:app'); print(dict(os.environ))", **again)
    assert "'PYTHONSAFEPATH': '1'" in told


NAME = "import sys; sys.path[:0] = ['{folder}', '']\nfrom ringq.loading import name_of\nimport ringq\n{source}"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import photos; print(name_of(photos.app))", "photos:app"),
        ("from photos import app; print(name_of(app))", "photos:app"),
        ("import gallery.tasks as t; print(name_of(t.app))", "gallery.tasks:app"),
        ("from photos import thumbnail; print(name_of(thumbnail.app))", "photos:app"),
    ],
)
def test_an_app_is_named_by_the_module_that_made_it(folder: Path, source: str, name: str) -> None:
    assert run(folder, NAME.format(folder=folder, source=source)) == name


def test_an_app_made_by_a_function_elsewhere_is_named_by_the_module_that_holds_it(folder: Path) -> None:
    (folder / "factory.py").write_text("import ringq\ndef make():\n    return ringq.App('made')\n")
    (folder / "holder.py").write_text("from factory import make\napp = make()\n")
    assert run(folder, NAME.format(folder=folder, source="import holder; print(name_of(holder.app))")) == "holder:app"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("app = ringq.App('a')", "put it at the top level of a file, and import it from there"),
        ("from factory import make\napp = make()", "made in a function"),
        ("sys.modules['ipykernel'] = sys; app = ringq.App('a')", "begin its cell with `%%writefile a.py`"),
    ],
)
def test_an_app_that_no_file_holds_says_where_to_put_it(folder: Path, source: str, says: str) -> None:
    (folder / "factory.py").write_text("import ringq\ndef make():\n    return ringq.App('a')\n")
    tail = "\ntry:\n    name_of(app)\nexcept ringq.AppImportError as error:\n    print(error)"
    told = run(folder, NAME.format(folder=folder, source=source + tail))
    assert told.startswith("workers cannot import <app a: 0 kinds>")
    assert says in told
    assert "\n" not in told


def test_the_path_handed_over_is_what_a_fresh_interpreter_lacks(folder: Path) -> None:
    source = (
        "import sys\nfrom ringq.loading import import_path\nsys.path.insert(0, '')\nsys.path.append('/some/where')\n"
        "print(import_path()['PYTHONPATH'])"
    )
    entries = run(folder, source).split(":")
    assert entries[0] == str(folder)
    assert entries[-1] == "/some/where"
    assert not [entry for entry in entries if entry.endswith("site-packages") or "/lib/python3" in entry]


UNGUARDED = """
import ringq

app = ringq.App("unguarded")


@app.task
def double(n: int) -> int:
    return 2 * n


{line}
"""


@pytest.mark.parametrize(
    "line",
    ['ringq.connect("x.db").submit(double, {"n": 1})', 'list(ringq.connect("x.db").map(double, [1]))'],
    ids=["submit", "map"],
)
def test_a_script_that_submits_at_its_top_level_is_refused_by_workers(tmp_path: Path, line: str) -> None:
    (tmp_path / "unguarded.py").write_text(UNGUARDED.format(line=line))
    told = load(tmp_path, "unguarded.py:app")
    assert told == (
        "unguarded.py submits tasks when it is imported, and workers import it: "
        'put `if __name__ == "__main__":` around that'
    )
    assert not (tmp_path / "x.db").exists()

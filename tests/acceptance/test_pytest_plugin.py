"""The pytest plugin as the tests of an application use it, in a pytest of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = "pytester"

PLUGIN = ("-p", "ringq.testing.plugin")  # also where ringq was installed before it had one
APP = """
import os, ringq
app = ringq.App("photos")

@app.task
def thumbnail(path: str) -> int:
    return os.getpid()
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(photos=APP)
    pytester.makeini("[pytest]\nringq_app = photos:app")
    return pytester


def test_every_test_has_a_database_of_its_own_also_in_parallel(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import os, threading, pytest, ringq
        from photos import thumbnail

        @pytest.mark.parametrize("number", range(12))
        def test_alone(ringq_inline, number):
            handle = thumbnail.submit(f"{number}.jpg")
            assert handle.id == 1
            assert [task.result for task in ringq_inline.run_all()] == [str(os.getpid())]
            assert len(ringq_inline.submitted()) == 1
            with open("places", "a") as places:
                places.write(f"{ringq_inline.database}\\n")

        def test_a_thread_without_a_client_has_it_by_the_environment(ringq_inline):
            thread = threading.Thread(target=thumbnail.submit, args=["a.jpg"])
            thread.start()
            thread.join()
            ringq_inline.assert_submitted(thumbnail, path="a.jpg")

        def test_afterwards_nobody_is_bound():
            with pytest.raises(ringq.NotBound):
                thumbnail.submit("a.jpg")
        """
    )
    project.runpytest_subprocess(*PLUGIN, "-n", "2", "-q").assert_outcomes(passed=14)
    assert len(set((project.path / "places").read_text().split())) == 12


def test_a_real_server_runs_tasks_in_a_process_of_its_own(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import os
        from photos import thumbnail

        def test_a_server(ringq_server):
            assert thumbnail.submit("a.jpg").result(timeout=60) not in (os.getpid(), ringq_server.pid)

        def test_both(ringq_server, ringq_inline):
            assert thumbnail.submit("a.jpg").result(timeout=60) == os.getpid()
            assert ringq_server.client.query.tasks() == []
        """
    )
    project.runpytest_subprocess(*PLUGIN, "-q").assert_outcomes(passed=2)


def test_a_fixture_of_the_project_names_the_app(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(photos=APP)
    pytester.makeconftest(
        """
        import pytest, photos

        @pytest.fixture
        def ringq_app():
            return photos.app
        """
    )
    pytester.makepyfile("def test_it(ringq_inline): assert ringq_inline.app.name == 'photos'")
    pytester.runpytest_subprocess(*PLUGIN, "-q").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("ini", "told"),
    [("", "*no app is named: set `ringq_app*"), ("ringq_app = nowhere:app", "*ringq_app: *nowhere*")],
    ids=["none", "unknown"],
)
def test_a_project_that_names_no_app_is_told_how(pytester: pytest.Pytester, ini: str, told: str) -> None:
    pytester.makeini(f"[pytest]\n{ini}\n")
    pytester.makepyfile("def test_it(ringq_inline): pass")
    result = pytester.runpytest_subprocess(*PLUGIN, "-q")
    assert result.ret != 0
    result.stdout.fnmatch_lines([told])


def test_a_failed_assertion_shows_what_was_submitted(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        from photos import thumbnail

        def test_it(ringq_inline):
            thumbnail.submit("a.jpg")
            ringq_inline.assert_submitted(thumbnail, path="b.jpg")
        """
    )
    result = project.runpytest_subprocess(*PLUGIN, "-q")
    result.stdout.fnmatch_lines(["*photos::thumbnail(path='b.jpg') was not submitted*", "*1: *path='a.jpg'), pending*"])


def test_loading_the_plugin_loads_nothing_of_weight(tmp_path: Path) -> None:
    code = (
        "import sys, ringq.testing.plugin\n"
        "heavy = {'sqlalchemy', 'msgspec', 'sqlite3', 'ringq.client', 'ringq.kinds', 'ringq.store'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ}, check=True)

"""How settings are written, where their file is found, what is said about a wrong one."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import click
import pytest

from ringq import errors
from ringq.cli import command, options
from ringq.config import Config
from ringq.settings import SETTINGS, project, stranger_warnings

SHARED = "[project]\nname = 'photos'\n\n[tool.ringq]\n"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def shown(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    """What `ringq config show --origin --json` answers."""
    assert command.run(["config", "show", *args, "--origin", "--json"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


@pytest.mark.parametrize(
    ("name", "written", "value"),
    [
        ("workers", "auto", 0),
        ("workers", "3", 3),
        ("workers", 3, 3),
        ("queues", "", ()),
        ("queues", "default,bulk:2", (("default", None), ("bulk", 2))),
        ("queues", ["default", "bulk:2"], (("default", None), ("bulk", 2))),
        ("queues", {"default": True, "bulk": 2}, (("default", None), ("bulk", 2))),
        ("drain_timeout", "500ms", 0.5),
        ("drain_timeout", 2, 2.0),
        ("drain_timeout", 1.5, 1.5),
        ("recycle_tasks", "1000", 1000),
        ("recycle_tasks", 0, 0),
        ("recycle_rss", "512MB", 512),
        ("recycle_rss", "512MiB", 512),
        ("recycle_rss", "2g", 2048),
        ("recycle_rss", " 1.5 GB ", 1536),
        ("recycle_rss", 300, 300),
        ("recycle_rss", "2048k", 2),
        ("recycle_age", "6h", 21600.0),
        ("retention", "30d", 2_592_000.0),
        ("dead_retention", " Forever ", math.inf),
        ("timeline", "All", "all"),
        ("timeline_retention", "forever", math.inf),
        ("unknown_kind_wait", "0", 0.0),
        ("preempt_priority", "0", 0),
        ("worker_prefix", " photos ", "photos"),
        ("worker_version", 3, "3"),
        ("pressure", "ON", "background 0.5 normal 0.75 floor 60s"),
        ("pressure", False, "off"),
        ("pressure", "normal 0.8 background 0.4 floor 1m", "background 0.4 normal 0.8 floor 60s"),
        ("pressure_sources", "", ()),
        ("pressure_sources", "plant:battery, plant.more:Fan", ("plant:battery", "plant.more:Fan")),
        ("pressure_sources", ["plant:battery"], ("plant:battery",)),
        ("disk_bandwidth", "100MB", 100.0),
        ("disk_bandwidth", 0.5, 0.5),
        ("network_bandwidth", "1.5GB/s", 1536.0),
        ("reload", True, True),
        ("reload", "Yes", True),
        ("quiet", "off", False),
        ("log_format", "json", "json"),
        ("log_level", "DEBUG", "debug"),
        ("shm_dir", "/dev/shm", Path("/dev/shm")),
        ("app", "photos.tasks:app", "photos.tasks:app"),
        ("db", "a.db", Path("a.db")),
    ],
)
def test_a_setting_is_read(name: str, written: object, value: object) -> None:
    assert SETTINGS[name].read(written) == value


@pytest.mark.parametrize(
    ("name", "written", "says"),
    [
        ("workers", 0, "0 is neither auto nor 1 to 255"),
        ("workers", True, "True is neither auto"),
        ("workers", "²", "neither auto"),
        ("workers", 2.0, "neither auto"),
        ("queues", 3, "no list of queues"),
        ("queues", ["a", 2], "no list of queues"),
        ("queues", {"a": False}, "no number of tasks"),
        ("queues", {"a": "b"}, "no number of tasks"),
        ("queues", "a,a:2", "'a' is named twice"),
        ("durability", "some", "'some' is not full or normal"),
        ("durability", ["full"], "not full or normal"),
        ("drain_timeout", "soon", "500ms, 15m, 2h"),
        ("drain_timeout", float("nan"), "no span"),
        ("drain_timeout", float("inf"), "no span"),
        ("drain_timeout", -1, "no span of 0 or more"),
        ("drain_timeout", "2d", "expected 0 to 86400, got 172800.0"),
        ("retention", "0", "is not 1s to 36500d, nor forever"),
        ("dead_retention", "37000d", "is not 1s to 36500d, nor forever"),
        ("timeline", "some", "is not none, notable or all"),
        ("timeline_retention", "0", "is not 1s to 36500d, nor forever"),
        ("unknown_kind_wait", "never", "500ms, 15m, 2h, or forever"),
        ("preempt_priority", "256", "0 (most urgent) to 255"),
        ("preempt_priority", "high", "0 (most urgent) to 255"),
        ("worker_prefix", "two words", "expected at most 64 characters without space or comma"),
        ("worker_id", "x" * 65, "expected at most 64 characters"),
        ("worker_id", [], "is no word"),
        ("recycle_tasks", -1, "no whole number"),
        ("recycle_tasks", 1.5, "no whole number"),
        ("recycle_tasks", 1 << 40, "expected 0 (never) to"),
        ("recycle_rss", "512 bananas", "512MB, 2GB"),
        ("recycle_rss", "1kb", "no size"),
        ("recycle_rss", "", "no size"),
        ("recycle_rss", "999999999GB", "expected 0 (never) to"),
        ("pressure", "background 0.8 normal 0.5", "is out of order: what is less urgent must stop first"),
        ("pressure", 0.5, "'0.5' is no policy; write on, off or e.g."),
        ("pressure_sources", "plant", "'plant' names no source; write its module and attribute, e.g. plant:battery"),
        ("pressure_sources", "a:b,a:b", "'a:b' is named twice"),
        ("pressure_sources", 3, "3 is no list of sources"),
        ("disk_bandwidth", "fast", "'fast' is no bandwidth; write MiB a second or e.g. 100MB"),
        ("disk_bandwidth", -1, "no bandwidth"),
        ("network_bandwidth", "99999999GB", "expected 0 (any) to 1048576"),
        ("reload", 1.5, "neither true nor false"),
        ("quiet", "maybe", "neither true nor false"),
        ("app", "photos.py", "write e.g. photos:app"),
        ("app", 3, "write e.g. photos:app"),
        ("db", "", "no path"),
        ("db", "a\0b", "no path"),
        ("db", 3, "no path"),
    ],
)
def test_a_wrong_value_is_told_with_what_is_expected(name: str, written: object, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        SETTINGS[name].read(written)


@pytest.mark.parametrize("value", ["workers", "queues", "drain_timeout", "recycle_rss"])
def test_what_is_shown_can_be_written_into_the_file(value: str) -> None:
    examples = {"workers": "auto", "queues": "default,bulk:2", "drain_timeout": 30.0, "recycle_rss": 512}
    one = SETTINGS[value]
    assert one.plain(one.read(examples[value])) == examples[value]


def test_every_setting_is_a_field_of_config_and_a_flag_of_serve() -> None:
    from ringq.cli.serve import serve

    for one in SETTINGS.values():
        assert one.field in Config.__dataclass_fields__
        assert [p for p in serve.params if p.name == one.field and p.envvar == one.variable]


# -- which file --------------------------------------------------------------------------------


def test_no_file_no_settings() -> None:
    assert project() is None


def test_the_nearest_file_counts_and_a_foreign_pyproject_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text(f"{SHARED}workers = 3\n")
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "a" / "pyproject.toml").write_text("[tool.ruff]\nline-length = 3  # ringq is not asked\n")
    (inner / "pyproject.toml").write_text("this is [[ broken and none of our business")
    monkeypatch.chdir(inner)
    found = project()
    assert found is not None
    assert found.path == tmp_path / "pyproject.toml"
    assert found.values == {"workers": 3}
    assert found.place("workers") == f"{tmp_path / 'pyproject.toml'}:5"
    (tmp_path / "a" / "ringq.toml").write_text("workers = 4\n")
    nearer = project()
    assert nearer is not None
    assert nearer.values == {"workers": 4}


def test_ringq_toml_wins_over_an_empty_table_and_an_empty_one_loses(tmp_path: Path) -> None:
    (tmp_path / "ringq.toml").write_text("workers = 4\n")
    (tmp_path / "pyproject.toml").write_text(SHARED)
    found = project()
    assert found is not None
    assert found.path.name == "ringq.toml"
    (tmp_path / "ringq.toml").write_text("# nothing\n")
    (tmp_path / "pyproject.toml").write_text(f"{SHARED}workers = 5\n")
    found = project()
    assert found is not None
    assert found.values == {"workers": 5}


def test_two_files_with_settings_in_one_directory_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "ringq.toml").write_text("workers = 4\n")
    (tmp_path / "pyproject.toml").write_text(f"{SHARED}workers = 5\n")
    with pytest.raises(errors.InvalidConfig, match=r"both .*ringq\.toml and \[tool\.ringq\] in .* one of the two"):
        project()


def test_a_database_is_relative_to_the_file_and_keys_may_have_hyphens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ringq.toml").write_text("db = 'var/tasks.db'\ndrain-timeout = '1m'\n\n[queues]\nbulk = 2\n")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    found = project()
    assert found is not None
    assert found.values == {"db": tmp_path / "var/tasks.db", "drain_timeout": 60.0, "queues": (("bulk", 2),)}
    assert found.place("drain_timeout").endswith("ringq.toml:2")
    assert found.place("queues").endswith("ringq.toml:4")


def test_a_deleted_working_directory_has_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert project() is None


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("ringq.toml", b"db = 'a.db'\nwrokers = 2\n", "ringq.toml:2: unknown setting 'wrokers'; did you mean workers?"),
        ("ringq.toml", b"colour = 'red'\n", "ringq.toml:1: unknown setting 'colour'"),
        ("ringq.toml", b"\n\nworkers = 'many'\n", "ringq.toml:3: workers: 'many' is neither auto nor 1 to 255"),
        ("ringq.toml", b"drain_timeout = '1s'\ndrain-timeout = 3\n", "drain_timeout is given twice"),
        ("ringq.toml", b"workers = 2\nqueues = [\n", "ringq.toml:2 is not TOML: Invalid value"),
        ("ringq.toml", b"workers = 2\nworkers 3\n", "ringq.toml:2 is not TOML: "),
        ("ringq.toml", b"workers = 2\n# \xe4\n", "ringq.toml:2 is not UTF-8"),
        (
            "pyproject.toml",
            b"[tool.ringq]\nreload = 'perhaps'\n",
            "pyproject.toml:2: reload: 'perhaps' is neither true",
        ),
        ("pyproject.toml", b"[tool]\nringq = 3\n", "tool.ringq is 3, not a table"),
        ("pyproject.toml", b"[tool.ringq\n", "pyproject.toml:1 is not TOML: "),
        ("pyproject.toml", b"[a]\nworkerz = 1\n[tool.ringq]\nworkerz = 1\n", "pyproject.toml:4: unknown setting"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    for verb in (["serve"], ["config", "show"], ["stats"]):
        assert command.run(verb) == 2
        told = capsys.readouterr().err
        assert says in told
        assert re.fullmatch(r"ringq: [^\n]+\n", told)


def test_a_broken_file_stops_no_verb_that_does_not_need_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ringq.toml").write_text("broken [")
    assert command.run(["stats", "--db", "missing.db"]) == 74
    assert "no such database" in capsys.readouterr().err
    assert command.run(["serve", "--help"]) == 0


# -- who wins ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "in_file", "in_environment", "in_flag", "default"),
    [
        ("workers", 2, "3", "4", "auto"),
        ("db", "file.db", "environment.db", "flag.db", None),
        ("durability", "normal", "full", "normal", "full"),
        ("queues", "file", "environment:1", "flag:2", ""),
        ("drain_timeout", 1.0, "2", "3", 30.0),
        ("recycle_rss", 100, "200", "300", 0),
        ("pressure", "idle 0.5 floor 60s", "idle 0.6 floor 60s", "idle 0.7 floor 60s", "off"),
        ("pressure_sources", "a:b", "c:d", "e:f", ""),
        ("disk_bandwidth", 1.5, "2.5", "3.5", 0.0),
        ("log_format", "json", "text", "json", "text"),
        ("log_level", "debug", "warning", "error", "info"),
        ("shm_dir", "/file", "/environment", "/flag", "/dev/shm"),
    ],
)
def test_flag_before_environment_before_file_before_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    name: str, in_file: Any, in_environment: str, in_flag: str, default: Any,
) -> None:  # fmt: skip
    one = SETTINGS[name]
    assert shown(capsys)[name] == {"value": default, "origin": "default"}

    file = tmp_path / "ringq.toml"
    file.write_text(f"# settings\n{name} = {json.dumps(in_file)}\n")
    value = str(tmp_path / in_file) if name == "db" else in_file
    assert shown(capsys)[name] == {"value": value, "origin": f"{file}:2"}

    monkeypatch.setenv(one.variable, in_environment)
    assert shown(capsys)[name] == {"value": one.plain(one.read(in_environment)), "origin": one.variable}

    flag = f"--{name.replace('_', '-')}"
    assert shown(capsys, flag, in_flag)[name] == {"value": one.plain(one.read(in_flag)), "origin": f"flag {flag}"}


def test_an_empty_variable_is_not_set_and_booleans_can_be_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ringq.toml").write_text("quiet = true\nreload = true\n")
    monkeypatch.setenv("RINGQ_QUIET", "")
    monkeypatch.setenv("RINGQ_RELOAD", "0")
    answer = shown(capsys)
    assert (answer["quiet"]["value"], answer["reload"]["value"]) == (True, False)
    assert shown(capsys, "--no-quiet")["quiet"]["value"] is False


def test_the_app_is_an_argument_or_a_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ringq.toml").write_text("app = 'file:app'\n")
    assert shown(capsys)["app"]["value"] == "file:app"
    monkeypatch.setenv("RINGQ_APP", "environment:app")
    assert shown(capsys)["app"] == {"value": "environment:app", "origin": "RINGQ_APP"}
    assert shown(capsys, "flag:app")["app"] == {"value": "flag:app", "origin": "argument"}


def test_config_show_is_a_table_of_every_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ringq.toml").write_text("recycle_rss = '1GB'\nqueues = {bulk = 2}\n")
    assert command.run(["config", "show"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["setting", "value"]
    assert [row[0] for row in rows[1:]] == list(SETTINGS)
    assert {"recycle_rss": "1024MB", "queues": "bulk:2", "db": "(none)", "drain_timeout": "30s"}.items() <= dict(
        rows[1:]
    ).items()
    assert command.run(["config", "show", "--origin"]) == 0
    assert f"recycle_rss\t1024MB\t{tmp_path / 'ringq.toml'}:1\n" in capsys.readouterr().out
    assert command.run(["config", "show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recycle_rss"] == 1024


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"workers = " + b"9" * 5000, "cannot be read: Exceeds the limit"),
        (b"x = " + b"[" * 5000 + b"]" * 5000, "cannot be read: "),
        (b"[tool.ringq]\nworkers = 2", r"unknown setting 'tool': \[tool.ringq\] is for pyproject.toml"),
        (b'database = "a.db"', "unknown setting 'database'; did you mean db?"),
    ],
)
def test_a_file_that_goes_wrong_in_another_way(
    content: bytes, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ringq.toml").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.InvalidConfig, match=complaint):
        project()


def test_a_file_may_begin_with_the_mark_of_utf_8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ringq.toml").write_bytes(b"\xef\xbb\xbfworkers = 3\n")
    monkeypatch.chdir(tmp_path)
    found = project()
    assert found is not None
    assert (found.values["workers"], found.lines["workers"]) == (3, 1)


def test_variables_that_are_nearly_settings() -> None:
    told = stranger_warnings(["RINGQ_WORKER", "RINGQ_DATABASE", "RINGQ_INSIDE_WORKER"])
    assert [line.partition("; ")[2] for line in told] == ["did you mean RINGQ_DB?", "did you mean RINGQ_WORKERS?"]


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RINGQ_WORKERS", "lots")
    assert command.run(["serve", "photos:app", "--db", "a.db"]) == 2
    assert capsys.readouterr().err.startswith("ringq: RINGQ_WORKERS: 'lots' is neither auto nor 1 to 255")


def test_a_variable_that_is_no_setting_gets_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = ["RINGQ_DB", "RINGQ_APP", "RINGQ_DEBUG", "RINGQ_FAILPOINT", "RINGQ_DRAIN_TIMEOUT", "HOME"]
    assert stranger_warnings(known) == []
    monkeypatch.setenv("RINGQ_WORKRES", "3")
    assert command.run(["config", "show"]) == 0
    told = capsys.readouterr().err
    assert told == "ringq: the environment variable RINGQ_WORKRES is no setting of ringq; did you mean RINGQ_WORKERS?\n"


def test_what_nobody_gave_is_left_for_the_app_to_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ringq import serving

    served: list[Config] = []
    monkeypatch.setattr(serving, "serve", lambda config: served.append(config) or 0)
    (tmp_path / "ringq.toml").write_text("db = 'a.db'\nqueues = 'bulk'\n")
    monkeypatch.setenv("RINGQ_DURABILITY", "normal")
    monkeypatch.setenv("PYTHONPATH", "")
    assert command.run(["serve", "photos:app", "--workers", "auto", "--host-pidfd", "7"]) == 0
    (config,) = served
    assert config.undecided == {
        *("drain_timeout_s", "recycle_tasks", "recycle_rss_mib", "recycle_age_s", "reload", "log_format", "quiet"),
        *("log_level", "retry", "defaults", "shm_dir", "unknown_kind_wait_s", "retention_s", "dead_retention_s"),
        *("worker_prefix", "worker_version", "worker_id", "preempt_priority", "aging"),
        *("timeline", "timeline_retention_s"),
        *("pressure", "pressure_sources", "disk_bandwidth_mib", "network_bandwidth_mib"),
    }
    assert (config.database, config.queues, config.durability) == (tmp_path / "a.db", (("bulk", None),), "normal")
    assert (config.workers, config.host_pidfd) == (0, 7)


def test_serve_names_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(["serve", "--db", "a.db"]) == 2
    assert "serve MODULE:APP" in capsys.readouterr().err
    assert command.run(["serve", "photos:app"]) == 2
    assert capsys.readouterr().err == "ringq: name the database: --db PATH, or set RINGQ_DB=PATH, or db in ringq.toml\n"


def test_flags_of_other_verbs_are_read_alike() -> None:
    assert options.span("15m") == 900.0
    with pytest.raises(click.BadParameter, match="no span"):
        options.span("soon")

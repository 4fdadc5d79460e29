"""What workers are called: the same over restarts, no two alike, nothing without a prefix."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ringq.berth import Berth
from ringq.config import WORKERS_MAX, Config
from ringq.errors import InvalidConfig
from ringq.labels import label_of

UUID = bytes(range(16))


def label(index: int = 0, uuid: bytes = UUID, **given: str) -> str:
    return label_of(Config(Path(), **{f"worker_{name}": text for name, text in given.items()}), uuid, index)


def test_without_a_prefix_there_is_no_label() -> None:
    assert label(version="3", id="a") == ""
    assert Berth(3).name == "3"


def test_the_version_may_be_left_out_and_the_id_is_made_up() -> None:
    assert re.fullmatch(r"photos-worker-1\.2-[0-9a-f]{4}", label(prefix="photos", version="1.2"))
    assert re.fullmatch(r"photos-worker-[0-9a-f]{4}", label(prefix="photos"))
    assert label(prefix="photos") == label(prefix="photos")
    assert label(prefix="photos") != label(prefix="photos", uuid=bytes(16))


def test_no_two_workers_of_a_server_have_one_label() -> None:
    for given in ({"prefix": "p"}, {"prefix": "p", "id": "a7"}):
        assert len({label(index, **given) for index in range(WORKERS_MAX + 1)}) == WORKERS_MAX + 1


def test_an_id_that_was_said_is_that_of_the_first_worker() -> None:
    said = [label(index, prefix="p", version="2", id="a7") for index in range(3)]
    assert said == ["p-worker-2-a7", "p-worker-2-a7.1", "p-worker-2-a7.2"]


@pytest.mark.parametrize("part", ["two words", "a,b", "a\nb", "x" * 65])
def test_a_part_that_would_break_a_line_is_refused(part: str) -> None:
    with pytest.raises(InvalidConfig, match="worker_prefix: expected at most 64 characters without space or comma"):
        label(prefix=part)

"""What a chunk's calls put aside: an unbroken beginning of them, or nothing."""

from __future__ import annotations

from pathlib import Path

from ringq.calls import Aside


def test_accounts_are_appended_and_removed_at_the_end(tmp_path: Path) -> None:
    aside = Aside(tmp_path, 7)
    aside.put(b"first")
    aside.put(b"second")
    (path,) = tmp_path.iterdir()
    assert path.read_bytes() == b"first\nsecond\n"
    aside.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_taken_away_is_not_made_again(tmp_path: Path) -> None:
    """The third account would be read as the calls of the first."""
    aside = Aside(tmp_path, 7)
    aside.put(b"first")
    (path,) = tmp_path.iterdir()
    path.unlink()
    aside.put(b"second")
    aside.put(b"third")
    assert list(tmp_path.iterdir()) == []
    assert aside.accounts == [b"first", b"second", b"third"]
    aside.remove()

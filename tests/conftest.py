"""What every test gets: no settings from the developer's shell, and its place in a parallel run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Shared machines pause: timeouts are pytest-timeout's job. The same examples each time, so that what fails is what was
# changed; others are looked for by the deep one.
settings.register_profile("ringq", deadline=None, derandomize=True)
settings.register_profile("deep", deadline=None, max_examples=500, stateful_step_count=60)  # scripts/check --deep
settings.load_profile("ringq")

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start servers run one after the other, beside the small ones (`--dist loadgroup`)."""
    for item in items:
        place = item.path.relative_to(HERE).parts[0]
        if place in ("acceptance", "stress"):
            item.add_marker(pytest.mark.xdist_group("servers"))
        if place == "stress":
            item.add_marker(pytest.mark.stress)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("RINGQ_")]:
        monkeypatch.delenv(name)

"""Face: tests of an application that submits tasks: what was submitted, run inline or by real workers.

    with ringq.testing.inline(app) as run:
        upload("a.jpg")                                  # the code under test, which submits
        run.assert_submitted(thumbnail, path="a.jpg")
        run.run_all()

Nothing is imported before it is used: pytest loads the plugin in every session, also in those that have no such test.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ringq.errors import NothingToRun, RunsOn
    from ringq.testing.manual import InlineClock
    from ringq.testing.pool import server
    from ringq.testing.run import Inline, inline

__all__ = ["Inline", "InlineClock", "NothingToRun", "RunsOn", "inline", "server"]

_HOME_OF = {
    "Inline": "ringq.testing.run",
    "InlineClock": "ringq.testing.manual",
    "NothingToRun": "ringq.errors",
    "RunsOn": "ringq.errors",
    "inline": "ringq.testing.run",
    "server": "ringq.testing.pool",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module 'ringq.testing' has no attribute {name!r}")
        return getattr(importlib.import_module(_HOME_OF[name]), name)

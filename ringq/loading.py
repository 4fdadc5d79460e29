"""Edge: finds the App that "module:attribute" names, and says in the user's own files what is wrong with it."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path

from ringq.kinds import App


def load_app(target: str) -> App:
    """Import "module:attribute". Raises whatever the module raises, or ValueError and TypeError with one line."""
    module, _, attribute = target.partition(":")
    if not module or not attribute:
        raise ValueError("name the app as module:attribute, for example photos:app")
    sys.path.insert(0, os.getcwd())
    found = getattr(importlib.import_module(module), attribute)
    if not isinstance(found, App):
        raise TypeError(f"{attribute} in {module} is a {type(found).__name__}, not a ringq.App")
    return found


def own_frames(error: BaseException) -> list[str]:
    """Where in the user's files it happened; nothing when the module was not found at all."""
    found = traceback.TracebackException.from_exception(error, compact=True)
    foreign = (str(Path(__file__).parent), str(Path(importlib.__file__ or "").parent), "<frozen")
    own = [frame for frame in found.stack if not frame.filename.startswith(foreign)]
    return "".join(traceback.format_list(own)).splitlines()

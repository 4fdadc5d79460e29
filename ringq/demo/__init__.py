"""Demo: `ringq.demo:app`, served by `ringq demo`; the handlers and nothing else, because workers import this."""

from __future__ import annotations

from ringq.demo.handlers import app

__all__ = ["app"]

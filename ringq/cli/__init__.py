"""Cli: the `ringq` command; one module per noun, loaded only when its verb is called."""

from __future__ import annotations

from ringq.cli.command import main

__all__ = ["main"]

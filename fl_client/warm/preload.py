"""Modules that a warm executor is told to import."""

from __future__ import annotations

import contextlib
import importlib.util

from fl_protocol.codes import Code, ConfigInvalid


def require_module(name: str) -> None:
    """Raise ConfigInvalid unless there is a module of this name."""
    with contextlib.suppress(ModuleNotFoundError, ValueError):
        if importlib.util.find_spec(name):
            return
    raise ConfigInvalid(Code.CONFIG_INVALID, f"there is no module {name!r} to be preloaded")

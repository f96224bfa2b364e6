"""Asynchronous, confidential federated learning for Flower.

>>> from asynclave import AsyncWA, sealed_uploads
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asynclave._version import __version__

if TYPE_CHECKING:
    from fl_client.mods import sealed_uploads
    from fl_server.strategy import AsyncStrategy, AsyncWA, FedAsync, FedBuff
    from strategies.catalog import recipe_from

__all__ = [
    "AsyncStrategy",
    "AsyncWA",
    "FedAsync",
    "FedBuff",
    "__version__",
    "recipe_from",
    "sealed_uploads",
]

_HOMES = {
    "AsyncStrategy": "fl_server.strategy",
    "AsyncWA": "fl_server.strategy",
    "FedAsync": "fl_server.strategy",
    "FedBuff": "fl_server.strategy",
    "recipe_from": "strategies.catalog",
    "sealed_uploads": "fl_client.mods",
}


def __getattr__(name: str) -> Any:
    # Lazy: the client side must not load the server side, and --help must not load flwr.
    if name not in _HOMES:
        raise AttributeError(f"module 'asynclave' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)

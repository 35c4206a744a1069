"""Serving: the service that edits pictures over HTTP, its messages, its client, and how it is packaged.

`schema` and `client` need neither torch nor bentoml; `service` and `bento` load them only when they run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from instructdiffusion.serving.client import Client
    from instructdiffusion.serving.schema import EditRequest, EditResponse, Joints, Region

__all__ = ["Client", "EditRequest", "EditResponse", "Joints", "Region"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    home = "client" if name == "Client" else "schema"
    return getattr(import_module(f"instructdiffusion.serving.{home}"), name)

"""The model as a library: tasks, data, networks, training, evaluation and editing; nothing of the platform.

from instructdiffusion.model import Editor
edit = Editor.load().edit(picture, "Remove the red ball.")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from instructdiffusion.model.data.build import build
    from instructdiffusion.model.data.offers import Order
    from instructdiffusion.model.data.sources import DataSet, Sources
    from instructdiffusion.model.editor import Edit, Editor
    from instructdiffusion.model.recipes import recipe
    from instructdiffusion.model.synthesis.write import synthesize
    from instructdiffusion.model.tasks import TASKS

_HOME = {
    "DataSet": "data.sources",
    "Edit": "editor",
    "Editor": "editor",
    "Order": "data.offers",
    "Sources": "data.sources",
    "build": "data.build",
    "recipe": "recipes",
    "synthesize": "synthesis.write",
    "TASKS": "tasks",
}
__all__ = ["TASKS", "DataSet", "Edit", "Editor", "Order", "Sources", "build", "recipe", "synthesize"]


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: torch takes seconds."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)

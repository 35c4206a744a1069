"""The model as a library: tasks, data, networks, training, evaluation and editing; nothing of the platform.

from instructdiffusion.model import Editor
edit = Editor.load().edit(picture, "Remove the red ball.")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from instructdiffusion.model.editor import Edit, Editor
    from instructdiffusion.model.recipes import recipe
    from instructdiffusion.model.synthesis.write import synthesize
    from instructdiffusion.model.tasks import TASKS

_HOME = {
    "Edit": "editor",
    "Editor": "editor",
    "recipe": "recipes",
    "synthesize": "synthesis.write",
    "TASKS": "tasks",
}
__all__ = ["TASKS", "Edit", "Editor", "recipe", "synthesize"]


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: torch takes seconds."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)

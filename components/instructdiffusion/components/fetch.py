"""Step: take the model that everything starts from into the pipeline."""

from __future__ import annotations

import shutil
from pathlib import Path

from instructdiffusion.components.step import MARK, Made, made, once
from instructdiffusion.components.storage import Store
from instructdiffusion.model.files import atomic_directory
from instructdiffusion.model.weights import BASE, model_digest, resolution


def run(source: Path | None, out: Path, *, store: Store | None = None) -> Made:
    """Copy the model in `source` (None: the embedded base) to `out`; facts: its `resolution` in pixels.

    Raises:
        DataError: it is no model.
    """
    facts = {"resolution": resolution(source)}
    digest = once(out, {"model": model_digest(source)}, lambda: copy(source or BASE, out))
    return made(out, "models", digest, store, facts)


def copy(folder: Path, out: Path) -> None:
    """Copy a folder to `out`, whole or not at all, and keep the mark that `out` has as a step's own."""
    with atomic_directory(out) as new:
        shutil.copytree(folder, new, dirs_exist_ok=True)
        shutil.copyfile(out / MARK, new / MARK)

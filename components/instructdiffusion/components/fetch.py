"""Step: take the model that everything starts from into the pipeline."""

from __future__ import annotations

import shutil
from pathlib import Path

from instructdiffusion.components.step import MARK, Made, made, once
from instructdiffusion.components.storage import Store
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.files import atomic_directory
from instructdiffusion.model.weights import BASE, SETTINGS, model_digest


def run(source: Path | None, out: Path, *, store: Store | None = None) -> Made:
    """Copy the model in `source` (None: the embedded base) to `out`.

    Raises:
        DataError: it is no model.
    """
    folder = source or BASE
    if not (folder / SETTINGS).is_file():
        where = "run: make base" if source is None else "name a folder that a training wrote"
        raise DataError(f"{folder} holds no {SETTINGS}, so it is no model; {where}")
    digest = once(out, {"model": model_digest(source)}, lambda: copy(folder, out))
    return made(out, "models", digest, store, {})


def copy(folder: Path, out: Path) -> None:
    """Copy a folder to `out`, whole or not at all, and keep the mark that `out` has as a step's own."""
    with atomic_directory(out) as new:
        shutil.copytree(folder, new, dirs_exist_ok=True)
        shutil.copyfile(out / MARK, new / MARK)

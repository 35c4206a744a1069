"""Step: take the model that everything starts from into the pipeline."""

from __future__ import annotations

import shutil
from pathlib import Path

from instructdiffusion.components.step import Made, made, once
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
    digest = once(out, {"model": model_digest(source)}, lambda: _copy(folder, out))
    return made(out, "models", digest, store, {})


def _copy(folder: Path, out: Path) -> None:
    with atomic_directory(out) as new:
        shutil.copytree(folder, new, dirs_exist_ok=True)

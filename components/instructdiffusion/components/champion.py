"""Step: the evaluation of the champion, on the data that a challenger was scored on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from instructdiffusion.components import evaluate
from instructdiffusion.components.gate import read
from instructdiffusion.components.registry import CHAMPION, DIGEST, PREVIOUS, Registry, Version
from instructdiffusion.components.step import data_digest
from instructdiffusion.components.storage import Store


def run(
    challenger: Path,
    shards: Path,
    out: Path,
    *,
    registry: Registry,
    store: Store,
    known: Sequence[Path] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> str:
    """Write the champion's evaluation to `out`; returns its version, empty where there is none yet.

    Where the challenger is the champion already, because the step is repeated, it is held against the one before.

    Args:
        challenger: folder of the challenger's evaluation.
        shards: the held-out data.
        out: folder for the champion's.
        registry: says who the champion is.
        store: holds its weights.
        known: folders of evaluations that need not be made again.
        progress: told (done, total).
    """
    ours = str(read(challenger)["model"])
    version = registry.at(CHAMPION)
    if version is not None and version.tags.get(DIGEST) == ours:
        version = registry.at(PREVIOUS)
    if version is None or version.tags.get(DIGEST) == ours:
        return ""
    wanted = {"model": version.tags.get(DIGEST), "data": data_digest(shards)}
    for folder in known:
        if wanted.items() <= read(folder).items():
            shutil.copytree(folder, out, dirs_exist_ok=True)
            return version.number
    evaluate.run(fetched(version, out.with_name("model"), store), shards, out, progress=progress)
    return version.number


def fetched(version: Version, folder: Path, store: Store) -> Path:
    """The weights of a version, from the store."""
    return store.get_directory(version.source, folder)

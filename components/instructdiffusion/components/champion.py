"""Step: the evaluation of the champion, on the data that a challenger was scored on, and what else is known of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from instructdiffusion.components import evaluate
from instructdiffusion.components.evidence import Evidence, gathered
from instructdiffusion.components.gate import read
from instructdiffusion.components.measure import DOCUMENTS
from instructdiffusion.components.registry import CHAMPION, DIGEST, PREVIOUS, Registry, Version
from instructdiffusion.components.step import data_digest
from instructdiffusion.components.storage import Store
from instructdiffusion.components.tracking import explained


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


def benchmarks(number: str, out: Path, *, registry: Registry) -> list[Path]:
    """Bring the reports of a version's benchmarks to `out`, as far as the run that made it keeps them.

    A run of the same settings may have been measured again with other weights: reports of these are left out.
    """
    version = registry.version(number)
    with explained(registry.uri):
        if not version.run_id or not registry.client.list_artifacts(version.run_id, DOCUMENTS):
            return []
        out.mkdir(parents=True, exist_ok=True)
        folder = Path(registry.client.download_artifacts(version.run_id, DOCUMENTS, str(out)))
    found = sorted(folder.glob("*.json"))
    reports = gathered(Evidence(benchmarks=found)).benchmarks
    return [path for path, report in zip(found, reports, strict=True) if report.model == version.tags.get(DIGEST)]


def fetched(version: Version, folder: Path, store: Store) -> Path:
    """The weights of a version, from the store."""
    return store.get_directory(version.source, folder)

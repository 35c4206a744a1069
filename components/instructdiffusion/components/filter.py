"""Step: drop triplets that are not good enough, and say why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from instructdiffusion.components.step import Made, data_digest, made, once
from instructdiffusion.components.storage import Store

if TYPE_CHECKING:
    from instructdiffusion.components.tracking import TrackedRun

REPORT = "data-quality.html"
DEFAULT = "embedded"


def run(
    source: Path,
    out: Path,
    *,
    policy: str = DEFAULT,
    store: Store | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Made:
    """Copy the shards in `source` without the triplets that a policy refuses, which go to `rejected`.

    Args:
        policy: embedded, paper, the path of a YAML file, or its text.

    Returns:
        What was kept; facts: the manifest.
    """
    from instructdiffusion.model.data.shards import Manifest
    from instructdiffusion.model.quality.filtering import filter_shards
    from instructdiffusion.model.quality.policy import Policy

    held = Policy.read(policy)
    inputs = {"source": data_digest(source), "policy": held.digest}
    digest = once(out, inputs, lambda: filter_shards(source, out, held, progress=progress))
    return made(out, "datasets", digest, store, Manifest.load(out).model_dump(mode="json"))


def track(tracked: TrackedRun, kept: Made, name: str, page: str) -> None:
    """Tell a tracker what was kept: the data set as the run's input, its manifest, counts, and the report's page.

    Args:
        name: of the data set.
        page: self-contained HTML.
    """
    source, facts = kept.uri or str(kept.path), kept.facts
    tracked.dataset(name, digest=kept.digest, source=source, context="training", counts=facts["counts"])
    tracked.document("manifest.json", facts)
    tracked.metrics({f"triplets/{task}": count for task, count in facts["counts"].items()}, step=0)
    tracked.page(REPORT, page)

"""Step: drop triplets that are not good enough, and say why."""

from __future__ import annotations

from pathlib import Path

from instructdiffusion.components.step import Made, data_digest, made, once
from instructdiffusion.components.storage import Store


def run(source: Path, out: Path, *, store: Store | None = None) -> Made:
    """Copy the shards in `source` without the triplets the filter refuses; facts: the manifest."""
    from instructdiffusion.model.data.shards import Manifest
    from instructdiffusion.model.synthesis.quality import filter_shards

    digest = once(out, {"source": data_digest(source)}, lambda: filter_shards(source, out))
    return made(out, "datasets", digest, store, Manifest.load(out).model_dump(mode="json"))

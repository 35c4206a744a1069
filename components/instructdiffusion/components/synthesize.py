"""Step: compose triplets with exact truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from instructdiffusion.components.step import Made, made, once
from instructdiffusion.components.storage import Store


def run(
    out: Path,
    *,
    split: Literal["train", "test"],
    counts: Mapping[str, int],
    size: int,
    seed: int,
    store: Store | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Made:
    """Write shards of `counts` triplets per task, pictures of `size` x `size` pixels; facts: the manifest."""
    from instructdiffusion.model.data.shards import Manifest
    from instructdiffusion.model.synthesis.write import made_from, synthesize

    inputs = {"split": split, "counts": dict(counts), "size": size, "seed": seed, **made_from(split)}
    digest = once(
        out,
        inputs,
        lambda: synthesize(out, split=split, counts=counts, size=size, seed=seed, progress=progress),
    )
    return made(out, "datasets", digest, store, Manifest.load(out).model_dump(mode="json"))

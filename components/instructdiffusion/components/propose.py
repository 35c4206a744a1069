"""Step: make several edits of each of some triplets, for people to rank."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from instructdiffusion.components.step import Made, data_digest, made, once
from instructdiffusion.components.storage import Store
from instructdiffusion.model.weights import model_digest


def run(
    model: Path | None,
    shards: Path,
    out: Path,
    *,
    count: int,
    seed: int,
    limit: int | None = None,
    store: Store | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Made:
    """Write `count` edits of each triplet; facts: how many prompts and edits there are.

    Args:
        model: folder of the model that edits; None: the embedded base.
        shards: the triplets.
        out: folder for `candidates.json` and pictures.
        count: edits of each.
        seed: of the edits.
        limit: triplets per task; None: all.
        store: where to upload; None: nowhere.
        progress: told (done, total).
    """
    from instructdiffusion.model.propose import propose

    inputs: dict[str, object] = {"model": model_digest(model), "shards": data_digest(shards)}
    inputs |= {"count": count, "seed": seed, "limit": limit}
    digest = once(
        out,
        inputs,
        lambda: propose(model, shards, out, count=count, seed=seed, limit=limit, progress=progress),
    )
    prompts = json.loads((out / "candidates.json").read_text())["prompts"]
    facts = {"prompts": len(prompts), "edits": sum(len(prompt["edits"]) for prompt in prompts)}
    return made(out, "candidates", digest, store, facts)

"""Step: run the autoencoder and the text encoder once over a data set, so that training runs neither."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from instructdiffusion.components.step import Made, data_digest, made, once
from instructdiffusion.components.storage import Store
from instructdiffusion.model.weights import model_digest


def run(
    shards: Path,
    model: Path | None,
    out: Path,
    *,
    states: bool = True,
    store: Store | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Made:
    """Write the latents of `shards` under `model` (None: the embedded base); facts: the manifest.

    `states`: keep the text encoder's hidden states; False keeps tokens, for a run that trains that too.
    """
    from instructdiffusion.model.data.latents import LAYOUT, encode
    from instructdiffusion.model.data.shards import Manifest

    inputs = {"shards": data_digest(shards), "model": model_digest(model), "states": states, "layout": LAYOUT}
    digest = once(out, inputs, lambda: encode(shards, model, out, states=states, progress=progress))
    return made(out, "latents", digest, store, Manifest.load(out).model_dump(mode="json"))

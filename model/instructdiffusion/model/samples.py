"""Sheets of samples: what the averaged weights make, while they learn, of the same triplets under the same seeds."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from instructdiffusion.model.config import Run
from instructdiffusion.model.data.away import Here, Shards
from instructdiffusion.model.data.latents import FIRST
from instructdiffusion.model.data.shards import Manifest, Shard, Triplet, head_of, read_samples, triplet_of
from instructdiffusion.model.device import best
from instructdiffusion.model.editor import Editor
from instructdiffusion.model.errors import ServiceError
from instructdiffusion.model.files import digest_of, write_atomic
from instructdiffusion.model.network import Model
from instructdiffusion.model.seeds import seed_of
from instructdiffusion.model.sheet import contact_sheet

log = logging.getLogger(__name__)
SAMPLES = "samples"  # folder of the sheets
MOST = 12  # triplets a sheet


@dataclass
class Samples:
    """A few triplets, and a copy of the networks that no engine knows of, so that drawing changes nothing it holds."""

    model: Model
    learning: Sequence[nn.Parameter]  # of the copy, in the order in which the engine holds them
    triplets: Sequence[Triplet]
    seeds: Sequence[int]

    @staticmethod
    def of(run: Run, nets: Model, data: Path | Shards) -> Samples | None:
        """The first triplet of each task in `data`, and a copy of `nets` in the CPU's memory; None: there are none.

        Called when it is settled which weights learn.
        """
        try:
            triplets, why = first_of_each_task(data), ""
        except ServiceError as error:  # those of an earlier version have none, and no training ends for want of them
            triplets, why = [], f" ({error})"
        if not triplets:
            log.warning("%s holds no pictures to draw samples of%s; encode it again for sheets of samples", data, why)
            return None
        parts = {name: copy.deepcopy(getattr(nets, name)) for name in ("unet", "vae", "text_encoder", "scheduler")}
        model = replace(nets, **parts).to(torch.device("cpu"))
        learns = [model.unet, model.text_encoder] if run.train_text else [model.unet]
        learning = [weight for part in learns for weight in part.parameters() if weight.requires_grad]
        for part in learns:
            part.eval()
        return Samples(model, learning, triplets, [seed_of(triplet.key, run.seed) for triplet in triplets])

    def sheet(self, average: Sequence[Tensor], out: Path, step: int) -> Path:
        """Draw with the averages of the weights that learn, into `out/samples/step-N.png`; returns that file."""
        with torch.no_grad():
            for weight, mean in zip(self.learning, average, strict=True):
                weight.copy_(mean)
        editor = Editor(self.model.to(best()))
        pictures = [triplet.source for triplet in self.triplets]
        outputs = editor.edits(pictures, [triplet.ask for triplet in self.triplets], self.seeds)
        self.model.to(torch.device("cpu"))
        return write_atomic(out / SAMPLES / f"step-{step:07d}.png", contact_sheet(self.triplets, outputs))


def first_of_each_task(data: Path | Shards) -> list[Triplet]:
    """A triplet of each task, `MOST` at most, of shards or of what `encode` kept of them; of old latents none.

    Raises:
        ServiceError: data that is elsewhere has none, or does not come.
    """
    shards = Here(data) if isinstance(data, Path) else data
    manifest = shards.manifest()
    if any(shard.name.endswith(".tar") for shard in manifest.shards):
        first = _first(shards, manifest)
        return [first[task] for task in sorted(first)]
    with TemporaryDirectory() as folder:
        kept = shards.beside(FIRST, Path(folder))
        if kept is None:
            return []
        samples = read_samples(kept.parent, Shard(name=FIRST, digest=digest_of(kept), count=MOST))
        return [triplet_of(sample, kept) for sample in samples][:MOST]


def _first(shards: Shards, manifest: Manifest) -> dict[str, Triplet]:
    """The first triplet of each task; no shard is asked for that tells that it has no other."""
    first: dict[str, Triplet] = {}
    wanted = min(MOST, sum(count > 0 for count in manifest.counts.values()))
    for shard in manifest.shards:
        if len(first) == wanted or (shard.tasks and {task for task, _ in shard.tasks} <= first.keys()):
            continue
        path = shards.path(shard)
        for sample in read_samples(path.parent, shard):
            if (task := head_of(sample, path)["task"]) not in first:
                first[task] = triplet_of(sample, path)
            if len(first) == wanted:
                break
    return first

"""Sheets of samples: what the averaged weights make, while they learn, of the same triplets under the same seeds."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from instructdiffusion.model.config import Run
from instructdiffusion.model.data.away import Shards
from instructdiffusion.model.data.latents import FIRST
from instructdiffusion.model.data.shards import Manifest, Shard, Triplet, read_samples, read_triplets, triplet_of
from instructdiffusion.model.device import best
from instructdiffusion.model.editor import Editor
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
        triplets = first_of_each_task(data) if isinstance(data, Path) else []
        if not triplets:
            fix = "encode it again" if isinstance(data, Path) else "train on a folder"
            log.warning("%s holds no pictures to draw samples of; %s for sheets of samples", data, fix)
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


def first_of_each_task(data: Path) -> list[Triplet]:
    """A triplet of each task, `MOST` at most, of shards or of what `encode` kept of them; of old latents none."""
    manifest, kept = Manifest.load(data), data / FIRST
    if kept.is_file():
        samples = read_samples(data, Shard(name=FIRST, digest=digest_of(kept), count=MOST))
        return [triplet_of(sample, kept) for sample in samples][:MOST]
    first: dict[str, Triplet] = {}
    wanted = min(MOST, sum(count > 0 for count in manifest.counts.values()))
    if any(shard.name.endswith(".tar") for shard in manifest.shards):
        for triplet in read_triplets(data):
            first.setdefault(triplet.ask.task, triplet)
            if len(first) == wanted:
                break
    return [first[task] for task in sorted(first)]

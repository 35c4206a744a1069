"""Triplets encoded when they are drawn, with no cache: for a look at new data, or where a cache has no room.

Every step then runs the autoencoder twice and the text encoder; `encode` does that once for all (docs/training.md).
"""

from __future__ import annotations

import os
import tarfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from instructdiffusion.model.data.batches import Batches, heaps_of
from instructdiffusion.model.data.latents import Latents
from instructdiffusion.model.data.mixture import Numbers
from instructdiffusion.model.data.shards import Manifest, Sample, Shard, checked, head_of, triplet_of
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.network import Model


class Place(NamedTuple):
    """Where a triplet lies: its shard, its key, and first byte and length of each of its files by ending."""

    path: Path
    key: str
    spans: dict[str, tuple[int, int]]


@dataclass
class Live(Batches):
    """The triplets of a data set, encoded by `nets` when they are drawn."""

    nets: Model
    places: list[Place]

    @staticmethod
    def open(folder: Path, nets: Model, tokens: bool) -> Live:
        """Find every triplet of a data set; nothing is decoded yet.

        Raises:
            DataError: a shard is missing or damaged, or its pictures are not of the model's resolution.
        """
        manifest = Manifest.load(folder)
        if manifest.size != nets.resolution:
            raise DataError(
                f"{folder} holds pictures of {manifest.size} pixels, the model takes {nets.resolution}; "
                f"synthesize with size={nets.resolution}"
            )
        places: list[Place] = []
        tasks: list[str] = []
        numbers = defaultdict[str, list[Numbers]](list)
        for shard in manifest.shards:
            first, origins = len(places), defaultdict[str, list[int]](list)
            places += _places(folder, shard)
            for at in range(first, len(places)):
                head = head_of(_read(places[at], ["label.json"]), places[at].path)
                tasks.append(head["task"])
                origins[str(head["provenance"].get("source", ""))].append(at)
            for name, some in origins.items():
                numbers[name].append(np.array(some))
        return Live(np.array(tasks), heaps_of(manifest, numbers), tokens, nets, places)

    def to(self, device: torch.device) -> None:
        """Move what encodes; the U-Net is where the training put it."""
        self.nets.vae.to(device)
        self.nets.text_encoder.to(device)

    def batch(self, numbers: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """As `Latents.batch`, of what the shards hold now."""
        triplets = [triplet_of(_read(place), place.path) for place in (self.places[n] for n in numbers)]
        asks = [t.ask.instruction for t in triplets]
        source = self.nets.encode(t.source for t in triplets)
        target = self.nets.encode(t.target for t in triplets) * self.nets.scale
        return source, target, self.nets.tokens(asks) if self.tokens else self.nets.text(asks)


def open_batches(data: Path, nets: Model, tokens: bool) -> Batches:
    """Latents, or shards of pictures, by what the folder holds.

    Raises:
        DataError: they are missing or damaged, or hold text of the other kind.
    """
    if any(shard.name.endswith(".tar") for shard in Manifest.load(data).shards):
        return Live.open(data, nets, tokens)
    latents = Latents.open(data)
    if latents.tokens != tokens:
        raise DataError(
            f"{data} holds {'tokens' if latents.tokens else 'text states'}, but train_text={tokens}; "
            f"encode again with states={not tokens}"
        )
    return latents


def _places(folder: Path, shard: Shard) -> list[Place]:
    """Where each triplet of a shard lies."""
    path = checked(folder, shard)
    found = defaultdict[str, dict[str, tuple[int, int]]](dict)
    with tarfile.open(path) as tar:
        for member in tar:
            key, _, ending = member.name.partition(".")
            found[key][ending] = (member.offset_data, member.size)
    return [Place(path, key, spans) for key, spans in found.items()]


def _read(place: Place, endings: Iterable[str] | None = None) -> Sample:
    """The bytes of a triplet's files, of some endings or of all."""
    sample: Sample = {"__key__": place.key}
    with place.path.open("rb") as file:
        for ending in place.spans if endings is None else endings:
            first, length = place.spans[ending]
            sample[ending] = os.pread(file.fileno(), length, first)
    return sample

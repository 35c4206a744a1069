"""Triplets encoded when they are drawn, with no cache: for a look at new data, or where a cache has no room.

Every step then runs the autoencoder twice and the text encoder; `encode` does that once for all (docs/training.md).
"""

from __future__ import annotations

import os
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from instructdiffusion.model.data.away import Here, Shards
from instructdiffusion.model.data.batches import Batches
from instructdiffusion.model.data.latents import Latents
from instructdiffusion.model.data.shards import Sample, head_of, source_of, triplet_of
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.network import Model


class Place(NamedTuple):
    """Where a triplet lies: its shard, its key, and first byte and length of each of its files by ending."""

    path: Path
    key: str
    spans: dict[str, tuple[int, int]]


@dataclass
class Live(Batches[list[Place]]):
    """The triplets of a data set, encoded by `nets` when they are drawn."""

    nets: Model

    @staticmethod
    def open(data: Path | Shards, nets: Model, tokens: bool) -> Live:
        """Find the triplets of a data set; nothing is decoded yet.

        Raises:
            DataError: a shard is missing or damaged, or its pictures are not of the model's resolution.
        """
        shards = Here(data) if isinstance(data, Path) else data
        manifest = shards.manifest()
        if manifest.size != nets.resolution:
            raise DataError(
                f"{data} holds pictures of {manifest.size} pixels, the model takes {nets.resolution}; "
                f"synthesize with size={nets.resolution}"
            )
        return Live(shards, manifest, tokens, nets)

    def read(self, path: Path) -> list[Place]:
        """Find the triplets of a shard."""
        found = defaultdict[str, dict[str, tuple[int, int]]](dict)
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, ending = member.name.partition(".")
                found[key][ending] = (member.offset_data, member.size)
        return [Place(path, key, spans) for key, spans in found.items()]

    def contents(self, opened: list[Place]) -> Iterator[tuple[str, str]]:
        """Source and task of each triplet, by its label file."""
        heads = (head_of(_read(place, ["label.json"]), place.path) for place in opened)
        return ((source_of(head["provenance"]), head["task"]) for head in heads)

    def to(self, device: torch.device) -> None:
        """Move what encodes; the U-Net is where the training put it."""
        self.nets.vae.to(device)
        self.nets.text_encoder.to(device)

    def batch(self, numbers: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """As `Latents.batch`, of what the shards hold now."""
        places = [places[row] for places, row in map(self.at, numbers)]
        triplets = [triplet_of(_read(place), place.path) for place in places]
        asks = [t.ask.instruction for t in triplets]
        source = self.nets.encode(t.source for t in triplets)
        target = self.nets.encode(t.target for t in triplets) * self.nets.scale
        return source, target, self.nets.tokens(asks) if self.tokens else self.nets.text(asks)


def open_batches(data: Path | Shards, nets: Model, tokens: bool) -> Batches[Any]:
    """Latents, or shards of pictures, by what the data set holds.

    Raises:
        DataError: they are missing or damaged, or hold text of the other kind.
    """
    manifest = (Here(data) if isinstance(data, Path) else data).manifest()
    if any(shard.name.endswith(".tar") for shard in manifest.shards):
        return Live.open(data, nets, tokens)
    latents = Latents.open(data)
    if latents.tokens != tokens:
        raise DataError(
            f"{data} holds {'tokens' if latents.tokens else 'text states'}, but train_text={tokens}; "
            f"encode again with states={not tokens}"
        )
    return latents


def _read(place: Place, endings: Iterable[str] | None = None) -> Sample:
    """The bytes of a triplet's files, of some endings or of all."""
    sample: Sample = {"__key__": place.key}
    with place.path.open("rb") as file:
        for ending in place.spans if endings is None else endings:
            first, length = place.spans[ending]
            sample[ending] = os.pread(file.fileno(), length, first)
    return sample

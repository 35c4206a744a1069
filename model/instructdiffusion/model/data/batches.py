"""What a training takes triplets from, addressed by number: encoded before (`Latents`), or when drawn (`Live`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from instructdiffusion.model.data.mixture import Heap, Mixture, Numbers
from instructdiffusion.model.data.shards import Manifest
from instructdiffusion.model.errors import ConfigError


@dataclass
class Batches:
    """`tasks` names the task of each triplet, `heaps` are those of each source; `tokens`: text is token ids."""

    tasks: np.ndarray
    heaps: Mapping[str, Heap]
    tokens: bool

    def __len__(self) -> int:
        return len(self.tasks)

    def to(self, device: torch.device) -> None:
        """Told where the training runs, before the first batch."""

    def batch(self, numbers: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Source and target latents (batch x channels x height x width, float32) and text of some triplets."""
        raise NotImplementedError

    def mixture(self, seed: int, weights: Mapping[str, float]) -> Mixture:
        """The draws of a training, every source by its weight.

        Args:
            weights: instead of those that the data set was built with, by the name of a source.

        Raises:
            ConfigError: there is no such source, or none has a weight above 0.
        """
        if unknown := sorted({*weights} - {*self.heaps}):
            there = ", ".join(name for name in self.heaps if name) or "none that has a name"
            raise ConfigError(f"weights: no source is named {', '.join(unknown)}; there is {there}")
        heaps = {name: Heap(heap.files, weights.get(name, heap.weight)) for name, heap in self.heaps.items()}
        return Mixture(heaps, seed)


def heaps_of(manifest: Manifest, numbers: Mapping[str, Sequence[Numbers]]) -> dict[str, Heap]:
    """The triplets of each source, file by file, under the weight that the data set was built with."""
    weights = {name: origin.weight for name, origin in manifest.sources.items()}
    return {name: Heap(parts, weights.get(name, 1.0)) for name, parts in sorted(numbers.items())}

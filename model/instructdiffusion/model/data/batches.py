"""What a training takes triplets from, addressed by number: encoded before (`Latents`), or when drawn (`Live`)."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instructdiffusion.model.data.away import Shards
from instructdiffusion.model.data.mixture import Heap, Mixture, Numbers
from instructdiffusion.model.data.shards import Manifest, one_by_one
from instructdiffusion.model.errors import ConfigError, DataError

AHEAD = 10_000  # draws: the shards of so many to come are fetched, where they are not at hand
Opened = TypeVar("Opened")  # what a shard is once it is opened


@dataclass
class Batches(Generic[Opened]):
    """Triplets in shards that are opened when they are needed; those of a folder all at once, so that none is missing.

    Args:
        tokens: whether text is token ids.
    """

    shards: Shards
    manifest: Manifest
    tokens: bool
    tasks: NDArray[np.str_] = field(init=False)  # of each triplet
    heaps: Mapping[str, Heap] = field(init=False)  # the triplets of each source
    opened: dict[int, Opened] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        counts = [shard.count for shard in self.manifest.shards]
        self._starts = [0, *accumulate(counts)][:-1]
        if self.shards.near:
            for at in range(len(counts)):
                self._shard(at)
        contents = [self._contents(at) for at in range(len(counts))]
        self.tasks = np.array([task for _, tasks in contents for task in tasks], np.str_)
        self.heaps = self._heaps([np.array(origins, np.str_) for origins, _ in contents])

    def __len__(self) -> int:
        return len(self.tasks)

    def to(self, device: torch.device) -> None:
        """Told where the training runs, before the first batch."""

    def batch(self, numbers: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Source and target latents (batch x channels x height x width, float32) and text of some triplets."""
        raise NotImplementedError

    def read(self, path: Path) -> Opened:
        """Open the file of a shard."""
        raise NotImplementedError

    def contents(self, opened: Opened) -> Iterable[tuple[str, str]]:
        """Source and task of each triplet of a shard, for a manifest that does not tell."""
        raise NotImplementedError

    def at(self, number: int) -> tuple[Opened, int]:
        """Where a triplet is: its shard, opened, and its place in it."""
        at = bisect_right(self._starts, number) - 1
        return self._shard(at), number - self._starts[at]

    def expect(self, mixture: Mixture, place: int, size: int) -> None:
        """Told before a step of `size` draws at which place of the run it begins: what is drawn soon is fetched."""
        if self.shards.near:
            return
        # Other processes of this machine may be in the step before, with the same files.
        numbers = mixture.draws(range(max(0, place - size), place + AHEAD))
        soon = dict.fromkeys((np.searchsorted(self._starts, numbers, side="right") - 1).tolist())
        self.opened = {at: opened for at, opened in self.opened.items() if at in soon}
        self.shards.ahead([self.manifest.shards[at] for at in soon])

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

    def _shard(self, at: int) -> Opened:
        there = at in self.opened
        if not (there and self.shards.near):
            path = self.shards.path(self.manifest.shards[at])
            self.opened[at] = self.opened[at] if there else self.read(path)
        return self.opened[at]

    def _heaps(self, origins: Sequence[NDArray[np.str_]]) -> dict[str, Heap]:
        """The triplets of each source, file by file, under the weight that the data set was built with."""
        weights = {name: origin.weight for name, origin in self.manifest.sources.items()}
        numbers = defaultdict[str, list[Numbers]](list)
        for start, names in zip(self._starts, origins, strict=True):
            for name in np.unique(names).tolist():
                numbers[name].append(start + np.flatnonzero(names == name))
        return {name: Heap(parts, weights.get(name, 1.0)) for name, parts in sorted(numbers.items())}

    def _contents(self, at: int) -> tuple[list[str], list[str]]:
        """Source and task of each triplet of a shard."""
        shard = self.manifest.shards[at]
        if shard.origins and shard.tasks:
            return one_by_one(shard.origins), one_by_one(shard.tasks)
        if self.shards.near:
            origins, tasks = zip(*self.contents(self._shard(at)), strict=True)
            return [*origins], [*tasks]
        raise DataError(
            f"the manifest of {self.shards} is of an earlier version, which does not tell whose triplets are where; "
            "run the step that made the data set again, or download it"
        )

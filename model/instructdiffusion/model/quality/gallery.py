"""A gallery: features of pictures that are known to be good, which others are held against."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.files import digest_of, write_atomic
from instructdiffusion.model.task import Image

if TYPE_CHECKING:
    from sklearn.neighbors import NearestNeighbors

    from instructdiffusion.model.metrics.networks import Encoder

BATCH = 32  # pictures that are encoded at once
Features = NDArray[np.float32]


@dataclass(frozen=True)
class Gallery:
    """Features, a row a picture; `network` made them. Distances are in units of each feature's spread."""

    features: Features
    network: str
    digest: str

    @staticmethod
    def load(path: Path) -> Gallery:
        """Read a gallery.

        Raises:
            DataError: the file is missing or is none.
        """
        try:
            with safe_open(path, framework="np") as file:
                return Gallery(file.get_tensor("features"), file.metadata()["network"], digest_of(path))
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise DataError(
                f"{path} is no gallery ({type(error).__name__}); make one with `instructdiffusion data gallery`"
            ) from error

    def require(self, network: str, neighbours: int) -> None:
        """Make sure that this network made it, and that it holds enough.

        Raises:
            ConfigError: it doesn't fit.
        """
        if network != self.network:
            raise ConfigError(f"the gallery was made with {self.network}, not {network}; make it again")
        if neighbours > len(self.features):
            raise ConfigError(f"the gallery holds {len(self.features)} pictures, too few for {neighbours} neighbours")

    def distances(self, features: Features, neighbours: int) -> NDArray[np.float64]:
        """Mean squared distance of each row to its nearest ones, divided by the number of features."""
        found = self._nearest.kneighbors(self._scaled(features), neighbours)[0]
        return np.asarray((found**2).mean(axis=1) / self.features.shape[1])

    @cached_property
    def _nearest(self) -> NearestNeighbors:
        from sklearn.neighbors import NearestNeighbors

        return NearestNeighbors().fit(self._scaled(self.features))

    def _scaled(self, features: Features) -> NDArray[np.float64]:
        spread = self.features.std(axis=0, dtype=np.float64)
        return (features - self.features.mean(axis=0, dtype=np.float64)) / np.where(spread > 0, spread, 1)


def make_gallery(
    pictures: Iterable[Image], network: Encoder, path: Path, *, progress: Callable[[int], None] = lambda done: None
) -> Gallery:
    """Encode pictures and write their features into a file.

    Args:
        progress: called with the number of pictures encoded.

    Raises:
        DataError: there are no pictures.
    """
    rows = list[np.ndarray]()
    for batch in _batches(iter(pictures)):
        rows += network.pictures(batch)
        progress(len(rows))
    if not rows:
        raise DataError("there are no pictures to make a gallery of; name a data set that holds some")
    features = np.stack(rows).astype(np.float32)
    write_atomic(path, save({"features": features}, {"network": network.name}))
    return Gallery.load(path)


def _batches(pictures: Iterator[Image]) -> Iterator[list[Image]]:
    while batch := list(islice(pictures, BATCH)):
        yield batch

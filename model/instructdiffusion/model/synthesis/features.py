"""Features of cutouts: vectors that point the same way for things that look alike. One interface, by an address.

embedded        outline and colours: histograms of gradients (Dalal and Triggs, 2005) and of Lab colours
an address      a network that sees pictures, CLIP or a vision transformer, from its folder or hub id
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from instructdiffusion.model.synthesis.cutouts import Cutout

if TYPE_CHECKING:
    from instructdiffusion.model.metrics.networks import Encoder

EMBEDDED = "embedded"
SIDE, CELL = 64, 16  # pixels: of the square that outlines are compared in, and of its cells
LEVELS = (4, 8, 8)  # of lightness and of the two axes of colour
Vectors = NDArray[np.float32]  # a row a cutout, of length 1


class Features(ABC):
    """A way to see cutouts; `name` says which, for what was made with it."""

    name: str

    def of(self, cutouts: Sequence[Cutout]) -> Vectors:
        """A row for each cutout; the larger the product of two, the more alike they are."""
        found = np.stack(self.seen([cutout.alone for cutout in cutouts])).astype(np.float32)
        return np.asarray(found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12), np.float32)

    @abstractmethod
    def seen(self, cutouts: Sequence[Cutout]) -> Sequence[NDArray[np.floating]]:
        """A vector for each thing, which is alone in a square, of any length."""


class Embedded(Features):
    """Outline and colours count the same."""

    name = EMBEDDED

    def seen(self, cutouts: Sequence[Cutout]) -> Sequence[NDArray[np.floating]]:
        return [np.concatenate([_outline(cutout), _colours(cutout)]) for cutout in cutouts]


class Seen(Features):
    """What a network sees."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder, self.name = encoder, encoder.name

    def seen(self, cutouts: Sequence[Cutout]) -> Sequence[NDArray[np.floating]]:
        return self.encoder.pictures([cutout.picture for cutout in cutouts])


@lru_cache(maxsize=4)
def features(address: str) -> Features:
    """The features that an address names.

    Raises:
        DataError: there is no such network.
    """
    if address == EMBEDDED:
        return Embedded()
    from instructdiffusion.model.metrics.networks import encoder

    return Seen(encoder(address))


def _outline(cutout: Cutout) -> NDArray[np.floating]:
    from skimage.feature import hog

    small = cv2.resize(cutout.picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    found = hog(small, pixels_per_cell=(CELL, CELL), cells_per_block=(2, 2), channel_axis=-1)
    return _unit(np.asarray(found))


def _colours(cutout: Cutout) -> NDArray[np.floating]:
    lab = cv2.cvtColor(cutout.picture, cv2.COLOR_RGB2LAB)
    ranges = [0, 256] * len(LEVELS)
    counts = cv2.calcHist([lab], [0, 1, 2], cutout.mask.astype(np.uint8), list(LEVELS), ranges)
    return _unit(np.sqrt(counts.ravel()))


def _unit(vector: NDArray[np.floating]) -> NDArray[np.floating]:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)

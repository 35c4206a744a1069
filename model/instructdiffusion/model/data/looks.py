"""How a picture looks, in 64 bits: nearly the same bits after a resize or another compression."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from instructdiffusion.model.task import Image

LOOK = "look"  # in a triplet's provenance: how the whole source picture looked before it was cropped
LOOK_AFTER = "look_after"  # and the whole target, where the data set has one
BITS = 64
LEAST_SET = 20  # bits, of the 32 that are set in a picture with structure: fewer, and most cosines are none at all
ALIKE = 6  # bits: what a resize and a JPEG of quality 60 change at most; pictures of other things differ in 10 and more


def look(picture: Image) -> int:
    """The perceptual hash: signs of the coarse cosines of its lightness (Zauner, 2010)."""
    from imagehash import phash

    return int(str(phash(Pillow.fromarray(picture))), 16)


def plain(seen: int) -> bool:
    """Whether a look says nothing: all pictures of one colour have the same, and so have gradients."""
    return seen.bit_count() < LEAST_SET


def looked(picture: Image) -> str:
    """The same as provenance holds it: 16 hexadecimal digits."""
    return f"{look(picture):016x}"


def apart(looks: NDArray[np.uint64], other: int) -> NDArray[np.uint8]:
    """In how many bits each of many differs from another."""
    return np.bitwise_count(looks ^ np.uint64(other))


class Pairs:
    """Looks of pairs of pictures, in one array that doubles as it fills."""

    def __init__(self) -> None:
        self.looks = np.empty((1, 2), np.uint64)
        self.count = 0

    def add(self, pair: tuple[int, int]) -> None:
        """Remember a pair."""
        if self.count == len(self.looks):
            self.looks = np.concatenate([self.looks, np.empty_like(self.looks)])
        self.looks[self.count] = pair
        self.count += 1

    def nearest(self, pair: tuple[int, int]) -> int:
        """Bits that differ from the nearest pair; all of them where there is none, or where both looks say nothing."""
        if not self.count or all(map(plain, pair)):
            return 2 * BITS
        return int(np.bitwise_count(self.looks[: self.count] ^ np.array(pair, np.uint64)).sum(axis=1).min())

"""Exemplar painters: another thing in the place of one that is there. One interface, chosen by an address.

    embedded                  the old thing is filled over, the new one scaled into its place and its seam hidden
                              (Poisson blending, Perez et al., 2003)
    paint-by-example:PATH     Paint by Example, a diffusion model that is shown the new thing (Yang et al., 2023), from
                              its folder or hub id in diffusers' layout

Pixels outside the mask that comes with the picture stay as they are, to the bit, whatever the painter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache

import cv2
import numpy as np

from instructdiffusion.model.errors import ConfigError
from instructdiffusion.model.synthesis.cutouts import Cutout
from instructdiffusion.model.synthesis.inpainters import Inpainter, inpainter
from instructdiffusion.model.synthesis.regions import Region, grown
from instructdiffusion.model.task import Image, Mask

EMBEDDED = "embedded"
WORK = 256  # pixels of the side, at least, that things are laid in at
REACH = 8  # pixels past an outline that OpenCV's blending needs: it hides the seam in the outermost six
PAD = 2 * REACH


class Painter(ABC):
    """A way to paint a thing into a region; `name` says which, for provenance. The same input gives the same output."""

    name: str

    def paint(self, region: Region, thing: Cutout, seed: int) -> tuple[Image, Mask]:
        """The region's picture with the thing in its place, and where it may differ; all else is as it was."""
        picture, mask = self.guess(region, thing, seed)
        return np.where(mask[..., None], picture, region.picture), mask

    @abstractmethod
    def guess(self, region: Region, thing: Cutout, seed: int) -> tuple[Image, Mask]:
        """A picture and a mask; the picture is right where the mask is, what it holds elsewhere is not used."""


class Blending(Painter):
    """OpenCV's seamless clone, on top of what an inpainter leaves of the place; the seed changes nothing."""

    def __init__(self, behind: Inpainter) -> None:
        self.behind = behind
        self.name = f"{EMBEDDED} over {behind.name}"

    def guess(self, region: Region, thing: Cutout, seed: int) -> tuple[Image, Mask]:
        scale = -(-WORK // region.side)
        empty = _padded(_resized(self.behind.fill(region.picture, region.grown), region.side * scale))
        left, top, right, bottom = (scale * side + PAD for side in region.box)
        above, shape = _laid(thing, (left, top, right, bottom), empty.shape[1::-1])
        mask = grown(shape, REACH)
        picture = _resized(_blended(above, empty, mask)[PAD:-PAD, PAD:-PAD], region.side)
        covered = _resized(np.where(mask, np.uint8(255), np.uint8(0))[PAD:-PAD, PAD:-PAD], region.side)
        return picture, region.grown | (covered > 0)


@lru_cache(maxsize=4)
def painter(address: str, behind: str) -> Painter:
    """The painter that an address names; see the top of this file.

    Args:
        behind: address of the inpainter that takes the old thing away, where the painter doesn't.

    Raises:
        ConfigError: there is no such painter or inpainter.
        DataError: there is no such model at its path.
    """
    kind, _, rest = address.partition(":")
    if address == EMBEDDED:
        return Blending(inpainter(behind))
    if kind == "paint-by-example" and rest:
        from instructdiffusion.model.synthesis.paint_by_example import PaintByExample

        return PaintByExample.load(rest)
    raise ConfigError(f"no painter {address!r}; choose embedded or paint-by-example:PATH")


def _laid(thing: Cutout, box: tuple[int, int, int, int], size: tuple[int, int]) -> tuple[Image, Mask]:
    """The thing as large as fits a box, on its floor and in its middle, with its surroundings drawn out to `size`."""
    left, top, right, bottom = thing.box
    factor = min((box[2] - box[0]) / (right - left), (box[3] - box[1]) / (bottom - top))
    height, width = thing.mask.shape
    new = (max(1, round(width * factor)), max(1, round(height * factor)))
    picture = cv2.resize(thing.picture, new, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    mask = cv2.resize(thing.mask.astype(np.uint8), new, interpolation=cv2.INTER_NEAREST)
    across = (box[0] + box[2]) / 2 - (left + right) / 2 * new[0] / width
    down = box[3] - bottom * new[1] / height
    shift = np.array([[1, 0, round(across)], [0, 1, round(down)]], float)
    moved = cv2.warpAffine(picture, shift, size, flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.uint8), cv2.warpAffine(mask, shift, size, flags=cv2.INTER_NEAREST) > 0


def _resized(picture: Image, side: int) -> Image:
    how = cv2.INTER_AREA if side < len(picture) else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (side, side), interpolation=how), np.uint8)


def _padded(picture: Image) -> Image:
    """With room on every side for what the blending needs of a thing at the edge."""
    return np.asarray(cv2.copyMakeBorder(picture, PAD, PAD, PAD, PAD, cv2.BORDER_REFLECT_101), np.uint8)


def _blended(above: Image, below: Image, mask: Mask) -> Image:
    where = np.where(mask, np.uint8(255), np.uint8(0))  # OpenCV writes into it
    left, top, width, height = cv2.boundingRect(where)
    middle = (left + width // 2, top + height // 2)
    return np.asarray(cv2.seamlessClone(above, below, where, middle, cv2.NORMAL_CLONE), np.uint8)

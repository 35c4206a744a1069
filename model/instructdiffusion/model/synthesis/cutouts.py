"""Cutouts: things cut out of photographs, with a little of what is around them.

What surrounds a thing is needed to lay it into another picture without a seam, and helps a network to see what it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from instructdiffusion.model.synthesis.regions import Region
from instructdiffusion.model.task import Image, Mask

GRAY = 127  # what stands around a thing that is shown alone
AROUND = 0.1  # of the longer side of a thing: how much of its surroundings is kept on every side
LARGEST = 256  # pixels of a cutout's longer side; larger ones are made smaller


@dataclass(frozen=True)
class Cutout:
    """A part of a picture, and what of it the thing covers."""

    picture: Image
    mask: Mask

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of the thing; right and bottom are one past its last pixel."""
        left, top, width, height = cv2.boundingRect(self.mask.astype(np.uint8))
        return left, top, left + width, top + height

    @property
    def alone(self) -> Cutout:
        """The thing on plain gray, in the middle of a square."""
        left, top, right, bottom = self.box
        mask = self.mask[top:bottom, left:right]
        picture = np.where(mask[..., None], self.picture[top:bottom, left:right], np.uint8(GRAY))
        side = max(mask.shape)
        above, before = ((side - length) // 2 for length in mask.shape)
        sides = (above, side - mask.shape[0] - above), (before, side - mask.shape[1] - before)
        return Cutout(np.pad(picture, (*sides, (0, 0)), constant_values=GRAY), np.pad(mask, sides))


def cut(region: Region) -> Cutout:
    """Cut a region out of its picture."""
    left, top, right, bottom = region.box
    margin = round(AROUND * max(right - left, bottom - top))
    rows = slice(max(0, top - margin), bottom + margin)
    columns = slice(max(0, left - margin), right + margin)
    picture, mask = region.picture[rows, columns], region.mask[rows, columns]
    longer = max(mask.shape)
    if longer <= LARGEST:
        return Cutout(np.ascontiguousarray(picture), np.ascontiguousarray(mask))
    size = (max(1, round(mask.shape[1] * LARGEST / longer)), max(1, round(mask.shape[0] * LARGEST / longer)))
    smaller = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))
    return Cutout(smaller, cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0)

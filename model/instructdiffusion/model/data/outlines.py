"""Outlines of objects in COCO's format: polygons, run lengths, or run lengths packed into text, one or several.

Nothing from outside is handed on unchecked: of runs that don't fill the picture, pycocotools makes a mask with whatever
was in memory, and a corner far away takes time and memory without end.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from instructdiffusion.model.data.rle import decode_rle
from instructdiffusion.model.task import Mask


def outline(value: Any, size: tuple[int, int]) -> Mask | None:
    """The mask, height x width, of a COCO `segmentation`; None when it is none of a picture of this `size`."""
    from pycocotools import mask as coco

    width, height = size
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):  # RefClef's
        parts = [part for part in (outline(part, size) for part in value) if part is not None]
        return np.logical_or.reduce(parts) if len(parts) == len(value) else None
    if isinstance(value, list):
        if not value or not all(_polygon(part, size) for part in value):
            return None
        return np.asarray(coco.decode(coco.merge(coco.frPyObjects(value, height, width))), bool)
    if not isinstance(value, dict) or list(value.get("size") or ()) != [height, width]:
        return None
    counts = value.get("counts")
    runs = unpacked(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        return None
    return decode_rle({"size": [height, width], "counts": runs}) if sum(runs) == width * height else None


def unpacked(counts: str) -> list[int] | None:
    """The runs in COCO's packed text; None when it is cut short or holds other letters.

    Each number is written five bits a letter, the lowest first, and from the fourth on as what it adds to the number
    two before it.
    """
    runs: list[int] = []
    number = shift = 0
    for letter in counts:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 60:
            return None
        number |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:  # more letters follow
            continue
        if bits & 0x10:  # negative
            number -= 1 << shift
        runs.append(number + runs[-2] if len(runs) > 2 else number)
        number = shift = 0
    return None if shift else runs


def _polygon(part: Any, size: tuple[int, int]) -> bool:
    """Whether a polygon has three corners or more, all of them in or near the picture."""
    if not isinstance(part, list) or len(part) < 6 or len(part) % 2:
        return False
    far = 2 * max(size)
    return all(isinstance(v, int | float) and math.isfinite(v) and math.fabs(v) <= far for v in part)

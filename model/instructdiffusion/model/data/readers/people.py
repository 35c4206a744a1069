"""What every data set of people and their joints has in common: what makes a person an example, and numbers that hold.

The label of a person holds the joints that are annotated and no others, so that "unknown" is never taught as "absent";
`visible` says which of them can be seen, `box` is [left, top, right, bottom] in pixels, and `area`, where the data set
gives it, how many pixels the outline covers: COCO's measure depends on it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeGuard

import numpy as np

from instructdiffusion.model.data.augment import near
from instructdiffusion.model.data.pictures import load
from instructdiffusion.model.data.readers import Example
from instructdiffusion.model.data.readers.walk import Skip, Walker

Joints = dict[str, tuple[float, float, bool]]  # x and y in pixels, and whether it can be seen
Box = tuple[float, float, float, float]  # left, top, right, bottom
Size = tuple[int, int]  # width, height

MISSING = "picture: missing on disk"
NO_JOINTS = "keypoints: none annotated inside the picture and near the box"


class People(Walker):
    """What the data sets of people have in common."""

    task = "keypoint"
    flips = True
    joints: ClassVar[tuple[str, ...]]

    def person(
        self, key: str, picture: str, path: Path, size: Size | None, joints: Joints, box: Box, facts: Mapping[str, str],
        *, phrase: str = "person", area: float | None = None,
    ) -> Example | Skip:  # fmt: skip
        """A person as an example; left out when nothing of it can be asked for. `area` is of the outline, in pixels."""
        cut = _inside(box, size)
        if cut is None:
            return Skip("bbox: outside the picture, empty or not finite", key)
        pictured = {name: point for name, point in joints.items() if _pictured(point, size)}
        if not any(near(point[:2], cut) for point in pictured.values()):
            return Skip(NO_JOINTS, key)
        label = {
            "phrase": phrase,
            "joints": {name: [round(x, 3), round(y, 3)] for name, (x, y, _) in pictured.items()},
            "visible": {name: seen for name, (_, _, seen) in pictured.items()},
            "box": [round(side, 3) for side in cut],
            **({} if area is None else {"area": area}),
        }
        return Example(key, self.task, picture, partial(load, path, size=size), label, facts=dict(facts))


def triples(values: Any, names: tuple[str, ...], known: tuple[int, ...] = (1, 2), seen: int = 2) -> Joints | None:
    """Joints from x, y, v, x, y, v...: those whose v is `known`; None when these are not so many finite numbers."""
    flat = numbers(values, 3 * len(names))
    if flat is None:
        return None
    points = zip(names, flat[::3], flat[1::3], flat[2::3], strict=True)
    return {name: (x, y, v == seen) for name, x, y, v in points if v in known}


def numbers(values: Any, count: int) -> tuple[float, ...] | None:
    """So many finite numbers, or None."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if not fit(values, count):
        return None
    plain = [v.item() if isinstance(v, np.generic) else v for v in values]
    if not all(isinstance(v, int | float) and math.isfinite(v) for v in plain):
        return None
    return tuple(float(v) for v in plain)


def fit(values: Any, count: int) -> TypeGuard[list[Any]]:
    return isinstance(values, list | tuple) and len(values) == count


def _inside(box: Box, size: Size | None) -> Box | None:
    """The part of a box inside the picture, None when nothing is."""
    left, top, right, bottom = max(0.0, box[0]), max(0.0, box[1]), box[2], box[3]
    if size is not None:
        right, bottom = min(float(size[0]), right), min(float(size[1]), bottom)
    return (left, top, right, bottom) if right - left >= 1 and bottom - top >= 1 else None


def _pictured(point: tuple[float, float, bool], size: Size | None) -> bool:
    """Whether a joint is inside the picture, as far as its size is known."""
    x, y, _ = point
    return x >= 0 and y >= 0 and (size is None or (x < size[0] and y < size[1]))


def within(folder: Path, name: str) -> Path | None:
    """A file below a folder; None for names that lead out of it."""
    parts = Path(name).parts
    return None if not parts or Path(name).is_absolute() or ".." in parts or "\0" in name else folder / name

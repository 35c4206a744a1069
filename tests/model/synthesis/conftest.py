"""A photograph that ships in a wheel, with regions outlined by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import cv2
import numpy as np
import pytest

from instructdiffusion.model.data.photos import photographs
from instructdiffusion.model.data.readers import PHOTO, REGION, Example
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.task import Image, Mask

MakeRegion = Callable[..., Example]


def disc(picture: Image, centre: tuple[int, int], radius: int) -> Mask:
    mask = np.zeros(picture.shape[:2], np.uint8)
    return np.asarray(cv2.circle(mask, centre, radius, 1, -1) > 0)


def photo(name: str) -> Image:
    """The flower (of the test photographs), or the patch on the astronaut's suit and its surroundings."""
    return photographs("test")[1] if name == "flower" else photographs("train")[0]


@pytest.fixture
def region() -> MakeRegion:
    """Makes the example of a region: a dahlia unless told otherwise; the label can be changed."""

    def make(phrase: str = "orange dahlia", *, name: str = "flower", key: str = "flower-1", **label: Any) -> Example:
        picture = photo(name)
        mask = disc(picture, (308, 221), 137) if name == "flower" else disc(picture, (170, 386), 43)
        found: Mapping[str, Any] = {"phrase": phrase, "mask": mask, **label}
        there = {part: value for part, value in found.items() if value is not None}
        facts = {"licence": "CC BY 2.0"}
        return Example(key, REGION, f"wheel/{name}", partial(photo, name), there, facts=facts)

    return make


@pytest.fixture
def photograph() -> Example:
    """The flower with a caption."""
    return Example("flower", PHOTO, "wheel/flower", partial(photo, "flower"), {"caption": "an orange dahlia"})


@pytest.fixture
def broken() -> Example:
    def source() -> Image:
        raise DataError("picture x.jpg is broken; download it again")

    return Example("broken", REGION, "x", source, {"phrase": "dog", "box": [0, 0, 9, 9]})

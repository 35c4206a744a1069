"""Degradations: photographs are the targets, and the same damaged the sources (paper, section 3.2).

Noise, blur and text are those of the composed scenes; a photograph may also have been compressed by JPEG, or bear a
logo. The label says by how much.

photograph  ->  a square of it  ->  noise, blur, JPEG, a watermark  ->  "Remove the noise."
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import cast

import cv2
import numpy as np

from instructdiffusion.model.colors import OBJECTS
from instructdiffusion.model.data.augment import short_side_crop
from instructdiffusion.model.data.readers import Example
from instructdiffusion.model.data.samples import loaded
from instructdiffusion.model.data.shards import Triplet
from instructdiffusion.model.synthesis.objects import KINDS, draw
from instructdiffusion.model.task import Image
from instructdiffusion.model.tasks import EVERY
from instructdiffusion.model.tasks.restoration import Parameters, Restoration

DAMAGES = tuple(name for name, task in EVERY.items() if task.family == "restoration")
COMPRESSED = 0.3  # share of noisy photographs that are compressed on top of it
QUALITIES = (15, 60)  # of JPEG
LOGOS = 0.4  # share of watermarks that are a logo, not text


def edits(
    example: Example, rng: Random, size: int, *, operations: tuple[str, ...] = DAMAGES, train: bool = True
) -> Iterator[Triplet]:
    """A triplet of each task that undoes damage, `size` x `size` pixels; the square is drawn anew for each.

    Args:
        train: off: squares from the middle, not mirrored.

    Raises:
        Unusable: the picture is missing, broken or too narrow.
    """
    picture, _ = loaded(example)
    for operation in operations:
        clean, _ = short_side_crop(picture, {}, rng, size=size, train=train)
        source, damage = damaged(clean, operation, rng)
        label = {"clean": clean, "damage": damage, "held_out": False}
        ask = EVERY[operation].ask(label, rng)
        yield Triplet(f"{example.key}-{operation}", ask, source, clean, label, {"operation": operation})


def damaged(clean: Image, operation: str, rng: Random) -> tuple[Image, Parameters]:
    """A picture with the damage that a task undoes, and how much of it."""
    if operation == "watermark" and rng.random() < LOGOS:
        return stamped(clean, rng)
    source, parameters = cast(Restoration, EVERY[operation]).damage(clean, rng)
    if operation == "denoise" and rng.random() < COMPRESSED:
        quality = rng.randint(*QUALITIES)
        return compressed(source, quality), {**parameters, "jpeg": quality}
    return source, parameters


def compressed(picture: Image, quality: int) -> Image:
    """A picture after JPEG of a quality, 1 to 100."""
    data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.ascontiguousarray(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))[..., ::-1])


def stamped(clean: Image, rng: Random) -> tuple[Image, Parameters]:
    """A picture with a see-through logo somewhere on it."""
    side, opacity = clean.shape[0], rng.uniform(0.35, 0.75)
    kind, color = rng.choice(KINDS), rng.choice(sorted(OBJECTS))
    pixels = draw(kind, color, round(side * rng.uniform(0.2, 0.5)), Random(rng.getrandbits(32))).pixels.astype(float)
    height, width = pixels.shape[:2]
    left, top = rng.randint(0, side - width), rng.randint(0, side - height)
    cover = pixels[..., 3:] / 255 * opacity
    picture = clean.astype(float)
    under = picture[top : top + height, left : left + width]
    picture[top : top + height, left : left + width] = under * (1 - cover) + pixels[..., :3] * cover
    return picture.round().astype(np.uint8), {"logo": f"{color} {kind}", "opacity": round(opacity, 2)}

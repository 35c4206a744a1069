"""Edits and joints of photographs in which a detector found people and animals: pseudo-labels, and marked as such.

photograph  ->  people and animals  ->  joints of a person: "Mark the nose with red."
                                    ->  outline of a thing: "Remove the cat."  and backwards
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from random import Random

import cv2
import numpy as np

from instructdiffusion.model.data.augment import person_crop
from instructdiffusion.model.data.readers import REGION, Example
from instructdiffusion.model.data.samples import Unusable
from instructdiffusion.model.data.shards import Triplet
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.synthesis.detectors import Box, Found
from instructdiffusion.model.synthesis.inpainters import Inpainter
from instructdiffusion.model.synthesis.removal import edits as removals
from instructdiffusion.model.task import Image, Mask
from instructdiffusion.model.tasks import EVERY

JOINTS = "keypoint"
OPERATIONS = (JOINTS, "remove", "add")
MOST = 4  # things that are used of a photograph, the surest
SMALLEST = 48  # pixels that the longer side of a person must have: joints of smaller ones are guesses of guesses
_OUTLINE = 320  # pixels that a picture is reduced to while an outline is looked for
_FILLED = (0.2, 0.95)  # share of its box that an outline covers; else it was not found, and the box is taken


def edits(
    example: Example,
    things: Sequence[Found],
    inpainter: Inpainter,
    rng: Random,
    size: int,
    *,
    operations: tuple[str, ...] = OPERATIONS,
    train: bool = True,
) -> Iterator[Triplet]:
    """Triplets of what was found in a photograph, `size` x `size` pixels.

    A thing is removed and added only where no other of its kind is: else its word would not say which.

    Raises:
        Unusable: the picture is broken, or nothing of use was found in it.
    """
    kinds, why = Counter(thing.kind for thing in things), "nothing was found"
    made = 0
    for number, thing in enumerate(things[:MOST]):
        one = replace(example, key=f"{example.key}-{thing.kind}-{number}")
        facts = {"sure": round(thing.sure, 3)}
        try:
            if JOINTS in operations and thing.joints:
                yield replace(_joints(one, thing, rng, size, train), provenance={**facts, "operation": JOINTS})
                made += 1
            wanted = tuple(name for name in operations if name != JOINTS)
            if wanted and kinds[thing.kind] == 1:
                for triplet in removals(_region(one, thing), inpainter, rng, size, operations=wanted, train=train):
                    yield replace(triplet, provenance={**triplet.provenance, **facts})
                    made += 1
        except DataError as error:
            why = str(error)
    if not made:
        raise Unusable("detector: nothing of use", f"{example.key}: {why}")


def outline(picture: Image, box: Box) -> Mask:
    """The pixels of the thing in a box, by their colours (Rother et al., GrabCut, 2004); all of it when unclear."""
    height, width = picture.shape[:2]
    scale = min(1.0, _OUTLINE / max(height, width))
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    left, top, right, bottom = (round(side * scale) for side in box)
    inside = np.zeros(small.shape[:2], bool)
    inside[top:bottom, left:right] = True
    if inside.all() or not inside.any():
        return _boxed(box, height, width)
    marks = np.where(inside, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
    cv2.setRNGSeed(0)
    cv2.grabCut(small, marks, None, np.zeros((1, 65)), np.zeros((1, 65)), 3, cv2.GC_INIT_WITH_MASK)
    found = (marks & 1).astype(np.uint8)  # both kinds of foreground are odd
    least, most = _FILLED
    if not least <= found.sum() / inside.sum() <= most:
        return _boxed(box, height, width)
    return np.asarray(cv2.resize(found, (width, height), interpolation=cv2.INTER_NEAREST) > 0)


def _boxed(box: Box, height: int, width: int) -> Mask:
    left, top, right, bottom = (round(side) for side in box)
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    return mask


def _region(example: Example, thing: Found) -> Example:
    """The thing as a data set of regions would give it."""
    label = {"phrase": thing.kind}
    return replace(example, task=REGION, label=label, lazy={"mask": partial(_mask, example, thing.box)})


def _mask(example: Example, box: Box) -> Mask:
    return outline(example.source(), box)


def _joints(example: Example, thing: Found, rng: Random, size: int, train: bool) -> Triplet:
    """A person as a data set of people would give it."""
    left, top, right, bottom = thing.box
    if max(right - left, bottom - top) < SMALLEST:
        raise DataError(f"the {thing.kind} is smaller than {SMALLEST} pixels")
    joints = {name: [round(x, 3), round(y, 3)] for name, (x, y) in thing.joints.items()}
    seen = dict.fromkeys(joints, True)
    label = {"phrase": thing.kind, "joints": joints, "visible": seen, "box": [round(side, 3) for side in thing.box]}
    task = EVERY[JOINTS]
    source, changed = person_crop(example.source(), label, rng, size=size, train=train)
    ask = task.ask(changed, rng)
    return Triplet(example.key, ask, source, task.paint(source, changed, ask), changed, {})

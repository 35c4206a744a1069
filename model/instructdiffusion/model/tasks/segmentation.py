"""Segmentation as painting: a see-through colour over what the phrase names.

Half opacity, so that the model keeps seeing what it covers (section 3.1 of the paper). With the source at hand, each
pixel's opacity is solved for, after both pictures were made equally smooth: else noise and soft edges would be taken
for paint. A light U-Net, which the paper reads with, does it worse (docs/decisions/0004-readers.md). `segmentation`
names a class and means all of it, and asks for an absent class in one sample of five; `referring` names one object
among others.
"""

from __future__ import annotations

from random import Random
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from instructdiffusion.model.colors import TINTS
from instructdiffusion.model.data.rle import encode_rle
from instructdiffusion.model.synthesis.objects import KINDS
from instructdiffusion.model.synthesis.scenes import Studio, phrase, truth
from instructdiffusion.model.task import Ask, Image, Label, Mask, Metric, Task

OPACITY = 0.5
ABSENT = 0.2  # share of samples that ask for a class that is not there
VOID = "void"  # in a label of a public data set: the mask of pixels that nobody labelled; no task needs it
EMPTY = 0.005  # share of the picture below which a region counts as nothing found
GRAIN = ((8.0, 1.0), (4.0, 0.7), (2.5, 0.5))  # noise in an output, of 0..255, from which it is smoothed, and how much
SOFT = (0.0, 0.5, 0.7, 1.0, 1.4)  # how much softer than its source an output may be: deviations of a blur, in pixels
_SAME = {"pink": ("red", "purple"), "orange": ("red", "yellow"), "cyan": ("blue", "green")}


class Tint(Task):
    """Label: the `mask` that the `phrase` names, and `instances`, `index` of the scene for telling objects apart."""

    family = "perception"
    needs = ("phrase", "mask")
    metric = Metric("iou", "intersection over union", 0.60)
    also = (Metric("right_object", "share where the right object is covered most", 0.85),)

    def ask(self, label: Label, rng: Random) -> Ask:
        self.check(label)
        own = label.get("color", "")
        color = rng.choice([c for c in TINTS if c != own and c not in _SAME.get(own, ())])
        words = rng.choice(self.templates).format(phrase=label["phrase"], color=color)
        return Ask(self.name, words, ((label["phrase"], color),))

    def slots(self, ask: Ask, label: Label) -> dict[str, str]:
        return {"phrase": ask.marks[0][0], "color": ask.marks[0][1]}

    def paint(self, source: Image, label: Label, ask: Ask) -> Image:
        target = source.astype(np.float32)
        color = np.array(TINTS[ask.marks[0][1]], np.float32)
        target[label["mask"]] = (1 - OPACITY) * target[label["mask"]] + OPACITY * color
        return target.round().astype(np.uint8)

    def region(self, output: Image, source: Image, ask: Ask) -> Mask:
        """Which pixels carry the ask's color."""
        return solved(output, source, np.array(TINTS[ask.marks[0][1]], np.float32))

    def read(self, output: Image, source: Image, ask: Ask) -> dict[str, Any]:
        return region_found(self.region(output, source, ask))

    def score(self, output: Image, source: Image, label: Label, ask: Ask) -> dict[str, float]:
        found, wanted = self.region(output, source, ask), np.asarray(label["mask"])
        scores = {"iou": iou(found, wanted)}
        if "instances" in label and wanted.any():
            scores["right_object"] = float(
                _most_covered(found, label["instances"]) in np.unique(label["instances"][wanted])
            )
        return scores

    def heard(self, instruction: str, slots: dict[str, str]) -> Ask | None:
        return Ask(self.name, instruction, ((slots["phrase"], slots["color"]),)) if slots["color"] in TINTS else None


class Segmentation(Tint):
    """All of a class."""

    name = "segmentation"
    weight = 11.0
    templates = (
        "Paint every {phrase} {color}.",
        "Segment the {phrase} in {color}.",
        "Color all {phrase} pixels {color}.",
        "Cover the class {phrase} with {color}.",
        "Use {color} to mask every {phrase}.",
        "Lay {color} over each {phrase}.",
        "Highlight all of class {phrase} in {color}.",
        "Give every {phrase} a {color} mask.",
        "Which pixels are {phrase}? Make them {color}.",
        "Draw a {color} mask over the class {phrase}.",
    )

    def stage(self, studio: Studio, rng: Random) -> tuple[Image, Label]:
        scene = studio.scene(rng)
        present = {t.kind for t in scene.things}
        absent = rng.random() < ABSENT
        kind = rng.choice([k for k in KINDS if k not in present]) if absent else scene.things[0].kind
        owners = [i + 1 for i, t in enumerate(scene.things) if t.kind == kind]
        label = truth(scene, 0, phrase=kind, mask=np.isin(scene.instances(), owners))
        return scene.render(), {**label, "color": "" if absent or len(owners) > 1 else label["color"]}


class Referring(Tint):
    """The one object a phrase names."""

    name = "referring"
    weight = 14.0
    templates = (
        "Paint the {phrase} {color}.",
        "Tint only the {phrase} {color}.",
        "Mark the {phrase} in {color} and leave the rest alone.",
        "Find the {phrase} and tint it {color}.",
        "Put a {color} mask on the {phrase}.",
        "Show me the {phrase} in {color}.",
        "Shade the {phrase} with {color}.",
        "Where is the {phrase}? Shade it {color}.",
        "Select the {phrase} using {color}.",
        "Spread {color} over the {phrase}.",
    )

    def stage(self, studio: Studio, rng: Random) -> tuple[Image, Label]:
        scene = studio.scene(rng)
        return scene.render(), truth(scene, 0, phrase=phrase(scene, 0, rng), mask=scene.mask(0))


def solved(output: Image, source: Image, ink: NDArray[np.float32]) -> Mask:
    """Solve each pixel's opacity, and cut at half of what is painted.

    Args:
        output, source: height x width x 3, 0..255, of one size.
        ink: red, green, blue, 0..255.
    """
    noise = roughness(output, source)
    after = _softened(output, next((sigma for least, sigma in GRAIN if noise >= least), 0.0))
    before = min((_softened(source, sigma) for sigma in SOFT), key=lambda soft: np.median(np.abs(after - soft)))
    full = ink - before  # the change that opacity 1 would make
    opacity = ((after - before) * full).sum(-1) / np.maximum((full * full).sum(-1), 45.0**2)
    return np.asarray(opacity > OPACITY / 2)


def _softened(picture: Image, sigma: float) -> NDArray[np.float32]:
    plain = picture.astype(np.float32)
    return np.asarray(cv2.GaussianBlur(plain, (0, 0), sigma)) if sigma else plain


def roughness(output: Image, source: Image) -> float:
    """Deviation of the noise that an output has and its source has not, in gray levels of 0..255.

    The median of what a difference of second differences leaves of the change, which edges and slopes do not move
    (Immerkaer, Fast noise variance estimation, 1996, with a median in place of the mean).
    """
    change = (output.astype(np.float32) - source).mean(-1)
    left = cv2.filter2D(change, -1, np.outer((1, -2, 1), (1, -2, 1)).astype(np.float32))
    return float(np.median(np.abs(left)) / 0.6745 / 6)


def iou(found: Mask, wanted: Mask) -> float:
    """Intersection over union; where nothing is wanted, 1 if next to nothing was found and else 0."""
    if not wanted.any():
        return float(found.mean() < EMPTY)
    return float((found & wanted).sum() / (found | wanted).sum())


def region_found(mask: Mask) -> dict[str, Any]:
    """A region as box [left, top, right, bottom] and run-length mask; empty when next to nothing was found."""
    if mask.mean() < EMPTY:
        return {}
    ys, xs = np.nonzero(mask)
    box = [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]
    return {"box": box, "mask": encode_rle(mask)}


def _most_covered(found: Mask, instances: np.ndarray) -> int:
    """The thing of which the largest share is covered; 0 when no thing has a quarter covered."""
    shares = {int(i): float(found[instances == i].mean()) for i in np.unique(instances) if i}
    best = max(shares, key=lambda i: shares[i], default=0)
    return best if shares.get(best, 0) > 0.25 else 0


TASKS = (Segmentation(), Referring())

"""Keypoints as painting: a filled disc of its own colour on each joint asked for.

One to five joints a picture, colours drawn without replacement from nine, radius 10 pixels at 256 (section 3.1 of the
paper). A disc must span more than one cell of the latent grid, so it is never smaller than 3.5 pixels. A joint that is
not annotated is never asked for: "unknown" must not be taught as "absent".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random
from typing import Any

import cv2
import numpy as np

from instructdiffusion.model.colors import MARKS
from instructdiffusion.model.synthesis.objects import JOINTS, KINDS
from instructdiffusion.model.synthesis.scenes import Studio, phrase, truth
from instructdiffusion.model.task import Ask, Image, Label, Metric, Task

RADIUS = 10 / 256  # of the picture's side
SMALLEST = 3.5  # pixels
MOST_JOINTS = 5
FEW = 0.15  # of training's scenes have one or two joints annotated: what a single joint is, many dots hardly teach
TOLERANCE = 0.1  # of the picture's side: a joint within it counts as found (PCK@0.1)
SHIFTS, SOLID = 4, 0.6  # how often the middle of a found disc is moved, and the share of it that must be ink for that
ARTICULATED = tuple(kind for kind in KINDS if JOINTS[kind])
_CLOSE_TO = {"pink": ("red", "magenta"), "purple": ("magenta",), "orange": ("red", "yellow")}


def radius_of(side: int) -> float:
    """Radius in pixels of a disc in a picture `side` pixels wide."""
    return max(SMALLEST, RADIUS * side)


class Keypoint(Task):
    """Label: `joints` {name: [x, y]} of one object, the `phrase` that names it, its `color`."""

    name = "keypoint"
    family = "perception"
    weight = 20.0
    metric = Metric("pck", "share of joints within a tenth of the side", 0.60)
    needs = ("joints", "phrase")
    templates = (
        "On the {phrase}, put {marks}.",
        "Find the joints of the {phrase} and put {marks}.",
        "Mark the {phrase} with {marks}.",
        "Draw {marks} for the {phrase}.",
        "For the {phrase}, place {marks}.",
        "Look at the {phrase} and place {marks}.",
        "Locate parts of the {phrase}: add {marks}.",
        "Show where things are on the {phrase} by drawing {marks}.",
        "Take the {phrase} and mark it with {marks}.",
        "Point out the {phrase}'s parts: draw {marks}.",
    )

    def stage(self, studio: Studio, rng: Random) -> tuple[Image, Label]:
        scene = studio.scene(rng, kinds=ARTICULATED)
        thing = scene.things[0]
        hidden = scene.instances()
        joints = {n: [round(x, 2), round(y, 2)] for n, (x, y) in thing.joints.items() if _shows(hidden, x, y)}
        if not joints:
            return self.stage(studio, rng)
        if studio.split == "train" and rng.random() < FEW:
            joints = dict(rng.sample(sorted(joints.items()), min(len(joints), rng.randint(1, 2))))
        return scene.render(), truth(
            scene, 0, joints=joints, phrase=phrase(scene, 0, rng, ("name", "kind", "position"))
        )

    def ask(self, label: Label, rng: Random) -> Ask:
        self.check(label)
        count = min(rng.randint(1, MOST_JOINTS), len(label["joints"]))
        return self.asking(label, rng.sample(sorted(label["joints"]), count), rng)

    def asking(self, label: Label, joints: Sequence[str], rng: Random) -> Ask:
        """Ask for these joints, five at most, in colours and words drawn at random."""
        own = label.get("color", "")
        colors = rng.sample([c for c in MARKS if c != own and c not in _CLOSE_TO.get(own, ())], len(joints))
        marks = tuple(zip(joints, colors, strict=True))
        return Ask(self.name, rng.choice(self.templates).format(phrase=label["phrase"], marks=_told(marks)), marks)

    def slots(self, ask: Ask, label: Label) -> dict[str, str]:
        return {"phrase": label["phrase"], "marks": _told(ask.marks)}

    def paint(self, source: Image, label: Label, ask: Ask) -> Image:
        target = source.astype(np.float32)
        for joint, color in ask.marks:
            x, y = label["joints"][joint]
            cover = _disc(source.shape, x, y)[..., None]
            target = target * (1 - cover) + cover * np.array(MARKS[color], np.float32)
        return target.round().astype(np.uint8)

    def read(self, output: Image, source: Image, ask: Ask) -> dict[str, Any]:
        """Find each disc: where the picture moved towards its colour and came near it, summed over a disc."""
        before, after = source.astype(np.float32), output.astype(np.float32)
        size = 2 * int(np.ceil(radius_of(source.shape[0]))) + 1
        found = {}
        for joint, color in ask.marks:
            ink = np.array(MARKS[color], np.float32)
            closer = np.abs(before - ink).sum(-1) - np.abs(after - ink).sum(-1)
            changed = np.abs(after - before).sum(-1)
            near = np.exp(-((np.abs(after - ink).sum(-1) / 200) ** 2))
            votes = cv2.GaussianBlur(np.maximum(closer, 0) * near + 0.02 * changed, (size, size), size / 4)
            y, x = np.unravel_index(int(votes.argmax()), votes.shape)
            x_fine, y_fine = _settled(near, *_centroid(votes, int(x), int(y), size // 2))
            found[joint] = {
                "x": x_fine,
                "y": y_fine,
                "confidence": round(float(min(1.0, votes[y, x] / 150)), 3),
            }
        return {"joints": found}

    def score(self, output: Image, source: Image, label: Label, ask: Ask) -> dict[str, float]:
        reach = TOLERANCE * source.shape[0]
        found = self.read(output, source, ask)["joints"]
        still = np.array_equal(output, source)
        hits = [
            not still
            and np.hypot(found[j]["x"] - label["joints"][j][0], found[j]["y"] - label["joints"][j][1]) <= reach
            for j, _ in ask.marks
        ]
        return {"pck": float(np.mean(hits))}

    def heard(self, instruction: str, slots: dict[str, str]) -> Ask | None:
        pairs = re.findall(rf"an? ({'|'.join(MARKS)}) dot on the ([a-z ]+?)(?= and an? |,|$)", slots["marks"])
        return Ask(self.name, instruction, tuple((joint, color) for color, joint in pairs)) if pairs else None


def _told(marks: Sequence[tuple[str, str]]) -> str:
    """A dot for each (joint, colour)."""
    return " and ".join(f"a {color} dot on the {joint}" for joint, color in marks)


def _shows(instances: np.ndarray, x: float, y: float) -> bool:
    """Whether a joint of the first thing is inside the picture and not behind another thing."""
    side = instances.shape[0]
    column, row = round(x), round(y)
    return 0 <= column < side and 0 <= row < side and int(instances[row, column]) in (0, 1)


def _disc(shape: tuple[int, ...], x: float, y: float) -> np.ndarray:
    """How much of each pixel a disc at (x, y) covers, 0..1, in a picture of so many rows and columns."""
    ys, xs = np.mgrid[: shape[0], : shape[1]]
    return np.asarray(np.clip(radius_of(shape[0]) + 0.5 - np.hypot(xs - x, ys - y), 0, 1), np.float32)


def _centroid(votes: np.ndarray, x: int, y: int, reach: int) -> tuple[float, float]:
    x0, y0 = max(0, x - reach), max(0, y - reach)
    part = votes[y0 : y + reach + 1, x0 : x + reach + 1].astype(np.float64) ** 2
    ys, xs = np.mgrid[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]]
    total = max(part.sum(), 1e-9)
    return round(float((xs * part).sum() / total), 2), round(float((ys * part).sum() / total), 2)


def _settled(near: np.ndarray, x: float, y: float) -> tuple[float, float]:
    """The middle of a disc that is found but for a few pixels, by mean shift over what has its ink now.

    Where a black disc lies half on something dark, what changed is the other half. A cloud stays where it is.
    """
    for _ in range(SHIFTS):
        cover = _disc(near.shape, x, y)
        inked = cover * near
        if inked.sum() < SOLID * cover.sum():
            break
        ys, xs = np.indices(near.shape)
        x, y = float((xs * inked).sum() / inked.sum()), float((ys * inked).sum() / inked.sum())
    return round(x, 2), round(y, 2)


TASKS = (Keypoint(),)

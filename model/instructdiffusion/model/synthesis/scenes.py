"""Scenes: drawn objects on a crop of a photograph, with everything known exactly.

A scene keeps its background and its objects apart, so that the picture without one of them, with another, or with one
in another colour is rendered, not guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from instructdiffusion.model.colors import OBJECTS
from instructdiffusion.model.data.photos import Split, photographs, stamps
from instructdiffusion.model.synthesis.objects import HELD_OUT, KINDS, PAIRS, Cutout, Point, draw
from instructdiffusion.model.task import Image, Mask

PLACES: dict[str, Point] = {
    "on the left": (0.24, 0.5),
    "on the right": (0.76, 0.5),
    "at the top": (0.5, 0.24),
    "at the bottom": (0.5, 0.76),
    "in the middle": (0.5, 0.5),
}
SMALL, LARGE = 0.34, 0.5  # longer side of an object, as a share of the picture's


@dataclass(frozen=True)
class Thing:
    """An object in a scene: its cut-out with the upper left corner at (x, y), in pixels."""

    kind: str
    color: str
    cutout: Cutout
    x: int
    y: int
    mirror: bool
    seed: int
    pose: float

    @property
    def size(self) -> int:
        return int(max(self.cutout.pixels.shape[:2]))

    @property
    def centre(self) -> Point:
        height, width = self.cutout.pixels.shape[:2]
        return self.x + width / 2, self.y + height / 2

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom; right and bottom are one past the last pixel."""
        height, width = self.cutout.pixels.shape[:2]
        return self.x, self.y, self.x + width, self.y + height

    @property
    def joints(self) -> dict[str, Point]:
        return {name: (x + self.x, y + self.y) for name, (x, y) in self.cutout.joints.items()}

    @property
    def held_out(self) -> bool:
        return (self.kind, self.color) in HELD_OUT


@dataclass(frozen=True)
class Scene:
    """A background photograph and the things on it, later ones in front."""

    background: Image
    things: tuple[Thing, ...]

    @property
    def side(self) -> int:
        return int(self.background.shape[0])

    def render(self) -> Image:
        """The picture, uint8."""
        picture = self.background.astype(np.float32)
        for thing in self.things:
            _lay(picture, thing)
        return picture.round().astype(np.uint8)

    def instances(self) -> NDArray[np.uint8]:
        """For each pixel, 1 + the index of the thing that shows there, or 0."""
        owner = np.zeros((self.side, self.side), np.uint8)
        for index, thing in enumerate(self.things):
            x0, y0, x1, y1 = thing.box
            owner[y0:y1, x0:x1][thing.cutout.pixels[..., 3] > 127] = index + 1
        return owner

    def mask(self, index: int) -> Mask:
        return np.asarray(self.instances() == index + 1)

    def without(self, index: int) -> Scene:
        return replace(self, things=self.things[:index] + self.things[index + 1 :])

    def put(self, index: int, thing: Thing) -> Scene:
        return replace(self, things=(*self.things[:index], thing, *self.things[index + 1 :]))


def _lay(picture: NDArray[np.float32], thing: Thing) -> None:
    """Blend a thing into a float picture, in place."""
    x0, y0, x1, y1 = thing.box
    pixels = thing.cutout.pixels.astype(np.float32)
    alpha = pixels[..., 3:] / 255
    picture[y0:y1, x0:x1] = picture[y0:y1, x0:x1] * (1 - alpha) + pixels[..., :3] * alpha


@dataclass(frozen=True)
class Studio:
    """Where scenes are composed: `size` pixels square, on the photographs of one split.

    Training never shows the held-out pairs of kind and colour; testing shows them in every other scene.
    """

    size: int
    split: Split
    photos: Sequence[Image]
    cutouts: Sequence[NDArray[np.uint8]] = ()

    @staticmethod
    def open(size: int, split: Split) -> Studio:
        """A studio with the installed photographs and stamps."""
        return Studio(size, split, photographs(split), stamps(split))

    @staticmethod
    def toy(size: int = 64) -> Studio:
        """A studio with backgrounds of soft patches, which needs no photographs."""
        levels = np.random.default_rng(0).integers(60, 200, (3, 10, 10, 3), np.uint8)
        soft = (cv2.resize(patches, (size, size), interpolation=cv2.INTER_LINEAR) for patches in levels)
        return Studio(size, "test", tuple(np.asarray(picture, np.uint8) for picture in soft))

    def background(self, rng: Random) -> Image:
        """A random square crop of a photograph, flipped half of the time, sometimes with photographed stamps on it."""
        photo = rng.choice(self.photos)
        height, width = photo.shape[:2]
        side = min(height, width, round(self.size * rng.uniform(1.0, min(height, width) / self.size * 0.9 + 0.1)))
        side = max(side, min(self.size, height, width))
        x, y = rng.randrange(width - side + 1), rng.randrange(height - side + 1)
        cut = cv2.resize(photo[y : y + side, x : x + side], (self.size, self.size), interpolation=cv2.INTER_AREA)
        if rng.random() < 0.5:
            cut = cut[:, ::-1]
        light = cut.astype(np.float32) * rng.uniform(0.8, 1.15) + rng.uniform(-12, 12)
        crop: Image = np.ascontiguousarray(light.clip(0, 255).astype(np.uint8))
        for _ in range(rng.choice((0, 0, 1, 2)) if self.cutouts else 0):
            crop = self._stamped(crop, rng)
        return crop

    def _stamped(self, crop: Image, rng: Random) -> Image:
        stamp = rng.choice(self.cutouts)
        size = round(self.size * rng.uniform(0.2, 0.6))
        scale = size / max(stamp.shape[:2])
        shape = max(2, round(stamp.shape[1] * scale)), max(2, round(stamp.shape[0] * scale))
        small = np.asarray(cv2.resize(stamp, shape, interpolation=cv2.INTER_AREA), np.uint8)
        x, y = rng.randrange(self.size - shape[0] + 1), rng.randrange(self.size - shape[1] + 1)
        picture = crop.astype(np.float32)
        _lay(picture, Thing("stamp", "", Cutout(small), x, y, False, 0, 0.0))
        return picture.round().astype(np.uint8)

    def pair(self, rng: Random, kinds: Sequence[str] = KINDS, held_out: bool | None = None) -> tuple[str, str]:
        """A kind and a colour that this split may show."""
        unseen = self.split == "test" and (rng.random() < 0.5 if held_out is None else held_out)
        return rng.choice([p for p in PAIRS if p[0] in kinds and (p in HELD_OUT) == unseen])

    def thing(self, kind: str, color: str, rng: Random, *, size: int | None = None, pose: float = 1.0) -> Thing:
        """A thing at a random place."""
        size = size or round(self.size * rng.uniform(SMALL, LARGE))
        mirror, seed = rng.random() < 0.5, rng.getrandbits(32)
        cutout = draw(kind, color, size, Random(seed), pose, mirror)
        height, width = cutout.pixels.shape[:2]
        x, y = rng.randrange(self.size - width + 1), rng.randrange(self.size - height + 1)
        return Thing(kind, color, cutout, x, y, mirror, seed, pose)

    def thing_at(
        self, kind: str, color: str, centre: Point, size: int, mirror: bool = False, pose: float = 0.0
    ) -> Thing:
        """A thing (at rest unless told) centred at a point, in pixels; kept whole inside the picture."""
        cutout = draw(kind, color, size, Random(0), pose, mirror)
        height, width = cutout.pixels.shape[:2]
        x = min(max(0, round(centre[0] - width / 2)), self.size - width)
        y = min(max(0, round(centre[1] - height / 2)), self.size - height)
        return Thing(kind, color, cutout, x, y, mirror, 0, pose)

    def scene(self, rng: Random, *, kinds: Sequence[str] = KINDS, most: int = 3, first: Thing | None = None) -> Scene:
        """One to `most` things, the first of one of `kinds`, none covering another by more than a tenth.

        Every other further thing shares its kind or its colour with the first, so that one word is often not enough.
        """
        things = [first or self.thing(*self.pair(rng, kinds), rng)]
        for _ in range(rng.randint(0, most - 1)):
            kind, color = self._rival(things[0], rng)
            for _ in range(12):
                thing = self.thing(kind, color, rng, size=round(self.size * rng.uniform(SMALL, SMALL + 0.08)))
                if (kind, color) not in {(t.kind, t.color) for t in things} and all(_apart(thing, t) for t in things):
                    things.append(thing)
                    break
        return Scene(self.background(rng), tuple(things))

    def _rival(self, first: Thing, rng: Random) -> tuple[str, str]:
        pick = rng.random()
        while True:
            kind, color = self.pair(rng, held_out=False)
            if pick < 0.25:
                kind = first.kind
            elif pick < 0.5:
                color = first.color
            if (kind, color) not in HELD_OUT:
                return kind, color

    def repainted(self, thing: Thing, color: str) -> Thing:
        """The same thing in another colour."""
        return replace(
            thing,
            color=color,
            cutout=draw(thing.kind, color, thing.size, Random(thing.seed), thing.pose, thing.mirror),
        )

    def other_colors(self, thing: Thing, rng: Random) -> str:
        """A colour that the thing could take in this split."""
        unseen = self.split == "test" and rng.random() < 0.5
        choices = [c for c in OBJECTS if c != thing.color and ((thing.kind, c) in HELD_OUT) == unseen]
        return rng.choice(choices or [c for c in OBJECTS if c != thing.color and (thing.kind, c) not in HELD_OUT])


def _apart(one: Thing, other: Thing) -> bool:
    ax0, ay0, ax1, ay1 = one.box
    bx0, by0, bx1, by1 = other.box
    shared = max(0, min(ax1, bx1) - max(ax0, bx0)) * max(0, min(ay1, by1) - max(ay0, by0))
    return shared <= 0.1 * min((ax1 - ax0) * (ay1 - ay0), (bx1 - bx0) * (by1 - by0))


def phrases(scene: Scene, index: int) -> dict[str, list[str]]:
    """Ways to refer to one thing and no other: by `name`, `kind`, `color`, `position` and `relation`."""
    thing, others = scene.things[index], [t for i, t in enumerate(scene.things) if i != index]
    found: dict[str, list[str]] = {"name": [f"{thing.color} {thing.kind}"]}
    twins = [t for t in others if t.kind == thing.kind]
    if not twins:
        found["kind"] = [thing.kind]
    if all(t.color != thing.color for t in others):
        found["color"] = [f"{thing.color} thing", f"{thing.color} object"]
    found["position"] = [
        f"{noun} {place}"
        for noun, rest in (("thing", others), (thing.kind, twins))
        if rest or noun != "thing"
        for place in _places(scene, thing, rest)
    ]
    found["relation"] = [
        f"{thing.kind} {word} the {t.color} {t.kind}"
        for t in others
        for word in _relations(scene, thing, t)
        if not any(word in _relations(scene, twin, t) for twin in twins if twin is not t)
    ]
    return {how: words for how, words in found.items() if words}


def _places(scene: Scene, thing: Thing, rest: Sequence[Thing]) -> list[str]:
    """Sides of the picture where the thing is and none of the rest comes near."""
    x, y = (c / scene.side for c in thing.centre)
    gap = 0.12
    sides = {
        "on the left": (x, 0),
        "on the right": (1 - x, 0),
        "at the top": (y, 1),
        "at the bottom": (1 - y, 1),
    }
    found = []
    for place, (distance, axis) in sides.items():
        flip = place in ("on the right", "at the bottom")
        others = [(1 - t.centre[axis] / scene.side) if flip else t.centre[axis] / scene.side for t in rest]
        if distance < 0.42 and all(other > distance + gap for other in others):
            found.append(place)
    return found


def _relations(scene: Scene, thing: Thing, other: Thing) -> list[str]:
    dx, dy = (a - b for a, b in zip(thing.centre, other.centre, strict=True))
    gap = 0.15 * scene.side
    return [
        word
        for word, holds in (
            ("left of", dx < -gap),
            ("right of", dx > gap),
            ("above", dy < -gap),
            ("below", dy > gap),
        )
        if holds
    ]


def phrase(
    scene: Scene,
    index: int,
    rng: Random,
    ways: Sequence[str] = ("name", "kind", "color", "position", "relation"),
) -> str:
    """One way to refer to a thing, each way that fits being equally likely."""
    found = phrases(scene, index)
    return rng.choice(found[rng.choice([w for w in ways if w in found])])


def truth(scene: Scene, index: int, **more: Any) -> dict[str, Any]:
    """The part of a label that every task on a thing shares."""
    thing = scene.things[index]
    return {
        "instances": scene.instances(),
        "index": index + 1,
        "kind": thing.kind,
        "color": thing.color,
        "held_out": thing.held_out,
        **more,
    }

"""Eight kinds of drawn objects, articulated, with exact joints and masks.

An object is drawn on a unit square (x right, y down) and returned as a cut-out: RGBA pixels, cropped to what is
visible, with its joints in the cut-out's pixels. `pose` 0 is at rest, 1 is as bent as it gets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import cos, pi, sin
from random import Random

import cv2
import numpy as np
from numpy.typing import NDArray

from instructdiffusion.model.colors import OBJECTS, Color

CANVAS = 160  # pixels of the square an object is drawn on
MARGIN = 24  # pixels left free around it, for limbs that stick out

Point = tuple[float, float]


@dataclass
class Cutout:
    """An object cut out: `pixels` height x width x 4 (RGB and alpha, uint8), joints as (x, y) in its pixels."""

    pixels: NDArray[np.uint8]
    joints: dict[str, Point] = field(default_factory=dict)


class Pen:
    """Draws filled shapes in unit coordinates, remembering which pixels it touched."""

    def __init__(self, color: Color) -> None:
        self.rgb = np.zeros((CANVAS, CANVAS, 3), np.uint8)
        self.alpha = np.zeros((CANVAS, CANVAS), np.uint8)
        self.main = color
        self.dark: Color = tuple(int(c * 0.6) for c in color)  # type: ignore[assignment]
        self.light: Color = tuple(int(c + (255 - c) * 0.45) for c in color)  # type: ignore[assignment]

    def at(self, x: float, y: float) -> tuple[int, int]:
        """Pixel of a point in unit coordinates."""
        span = CANVAS - 2 * MARGIN
        return round(MARGIN + x * span), round(MARGIN + y * span)

    def _length(self, value: float) -> int:
        return max(1, round(value * (CANVAS - 2 * MARGIN)))

    def polygon(self, points: list[Point], color: Color | None = None) -> None:
        """Fill a polygon."""
        corners = np.array([self.at(*p) for p in points], np.int32)
        cv2.fillPoly(self.rgb, [corners], color or self.main, cv2.LINE_AA)
        cv2.fillPoly(self.alpha, [corners], 255, cv2.LINE_AA)

    def ellipse(self, x: float, y: float, rx: float, ry: float, color: Color | None = None, turn: float = 0) -> None:
        """Fill an ellipse turned by `turn` degrees."""
        for canvas, ink in ((self.rgb, color or self.main), (self.alpha, 255)):
            cv2.ellipse(
                canvas,
                self.at(x, y),
                (self._length(rx), self._length(ry)),
                turn,
                0,
                360,
                ink,
                -1,
                cv2.LINE_AA,
            )

    def limb(self, points: list[Point], width: float, color: Color | None = None) -> None:
        """Draw a thick line through the points."""
        corners = np.array([self.at(*p) for p in points], np.int32)
        for canvas, ink in ((self.rgb, color or self.main), (self.alpha, 255)):
            cv2.polylines(canvas, [corners], False, ink, self._length(width), cv2.LINE_AA)

    def box(self) -> tuple[int, int, int, int]:
        """Left, top, width and height of what was drawn."""
        left, top, width, height = cv2.boundingRect((self.alpha > 8).view(np.uint8))
        return left, top, width, height

    def planes(self) -> list[NDArray[np.float32]]:
        """Red, green, blue and alpha in that box, 0..255: several times as quick to work on as pixels."""
        left, top, width, height = self.box()
        whole = (*np.moveaxis(self.rgb, 2, 0), self.alpha)
        return [plane[top : top + height, left : left + width].astype(np.float32) for plane in whole]


def _reach(start: Point, angle: float, length: float) -> Point:
    """The point `length` away from `start`, `angle` degrees down from pointing right."""
    return start[0] + length * cos(angle * pi / 180), start[1] + length * sin(angle * pi / 180)


def _figure(pen: Pen, rng: Random, pose: float) -> dict[str, Point]:
    skin: Color = (235, 190, 150)
    joints: dict[str, Point] = {"head": (0.5, 0.12)}
    for side, way in (("left", 1), ("right", -1)):  # a figure faces us: its left is on our right
        shoulder, hip = (0.5 + way * 0.13, 0.3), (0.5 + way * 0.08, 0.6)
        arm = 90 - way * (40 + pose * rng.uniform(-35, 75))
        elbow = _reach(shoulder, arm, 0.2)
        hand = _reach(elbow, arm - way * pose * rng.uniform(-10, 60), 0.18)
        leg = 90 - way * (10 + pose * rng.uniform(-8, 28))
        foot = _reach(hip, leg, 0.4)
        pen.limb([hip, foot], 0.11, pen.dark)
        pen.limb([shoulder, elbow, hand], 0.09)
        pen.ellipse(*hand, 0.06, 0.06, skin)
        pen.ellipse(*foot, 0.08, 0.05, (40, 40, 45))
        joints[f"{side} hand"], joints[f"{side} foot"] = hand, foot
    pen.polygon([(0.36, 0.27), (0.64, 0.27), (0.6, 0.64), (0.4, 0.64)])
    pen.ellipse(0.5, 0.12, 0.12, 0.13, skin)
    return joints


def _dog(pen: Pen, rng: Random, pose: float) -> dict[str, Point]:
    back, front = (0.28, 0.62), (0.68, 0.62)
    paws = []
    for hip in (back, front):
        for shade, lean in ((pen.dark, 8), (pen.main, -6)):
            paw = _reach(hip, 90 + lean + pose * rng.uniform(-22, 22), 0.32)
            pen.limb([hip, paw], 0.09, shade)
        paws.append(paw)
    tail = _reach((0.16, 0.5), 215 + pose * rng.uniform(-35, 60), 0.24)
    pen.limb([(0.18, 0.5), tail], 0.07)
    pen.ellipse(0.46, 0.55, 0.31, 0.16)
    head = (0.82, 0.34 + pose * rng.uniform(-0.08, 0.12))
    pen.limb([(0.7, 0.5), head], 0.17)
    pen.ellipse(*head, 0.14, 0.13)
    pen.ellipse(head[0] + 0.13, head[1] + 0.05, 0.1, 0.065)
    nose, ear = (head[0] + 0.22, head[1] + 0.03), (head[0] - 0.09, head[1] - 0.02)
    pen.ellipse(*nose, 0.035, 0.035, (25, 25, 25))
    pen.ellipse(*ear, 0.055, 0.13, pen.dark)
    pen.ellipse(head[0] + 0.04, head[1] - 0.04, 0.025, 0.025, (25, 25, 25))
    return {"nose": nose, "ear": ear, "tail": tail, "back paw": paws[0], "front paw": paws[1]}


def _car(pen: Pen, rng: Random, pose: float) -> dict[str, Point]:
    roof = 0.3 - pose * rng.uniform(0, 0.1)
    lean = pose * rng.uniform(-0.06, 0.06)
    pen.polygon([(0.2, 0.52), (0.32 + lean, roof), (0.68 + lean, roof), (0.82, 0.52)])
    pen.polygon([(0.29, 0.5), (0.37 + lean, roof + 0.06), (0.48 + lean, roof + 0.06), (0.48, 0.5)], (190, 225, 240))
    pen.polygon([(0.53, 0.5), (0.53 + lean, roof + 0.06), (0.64 + lean, roof + 0.06), (0.74, 0.5)], (190, 225, 240))
    pen.polygon([(0.0, 0.5), (0.95, 0.5), (1.0, 0.58), (1.0, 0.74), (0.0, 0.74)])
    pen.ellipse(0.96, 0.58, 0.045, 0.05, (255, 245, 170))
    for x in (0.22, 0.78):
        pen.ellipse(x, 0.75, 0.13, 0.13, (35, 35, 40))
        pen.ellipse(x, 0.75, 0.055, 0.055, (190, 190, 195))
    return {
        "back wheel": (0.22, 0.75),
        "front wheel": (0.78, 0.75),
        "roof": (0.5 + lean, roof),
        "headlight": (0.96, 0.58),
    }


def _flower(pen: Pen, rng: Random, pose: float) -> dict[str, Point]:
    heart = (0.5 + pose * rng.uniform(-0.15, 0.15), 0.3)
    foot, bend = (0.5, 1.0), (0.5 + pose * rng.uniform(-0.1, 0.1), 0.66)
    leaf_way = -1 if pose and rng.random() < 0.5 else 1
    leaf = (bend[0] + leaf_way * 0.24, bend[1] + 0.02)
    pen.limb([foot, bend, heart], 0.06, (50, 120, 55))
    pen.ellipse((leaf[0] + bend[0]) / 2, leaf[1] + 0.04, 0.15, 0.06, (60, 140, 65), -25 * leaf_way)
    turn = pose * rng.uniform(0, 72)
    for petal in range(5):
        x, y = _reach(heart, turn + petal * 72 - 90, 0.18)
        pen.ellipse(x, y, 0.145, 0.145, pen.main if petal % 2 else pen.light)
    for petal in range(5):
        x, y = _reach(heart, turn + petal * 72 - 90, 0.19)
        pen.ellipse(x, y, 0.12, 0.12)
    pen.ellipse(*heart, 0.1, 0.1, (95, 60, 35))
    return {"centre": heart, "leaf": leaf, "stem": foot}


def _fish(pen: Pen, rng: Random, pose: float) -> dict[str, Point]:
    swing = pose * rng.uniform(-0.16, 0.16)
    fin = 0.2 - pose * rng.uniform(-0.04, 0.1)
    pen.polygon([(0.2, 0.5), (0.0, 0.26 + swing), (0.06, 0.5 + swing), (0.0, 0.76 + swing)], pen.dark)
    pen.polygon([(0.4, 0.34), (0.5, fin), (0.68, 0.34)], pen.dark)
    pen.ellipse(0.55, 0.5, 0.4, 0.22)
    pen.ellipse(0.52, 0.6, 0.25, 0.09, pen.light)
    pen.ellipse(0.8, 0.44, 0.05, 0.05, (250, 250, 250))
    pen.ellipse(0.81, 0.44, 0.028, 0.028, (20, 20, 20))
    return {"mouth": (0.94, 0.52), "tail": (0.03, 0.5 + swing), "fin": (0.52, fin + 0.05)}


def _house(pen: Pen, rng: Random, pose: float) -> dict[str, Point]:
    peak = 0.06 + pose * rng.uniform(-0.06, 0.12)
    door = 0.5 + pose * rng.uniform(-0.16, 0.02)
    pen.polygon([(0.7, 0.08), (0.82, 0.08), (0.82, 0.4), (0.7, 0.4)], (120, 85, 70))
    pen.polygon([(0.1, 0.42), (0.9, 0.42), (0.9, 1.0), (0.1, 1.0)])
    pen.polygon([(0.0, 0.46), (0.5, peak), (1.0, 0.46)], pen.dark)
    pen.polygon([(door - 0.1, 0.66), (door + 0.1, 0.66), (door + 0.1, 1.0), (door - 0.1, 1.0)], (95, 60, 40))
    pen.polygon([(0.66, 0.56), (0.84, 0.56), (0.84, 0.74), (0.66, 0.74)], (195, 225, 240))
    return {"roof": (0.5, peak + 0.05), "door": (door, 0.83), "window": (0.75, 0.65), "chimney": (0.76, 0.12)}


def _ball(pen: Pen, rng: Random, pose: float) -> dict[str, Point]:
    pen.ellipse(0.5, 0.5, 0.42, 0.42)
    turn = pose * rng.uniform(0, 180)
    pen.ellipse(0.5, 0.5, 0.42, 0.13, pen.light, turn)
    pen.ellipse(0.36, 0.32, 0.08, 0.06, (255, 255, 255), -35)
    return {}


def _star(pen: Pen, rng: Random, pose: float) -> dict[str, Point]:
    turn = -90 + pose * rng.uniform(-30, 30)
    corners = [_reach((0.5, 0.52), turn + i * 36, 0.5 if i % 2 == 0 else 0.21) for i in range(10)]
    pen.polygon(corners)
    pen.polygon([_reach((0.5, 0.52), turn + i * 36, 0.28 if i % 2 == 0 else 0.12) for i in range(10)], pen.light)
    return {}


_DRAW: dict[str, Callable[[Pen, Random, float], dict[str, Point]]] = {
    "figure": _figure,
    "dog": _dog,
    "car": _car,
    "flower": _flower,
    "fish": _fish,
    "house": _house,
    "ball": _ball,
    "star": _star,
}
KINDS = tuple(_DRAW)
JOINTS: dict[str, tuple[str, ...]] = {kind: tuple(draw(Pen((0, 0, 0)), Random(0), 0.0)) for kind, draw in _DRAW.items()}
PAIRS = tuple((kind, color) for kind in KINDS for color in OBJECTS)
#: One pair a kind that training never shows and evaluation asks for in half of its scenes.
HELD_OUT = frozenset((kind, tuple(OBJECTS)[(3 * i + 1) % len(OBJECTS)]) for i, kind in enumerate(KINDS))


def draw(kind: str, color: str, size: int, rng: Random, pose: float = 1.0, mirror: bool = False) -> Cutout:
    """Draw an object whose longer side is `size` pixels.

    Args:
        kind: one of `KINDS`.
        color: one of `colors.OBJECTS`.
        mirror: flip left and right; a figure is never flipped, since its left hand would become its right.
    """
    pen = Pen(OBJECTS[color])
    places = {name: pen.at(*point) for name, point in _DRAW[kind](pen, rng, pose).items()}
    left, top, width, height = pen.box()
    joints = {name: (x - left, y - top) for name, (x, y) in places.items()}
    planes = pen.planes()
    if mirror and kind != "figure":
        planes = [plane[:, ::-1] for plane in planes]
        joints = {name: (width - 1 - x, y) for name, (x, y) in joints.items()}
    *colors, alpha = planes
    share = alpha / 255
    scale = size / max(height, width)
    shape = max(2, round(width * scale)), max(2, round(height * scale))
    covered = (*(plane * share for plane in colors), alpha)
    small = np.dstack([cv2.resize(plane, shape, interpolation=cv2.INTER_AREA) for plane in covered])
    small[..., :3] /= np.maximum(small[..., 3:] / 255, 1e-3)
    _shade(small)
    scaled = {
        n: ((x + 0.5) * shape[0] / width - 0.5, (y + 0.5) * shape[1] / height - 0.5) for n, (x, y) in joints.items()
    }
    return Cutout(small.clip(0, 255).round().astype(np.uint8), scaled)


def _shade(pixels: NDArray[np.float32]) -> None:
    """Light from above: brighter at the top, darker at the bottom."""
    pixels[..., :3] *= np.linspace(1.12, 0.82, pixels.shape[0], dtype=np.float32)[:, None, None]

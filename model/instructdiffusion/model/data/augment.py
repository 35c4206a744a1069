"""Crops, turns and mirrors: a picture of any size and its label become a square sample, as in the paper's release.

Each function is pure and takes its chance from the generator it is given. `generator` derives one from the key of an
example, so the same example in the same epoch gives the same sample, whichever worker makes it and in whatever order.
A mirror turns left into right in words as well, or isn't held up at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import cos, radians, sin
from random import Random
from typing import Any

import cv2
import numpy as np
from PIL import Image as Pillow

from instructdiffusion.model.data import lexicon
from instructdiffusion.model.data.mirror import mirrored_words
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.task import Image, Label, Mask

Sample = tuple[Image, Label]
Change = Callable[[np.ndarray], np.ndarray]
Point = tuple[float, float]

GROWN = 1.25  # a person's crop is so much wider than the longer side of the box
HALF_GROWN = 1.5  # the same for half a body, whose box is that of its joints
SCALES = 0.35  # deviation of a crop's scale around 1, and the most it differs
TURNS = 45.0  # deviation of a crop's rotation in degrees; twice that is the most
TURNED = 0.6  # share of crops that are turned
MIRRORED = 0.5  # share of samples that are mirrored, where the data set allows it
HALF_JOINTS = 8  # only who has more joints than this is ever shown by half
REACH = 0.48  # of a crop's side: joints nearer to its centre than this are inside it at any size
CELL = 1 / 1024  # share of a sample that one cell of the latent grid covers: 8 x 8 of 256 x 256 pixels


def generator(key: str, *, seed: int, epoch: int = 0) -> Random:
    """The source of chance for one example in one epoch, the same on every machine."""
    return Random(f"{seed}/{epoch}/{key}")


def person_crop(
    image: Image,
    label: Label,
    rng: Random,
    *,
    size: int = 256,
    train: bool = True,
    mirror: bool = True,
    half: float = 0.0,
) -> Sample:
    """Cut out one person as a square: around the `box`, or with `train` also scaled, turned, mirrored, cut by `half`.

    Joints that end up outside the crop, or were outside the picture, leave the label; the box follows.

    Args:
        half: share of crops that show the upper or the lower half of a body of more than eight joints.

    Raises:
        DataError: the label has no box, or no joint is inside the crop that the box gives.
    """
    center, side = _square(label)
    upright = _warp(center, side, 0.0, size)
    if not train:
        return _person(image, label, upright, size)
    if len(label["joints"]) > HALF_JOINTS and rng.random() < half:
        center, side = _half_body(label, rng) or (center, side)
    side *= min(max(rng.gauss(1.0, SCALES), 1 - SCALES), 1 + SCALES)
    turn = min(max(rng.gauss(0.0, TURNS), -2 * TURNS), 2 * TURNS) if rng.random() < TURNED else 0.0
    mirrors = mirror and rng.random() < MIRRORED
    warp = _warp(center, side, turn, size)
    if not _kept(image, label, warp, size):
        warp = upright
    sample = _person(image, label, warp, size)
    return (flip(*sample) or sample) if mirrors else sample


def square_crop(
    image: Image,
    label: Label,
    rng: Random,
    *,
    size: int = 256,
    train: bool = True,
    mirror: bool = False,
    whole: bool = False,
) -> Sample:
    """Cut a square as wide as the short side out of a picture and resize it: pictures by Lanczos, masks by nearest.

    With `train` the place is random, else the middle. What the mask covers is never cut away altogether; with `whole`
    as much of it as fits is kept, since "the man on the left" may be someone else in a part of the picture.
    """
    height, width = image.shape[:2]
    side, spare = min(height, width), abs(height - width)
    mask = label.get("mask")
    place = rng.randint(0, spare) if train else spare // 2
    if isinstance(mask, np.ndarray) and mask.shape == (height, width) and mask.any():
        place = _place_with(mask, side, width >= height, place, whole)
    box = (place, 0, place + side, side) if width >= height else (0, place, side, place + side)
    sample = _resized(*_cut(image, label, box), size)
    return _maybe_flipped(sample, rng, mirror and train)


def short_side_crop(
    image: Image,
    label: Label,
    rng: Random,
    *,
    size: int = 256,
    train: bool = True,
    mirror: bool = True,
    shrink: bool = True,
) -> Sample:
    """Bring the short side to `size` by Lanczos and cut out a square: at random, or with `train` off in the middle.

    Args:
        shrink: off where resizing would take away what is to be restored, noise for instance; a picture too small for
            the square is enlarged even so.
    """
    height, width = image.shape[:2]
    if shrink or min(height, width) < size:
        scale = size / min(height, width)
        width, height = max(size, round(width * scale)), max(size, round(height * scale))
        image, label = _each(
            image, label, _resize((width, height), Pillow.Resampling.LANCZOS), _nearest((width, height))
        )
    left = rng.randint(0, width - size) if train else (width - size) // 2
    top = rng.randint(0, height - size) if train else (height - size) // 2
    return _maybe_flipped(_cut(image, label, (left, top, left + size, top + size)), rng, mirror and train)


def whole(
    image: Image, label: Label, rng: Random, *, size: int = 256, train: bool = True, mirror: bool = True
) -> Sample:
    """The whole picture as a square, however wide it was; for edits, whose words may speak of any part of it."""
    return _maybe_flipped(_resized(image, label, size), rng, mirror and train)


def flip(image: Image, label: Label) -> Sample | None:
    """Mirror a picture with everything in its label; None when the label's words can't be mirrored.

    Left and right change places in every text of the label and in the names of joints.
    """
    words = mirrored_words(label)
    if words is None:
        return None
    width = image.shape[1]
    mirrored, arrays = _each(image, label, _mirror, _mirror)
    changed: dict[str, Any] = {**arrays, **words}
    if "joints" in label:
        joints = {name: [round(width - 1 - x, 3), y] for name, (x, y) in label["joints"].items()}
        changed["joints"] = lexicon.mirrored(joints)
    if "visible" in label:
        changed["visible"] = lexicon.mirrored(label["visible"])
    if "box" in label:
        left, top, right, bottom = label["box"]
        changed["box"] = [width - right, top, width - left, bottom]
    return mirrored, changed


def _maybe_flipped(sample: Sample, rng: Random, mirror: bool) -> Sample:
    """The sample or its mirror image; chance is taken either way, so that allowing mirrors changes nothing else."""
    return (flip(*sample) or sample) if rng.random() < MIRRORED and mirror else sample


def _each(image: Image, label: Label, picture: Change, values: Change) -> Sample:
    """Apply a change to the picture and to every picture, mask and map in the label."""
    changed = dict(label)
    for name, value in label.items():
        if isinstance(value, np.ndarray) and value.ndim >= 2:
            if value.shape[:2] != image.shape[:2]:
                raise DataError(f"label.{name} is {value.shape[:2]} where its picture is {image.shape[:2]}")
            changed[name] = picture(value) if value.ndim == 3 else values(value)
    return picture(image), changed


def _mirror(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array[:, ::-1])


def _resize(size: tuple[int, int], how: Pillow.Resampling) -> Change:
    return lambda picture: np.array(Pillow.fromarray(picture).resize(size, how), np.uint8)


def _nearest(size: tuple[int, int]) -> Change:
    resize = _resize(size, Pillow.Resampling.NEAREST)
    return lambda values: resize(values.astype(np.uint8)).astype(values.dtype)


def _resized(image: Image, label: Label, size: int) -> Sample:
    height, width = image.shape[:2]
    sample = _each(image, label, _resize((size, size), Pillow.Resampling.LANCZOS), _nearest((size, size)))
    return sample[0], _moved(sample[1], lambda x, y: (x * size / width, y * size / height), size, size)


def _cut(image: Image, label: Label, box: tuple[int, int, int, int]) -> Sample:
    left, top, right, bottom = box
    part: Change = lambda array: np.ascontiguousarray(array[top:bottom, left:right])  # noqa: E731
    sample = _each(image, label, part, part)
    return sample[0], _moved(sample[1], lambda x, y: (x - left, y - top), right - left, bottom - top)


def _moved(
    label: Label, move: Callable[[float, float], tuple[float, float]], width: int, height: int
) -> dict[str, Any]:
    """Move the box, which is measured between pixels, and cut it to the picture; joints only people's crops have."""
    if "box" not in label:
        return dict(label)
    (left, top), (right, bottom) = move(*label["box"][:2]), move(*label["box"][2:])
    inside = (max(0.0, left), max(0.0, top), min(float(width), right), min(float(height), bottom))
    return {**label, "box": [round(float(side), 3) for side in inside]}


def _place_with(mask: Mask, side: int, wide: bool, drawn: int, whole: bool) -> int:
    """The place nearest to the one drawn where the square holds a cell's worth of the mask, or as much as it can."""
    held = np.convolve(mask.sum(axis=0 if wide else 1), np.ones(side, int), "valid")
    enough = held.max() if whole else min(held.max(), CELL * side * side)
    places = np.flatnonzero(held >= enough)
    return int(places[np.abs(places - drawn).argmin()])


def near(point: Sequence[float], box: Sequence[float]) -> bool:
    """Whether a joint is well inside the crop that a box gives."""
    (x, y), side = _around(box)
    return abs(point[0] - x) <= REACH * side and abs(point[1] - y) <= REACH * side


def uncropped(points: dict[str, Point], box: Sequence[float], size: int) -> dict[str, Point]:
    """Points of an upright `person_crop` of `size` pixels, back in the picture that it was cut from by `box`."""
    (x, y), side = _around(box)
    return {
        name: (x + (px - (size - 1) / 2) * side / size, y + (py - (size - 1) / 2) * side / size)
        for name, (px, py) in points.items()
    }


def _square(label: Label) -> tuple[tuple[float, float], float]:
    """Centre and side of the square that a person is cropped to."""
    if "box" not in label or not label.get("joints"):
        raise DataError("label.box and label.joints are what a person is cropped by; give both")
    return _around(label["box"])


def _around(box: Sequence[float]) -> tuple[tuple[float, float], float]:
    left, top, right, bottom = box
    return ((left + right - 1) / 2, (top + bottom - 1) / 2), GROWN * max(right - left, bottom - top, 1.0)


def _half_body(label: Label, rng: Random) -> tuple[tuple[float, float], float] | None:
    """Centre and side of the square around the upper or the lower joints; None when either has too few."""
    halves = [
        np.array([point for name, point in label["joints"].items() if name in group], float).reshape(-1, 2)
        for group in (lexicon.UPPER, lexicon.LOWER)
    ]
    first = int(rng.random() < 0.5)
    chosen = halves[first] if len(halves[first]) > 2 else halves[1 - first]
    if len(chosen) < 3:
        return None
    low, high = chosen.min(axis=0), chosen.max(axis=0)
    x, y = chosen.mean(axis=0)
    return (float(x), float(y)), HALF_GROWN * max(float((high - low).max()), 1.0)


def _warp(center: tuple[float, float], side: float, turn: float, size: int) -> np.ndarray:
    """The 2 x 3 matrix from the picture's pixels to the crop's: turned by degrees around the centre."""
    scale, angle = size / side, radians(turn)
    matrix = scale * np.array([[cos(angle), sin(angle)], [-sin(angle), cos(angle)]])
    middle = (size - 1) / 2 - matrix @ np.array(center)
    return np.hstack([matrix, middle[:, None]])


def _kept(image: Image, label: Label, warp: np.ndarray, size: int) -> dict[str, list[float]]:
    """The joints inside both the picture and the crop, in the crop's pixels."""
    height, width = image.shape[:2]
    kept = {}
    for name, (x, y) in label["joints"].items():
        new_x, new_y = warp @ np.array([x, y, 1.0])
        if 0 <= x < width and 0 <= y < height and 0 <= new_x <= size - 1 and 0 <= new_y <= size - 1:
            kept[name] = [round(float(new_x), 3), round(float(new_y), 3)]
    return kept


def _person(image: Image, label: Label, warp: np.ndarray, size: int) -> Sample:
    joints = _kept(image, label, warp, size)
    if not joints:
        raise DataError("label.joints: none is inside both the picture and the crop around label.box; leave it out")
    crop, arrays = _each(image, label, _warped(warp, size, cv2.INTER_LINEAR), _warped(warp, size, cv2.INTER_NEAREST))
    changed: dict[str, Any] = {**arrays, "joints": joints, "box": _warped_box(label["box"], warp, size)}
    if "visible" in label:
        changed["visible"] = {name: label["visible"].get(name, True) for name in joints}
    return crop, changed


def _warped(warp: np.ndarray, size: int, how: int) -> Change:
    """Warp an array; where it shrinks to less than half, pictures are averaged down first."""

    def change(array: np.ndarray) -> np.ndarray:
        matrix, pixels = warp, array.astype(np.uint8)
        scale = float(np.hypot(warp[0, 0], warp[1, 0]))
        if how == cv2.INTER_LINEAR and scale < 0.5:
            height, width = array.shape[:2]
            small = (max(1, round(width * scale)), max(1, round(height * scale)))
            pixels = cv2.resize(pixels, small, interpolation=cv2.INTER_AREA)
            grown = np.array([width / small[0], height / small[1]])
            # Pixel centres: full = grown * (small + 1/2) - 1/2.
            matrix = np.hstack([warp[:, :2] * grown, (warp[:, :2] @ (grown / 2 - 0.5) + warp[:, 2])[:, None]])
        return cv2.warpAffine(pixels, matrix, (size, size), flags=how).astype(array.dtype)

    return change


def _warped_box(box: Sequence[float], warp: np.ndarray, size: int) -> list[float]:
    """The upright box around a warped one, inside the crop."""
    left, top, right, bottom = (side - 0.5 for side in box)  # from between pixels to their centres
    corners = warp @ np.array([[left, right, left, right], [top, top, bottom, bottom], [1, 1, 1, 1]], float) + 0.5
    low, high = np.clip(corners.min(axis=1), 0, size), np.clip(corners.max(axis=1), 0, size)
    return [round(float(value), 3) for value in (*low, *high)]

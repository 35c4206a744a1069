"""Regions of photographs, cropped and checked: what edits are made from.

example of a data set of regions  ->  a square picture, the mask and the words of one thing in it
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import cv2
import numpy as np

from instructdiffusion.model.data.augment import square_crop
from instructdiffusion.model.data.readers import Example
from instructdiffusion.model.data.samples import Unusable, loaded
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.synthesis.scenes import PLACES
from instructdiffusion.model.task import Image, Mask

LEAST, MOST = 0.01, 0.35  # share of the crop that a region covers: less hardly shows, more leaves too little to go by
MASKLESS = "mask: none, or of another size"
GROWN = 0.03  # of the crop's side: how far a mask is grown, for outlines run inside things and things have shadows

_ARTICLE = re.compile(r"^(?:a|an|the|some|one)\s+", re.IGNORECASE)
_END = re.compile(
    r"\s+(?:on|in|of|with|at|by|near|behind|under|above|below|beside|next|to|from|over|inside|that|which|who|wearing"
    r"|holding|sitting|standing|lying|for)\b.*$",
    re.IGNORECASE,
)
_SIDE = re.compile(
    r"\s+(?:on|at|to|in) the (?:far )?(?:left|right|top|bottom|middle|cent(?:er|re))\b.*$", re.IGNORECASE
)
_SINGULAR = re.compile(r"(?:ss|us|is|ens)$")
_PLURAL = frozenset(
    ["people", "men", "women", "children", "feet", "teeth", "mice", "geese", "sheep", "police", "cattle"]
)
_UNCOUNTED = frozenset(
    [
        "grass",
        "water",
        "sand",
        "snow",
        "sky",
        "food",
        "fruit",
        "hair",
        "bread",
        "rice",
        "ice",
        "fire",
        "furniture",
        "luggage",
        "wood",
    ]
)


@dataclass(frozen=True)
class Region:
    """One thing in a picture, mostly a square one: its `mask`, and the words for it, empty when nobody said."""

    picture: Image
    mask: Mask
    phrase: str

    @property
    def side(self) -> int:
        return int(self.picture.shape[0])

    @property
    def grown(self) -> Mask:
        """The mask and what is near it."""
        return grown(self.mask, max(1, round(GROWN * self.side)))

    @property
    def place(self) -> str:
        """The side of the picture that the thing is nearest to, as instructions say it."""
        x, y = (float(np.mean(axis)) / self.side for axis in reversed(np.nonzero(self.mask)))
        return min(PLACES, key=lambda name: np.hypot(PLACES[name][0] - x, PLACES[name][1] - y))

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom; right and bottom are one past the last pixel."""
        ys, xs = np.nonzero(self.mask)
        return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


def region_of(example: Example, rng: Random, size: int, *, worded: bool = True, train: bool = True) -> Region:
    """Crop an example to `size` x `size` around its region; a region without an outline is its box.

    Args:
        worded: refuse regions that nobody has named.
        train: off: crop from the middle.

    Raises:
        Unusable: the picture is broken, there are no words or no region, or it is too small or too large.
    """
    whole = whole_of(example)
    if worded and not whole.phrase:
        raise wordless(example)
    try:
        cropped, found = square_crop(whole.picture, {"mask": whole.mask}, rng, size=size, train=train, whole=True)
    except DataError as error:
        raise Unusable(MASKLESS, f"{example.key}: {error}") from error
    share = float(found["mask"].mean())
    if not LEAST <= share <= MOST:
        fitting = f"only {LEAST:.0%} to {MOST:.0%} make an edit"
        raise Unusable("region: too small or too large", f"{example.key} covers {share:.1%} of its crop; {fitting}")
    return Region(cropped, found["mask"], whole.phrase)


def whole_of(example: Example) -> Region:
    """An example as it is, in its whole picture, which is no square; a region without an outline is its box.

    Raises:
        Unusable: the picture is broken, or there is no region or one of another size.
    """
    picture, label = loaded(example)
    try:
        mask = _mask(label, picture)
    except DataError as error:
        raise Unusable(MASKLESS, f"{example.key}: {error}") from error
    return Region(picture, mask, bare(label.get("phrase") or ""))


def wordless(example: Example) -> Unusable:
    """What to raise where nobody has named a region."""
    return Unusable("phrase: none", f"{example.key}: nobody said what the region shows; caption it or leave it out")


def grown(mask: Mask, reach: int) -> Mask:
    """The mask and all pixels within `reach` of it."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    return np.asarray(cv2.dilate(mask.astype(np.uint8), disc) > 0)


def bare(phrase: str) -> str:
    """A phrase without its article and full stop: "A red car." is "red car"."""
    return _ARTICLE.sub("", phrase.strip().rstrip(" .,;"))


def kind(phrase: str) -> str:
    """The noun that a phrase is about: "dogs" of "brown dogs on grass"."""
    words = _END.sub("", phrase).split()
    return words[-1].lower() if words else ""


def placeless(phrase: str) -> str:
    """A phrase without the side of the picture at its end: "dog on the left" is "dog"."""
    return _SIDE.sub("", phrase)


def named(phrase: str) -> str:
    """A phrase with the article that a first mention needs: "an orange cat", but "brown dogs" and "grass"."""
    noun = kind(phrase)
    many = noun in _PLURAL or (noun.endswith("s") and not _SINGULAR.search(noun))
    if many or noun in _UNCOUNTED:
        return phrase
    return f"{'an' if phrase[:1].lower() in tuple('aeiou') else 'a'} {phrase}"


def with_article(instruction: str, phrase: str) -> str:
    """An instruction of a template, where "a" stands before every new thing, with the article that it needs."""
    return re.sub(rf"\b(?:a|one) {re.escape(phrase)}", lambda _: named(phrase), instruction)


def _mask(label: Mapping[str, Any], picture: Image) -> Mask:
    if "mask" in label:
        mask = np.asarray(label["mask"])
        if mask.shape != picture.shape[:2] or not mask.any():
            raise DataError(f"the mask is empty, or its size {mask.shape} is not the picture's, {picture.shape[:2]}")
        return mask
    if "box" not in label:
        raise DataError("neither mask nor box")
    left, top, right, bottom = (round(side) for side in label["box"])
    mask = np.zeros(picture.shape[:2], bool)
    mask[top:bottom, left:right] = True
    return mask

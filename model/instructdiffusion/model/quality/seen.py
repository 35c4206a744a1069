"""Scores that look for things: whether an edit's object is there, what it should say, what nobody should see.

The networks are named by the policy, as folders or hub ids.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np
from pydantic import Field

from instructdiffusion.model.colors import OBJECTS
from instructdiffusion.model.data.shards import Triplet
from instructdiffusion.model.errors import ConfigError
from instructdiffusion.model.quality import Options, Score, Values
from instructdiffusion.model.quality.basic import mask_of
from instructdiffusion.model.task import Image, Mask

_UNSAFE = re.compile("nsfw|unsafe|porn|hentai|sexy", re.IGNORECASE)
_QUOTED = re.compile(r"[\"“'‘]([^\"”'’]+)[\"”'’]")


class NetworkOptions(Options):
    """Which network."""

    network: str = Field(min_length=1, description="folder or hub id, in transformers' layout")


class Detected(Score):
    """Whether the edit's object is in the target: it should be after it was added, not after it was removed."""

    name = "detected"
    about = "how sure an open-vocabulary detector is, 0 to 1, of the named thing where the edit is, in the target"
    kinds = ("remove", "add", "replace")
    Options = NetworkOptions

    def load(self) -> str:
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

        from instructdiffusion.model.metrics.networks import loaded, named

        self.processor: Any = loaded(AutoProcessor, self.options.network)
        self.detector: Any = loaded(AutoModelForZeroShotObjectDetection, self.options.network)
        return named(self.options.network)

    def values(self, triplets: Sequence[Triplet]) -> Values:
        return [self._of(triplet) for triplet in triplets]

    def _of(self, triplet: Triplet) -> float | None:
        words, mask = triplet.label.get("words", {}), mask_of(triplet)
        thing = words.get("new") or words.get("phrase")
        if not thing or mask is None or not mask.any():
            return None
        import torch

        inputs = self.processor(
            text=[[f"a photo of {thing}"]], images=triplet.target, truncation=True, return_tensors="pt"
        ).to(self.detector.device)
        with torch.inference_mode():
            found = self.detector(**inputs)
        (result,) = self.processor.post_process_grounded_object_detection(
            found, threshold=0.0, target_sizes=[triplet.target.shape[:2]]
        )
        there = [_inside(box, mask) for box in result["boxes"].tolist()]
        return max((float(s) for s, inside in zip(result["scores"], there, strict=True) if inside), default=0.0)


class Unsafe(Score):
    """Pictures that nobody wants to be shown."""

    name = "nsfw"
    about = "how sure a classifier is, 0 to 1, that the target is not safe for work"
    Options = NetworkOptions

    def load(self) -> str:
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        from instructdiffusion.model.metrics.networks import loaded, named

        self.processor: Any = loaded(AutoImageProcessor, self.options.network)
        self.classifier: Any = loaded(AutoModelForImageClassification, self.options.network)
        labels = self.classifier.config.id2label
        self.unsafe = [i for i, name in labels.items() if _UNSAFE.search(name)]
        if not self.unsafe:
            raise ConfigError(f"{self.options.network} tells {', '.join(labels.values())} apart, and none is `nsfw`")
        return named(self.options.network)

    def values(self, triplets: Sequence[Triplet]) -> Values:
        import torch

        inputs = self.processor(images=[t.target for t in triplets], return_tensors="pt").to(self.classifier.device)
        with torch.inference_mode():
            shares = self.classifier(**inputs).logits.softmax(-1)
        return list(shares[:, self.unsafe].sum(-1).tolist())


class Text(Score):
    """Words that an instruction puts in quotation marks stand in the picture afterwards."""

    name = "text"
    about = "how alike, 0 to 1, what is read in the target is to what the instruction quotes; none without any"
    kinds = ("editing",)

    def load(self) -> str:
        try:
            from importlib.metadata import version

            from rapidocr import RapidOCR
        except ModuleNotFoundError as error:
            raise ConfigError(f"{error.name} is not installed; run: pip install 'instructdiffusion[quality]'") from None
        self.reader: Any = RapidOCR(params={"Global.log_level": "error"})
        return f"rapidocr {version('rapidocr')}"

    def values(self, triplets: Sequence[Triplet]) -> Values:
        return [self._of(triplet) for triplet in triplets]

    def _of(self, triplet: Triplet) -> float | None:
        wanted = _letters(" ".join(_QUOTED.findall(triplet.ask.instruction)))
        if not wanted:
            return None
        read = _letters(" ".join(self.reader(np.ascontiguousarray(triplet.target[..., ::-1])).txts or ()))
        found = SequenceMatcher(None, wanted, read, autojunk=False).get_matching_blocks()
        return sum(block.size for block in found) / len(wanted)


class ColourMoved(Score):
    """The object came nearer to the colour that was asked for."""

    name = "colour"
    about = "how much nearer, in RGB levels, the mask's typical colour came to the one that was asked for"
    kinds = ("recolour",)

    def values(self, triplets: Sequence[Triplet]) -> Values:
        return [_moved(triplet) for triplet in triplets]


def _moved(triplet: Triplet) -> float | None:
    mask, color = mask_of(triplet), triplet.label.get("words", {}).get("color")
    if mask is None or not mask.any() or color not in OBJECTS:
        return None
    before, after = (_away(picture, mask, color) for picture in (triplet.source, triplet.target))
    return before - after


def _away(picture: Image, mask: Mask, color: str) -> float:
    return float(np.linalg.norm(np.median(picture[mask], axis=0) - np.array(OBJECTS[color], float)))


def _inside(box: Sequence[float], mask: Mask) -> bool:
    """Whether a box (left, top, right, bottom) has its middle where the edit is, or around it."""
    ys, xs = np.nonzero(mask)
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return bool(xs.min() <= x <= xs.max() + 1 and ys.min() <= y <= ys.max() + 1)


def _letters(text: str) -> str:
    return re.sub(r"\W+", "", text).casefold()


SCORES = (Detected, Unsafe, Text, ColourMoved)

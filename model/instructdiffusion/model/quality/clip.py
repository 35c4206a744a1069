"""Scores by CLIP: LAION's aesthetic predictor, and likeness of pictures, captions and the change between them.

The networks are named by the policy, as folders or hub ids. Pictures are encoded once for all scores of one network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from instructdiffusion.model.data.shards import Triplet
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.files import digest_of
from instructdiffusion.model.metrics.likeness import Vector, aesthetic, cosine, direction
from instructdiffusion.model.quality import Options, Score, Values
from instructdiffusion.model.task import Image

MOST_KNOWN = 256  # vectors of pictures that are kept for the next score


class ClipOptions(Options):
    """Which CLIP."""

    clip: str = Field(min_length=1, description="folder or hub id of a CLIP in transformers' layout")


class HeadOptions(ClipOptions):
    """Which CLIP, and which predictor on top of it."""

    files = ("head",)
    head: Path = Field(description="file of LAION's aesthetic predictor, .safetensors or .pth")


class Eyes:
    """A CLIP that remembers the pictures it was shown last: several scores look at the same ones."""

    def __init__(self, address: str) -> None:
        from instructdiffusion.model.metrics.networks import clip

        self.encoder = clip(address)
        self.known: dict[int, tuple[Image, Vector]] = {}  # the picture is held, so that its id stays its own

    def pictures(self, pictures: Sequence[Image]) -> list[Vector]:
        """A vector for each picture."""
        new = [picture for picture in pictures if id(picture) not in self.known]
        if len(self.known) + len(new) > MOST_KNOWN:
            self.known, new = {}, list(pictures)
        if new:
            found = self.encoder.pictures(new)
            self.known.update((id(p), (p, v)) for p, v in zip(new, found, strict=True))
        return [self.known[id(picture)][1] for picture in pictures]


eyes = cache(Eyes)


class Clip(Score):
    """A score that looks with CLIP."""

    def load(self) -> str:
        self.eyes = eyes(self.options.clip)
        return self.eyes.encoder.name


class Aesthetic(Clip):
    """How pleasing the target is, as people rated pictures (the paper's first rule)."""

    name = "aesthetic"
    about = "LAION's aesthetic score of the target, about 1 to 10"
    Options = HeadOptions
    layers: Mapping[str, Vector]

    def load(self) -> str:
        from instructdiffusion.model.metrics.networks import aesthetic_layers

        names = f"{super().load()} {self.options.head.name}"
        self.layers = aesthetic_layers(self.options.head)
        try:
            self._rated([np.zeros((8, 8, 3), np.uint8)])
        except ValueError:
            raise DataError(
                f"{self.options.head} was not made for {self.options.clip}; name the predictor of that CLIP"
            ) from None
        return f"{names}@{digest_of(self.options.head)}"

    def values(self, triplets: Sequence[Triplet]) -> Values:
        return list(self._rated([t.target for t in triplets]))

    def _rated(self, pictures: Sequence[Image]) -> list[float]:
        return [aesthetic(vector, self.layers) for vector in self.eyes.pictures(pictures)]


class AestheticGap(Aesthetic):
    """Whether the edit spoiled the picture, or made another one of it (the paper's second rule)."""

    name = "aesthetic_gap"
    about = "LAION's aesthetic score of the target minus that of the source"

    def values(self, triplets: Sequence[Triplet]) -> Values:
        after, before = self._rated([t.target for t in triplets]), self._rated([t.source for t in triplets])
        return [one - other for one, other in zip(after, before, strict=True)]


class ImageLikeness(Clip):
    """An edit of a picture, not another picture (InstructPix2Pix keeps 0.75 and more)."""

    name = "clip_image"
    about = "cosine of source and target in CLIP's space, -1 to 1"
    Options = ClipOptions

    def values(self, triplets: Sequence[Triplet]) -> Values:
        after = self.eyes.pictures([t.target for t in triplets])
        before = self.eyes.pictures([t.source for t in triplets])
        return [cosine(one, other) for one, other in zip(after, before, strict=True)]


class TextLikeness(Clip):
    """The target shows what its caption says (InstructPix2Pix keeps 0.2 and more)."""

    name = "clip_text"
    about = "cosine of target and its caption in CLIP's space, -1 to 1; none without a caption"
    Options = ClipOptions

    def values(self, triplets: Sequence[Triplet]) -> Values:
        found: Values = [None] * len(triplets)
        told = {i: after for i, t in enumerate(triplets) if (after := captions(t)[1])}
        if told:
            seen = self.eyes.pictures([triplets[i].target for i in told])
            said = self.eyes.encoder.words(list(told.values()))
            for i, one, other in zip(told, seen, said, strict=True):
                found[i] = cosine(one, other)
        return found


class Direction(Clip):
    """The picture changed the way its caption did (InstructPix2Pix keeps 0.2 and more)."""

    name = "clip_direction"
    about = "cosine of the change in pictures and in captions in CLIP's space, -1 to 1; none without both captions"
    Options = ClipOptions

    def values(self, triplets: Sequence[Triplet]) -> Values:
        found: Values = [None] * len(triplets)
        told = {i: both for i, t in enumerate(triplets) if all(both := captions(t))}
        if told:
            before = self.eyes.pictures([triplets[i].source for i in told])
            after = self.eyes.pictures([triplets[i].target for i in told])
            words = self.eyes.encoder.words([text for both in told.values() for text in both])
            for place, i in enumerate(told):
                found[i] = direction(before[place], after[place], words[2 * place], words[2 * place + 1])
        return found


def captions(triplet: Triplet) -> tuple[str, str]:
    """What source and target show, as the label or the data set's own record says; empty where neither does."""
    known: dict[str, Any] = {**triplet.provenance, **triplet.label}
    if "caption_after" in known:  # as the readers of data sets name them
        return str(known.get("caption", "")), str(known["caption_after"])
    return str(known.get("source_caption", "")), str(known.get("caption", ""))


SCORES = (Aesthetic, AestheticGap, ImageLikeness, TextLikeness, Direction)

"""Scores that need no network: whether an edit shows, how large it is, whether it can be read back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from instructdiffusion.model.data.shards import Triplet
from instructdiffusion.model.metrics.pixels import background
from instructdiffusion.model.quality import Score, Values
from instructdiffusion.model.task import Mask, psnr
from instructdiffusion.model.tasks import EVERY
from instructdiffusion.model.tasks.editing import changed


def mask_of(triplet: Triplet) -> Mask | None:
    """What a region task asks for, or what an edit may change; None where the label holds no mask."""
    mask = triplet.label.get("mask")
    return None if mask is None else np.asarray(mask, bool)


class Likeness(Score):
    """Source and target that are too alike teach nothing."""

    name = "psnr"
    about = "PSNR of source and target in dB, at most 60; none where the answer is that there is nothing to find"

    def values(self, triplets: Sequence[Triplet]) -> Values:
        return [None if _nothing_asked(t) else psnr(t.source, t.target) for t in triplets]


class Region(Score):
    """A region of a few pixels can't be seen."""

    name = "region"
    about = "share of the picture that the label's mask covers, 0 to 1; none for an empty mask"

    def values(self, triplets: Sequence[Triplet]) -> Values:
        masks = [mask_of(t) for t in triplets]
        return [float(mask.mean()) if mask is not None and mask.any() else None for mask in masks]


class ReadBack(Score):
    """What was painted must be found again by the task's own reader."""

    name = "read_back"
    about = "the task's measure of its own target, 0 to 1"
    kinds = ("perception",)

    def values(self, triplets: Sequence[Triplet]) -> Values:
        return [_read_back(t) for t in triplets]


class Covered(Score):
    """An edit that left its object as it was, or half of it, changed too little."""

    name = "covered"
    about = "share of the edit's mask that visibly changed, 0 to 1: near 0, a removed object is still there"
    kinds = ("editing",)

    def values(self, triplets: Sequence[Triplet]) -> Values:
        masks = [mask_of(t) for t in triplets]
        return [
            float(changed(t.target, t.source)[mask].mean()) if mask is not None and mask.any() else None
            for t, mask in zip(triplets, masks, strict=True)
        ]


class Background(Score):
    """What an edit does not speak of stays as it is."""

    name = "background"
    about = "PSNR in dB of source and target outside of the edit's mask, at most 60"
    kinds = ("editing",)

    def values(self, triplets: Sequence[Triplet]) -> Values:
        masks = [mask_of(t) for t in triplets]
        return [
            None if mask is None else background(t.target, t.source, mask)
            for t, mask in zip(triplets, masks, strict=True)
        ]


class Side(Score):
    """Small pictures are thumbnails."""

    name = "side"
    about = "pixels of the pictures' shorter side"

    def values(self, triplets: Sequence[Triplet]) -> Values:
        return [float(min(t.source.shape[:2])) for t in triplets]


def _nothing_asked(triplet: Triplet) -> bool:
    mask = mask_of(triplet)
    return mask is not None and not mask.any()


def _read_back(triplet: Triplet) -> float:
    task = EVERY[triplet.ask.task]
    return task.score(triplet.target, triplet.source, triplet.label, triplet.ask)[task.metric.name]


SCORES = (Likeness, Region, ReadBack, Covered, Background, Side)

"""Turn what the editor read from its picture into a typed answer, with how clearly it stands there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from instructdiffusion.model.data.rle import decode_rle
from instructdiffusion.model.task import Ask, Image
from instructdiffusion.serving.schema import Found, Joints, Nothing, found_of

if TYPE_CHECKING:
    from instructdiffusion.model.editor import Edit

SURE = 0.1  # confidence below which a joint counts as not found
FAINT, STRONG = 0.7, 1.4  # of the paint: what is clear is read alike from both
SIDE = 256  # pixels that a picture is reduced to for that; no model paints finer


def answer_of(edit: Edit, source: Image) -> tuple[Found | None, float | None]:
    """What was found and how confident that is, 0..1; (None, None) for an edit that is not to find anything.

    For joints it is the mean of their own. For a region, or none, it is how much of it stays when the paint is made
    fainter and stronger: 1 for one that does not move, 0 for one that hangs on the threshold.
    """
    from instructdiffusion.model.tasks import EVERY

    if edit.ask is None or EVERY[edit.ask.task].family == "restoration":
        return None, None
    found = found_of(edit.found)
    if isinstance(found, Joints):
        sure = {name: joint for name, joint in found.joints.items() if joint.confidence >= SURE}
        if not sure:
            return Nothing(), round(1 - max(joint.confidence for joint in found.joints.values()), 3)
        return Joints(joints=sure), round(sum(joint.confidence for joint in sure.values()) / len(sure), 3)
    return found or Nothing(), _steadiness(edit.picture, source, edit.ask)


def _steadiness(output: Image, source: Image, ask: Ask) -> float:
    """Overlap of the regions read from the fainter and the stronger paint: intersection over union."""
    before, after = _small(source), _small(output)
    faint, strong = (_region(before, after, amount, ask) for amount in (FAINT, STRONG))
    union = (faint | strong).sum()
    return round(float((faint & strong).sum() / union), 3) if union else 1.0


def _region(before: Any, after: Any, amount: float, ask: Ask) -> Any:
    from instructdiffusion.model.tasks import EVERY

    paint = (before + amount * (after - before)).clip(0, 255).round().astype(np.uint8)
    read = EVERY[ask.task].read(paint, before.astype(np.uint8), ask)
    return decode_rle(read["mask"]) if "mask" in read else np.zeros(paint.shape[:2], bool)


def _small(picture: Image) -> Any:
    """The picture at SIDE pixels or less, as floats."""
    scale = min(1.0, SIDE / max(picture.shape[:2]))
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.float32)

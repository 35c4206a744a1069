"""Joints: one lexicon for every data set, so that one word always means one point of the body.

Data sets write "left shoulder", "left_shoulder" and "Left Shoulder", or "head_top", "top_head" and "head"; here each
has one name, in words that fit into a sentence. The colours that joints are marked with are in `colors`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from instructdiffusion.model.errors import DataError

Value = TypeVar("Value")


def _both(*parts: str) -> tuple[str, ...]:
    """Each part on the left, then on the right."""
    return tuple(f"{side} {part}" for part in parts for side in ("left", "right"))


COCO = ("nose", *_both("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle"))
HUMAN_ART = (*COCO, *_both("finger", "toe"))
CROWD_POSE = (*_both("shoulder", "elbow", "wrist", "hip", "knee", "ankle"), "top of the head", "neck")
MPII = (
    *("right ankle", "right knee", "right hip", "left hip", "left knee", "left ankle"),
    *("pelvis", "thorax", "upper neck", "top of the head"),
    *("right wrist", "right elbow", "right shoulder", "left shoulder", "left elbow", "left wrist"),
)
AIC = (
    *("right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist"),
    *("right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle"),
    *("top of the head", "neck"),
)
AP_10K = (
    *("left eye", "right eye", "nose", "neck", "root of the tail"),
    *("left shoulder", "left elbow", "left front paw", "right shoulder", "right elbow", "right front paw"),
    *("left hip", "left knee", "left back paw", "right hip", "right knee", "right back paw"),
)
#: Joints of each data set, in the order of its annotation files.
ORDER: dict[str, tuple[str, ...]] = {
    "COCO": COCO,
    "CrowdPose": CROWD_POSE,
    "MPII": MPII,
    "AIC": AIC,
    "AP-10K": AP_10K,
    "Human-Art": HUMAN_ART,
}
JOINTS = frozenset(name for names in ORDER.values() for name in names)

#: Spellings that differ by more than case, hyphens and underscores.
ALIASES: dict[str, str] = {
    **dict.fromkeys(("head", "head top", "top head", "top of head"), "top of the head"),
    **dict.fromkeys(("root of tail", "tail root", "tail base"), "root of the tail"),
}

#: What half-body crops keep together; a joint that is in neither group belongs to no half.
_LOWER = ("hip", "knee", "ankle", "toe", "back paw", "pelvis", "root of the tail")
LOWER = frozenset(name for name in JOINTS if name.endswith(_LOWER))
UPPER = JOINTS - LOWER

_SIDE = re.compile(r"\b(left|right)\b")


def joint(name: str) -> str:
    """The one name of a joint, from any spelling.

    Raises:
        DataError: no data set known here has such a joint.
    """
    words = " ".join(re.split(r"[\s_-]+", name.strip().lower()))
    found = ALIASES.get(words, words)
    if found not in JOINTS:
        raise DataError(f"joint {name!r} is in no data set known here; add it to the lexicon of joints")
    return found


def mirror(name: str) -> str:
    """The joint that a mirror shows in place of this one: left for right; a joint in the middle stays."""
    return _SIDE.sub(lambda side: "right" if side[1] == "left" else "left", name)


def mirrored(values: Mapping[str, Value]) -> dict[str, Value]:
    """Values by joint, as a mirror shows them."""
    return {mirror(name): value for name, value in values.items()}


def pairs(names: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """The (left, right) pairs among some joints, in their order."""
    there = tuple(names)
    return tuple((name, mirror(name)) for name in there if "left" in name.split() and mirror(name) in there)

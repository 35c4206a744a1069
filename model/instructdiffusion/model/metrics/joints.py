"""Joints and landmarks: what COCO's measure needs to know of each joint, PCK, and the error of faces (NME)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from instructdiffusion.model.data import lexicon
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.metrics.spec import Spec

#: COCO's sigmas (Lin et al.): how far annotators differ on a joint, as a share of the person's size.
_COCO = {
    "nose": 0.026, "eye": 0.025, "ear": 0.035, "shoulder": 0.079, "elbow": 0.072, "wrist": 0.062,
    "hip": 0.107, "knee": 0.087, "ankle": 0.089,
}  # fmt: skip
#: Other data sets' joints, as their authors' evaluations set them (CrowdPose, AP-10K); paws are wrists and ankles.
_OTHERS = {
    "top of the head": 0.079, "neck": 0.079, "root of the tail": 0.035, "front paw": 0.062, "back paw": 0.089,
}  # fmt: skip
ANY = 0.05  # of a joint that no protocol knows
AREA = 0.53  # of the box that a person's outline covers, where the data set doesn't say
FAR = 0.1  # PCK: share of the longer side of the box within which a joint counts as found

#: AP-10K's joints by COCO's names; its other three, neck and root of the tail, have none (section 4.2 of the paper).
AS_COCO: dict[str, str] = {
    **{name: name for name in lexicon.AP_10K if name in lexicon.COCO},
    **{f"{side} front paw": f"{side} wrist" for side in ("left", "right")},
    **{f"{side} back paw": f"{side} ankle" for side in ("left", "right")},
}

PCK = Spec(name="pck", unit="share of joints within a tenth of the box", parameters=(("far", FAR),))
NME = Spec(name="nme", unit="mean error over the distance of the eyes", better="lower")

Point = Sequence[float]


def sigma(joint: str) -> float:
    """COCO's sigma of a joint, of the side it is on regardless."""
    part = joint.removeprefix("left ").removeprefix("right ")
    return _COCO.get(part, _OTHERS.get(part, ANY))


def keypoints(joints: Mapping[str, Point], names: Sequence[str]) -> list[float]:
    """Joints as COCO's flat list [x, y, v, ...]; one that is missing is (0, 0, 0), which is neither wanted nor near."""
    return [value for name in names for value in ((*joints[name][:2], 2) if name in joints else (0.0, 0.0, 0))]


def pck(found: Mapping[str, Point], wanted: Mapping[str, Point], size: float, far: float = FAR) -> list[float]:
    """Of each joint wanted, whether it was found within `far` times `size` pixels."""
    return [float(name in found and _distance(found[name], point) <= far * size) for name, point in wanted.items()]


def nme(found: Mapping[str, Point], wanted: Mapping[str, Point], eyes: tuple[str, str], size: float) -> float:
    """Mean distance of the landmarks from where they are, over that of the outer corners (or centres) of the eyes.

    A landmark that was not found counts as `size` pixels away.

    Raises:
        DataError: the eyes are not annotated, or lie on one spot.
    """
    if not set(eyes) <= wanted.keys() or not (apart := _distance(wanted[eyes[0]], wanted[eyes[1]])):
        raise DataError(f"a face needs {eyes[0]} and {eyes[1]} apart to measure by; leave it out")
    errors = [_distance(found[name], point) if name in found else size for name, point in wanted.items()]
    return float(np.mean(errors) / apart)


def _distance(one: Point, other: Point) -> float:
    return float(np.hypot(one[0] - other[0], one[1] - other[1]))

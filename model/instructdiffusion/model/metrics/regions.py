"""Masks compared: cumulative IoU of referring segmentation (cIoU), its mean over classes (mcIoU), and gRefCOCO's two.

A mask is compared once, as the sizes of intersection and union; the metrics are sums over those. `Overlap` is of one
query: (pixels in both, pixels in either, whether anything was wanted, whether anything was found).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from instructdiffusion.model.errors import DataError
from instructdiffusion.model.metrics.spec import Spec
from instructdiffusion.model.metrics.value import Indices
from instructdiffusion.model.task import Mask

EMPTY = 0.005  # share of the picture below which a region counts as nothing found

CIOU = Spec(name="ciou", unit="sum of intersections over sum of unions")
MCIOU = Spec(name="mciou", version=2, unit="mean over classes of cumulative IoU, one query a class")
GIOU = Spec(name="giou", unit="mean IoU; 1 for rightly nothing", parameters=(("empty", EMPTY),))
N_ACC = Spec(name="n_acc", unit="share of absent targets for which nothing is found", parameters=(("empty", EMPTY),))
T_ACC = Spec(name="t_acc", unit="share of present targets for which something is found", parameters=(("empty", EMPTY),))


class Overlap(NamedTuple):
    """How one query's region and the truth overlap."""

    both: int
    either: int
    wanted: bool
    found: bool


def overlap(found: Mask, wanted: Mask, empty: float = EMPTY) -> Overlap:
    """Compare two masks (height x width, bool); less than a share of `empty` counts as nothing found.

    Raises:
        DataError: they are of different sizes.
    """
    if found.shape != wanted.shape:
        raise DataError(f"masks of {found.shape} and {wanted.shape} can't be compared; bring them to one size")
    both, either = int((found & wanted).sum()), int((found | wanted).sum())
    return Overlap(both, either, bool(wanted.any()), bool(found.mean() >= empty))


def ciou(units: Sequence[Sequence[Overlap]]) -> Callable[[Indices], float]:
    """Cumulative IoU: a statistic of units of overlaps; NaN where nothing was wanted and nothing found."""
    both = np.array([sum(o.both for o in unit) for unit in units], float)
    either = np.array([sum(o.either for o in unit) for unit in units], float)
    return lambda at: _ratio(both[at].sum(), either[at].sum())


def mciou(units: Sequence[Sequence[tuple[str, Overlap]]]) -> Callable[[Indices], float]:
    """Cumulative IoU of each class, averaged over those that were wanted anywhere: a statistic; NaN without any."""
    names = sorted({name for unit in units for name, o in unit if o.wanted})
    columns: Mapping[str, int] = {name: i for i, name in enumerate(names)}
    both, either, wanted = np.zeros((3, len(units), len(names)))
    for row, unit in enumerate(units):
        for name, o in unit:
            if name in columns:
                both[row, columns[name]] += o.both
                either[row, columns[name]] += o.either
                wanted[row, columns[name]] += o.wanted

    def of(at: Indices) -> float:
        there = wanted[at].sum(0) > 0  # a resample may hold no picture of a class
        return float(np.mean(both[at].sum(0)[there] / either[at].sum(0)[there])) if there.any() else math.nan

    return of


def giou(overlap: Overlap) -> float:
    """gRefCOCO's IoU of one query: without a target, 1 where nothing is found and else 0."""
    if not overlap.wanted:
        return float(not overlap.found)
    return overlap.both / overlap.either if overlap.found else 0.0


def n_acc(overlaps: Sequence[Overlap]) -> list[float]:
    """Of each query without a target, whether nothing is found."""
    return [float(not o.found) for o in overlaps if not o.wanted]


def t_acc(overlaps: Sequence[Overlap]) -> list[float]:
    """Of each query with a target, whether something is found."""
    return [float(o.found) for o in overlaps if o.wanted]


def _ratio(part: Any, whole: Any) -> float:
    return float(part / whole) if whole else math.nan

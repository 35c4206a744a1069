"""Means with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from instructdiffusion.model.errors import DataError


def interval(scores: Sequence[float]) -> tuple[float, float, float]:
    """Mean, lower and upper end of its 95 % bootstrap interval."""
    from scipy.stats import bootstrap  # here, for most who import this module compute none, and it takes a second

    values = np.asarray(scores, float)
    if len(values) < 2 or np.ptp(values) == 0:
        mean = float(values.mean())
        return mean, mean, mean
    result = bootstrap((values,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(0))
    return float(values.mean()), float(result.confidence_interval.low), float(result.confidence_interval.high)


def paired(what: str, before: Sequence[float | None], after: Sequence[float | None]) -> list[float]:
    """What changed, sample by sample, where both have a score; nothing where either kept none.

    Raises:
        DataError: they are of different numbers of samples.
    """
    if not before or not after:
        return []
    if len(before) != len(after):
        raise DataError(f"{what} was scored on {len(before)} samples and on {len(after)}; evaluate both on the same")
    return [b - a for a, b in zip(before, after, strict=True) if a is not None and b is not None]


def interval_of(
    statistic: Callable[[NDArray[np.intp]], float], count: int, *, resamples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """The same of any statistic of `count` samples, which it is told by their places; one sample has no spread.

    Resamples of which the statistic is NaN say nothing and are left out, which scipy's bootstrap can't; where all are,
    there is no spread either.
    """
    value = float(statistic(np.arange(count)))
    if count < 2 or np.isnan(value):
        return value, value, value
    rng = np.random.default_rng(seed)
    found = np.array([statistic(rng.integers(0, count, count)) for _ in range(resamples)])
    known = found[~np.isnan(found)]
    low, high = np.quantile(known, (0.025, 0.975)) if known.size else (value, value)
    return value, float(low), float(high)

"""Means with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from instructdiffusion.model.errors import DataError


def interval(scores: Sequence[float]) -> tuple[float, float, float]:
    """Mean, lower and upper end of its 95 % bootstrap interval."""
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
    """The same of any statistic of `count` samples, which it is told by their places; one sample has no spread."""
    places = np.arange(count)
    value = float(statistic(places))
    if count < 2:
        return value, value, value
    rng = np.random.default_rng(seed)
    found = bootstrap(
        (places,), statistic, n_resamples=resamples, vectorized=False, method="percentile", rng=rng
    ).confidence_interval
    return value, float(found.low), float(found.high)

"""A number that can be read alone: with its spec, interval, floor and bound; or marked as missing, with the reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from instructdiffusion.model.errors import DataError
from instructdiffusion.model.interval import interval_of
from instructdiffusion.model.metrics.spec import Spec

NO_SAMPLES = "there are no samples"
Indices = NDArray[np.intp]
#: From all units to the metric of some of them, named by their places: it is resampled thousands of times, so what can
#: be computed once is. A unit is whatever counts as one independent sample. NaN: these units hold nothing to measure.
Statistic = Callable[[Sequence[Any]], Callable[[Indices], float]]


class Value(BaseModel):
    """A metric's value with its 95 % interval over `n` units, beside the floor (doing nothing) and the bound."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    spec: Spec
    value: float | None
    low: float | None = None
    high: float | None = None
    floor: float | None = Field(None, description="what handing the source back scores")
    bound: float | None = Field(None, description="what the true target scores after the autoencoder; null: unknown")
    n: int = Field(0, ge=0)
    bound_n: int | None = Field(None, description="units that the bound is known of, where fewer than n; null: all n")
    missing: str = Field("", description="why there is no value; empty: there is one")

    @model_validator(mode="after")
    def _value_or_reason(self) -> Self:
        if (self.value is None) == (not self.missing):
            raise ValueError(f"{self.spec.name} needs a value, or the reason why it has none")
        return self


def missing(spec: Spec, why: str) -> Value:
    """No value, and why; never a zero."""
    return Value(spec=spec, value=None, missing=why)


def measured(
    spec: Spec,
    units: Sequence[Any],
    statistic: Statistic,
    *,
    floor: Sequence[Any] | None = None,
    bound: Sequence[Any] | None = None,
    resamples: int = 1000,
) -> Value:
    """Compute a metric with its bootstrap interval, and the same of doing nothing and of the autoencoder.

    Args:
        units: what was measured on each independent sample.
        statistic: makes the metric of them; `mean` for most.
        floor, bound: the same units with the source, and with the rebuilt target, in the output's place.

    Returns:
        The value; missing where the metric of all units is NaN. A floor or bound that is NaN is unknown.
    """
    if not units:
        return missing(spec, NO_SAMPLES)
    value, low, high = interval_of(statistic(units), len(units), resamples=resamples, seed=spec.seed)
    if np.isnan(value):
        return missing(spec, "the samples hold nothing that it measures")
    return Value(
        spec=spec,
        value=value,
        low=low,
        high=high,
        floor=_whole(statistic, floor),
        bound=(known := _whole(statistic, bound)),
        n=len(units),
        bound_n=len(bound) if bound and known is not None and len(bound) < len(units) else None,
    )


def mean(units: Sequence[Any]) -> Callable[[Indices], float]:
    """The mean of numbers, or of each unit's numbers: a statistic.

    Raises:
        DataError: one of them is not finite.
    """
    sums = np.array([float(np.sum(unit)) for unit in units])
    counts = np.array([np.size(unit) for unit in units])
    if not np.isfinite(sums).all():
        raise DataError("a sample's measure is no finite number; look for broken pictures among the samples")
    return lambda at: float(sums[at].sum() / counts[at].sum()) if counts[at].any() else math.nan


def _whole(statistic: Statistic, units: Sequence[Any] | None) -> float | None:
    number = statistic(units)(np.arange(len(units))) if units else math.nan
    return None if math.isnan(number) else number

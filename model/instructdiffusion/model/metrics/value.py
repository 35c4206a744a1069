"""A number that can be read alone: with its spec, interval, floor and bound; or marked as missing, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from instructdiffusion.model.errors import DataError
from instructdiffusion.model.interval import interval_of
from instructdiffusion.model.metrics.spec import Spec

Indices = NDArray[np.intp]
#: From all units to the metric of some of them, named by their places: it is resampled thousands of times, so what can
#: be computed once is. A unit is whatever counts as one independent sample.
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

    Raises:
        DataError: the metric is no finite number.
    """
    if not units:
        return missing(spec, "there are no samples")
    ends = [_whole(statistic, other) if other else None for other in (units, floor, bound)]
    for number in ends:
        if number is not None and not np.isfinite(number):
            raise DataError(f"{spec.name} is {number}; look for broken pictures among the samples")
    value, low, high = interval_of(statistic(units), len(units), resamples=resamples, seed=spec.seed)
    return Value(spec=spec, value=value, low=low, high=high, floor=ends[1], bound=ends[2], n=len(units))


def mean(units: Sequence[Any]) -> Callable[[Indices], float]:
    """The mean of numbers, or of each unit's numbers: a statistic."""
    sums = np.array([float(np.sum(unit)) for unit in units])
    counts = np.array([np.size(unit) for unit in units])
    return lambda at: float(sums[at].sum() / counts[at].sum())


def _whole(statistic: Statistic, units: Sequence[Any]) -> float:
    return statistic(units)(np.arange(len(units)))

"""How far scores changed from one model to another, with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from instructdiffusion.components.policy import Margins

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Scores = NDArray[np.float64]


class Change(BaseModel):
    """A mean difference with its interval."""

    model_config = ConfigDict(frozen=True)
    value: float
    low: float
    high: float


def mean_change(groups: Sequence[Scores], margins: Margins, level: float) -> Change:
    """The mean over groups of each group's mean, with its interval; each group is resampled by itself."""
    import numpy as np
    from scipy.stats import bootstrap

    value = float(np.mean([group.mean() for group in groups]))
    if all(np.ptp(group) == 0 for group in groups):  # nothing to resample: equal models, or one sample
        return Change(value=value, low=value, high=value)

    def mean(*samples: Scores, axis: int) -> Scores:
        return np.asarray(np.mean([sample.mean(axis=axis) for sample in samples], axis=0), float)

    pairs = [np.repeat(group, 2) if len(group) == 1 else group for group in groups]  # one sample has no spread
    found = bootstrap(
        pairs,
        mean,
        confidence_level=level,
        n_resamples=margins.resamples,
        method="percentile",
        batch=100,
        rng=np.random.default_rng(margins.seed),
    ).confidence_interval
    return Change(value=value, low=float(found.low), high=float(found.high))

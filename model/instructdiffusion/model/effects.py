"""What an experiment found: effects of one arm over another, with intervals, and the paragraph that tells them.

An arm is a way to train. Its scores are of the same samples whatever the arm and the seed, so arms are compared sample
by sample; a sample counts with the mean of its differences over the seeds. The interval says what other samples might
have given, the seeds what other trainings might have.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from instructdiffusion.model.errors import DataError
from instructdiffusion.model.interval import interval


class Effect(BaseModel):
    """By how much an arm is above another on `n` samples, over all seeds and by each."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    unit: str
    value: float
    low: float
    high: float
    n: int
    by_seed: tuple[float, ...]
    arms: tuple[float, float]  # mean score of the arm, and of the other

    @property
    def told(self) -> str:
        """Whether noise decides nothing: above, below or neither, by the interval and by every seed."""
        if self.low > 0 and min(self.by_seed) > 0:
            return "above"
        if self.high < 0 and max(self.by_seed) < 0:
            return "below"
        return "neither"


def effect(name: str, unit: str, arm: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> Effect:
    """Compare two arms.

    Args:
        arm, other: seeds x samples: the scores of both, of the same samples under the same seeds.

    Raises:
        DataError: they are not of the same samples and seeds.
    """
    shapes = [{len(row) for row in rows} for rows in (arm, other)]
    if not arm or len(arm) != len(other) or shapes[0] != shapes[1] or len(shapes[0]) != 1 or not arm[0]:
        raise DataError(f"{name}: the arms are not of the same samples and seeds; delete the experiment's folder")
    ours, theirs = np.asarray(arm, float), np.asarray(other, float)
    value, low, high = interval((ours - theirs).mean(0).tolist())
    return Effect(
        name=name,
        unit=unit,
        value=value,
        low=low,
        high=high,
        n=ours.shape[1],
        by_seed=tuple((ours - theirs).mean(1).tolist()),
        arms=(float(ours.mean()), float(theirs.mean())),
    )


def paragraph(claim: str, arm: str, other: str, effects: Sequence[Effect], setting: str) -> str:
    """What came out, in words that the numbers allow; a claim that they don't carry is called so."""
    sides: dict[str, list[str]] = {"above": [], "below": [], "neither": []}
    for found in effects:
        sides[found.told].append(
            f"{found.name} ({found.value:+.3g}, {found.low:+.3g} to {found.high:+.3g} {found.unit})"
        )
    kept = len(sides["above"])
    in_part = "holds in part" if kept and not sides["below"] else "does not hold"
    sentences = [f"The claim: {claim}.", f"{setting}, it {'holds' if kept == len(effects) else in_part}."]
    words = {"above": f"{arm} is above {other}", "below": f"{arm} is below {other}", "neither": "neither is shown"}
    sentences += [
        f"{words[side][0].upper()}{words[side][1:]} for {', '.join(some)}." for side, some in sides.items() if some
    ]
    return " ".join(sentences)

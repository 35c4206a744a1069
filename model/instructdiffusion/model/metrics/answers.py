"""Answers compared with what is true: the class of a picture."""

from __future__ import annotations

from collections.abc import Mapping

from instructdiffusion.model.metrics.spec import Spec

ACCURACY = Spec(name="accuracy", unit="share of pictures whose class is right")


def accuracy(scores: Mapping[str, float], truth: str) -> float:
    """Whether the class of the highest score is the true one. A tie, so doing nothing, is shared among who ties."""
    best = max(scores.values())
    tied = [name for name, score in scores.items() if score == best]
    return float(truth in tied) / len(tied)

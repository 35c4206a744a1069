"""Metrics: small pure functions, each with a spec that says exactly what it computes.

Two numbers compare only when their specs do: the same metric with another network, another resizing or another crop is
another metric. Every value therefore carries its spec, its interval, what doing nothing scores, and what the
autoencoder lets through.
"""

from __future__ import annotations

from instructdiffusion.model.metrics.spec import Preprocessing, Spec
from instructdiffusion.model.metrics.value import Value, measured, missing

__all__ = ["Preprocessing", "Spec", "Value", "measured", "missing"]

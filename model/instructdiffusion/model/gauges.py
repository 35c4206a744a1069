"""What a training tells of itself beside its losses: where its time and its memory go, and how its weights move."""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from instructdiffusion.model import engine

GIB = 2**30
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in what the system counts a process's memory in


class Gauges:
    """What is measured from one line of the curve to the next; every process has its own, and all read at once."""

    def __init__(self) -> None:
        self.losses = defaultdict[str, list[float]](list)  # of this process's triplets, by task
        self.gradient_norm: Any = None  # of the last step
        self._seconds = defaultdict[str, float](float)
        self._steps = 0

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around an optimizer step."""
        with self._timed("step"):
            yield
        self._steps += 1

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the wait for triplets, in a step."""
        with self._timed("waiting"):
            yield

    def read(self, wrapped: Any, average: Sequence[torch.Tensor], batch_size: int) -> dict[str, float]:
        """The metrics of the steps so far, of the process where they are largest.

        `loss` and `loss/TASK` (of this process), `gradient_norm` (of the last step, before clipping),
        `average_distance` (of the weights from their average, as a share of their length), `waiting` (share of the
        steps' time without triplets, 0 to 1), `triplets_per_second` (of all processes), `memory_gib` and
        `gpu_memory_gib` (the most so far).
        """
        took = max(self._seconds["step"], 1e-9)
        at_most = engine.largest([self._seconds["waiting"] / took, took, *_memory()])
        told = _means(self.losses)
        if self.gradient_norm is not None:
            told["gradient_norm"] = float(self.gradient_norm)
        told["average_distance"] = engine.distance(wrapped, average)
        told |= {"waiting": at_most[0], "triplets_per_second": self._steps * batch_size / at_most[1]}
        told |= dict(zip(("memory_gib", "gpu_memory_gib"), at_most[2:], strict=False))
        return told

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._seconds[what] += time.monotonic() - began


def _means(losses: dict[str, list[float]]) -> dict[str, float]:
    means = {f"loss/{task}": float(np.mean(values)) for task, values in sorted(losses.items())}
    if everything := [value for values in losses.values() for value in values]:
        means["loss"] = float(np.mean(everything))
    return means


def _memory() -> list[float]:
    """GiB that this process took at most, of the machine and, where there is one, of its GPU."""
    most = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT / GIB]
    return [*most, torch.cuda.max_memory_allocated() / GIB] if torch.cuda.is_available() else most

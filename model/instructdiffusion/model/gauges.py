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
        self.gradient_norm: float | None = None  # of the last step that was not left out
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

    def read(
        self, wrapped: Any, average: Sequence[torch.Tensor], batch_size: int, tasks: Sequence[str]
    ) -> dict[str, float]:
        """The metrics of the steps so far, the same on every process; all of them ask.

        `loss` and `loss/TASK` (means over the triplets of all processes), `gradient_norm` (of the last step, before
        clipping), `average_distance` (of the weights from their average, as a share of their length), `waiting` (share
        of the steps' time without triplets, 0 to 1, where it is largest), `triplets_per_second` (of all processes),
        `memory_gib` and `gpu_memory_gib` (the most so far, where it is largest). Steps that were left out have neither
        losses nor a norm.

        Args:
            tasks: all that there are in the data, in the same order on every process.
        """
        took = max(self._seconds["step"], 1e-9)
        at_most = engine.largest([self._seconds["waiting"] / took, took, *_memory()])
        told = _means(self.losses, tasks)
        if self.gradient_norm is not None:
            told["gradient_norm"] = self.gradient_norm
        told["average_distance"] = engine.distance(wrapped, average)
        told |= {"waiting": at_most[0], "triplets_per_second": self._steps * batch_size / at_most[1]}
        told |= dict(zip(("memory_gib", "gpu_memory_gib"), at_most[2:], strict=False))
        return told

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._seconds[what] += time.monotonic() - began


def _means(losses: dict[str, list[float]], tasks: Sequence[str]) -> dict[str, float]:
    """The mean loss of each task that any process has one of, and of all triplets."""
    parts = {f"loss/{task}": losses.get(task, []) for task in tasks}
    parts["loss"] = [value for values in losses.values() for value in values]
    sums = engine.totals([*(float(np.sum(part)) for part in parts.values()), *map(len, parts.values())])
    return {
        name: sums[at] / count for at, (name, count) in enumerate(zip(parts, sums[len(parts) :], strict=True)) if count
    }


def _memory() -> list[float]:
    """GiB that this process took at most, of the machine and, where there is one, of its GPU."""
    most = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT / GIB]
    return [*most, torch.cuda.max_memory_allocated() / GIB] if torch.cuda.is_available() else most

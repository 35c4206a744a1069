"""What a training has drawn so far, against what its mixture declares."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from instructdiffusion.model.data.mixture import Mixture

Share = dict[str, dict[str, float]]  # by name: what is declared, what was drawn


class Draws:
    """Shares of tasks and, where there are several, of sources among the triplets drawn."""

    def __init__(self, mixture: Mixture, tasks: NDArray[np.str_]) -> None:
        """`tasks` names the task of each triplet that the mixture draws from."""
        self._mixture, self.count = mixture, len(tasks)
        self._declared, sources = np.zeros(len(tasks)), np.zeros(len(tasks), np.int64)
        for at, heap in enumerate(mixture.heaps.values()):
            for numbers in heap.files:
                self._declared[numbers], sources[numbers] = heap.weight, at
        names, kinds = np.unique(tasks, return_inverse=True)
        self._groups = {"task": (names.tolist(), kinds)}
        if len(mixture.heaps) > 1:
            self._groups["source"] = ([*mixture.heaps], sources)

    def shares(self, places: int) -> dict[str, Share]:
        """Shares, 0 to 1, among the first draws of the run, `places` of them: by `task` or `source`, then by name.

        It is a function of the place alone, so that a training that was cut off tells the same as a whole one.
        """
        drawn = self._mixture.counts(places)
        return {
            group: {
                name: {"declared": declared, "drawn": seen}
                for name, declared, seen in zip(
                    names, _shares(kinds, self._declared, len(names)), _shares(kinds, drawn, len(names)), strict=True
                )
            }
            for group, (names, kinds) in self._groups.items()
        }


def figures(shares: dict[str, Share]) -> dict[str, float]:
    """The same as metrics: `mixture/task/remove`, and in `mixture/off` the largest difference from what is declared."""
    flat = {f"mixture/{group}/{name}": s for group, rows in shares.items() for name, s in rows.items()}
    off = max(abs(s["drawn"] - s["declared"]) for s in flat.values())
    return {**{name: s["drawn"] for name, s in flat.items()}, "mixture/off": off}


def _shares(kinds: NDArray[np.int64], amounts: NDArray[np.float64] | NDArray[np.int64], count: int) -> list[float]:
    sums = np.bincount(kinds, amounts, minlength=count)
    return [float(share) for share in sums / max(sums.sum(), 1e-12)]

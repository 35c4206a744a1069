"""Parts of a data set by what their samples share: the colour asked for, how large the object is, how long the phrase.

A mean hides a part that fails. Each part has a mean and a 95 % interval of its own, where it has samples enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from instructdiffusion.model.colors import MARKS, TINTS
from instructdiffusion.model.data.shards import Triplet
from instructdiffusion.model.interval import interval

COLOURS = {*MARKS, *TINTS}
FEWEST = 3  # samples that a part needs
LARGE = 1 / 16  # share of the picture from which on what changes is large: a quarter of either side
LONG = 8  # words from which on an instruction is long


def parts_of(triplet: Triplet) -> Iterator[str]:
    """The parts that a sample is in; of each kind of part one at most."""
    if "held_out" in triplet.label:
        yield "held-out pairs" if triplet.label["held_out"] else "seen pairs"
    named = {word for _, word in triplet.ask.marks if word in COLOURS}
    if len(named) == 1:
        yield f"colour {named.pop()}"
    changed = float(np.any(triplet.source != triplet.target, axis=-1).mean())
    if 0 < changed < 0.5:  # else the whole picture changes, or nothing does
        yield f"{'large' if changed >= LARGE else 'small'} change"
    yield f"{'long' if len(triplet.ask.instruction.split()) >= LONG else 'short'} instruction"


def sliced(scored: Sequence[tuple[Triplet, float]]) -> dict[str, tuple[float, float, float]]:
    """Mean and interval of each part that has samples enough, and that is not all there is."""
    parts: dict[str, list[float]] = {}
    for triplet, score in scored:
        for name in parts_of(triplet):
            parts.setdefault(name, []).append(score)
    return {name: interval(part) for name, part in sorted(parts.items()) if FEWEST <= len(part) < len(scored)}

"""Synthesis: compose triplets of every task and write them as shards.

Every triplet has a seed of its own, derived from the data set's seed, the split, the task and its number: the same
request gives the same bytes with any number of workers, and a run that was cut off goes on where it stopped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from instructdiffusion.model.data import photos
from instructdiffusion.model.data.photos import Split
from instructdiffusion.model.data.shards import PER_SHARD, Manifest, Shard, Triplet, write_shard_once
from instructdiffusion.model.data.workers import spread
from instructdiffusion.model.errors import ConfigError
from instructdiffusion.model.synthesis.scenes import Studio
from instructdiffusion.model.tasks import TASKS, task_named

LICENCES = (
    "scikit-image data: CC0 and public domain",
    "scikit-learn images: CC-BY",
    "drawn objects: Apache-2.0",
)
STAMPS_LICENCE = "tuxpaint-stamps: GPL-2"
Progress = Callable[[int, int], None]


def compose(studio: Studio, task: str, seed: str) -> Triplet:
    """Compose one triplet; the seed's text names it."""
    rng = Random(seed)
    source, label = TASKS[task].stage(studio, rng)
    ask = TASKS[task].ask(label, rng)
    target = TASKS[task].paint(source, label, ask)
    origin = {"recipe": "scenes", "seed": seed, "picture": f"scenes/{seed}"}
    return Triplet(seed.replace("/", "-"), ask, source, target, label, origin)


def plan(counts: Mapping[str, int], seed: int | str, split: str) -> list[tuple[str, str]]:
    """Every (task, seed) of a data set, in an order that mixes the tasks."""
    if alone := [task for task in counts if not task_named(task).composed]:
        raise ConfigError(f"no scenes can be composed for {', '.join(alone)}; choose from {', '.join(TASKS)}")
    rows = [(task, f"{seed}/{split}/{task}/{i}") for task, n in counts.items() for i in range(n)]
    Random(f"{seed}/{split}").shuffle(rows)
    return rows


def mixture(total: int, weights: Mapping[str, float] | None = None) -> dict[str, int]:
    """Share out `total` triplets over the tasks by `weights` (None: the tasks' own), at least one each."""
    weights = weights or {name: task.weight for name, task in TASKS.items()}
    whole = sum(weights.values())
    return {name: max(1, round(total * weight / whole)) for name, weight in weights.items()}


def synthesize(
    out: Path,
    *,
    split: Split,
    counts: Mapping[str, int],
    size: int,
    seed: int,
    workers: int | None = None,
    progress: Progress = lambda done, total: None,
) -> Manifest:
    """Write a data set of composed triplets into `out` and return its manifest.

    Args:
        split: which photographs and which pairs of kind and colour may appear.
        counts: triplets per task.
        size: side of the pictures in pixels, at least 32.
        progress: called with (shards done, shards in all).

    Raises:
        ConfigError: an unknown task, or a size too small for the objects.
        DataError: photographs are missing, or the disk is full.
    """
    if size < 32:
        raise ConfigError(f"size={size} is too small for objects with joints; use 32 or more")
    rows = plan(counts, seed, split)
    parts = [rows[i : i + PER_SHARD] for i in range(0, len(rows), PER_SHARD)]
    material = made_from(split)
    write = partial(_write_part, out, size, split, material)
    shards: list[Shard] = []
    for shard in spread(write, list(enumerate(parts)), workers or os.cpu_count() or 1):
        shards.append(shard)
        progress(len(shards), len(parts))
    told = {"size": size, "split": split, "seed": seed, "counts": dict(counts), "licences": material["licences"]}
    return Manifest(**told, made="synthesize", shards=tuple(shards)).save(out)


def made_from(split: Split) -> dict[str, Any]:
    """What the scenes of a split are made from on this machine: digest of the photographs, and all licences.

    Raises:
        DataError: photographs are missing.
    """
    return {"photographs": photos.digest(split), "licences": licences(split)}


def licences(split: Split) -> tuple[str, ...]:
    """What the scenes of a split are made from is licensed under."""
    return (*LICENCES, STAMPS_LICENCE) if photos.stamp_files(split) else LICENCES


def _write_part(
    out: Path, size: int, split: Split, material: Mapping[str, Any], part: tuple[int, list[tuple[str, str]]]
) -> Shard:
    number, rows = part
    request = repr((size, split, rows, material))
    return write_shard_once(out / f"shard-{number:05d}.tar", request, _composed(size, split, rows))


def _composed(size: int, split: Split, rows: list[tuple[str, str]]) -> Iterator[Triplet]:
    studio = Studio.open(size, split)
    yield from (compose(studio, task, seed) for task, seed in rows)

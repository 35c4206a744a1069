"""The quality filter: rules that every triplet must pass, and a report of what each rule dropped.

Composed triplets are right by construction; what can go wrong is that an edit hardly shows (a thing of the background's
own colour), or that two triplets are the same. The report keeps counts and a few keys per rule.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from instructdiffusion.model.data.shards import (
    PER_SHARD,
    Manifest,
    Shard,
    Triplet,
    read_triplets,
    write_shard,
)
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.task import psnr
from instructdiffusion.model.tasks import EVERY

MOST_ALIKE = 45.0  # dB: source and target nearer than this differ in nothing one could see
SMALLEST_REGION = 0.004  # share of the picture a region or an edit must cover
EXAMPLES = 5  # keys of dropped triplets kept per rule
Rule = Callable[[Triplet], bool]  # True: keep


def shows(triplet: Triplet) -> bool:
    """The target differs visibly from the source, unless nothing was to be found."""
    wanted = triplet.label.get("mask")
    if wanted is not None and not np.asarray(wanted).any():
        return True
    return psnr(triplet.source, triplet.target) < MOST_ALIKE


def large_enough(triplet: Triplet) -> bool:
    """The region or edit, where there is one, covers enough pixels to be seen."""
    wanted = triplet.label.get("mask")
    if wanted is None or not np.asarray(wanted).any():
        return True
    return float(np.mean(wanted)) >= SMALLEST_REGION


def readable(triplet: Triplet) -> bool:
    """What was painted scores as it should when read back."""
    task = EVERY[triplet.ask.task]
    if task.family != "perception":
        return True
    return task.score(triplet.target, triplet.source, triplet.label, triplet.ask)[task.metric.name] > 0.8


RULES: dict[str, Rule] = {"shows": shows, "large_enough": large_enough, "readable": readable}


def filter_shards(source: Path, out: Path) -> Manifest:
    """Copy the triplets that pass every rule, each once, into `out`; the report says what was dropped and why.

    Raises:
        DataError: nothing is left.
    """
    parent = Manifest.load(source)
    dropped: Counter[str] = Counter()
    examples: dict[str, list[str]] = defaultdict(list)
    counts: Counter[str] = Counter()
    seen: set[bytes] = set()

    def kept() -> Iterator[Triplet]:
        for triplet in read_triplets(source):
            reason = _reason(triplet, seen)
            if reason is None:
                counts[triplet.ask.task] += 1
                yield triplet
                continue
            dropped[reason] += 1
            if len(examples[reason]) < EXAMPLES:
                examples[reason].append(triplet.key)

    shards = _write(kept(), out)
    if not shards:
        raise DataError(
            f"the filter dropped all {parent.total} triplets of {source} ({dict(dropped)}); "
            "synthesize again with another seed"
        )
    report = {
        "read": parent.total,
        "kept": counts.total(),
        "dropped": dict(dropped),
        "examples": dict(examples),
    }
    return parent.heir(source, "filter", {}, shards=tuple(shards), counts=dict(counts), report=report).save(out)


def _reason(triplet: Triplet, seen: set[bytes]) -> str | None:
    """The first rule a triplet breaks, `duplicate` for one seen before, None for one to keep."""
    for name, rule in RULES.items():
        if not rule(triplet):
            return name
    fingerprint = triplet.source.tobytes() + triplet.ask.instruction.encode()
    digest = hashlib.sha256(fingerprint).digest()
    if digest in seen:
        return "duplicate"
    seen.add(digest)
    return None


def _write(triplets: Iterator[Triplet], out: Path) -> list[Shard]:
    shards: list[Shard] = []
    batch: list[Triplet] = []
    for triplet in triplets:
        batch.append(triplet)
        if len(batch) == PER_SHARD:
            shards.append(write_shard(out / f"shard-{len(shards):05d}.tar", batch))
            batch = []
    if batch:
        shards.append(write_shard(out / f"shard-{len(shards):05d}.tar", batch))
    return shards

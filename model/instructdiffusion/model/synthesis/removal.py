"""Removal and addition: a thing is painted out of its photograph, and read backwards that is putting it in.

The paper makes 85 thousand triplets so, of PhraseCut's phrases with LaMa (section 3.2). The target of an addition is
the photograph itself.

region and phrase  ->  inpainter  ->  "Remove the red car."  and backwards  "Add a red car on the left."
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

import numpy as np

from instructdiffusion.model.colors import OBJECTS, nearest
from instructdiffusion.model.data.readers import Example
from instructdiffusion.model.data.samples import Unusable
from instructdiffusion.model.data.shards import Triplet
from instructdiffusion.model.synthesis.inpainters import Inpainter
from instructdiffusion.model.synthesis.regions import Region, kind, placeless, region_of, with_article
from instructdiffusion.model.task import Ask, Image, Label
from instructdiffusion.model.tasks import TASKS
from instructdiffusion.model.tasks.editing import changed

OPERATIONS = ("remove", "add")
SHOWS = 0.25  # share of a region that must look another without the thing


def edits(
    example: Example,
    inpainter: Inpainter,
    rng: Random,
    size: int,
    *,
    operations: tuple[str, ...] = OPERATIONS,
    train: bool = True,
) -> Iterator[Triplet]:
    """The removal and the addition that a region with words gives, `size` x `size` pixels.

    Labels hold what the tasks' scores need, and the `region` of the thing itself: `mask` is everything that may change.

    Args:
        train: off: cropped from the middle.

    Raises:
        Unusable: see `region_of`; or the picture without the thing looks as it does with it.
    """
    region = region_of(example, rng, size, train=train)
    mask = region.grown
    without = inpainter.fill(region.picture, mask)
    shown = changed(without, region.picture) & region.mask
    if shown.sum() < SHOWS * region.mask.sum():
        raise Unusable("edit: hardly shows", f"{example.key}: without {region.phrase!r} the picture looks the same")
    for operation in operations:
        source, label = _told(operation, region, without)
        ask = asked(operation, label, rng)
        facts = {"operation": operation, "inpainter": inpainter.name, "mask_area": round(float(mask.mean()), 4)}
        yield Triplet(f"{example.key}-{operation}", ask, source, label["target"], label, facts)


def asked(operation: str, label: Label, rng: Random) -> Ask:
    """What to ask, in the words of the task, with the article that the new thing needs."""
    ask = TASKS[operation].ask(label, rng)
    new = label["words"].get("new")
    return replace(ask, instruction=with_article(ask.instruction, new)) if new else ask


def _told(operation: str, region: Region, without: Image) -> tuple[Image, Label]:
    """Source and label, whose `target` it is."""
    label = {"mask": region.grown, "region": region.mask, "kind": kind(region.phrase), "held_out": False}
    if operation == "remove":
        return region.picture, {**label, "target": without, "words": {"phrase": region.phrase}}
    new = changed(region.picture, without) & region.grown  # the colour as the task's score will find it
    color = nearest(np.median(region.picture[new], axis=0).astype(float), OBJECTS)
    words = {"new": placeless(region.phrase), "place": region.place}
    return without, {**label, "target": region.picture, "words": words, "color": color}

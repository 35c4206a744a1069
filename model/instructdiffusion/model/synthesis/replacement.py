"""Replacement: a thing in a photograph gives way to one that looks like it, cut out of another photograph.

The paper makes 51 thousand triplets so, of regions of SA-1B and Open Images with Paint by Example and BLIP-2 (section
3.2). What looks alike fits: in shape, and in how it is lit.

region  ->  the exemplars that look most like it  ->  painter  ->  "Replace the red car with a blue bus."
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random

from instructdiffusion.model.data.readers import Example
from instructdiffusion.model.data.samples import Unusable
from instructdiffusion.model.data.shards import Triplet
from instructdiffusion.model.synthesis.captioners import Captioner
from instructdiffusion.model.synthesis.cutouts import Cutout, cut
from instructdiffusion.model.synthesis.exemplars import Exemplar, Exemplars
from instructdiffusion.model.synthesis.painters import Painter
from instructdiffusion.model.synthesis.regions import kind, placeless, region_of, wordless
from instructdiffusion.model.synthesis.removal import SHOWS, asked
from instructdiffusion.model.tasks.editing import changed

OPERATION = "replace"
LOOKED_AT = 64  # of the nearest exemplars, at most
CHOSEN_FROM = 4  # the nearest that fit: a region that is used several times is not always given the same


@dataclass(frozen=True)
class Workshop:
    """What replacements are made with."""

    exemplars: Exemplars
    painter: Painter
    captioner: Captioner


def edits(
    example: Example,
    workshop: Workshop,
    rng: Random,
    size: int,
    *,
    allows: Callable[[str], bool] = lambda licence: True,
    train: bool = True,
) -> Iterator[Triplet]:
    """The replacement that a region gives, `size` x `size` pixels; its provenance says what was put there.

    Labels hold what the task's score needs, and the `region` of the old thing; `mask` is everything that may change.

    Args:
        allows: whether a thing under this licence may be used.
        train: off: cropped from the middle.

    Raises:
        Unusable: see `region_of`; or no exemplar fits, or the picture looks as it did before.
    """
    region = region_of(example, rng, size, worded=False, train=train)
    old = cut(region)
    phrase = workshop.captioner.phrase(old, region.phrase)
    if not phrase:
        raise wordless(example)
    new = _chosen(workshop.exemplars, old, example, phrase, allows, rng)
    target, mask = workshop.painter.paint(region, new.thing, rng.getrandbits(32))
    if (changed(target, region.picture) & region.mask).sum() < SHOWS * region.mask.sum():
        raise Unusable("edit: hardly shows", f"{example.key}: with {new.phrase!r} for {phrase!r} it looks the same")
    words = {"phrase": phrase, "new": placeless(new.phrase)}
    label = {"mask": mask, "region": region.mask, "kind": kind(phrase), "held_out": False}
    label |= {"target": target, "words": words}
    facts = {
        "operation": OPERATION,
        "painter": workshop.painter.name,
        "captioner": workshop.captioner.name,
        "exemplar": {**new.facts, "phrase": new.phrase},
        "exemplars": workshop.exemplars.version,
        "mask_area": round(float(mask.mean()), 4),
    }
    yield Triplet(f"{example.key}-{OPERATION}", asked(OPERATION, label, rng), region.picture, target, label, facts)


def _chosen(
    exemplars: Exemplars, old: Cutout, example: Example, phrase: str, allows: Callable[[str], bool], rng: Random
) -> Exemplar:
    """One of the nearest that is of another picture and goes by another name."""

    def fits(one: Exemplar) -> bool:
        other = one.facts["picture"] != example.picture and placeless(one.phrase).lower() != placeless(phrase).lower()
        return other and allows(one.facts["licence"])

    found = list(islice(filter(fits, exemplars.nearest(old, LOOKED_AT)), CHOSEN_FROM))
    if not found:
        raise Unusable(
            "exemplar: none fits", f"{example.key}: no exemplar near {phrase!r} is of another picture, name and licence"
        )
    return rng.choice(found)

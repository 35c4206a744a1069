"""Pairs of pictures from pairs of captions, as InstructPix2Pix made its data (Brooks et al., 2023).

How much the pictures have in common is drawn: an edit of style leaves more of a picture than one of its content. Pairs
that CLIP takes for no such edit are left out.

captions and an instruction  ->  prompt-to-prompt  ->  CLIP  ->  "Make it a watercolor."
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from random import Random
from typing import TYPE_CHECKING

import cv2
import numpy as np

from instructdiffusion.model.data.readers import EDIT, Example
from instructdiffusion.model.data.samples import Unusable
from instructdiffusion.model.data.shards import Triplet
from instructdiffusion.model.metrics.likeness import cosine, direction
from instructdiffusion.model.quality.clip import Eyes
from instructdiffusion.model.task import Image
from instructdiffusion.model.tasks import EVERY

if TYPE_CHECKING:
    from instructdiffusion.model.synthesis.prompt_to_prompt import Twins

SHARES = 0.1, 0.9  # of the steps in which attention is shared; drawn evenly
#: What InstructPix2Pix keeps: likeness of the pictures, of each and its caption, and of both changes.
LEAST = {"clip_image": 0.75, "clip_before": 0.2, "clip_after": 0.2, "clip_direction": 0.2}


def edits(example: Example, twins: Twins, eyes: Eyes | None, rng: Random, size: int) -> Iterator[Triplet]:
    """The pair that two captions give, `size` x `size` pixels.

    Args:
        eyes: the CLIP that judges the pair; None: every pair will do.

    Raises:
        Unusable: it is no edit; says by which likeness.
    """
    captions = example.label["caption"], example.label["caption_after"]
    share, seed = rng.uniform(*SHARES), rng.getrandbits(32)
    before, after = (_resized(picture, size) for picture in twins.paint(*captions, share, seed))
    found = likeness(eyes, (before, after), captions) if eyes else {}
    if broken := [name for name, value in found.items() if value < LEAST[name]]:
        told = f"{broken[0]} is {found[broken[0]]:.2f}, not {LEAST[broken[0]]} and more"
        raise Unusable(f"{broken[0]}: no such edit", f"{example.key}: {told}")
    label = {"instruction": example.label["instruction"], "target": after, "held_out": False}
    painted = {"operation": EDIT, "model": twins.name, "share": round(share, 3), "noise": seed}
    facts = {**painted, "caption": captions[0], "caption_after": captions[1], **found}
    yield Triplet(f"{example.key}-{EDIT}", EVERY[EDIT].ask(label, rng), before, after, label, facts)


def likeness(eyes: Eyes, pictures: tuple[Image, Image], captions: tuple[str, str]) -> Mapping[str, float]:
    """What CLIP says of a pair, each a cosine, -1 to 1; the names are those of `LEAST`."""
    before, after = eyes.pictures(pictures)
    said, said_after = eyes.encoder.words(captions)
    values = (
        cosine(before, after),
        cosine(before, said),
        cosine(after, said_after),
        direction(before, after, said, said_after),
    )
    return {name: round(value, 4) for name, value in zip(LEAST, values, strict=True)}


def _resized(picture: Image, size: int) -> Image:
    how = cv2.INTER_AREA if size < len(picture) else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (size, size), interpolation=how), np.uint8)

"""How the light U-Net learns to read: tints painted on scenes, and what an editor may do to them afterwards.

Half of the regions are objects, half are patches at random places, so that it learns where paint is and not where
objects are. Then come fading, drifting colours, blur and noise, each by a random amount down to none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import binary_cross_entropy_with_logits

from instructdiffusion.model import tint_network
from instructdiffusion.model.colors import TINTS
from instructdiffusion.model.files import atomic_directory
from instructdiffusion.model.synthesis.scenes import Studio
from instructdiffusion.model.task import Image, Mask
from instructdiffusion.model.tasks.segmentation import OPACITY

log = logging.getLogger(__name__)
SIDE = 64  # pixels of a sample
DETAIL = (64, 64, 128, 256)  # pixels; sides of the scenes that samples are cut from
BLANK = 0.15  # share of samples in which nothing is painted
BATCH = 32
SCENES = 2000  # each is painted many times, another way every time


def train(
    out: Path, *, steps: int = 700, seed: int = 0, progress: Callable[[int, int, str], None] = lambda *_: None
) -> Path:
    """Train the network and write it to `out`, whole or not at all.

    Args:
        steps: of 32 samples of 64 x 64 pixels.
        progress: called with (steps done, steps in all, the loss).
    """
    torch.manual_seed(seed)
    unet = tint_network.create()
    optimizer = torch.optim.AdamW(unet.parameters(), 2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    samples = painted(seed, min(SCENES, steps * BATCH))
    for step in range(steps):
        outputs, sources, inks, masks = zip(*(next(samples) for _ in range(BATCH)), strict=True)
        seen = tint_network.features(np.stack(outputs), np.stack(sources), np.stack(inks))
        logits_BHW = tint_network.says(unet, seen)
        loss = binary_cross_entropy_with_logits(logits_BHW, torch.from_numpy(np.stack(masks)).float())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 50 == 49 or step + 1 == steps:
            progress(step + 1, steps, f"loss {loss.item():.3f}")
    with atomic_directory(out) as folder:
        unet.half().save_pretrained(folder)
    return out


def painted(seed: int, scenes: int) -> Iterator[tuple[Image, Image, NDArray[np.float32], Mask]]:
    """Endless samples: output, source, ink, and which pixels are tinted."""
    studios = {side: Studio.open(side, "train") for side in set(DETAIL)}
    drawn: list[tuple[Image, NDArray[np.integer]]] = []
    rng, noise = Random(seed), np.random.default_rng(seed)
    while True:
        if len(drawn) < scenes:
            scene = studios[rng.choice(DETAIL)].scene(rng)
            drawn.append((scene.render(), scene.instances()))
        source, instances = _cut(*drawn[-1 if len(drawn) < scenes else rng.randrange(scenes)], rng)
        mask = _region(instances, rng)
        ink = np.array(TINTS[rng.choice(sorted(TINTS))], np.float32)
        yield degraded(source, mask, ink, rng, noise), source, ink, mask


def degraded(source: Image, mask: Mask, ink: NDArray[np.float32], rng: Random, noise: np.random.Generator) -> Image:
    """The source with a tint, as an editor that is no painter would hand it back."""
    opacity = (mask * OPACITY).astype(np.float32)
    if rng.random() < 0.5:  # fades, and wrong by a large-scale error
        field = cv2.resize(noise.uniform(0.55, 1.15, (4, 4)).astype(np.float32), mask.shape[::-1])
        opacity = cv2.GaussianBlur(opacity, (0, 0), rng.uniform(0.3, 1.5)) * field
    after = source + opacity[..., None] * (ink - source)
    if rng.random() < 0.5:
        drift = noise.normal(0, rng.uniform(0, 12), (8, 8, 3)).astype(np.float32)
        after += cv2.resize(drift, mask.shape[::-1], interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.6:
        after = cv2.GaussianBlur(after, (0, 0), rng.uniform(0.2, 1.4))
    if rng.random() < 0.7:
        after += noise.normal(0, rng.uniform(0, 12), after.shape).astype(np.float32)
    return np.asarray(np.clip(after, 0, 255).round(), np.uint8)


def _cut(picture: Image, instances: NDArray[np.integer], rng: Random) -> tuple[Image, NDArray[np.integer]]:
    """A square of SIDE pixels at a random place."""
    top, left = (rng.randint(0, side - SIDE) for side in instances.shape)
    return picture[top : top + SIDE, left : left + SIDE], instances[top : top + SIDE, left : left + SIDE]


def _region(instances: NDArray[np.integer], rng: Random) -> Mask:
    chance, there = rng.random(), [int(i) for i in np.unique(instances) if i]
    if chance < BLANK:
        return np.zeros(instances.shape, bool)
    if chance < (1 + BLANK) / 2 and there:
        chosen = rng.sample(there, rng.randint(1, len(there)))
        return np.asarray(np.isin(instances, chosen))
    patch = np.zeros(instances.shape, np.uint8)
    for _ in range(rng.randint(1, 3)):
        middle = np.array([rng.uniform(0, SIDE), rng.uniform(0, SIDE)])
        angles = np.sort([rng.uniform(0, 2 * np.pi) for _ in range(rng.randint(3, 9))])
        reach = np.array([rng.uniform(3, 20) for _ in angles])[:, None]
        corners = middle + reach * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        cv2.fillPoly(patch, [corners.round().astype(np.int32)], 1)
    return patch.astype(bool)

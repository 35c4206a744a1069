"""What is painted at full size is read back, as it was painted and after what an editor does to a picture."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
import pytest

from instructdiffusion.model import network
from instructdiffusion.model.benchmark import Order, Sample, Tools
from instructdiffusion.model.benchmarks import benchmark_named
from instructdiffusion.model.colors import TINTS
from instructdiffusion.model.task import Image
from instructdiffusion.model.tasks.segmentation import EMPTY, solved

SIDE = 256
COUNT = {"keypoints": 60, "referring": 40, "semantic": 40}
BARS = {"keypoints": ("oks_ap", 0.99), "referring": ("ciou", 0.995), "semantic": ("ciou", 0.995)}
LOSS = 0.02


@cache
def samples(name: str) -> list[Sample]:
    return [case.load() for case in benchmark_named(name).cases(Order(samples=COUNT[name], size=SIDE))]


def painted(name: str) -> list[Image]:
    return [target for sample in samples(name) if (target := sample.targets[0]) is not None]


def rough(pictures: Sequence[Image]) -> list[Image]:
    """Pictures after the embedded autoencoder, noise of sigma 8 and blur of sigma 1."""
    nets, noise = network.load(None), np.random.default_rng(0)
    decoded = [nets.decode(nets.encode([picture]))[0] for picture in pictures]
    blurred = [cv2.GaussianBlur(p + noise.normal(0, 8, p.shape), (0, 0), 1) for p in decoded]
    return [np.clip(p, 0, 255).round().astype(np.uint8) for p in blurred]


@cache
def score(name: str, roughly: bool) -> float:
    """The benchmark's number of targets that are handed back."""
    benchmark = benchmark_named(name)
    outputs = rough(painted(name)) if roughly else painted(name)
    rows = [benchmark.row(s, [o], Tools()) for s, o in zip(samples(name), outputs, strict=True)]
    measure = next(m for m in benchmark.measures(Tools()) if m.spec.name == BARS[name][0])
    units = [measure.pick([row]) for row in rows]
    return measure.statistic(units)(np.arange(len(units)))


@pytest.mark.parametrize("name", BARS)
def test_what_is_painted_is_read_back(name: str) -> None:
    assert score(name, False) >= BARS[name][1]


@pytest.mark.slow
@pytest.mark.parametrize("name", BARS)
def test_autoencoder_noise_and_blur_cost_two_hundredths_at_most(name: str) -> None:
    assert score(name, True) >= score(name, False) - LOSS


@pytest.mark.parametrize("blur", [0.0, 1.0])
@pytest.mark.parametrize("sigma", [4.0, 8.0, 12.0])
def test_noise_alone_is_no_region(sigma: float, blur: float) -> None:
    noise, ink = np.random.default_rng(1), np.array(TINTS["blue"], np.float32)
    for sample in samples("referring")[:5]:
        noisy = sample.source + noise.normal(0, sigma, sample.source.shape)
        seen = cv2.GaussianBlur(noisy, (0, 0), blur) if blur else noisy
        found = solved(np.clip(seen, 0, 255).round().astype(np.uint8), sample.source, ink)
        assert found.mean() < EMPTY

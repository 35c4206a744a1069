"""The light U-Net that reads tints: through noise, blindly of objects, and nothing where nothing is painted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import cv2
import numpy as np
import pytest

from instructdiffusion.model import network, tint_network, tint_training
from instructdiffusion.model.colors import TINTS
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.synthesis.scenes import Studio
from instructdiffusion.model.task import Ask, Image, Mask
from instructdiffusion.model.tasks import TASKS
from instructdiffusion.model.tasks.segmentation import EMPTY, ROUGH, Tint, roughness, solved

INK = np.array(TINTS["blue"], np.float32)


@dataclass(frozen=True)
class Sample:
    """A held-out scene, tinted as asked, and the same after noise of sigma 8 and blur 1."""

    source: Image
    painted: Image
    rough: Image
    ask: Ask
    mask: Mask

    @property
    def ink(self) -> np.ndarray:
        return np.array(TINTS[self.ask.marks[0][1]], np.float32)


def samples(side: int) -> Iterator[Sample]:
    studio, noise, task = Studio.open(side, "test"), np.random.default_rng(0), TASKS["referring"]
    nets = network.load(None)
    for i in range(40):
        rng = Random(i)
        source, label = task.stage(studio, rng)
        ask = task.ask(label, rng)
        painted = after = task.paint(source, label, ask)
        if side == nets.resolution:
            after = nets.decode(nets.encode([painted]) * nets.scale)[0]
        rough = cv2.GaussianBlur(after + noise.normal(0, 8, after.shape), (0, 0), 1)
        yield Sample(source, painted, np.clip(rough, 0, 255).round().astype(np.uint8), ask, np.asarray(label["mask"]))


@pytest.fixture(scope="module")
def small() -> list[Sample]:
    """At the embedded base's size, also after its autoencoder."""
    return list(samples(64))


def cumulative(pairs: list[tuple[Mask, Mask]]) -> float:
    """cIoU: all intersections over all unions."""
    return sum(int((a & b).sum()) for a, b in pairs) / sum(int((a | b).sum()) for a, b in pairs)


def test_it_reads_through_noise_what_solving_does_not(small: list[Sample]) -> None:
    learned = cumulative([(tint_network.covered(s.rough, s.source, s.ink), s.mask) for s in small])
    classical = cumulative([(solved(s.rough, s.source, s.ink), s.mask) for s in small])
    assert learned > classical + 0.1


def test_what_is_painted_by_hand_is_never_rough(small: list[Sample]) -> None:
    assert max(roughness(s.painted, s.source) for s in small) < ROUGH / 4


def test_where_nothing_is_painted_it_finds_nothing(small: list[Sample]) -> None:
    noise = np.random.default_rng(1)
    for s in small[:10]:
        noisy = np.clip(s.source + noise.normal(0, 8, s.source.shape), 0, 255).round().astype(np.uint8)
        assert tint_network.covered(noisy, s.source, s.ink).mean() < EMPTY


def test_it_reads_the_painted_half_of_an_object_and_not_the_object() -> None:
    source, label = Tint.toy(TASKS["referring"], Random(3))
    whole = np.asarray(label["mask"])
    half = whole.copy()
    half[:, int(np.nonzero(whole)[1].mean()) :] = False
    painted = np.where(half[..., None], (source + INK) / 2, source).round().astype(np.uint8)
    found = tint_network.covered(painted, source, INK)
    assert cumulative([(found, half)]) > 0.9


@pytest.mark.parametrize("size", [(50, 70), (300, 400), (5, 9)])
def test_pictures_may_have_any_size(size: tuple[int, int]) -> None:
    source = np.full((*size, 3), 120, np.uint8)
    painted = source.copy()
    painted[:, : size[1] // 2] = (source[0, 0] + INK) / 2
    found = tint_network.covered(painted, source, INK)
    assert found.shape == size
    assert found.mean() == pytest.approx(0.5, abs=0.15)


def test_a_training_leaves_a_network_that_can_be_loaded(tmp_path: Path) -> None:
    told: list[int] = []
    out = tint_training.train(tmp_path / "tint", steps=2, progress=lambda done, of, text: told.append(done))
    assert told == [2]
    assert tint_network.load(out).config.in_channels == tint_network.CHANNELS


def test_a_network_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="install the package again"):
        tint_network.load(tmp_path)

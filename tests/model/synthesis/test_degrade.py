"""Degradations of photographs: what is recorded is what was done, and the photograph is the target."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from instructdiffusion.model.data.photos import photographs
from instructdiffusion.model.data.readers import PHOTO, Example
from instructdiffusion.model.data.samples import Unusable
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.synthesis.degrade import DAMAGES, compressed, damaged, edits, stamped
from instructdiffusion.model.task import Image, psnr
from instructdiffusion.model.tasks import EVERY

PHOTOGRAPH = Example("astronaut", PHOTO, "photo/astronaut", lambda: photographs("train")[0], {"caption": "a woman"})
SIZE = 64


def square() -> Image:
    return photographs("train")[0][:96, 100:196]


def test_a_photograph_gives_a_triplet_of_each_task_whose_target_scores_as_it_should() -> None:
    triplets = list(edits(PHOTOGRAPH, Random(0), SIZE))
    assert [t.ask.task for t in triplets] == list(DAMAGES)
    for triplet in triplets:
        assert triplet.source.shape == triplet.target.shape == (SIZE, SIZE, 3)
        assert triplet.label["damage"]
        task = EVERY[triplet.ask.task]
        scores = task.score(triplet.target, triplet.source, triplet.label, triplet.ask)
        assert scores["gain"] >= task.metric.bar


def test_the_same_seed_gives_the_same_triplets() -> None:
    for one, other in zip(edits(PHOTOGRAPH, Random(3), SIZE), edits(PHOTOGRAPH, Random(3), SIZE), strict=True):
        assert np.array_equal(one.source, other.source)
        assert one.label["damage"] == other.label["damage"]


def test_every_kind_of_damage_is_met_and_recorded() -> None:
    kinds: set[str] = set()
    for seed in range(40):
        for operation in DAMAGES:
            picture, told = damaged(square(), operation, Random(seed))
            assert not np.array_equal(picture, square())
            kinds |= told.keys()
    assert kinds >= {"sigma", "poisson_peak", "jpeg", "motion", "defocus", "text", "logo", "opacity"}


def test_stronger_compression_leaves_less() -> None:
    assert psnr(compressed(square(), 15), square()) < psnr(compressed(square(), 60), square()) < 45


def test_a_logo_covers_a_part_and_lets_the_photograph_through() -> None:
    picture, told = stamped(square(), Random(0))
    touched = (picture != square()).any(axis=-1)
    assert 0.01 < touched.mean() < 0.4
    assert 0.35 <= told["opacity"] <= 0.75
    assert len(np.unique(picture[touched], axis=0)) > 20


def test_a_broken_photograph_is_left_out_with_its_reason() -> None:
    def broken() -> Image:
        raise DataError("x.jpg is cut short")

    example = Example("x", PHOTO, "photo/x", broken, {"caption": ""})
    with pytest.raises(Unusable, match="cut short") as refused:
        list(edits(example, Random(0), SIZE))
    assert refused.value.reason == "picture: missing or broken"

"""Scenes on photographs: the truth is exact, and nothing of the test is in the training."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from instructdiffusion.model.data.photos import PHOTOS, photographs, stamps
from instructdiffusion.model.synthesis.objects import HELD_OUT, JOINTS, KINDS, draw
from instructdiffusion.model.synthesis.scenes import Studio, phrases


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio.open(64, "train")


def test_no_photograph_is_in_both_splits() -> None:
    assert not set(PHOTOS["train"]) & set(PHOTOS["test"])
    digests = [{photo.tobytes() for photo in photographs(split)} for split in ("train", "test")]
    assert not digests[0] & digests[1]
    cutouts = [{stamp.tobytes() for stamp in stamps(split)} for split in ("train", "test")]
    assert not cutouts[0] & cutouts[1]


def test_training_never_shows_a_held_out_pair(studio: Studio) -> None:
    rng = Random(0)
    shown = {(t.kind, t.color) for _ in range(150) for t in studio.scene(rng).things}
    assert not shown & HELD_OUT
    assert len(shown) > 40


def test_one_pair_of_every_kind_is_held_out() -> None:
    assert sorted(kind for kind, _ in HELD_OUT) == sorted(KINDS)


def test_testing_shows_held_out_pairs_in_every_other_scene() -> None:
    test_studio, rng = Studio.toy(), Random(1)
    share = np.mean([test_studio.scene(rng).things[0].held_out for _ in range(200)])
    assert 0.4 < share < 0.6


def test_the_scene_without_a_thing_differs_only_where_the_thing_was(studio: Studio) -> None:
    rng = Random(5)
    for _ in range(10):
        scene = studio.scene(rng)
        different = np.any(scene.render() != scene.without(0).render(), axis=-1)
        x0, y0, x1, y1 = scene.things[0].box
        outside = different.copy()
        outside[y0:y1, x0:x1] = False
        assert different.any()
        assert not outside.any()
        assert (different | ~scene.mask(0)).mean() > 0.99


@pytest.mark.parametrize("kind", KINDS)
def test_joints_are_on_the_object(kind: str) -> None:
    for seed in range(5):
        cutout = draw(kind, "red", 48, Random(seed), mirror=seed % 2 == 0)
        height, width = cutout.pixels.shape[:2]
        assert max(height, width) == 48
        assert tuple(cutout.joints) == JOINTS[kind]
        for x, y in cutout.joints.values():
            assert -2 <= x <= width + 1
            assert -2 <= y <= height + 1


def test_a_figure_is_never_mirrored_for_its_left_would_become_its_right() -> None:
    joints = draw("figure", "blue", 48, Random(0), pose=0, mirror=True).joints
    assert joints["left hand"][0] > joints["right hand"][0]


def test_a_phrase_fits_one_thing_only(studio: Studio) -> None:
    rng = Random(9)
    for _ in range(60):
        scene = studio.scene(rng)
        for index, thing in enumerate(scene.things):
            for how, words in phrases(scene, index).items():
                for other, rival in enumerate(scene.things):
                    if other != index:
                        assert not set(words) & set(phrases(scene, other).get(how, [])), (words, thing, rival)

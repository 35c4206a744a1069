"""Scenes on photographs: the truth is exact, and nothing of the test is in the training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image as Pillow

from instructdiffusion.model.data import photos
from instructdiffusion.model.data.build import build
from instructdiffusion.model.data.offers import Order
from instructdiffusion.model.data.photos import PHOTOS, photographs, stamps
from instructdiffusion.model.data.shards import Manifest
from instructdiffusion.model.data.sources import Scenes, Sources
from instructdiffusion.model.synthesis.objects import HELD_OUT, JOINTS, KINDS, draw
from instructdiffusion.model.synthesis.scenes import Studio, phrases
from instructdiffusion.model.synthesis.write import synthesize


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio.open(64, "train")


def test_no_photograph_is_in_both_splits() -> None:
    assert not set(PHOTOS["train"]) & set(PHOTOS["test"])
    digests = [{photo.tobytes() for photo in photographs(split)} for split in ("train", "test")]
    assert not digests[0] & digests[1]
    cutouts = [{stamp.tobytes() for stamp in stamps(split)} for split in ("train", "test")]
    assert not cutouts[0] & cutouts[1]


@pytest.fixture
def stamped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Two stamps are installed, until what this gives is called."""

    def forget() -> None:
        for known in (photos.stamps, photos.stamp_files, photos.digest):
            known.cache_clear()

    for number in range(2):
        Pillow.fromarray(np.full((40, 40, 4), 90 + number, np.uint8)).save(tmp_path / f"leaf{number}.png")
    monkeypatch.setattr(photos, "STAMPS", tmp_path)
    forget()

    def remove() -> None:
        monkeypatch.setattr(photos, "STAMPS", tmp_path / "none")
        forget()

    yield remove
    monkeypatch.undo()
    forget()


def test_scenes_that_were_made_with_stamps_are_made_again_where_there_are_none(
    stamped: Callable[[], None], tmp_path: Path
) -> None:
    def made(name: str) -> tuple[Manifest, Manifest]:
        scenes = synthesize(tmp_path / name, split="train", counts={"remove": 6}, size=64, seed=5, workers=1)
        order = Order(Sources(sources=(Scenes(scenes=14),)), size=64, seed=5, per_shard=100)
        return scenes, build(order, tmp_path / f"{name}-built", workers=1)

    with_stamps = made("out")
    for folder in ("out", "out-built"):
        (tmp_path / folder / "manifest.json").unlink()  # as if the run had been cut off
    stamped()
    without = made("out")
    assert without == made("fresh")
    for before, after in zip(with_stamps, without, strict=True):
        assert "GPL-2" in str(before.licences)
        assert "GPL-2" not in str(after.licences)
        assert before.shards != after.shards


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

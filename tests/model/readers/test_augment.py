"""Crops, turns and mirrors: the label follows the picture, and the same sample is the same wherever it is made."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from random import Random
from site import addsitedir
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instructdiffusion.model.data import augment, lexicon
from instructdiffusion.model.data.mirror import mirrored_text
from instructdiffusion.model.errors import DataError

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def dotted(width: int = 200, height: int = 160) -> tuple[np.ndarray, dict[str, Any]]:
    """A gray picture with a white spot on each joint of a body."""
    image = np.full((height, width, 3), 90, np.uint8)
    joints = {}
    for i, name in enumerate(lexicon.COCO):
        x, y = 70 + 40 * (i % 2) + i % 5, 25 + 7 * i
        joints[name] = [float(x), float(y)]
        image[y - 2 : y + 3, x - 2 : x + 3] = 255
    box = [60, 15, 125, 150]
    return image, {"phrase": "person", "joints": joints, "visible": dict.fromkeys(joints, True), "box": box}


@quick
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.3, 1.0]))
def test_joints_stay_on_what_they_mark_however_a_person_is_cropped(seed: int, half: float) -> None:
    image, label = dotted()
    crop, after = augment.person_crop(image, label, Random(seed), size=256, half=half)
    assert crop.shape == (256, 256, 3)
    assert after["joints"]
    assert set(after["joints"]) == set(after["visible"]) <= set(label["joints"])
    for x, y in after["joints"].values():
        assert 0 <= x <= 255
        assert 0 <= y <= 255
        assert crop[round(y), round(x), 0] > 130


@quick
@given(st.integers(0, 10_000))
def test_a_large_person_is_shrunk_with_joints_in_place(seed: int) -> None:
    image, label = dotted()
    large = np.repeat(np.repeat(image, 6, axis=0), 6, axis=1)
    grown = {n: [6 * x + 2.5, 6 * y + 2.5] for n, (x, y) in label["joints"].items()}
    crop, after = augment.person_crop(
        large, {**label, "joints": grown, "box": [6 * v for v in label["box"]]}, Random(seed), size=128
    )
    assert all(crop[round(y), round(x), 0] > 120 for x, y in after["joints"].values())


def test_without_training_the_crop_is_the_box_a_quarter_wider() -> None:
    image, label = dotted()
    _, after = augment.person_crop(image, label, Random(0), size=256, train=False)
    assert len(after["joints"]) == 17
    left, top, right, bottom = after["box"]
    assert bottom - top == pytest.approx(256 / augment.GROWN)
    assert (left + right) / 2 == pytest.approx(128, abs=1)
    assert (top + bottom) / 2 == pytest.approx(128, abs=1)


def test_half_a_body_leaves_the_other_half_out() -> None:
    image, label = dotted()
    counts = [len(augment.person_crop(image, label, Random(s), half=1.0)[1]["joints"]) for s in range(40)]
    whole = [len(augment.person_crop(image, label, Random(s))[1]["joints"]) for s in range(40)]
    assert np.mean(counts) < np.mean(whole) - 1


def test_a_person_without_a_joint_in_the_crop_is_refused() -> None:
    image, label = dotted()
    with pytest.raises(DataError, match=r"label\.joints: none is inside"):
        augment.person_crop(image, {**label, "joints": {"nose": [199.0, 159.0]}}, Random(0))
    with pytest.raises(DataError, match=r"label\.box and label\.joints"):
        augment.person_crop(image, {"joints": {}}, Random(0))


def test_a_mirror_swaps_sides_in_joints_boxes_masks_and_words() -> None:
    image, label = dotted()
    mask = np.zeros(image.shape[:2], bool)
    mask[:, :10] = True
    given_label = {**label, "mask": mask, "phrase": "the man on the Left", "instructions": ("raise his left hand",)}
    flipped = augment.flip(image, given_label)
    assert flipped is not None
    mirrored, after = flipped
    assert np.array_equal(mirrored, image[:, ::-1])
    assert after["joints"]["right eye"] == [199 - label["joints"]["left eye"][0], label["joints"]["left eye"][1]]
    assert after["box"] == [75, 15, 140, 150]
    assert after["mask"][:, -10:].all()
    assert after["phrase"] == "the man on the Right"
    assert after["instructions"] == ("raise his right hand",)
    again = augment.flip(mirrored, after)
    assert again is not None
    assert np.array_equal(again[0], image)
    assert again[1]["joints"] == label["joints"]


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("the leftmost cup", "the rightmost cup"),
        ("put it on the RIGHT, not on the left", "put it on the LEFT, not on the right"),
        ("left-hand side", "right-hand side"),
        ("a bright and upright man", "a bright and upright man"),
        ("make it snow", "make it snow"),
        ("the chair right behind the table", None),
        ("whoever is left", None),
        ("the leftovers on the left", None),
        ('make the sign say "open"', None),
        ("player number 7", None),
        ("turn the wheel clockwise", None),
        ("guy far l", None),
        ("that looks right", None),
    ],
)
def test_words_are_mirrored_or_the_picture_is_not(text: str, mirrored: str | None) -> None:
    assert mirrored_text(text) == mirrored
    flipped = augment.flip(np.zeros((4, 4, 3), np.uint8), {"phrase": text})
    assert (None if flipped is None else flipped[1]["phrase"]) == mirrored


@given(st.text(alphabet="leftrigh ,.-mosande", max_size=40))
def test_a_mirror_of_a_mirror_says_what_was_said(text: str) -> None:
    once = mirrored_text(text)
    if once is not None and (twice := mirrored_text(once)) is not None:
        assert twice == text


@quick
@given(st.integers(0, 9_999), st.integers(3, 90), st.integers(3, 90), st.booleans())
def test_a_square_keeps_picture_and_mask_together(seed: int, width: int, height: int, whole: bool) -> None:
    rng = Random(seed)
    mask = np.zeros((height, width), bool)
    y, x = rng.randrange(height), rng.randrange(width)
    mask[y : y + 9, x : x + 9] = True
    image = np.repeat((mask * 255).astype(np.uint8)[..., None], 3, axis=2)
    crop, after = augment.square_crop(image, {"phrase": "it", "mask": mask}, rng, size=96, mirror=True, whole=whole)
    assert crop.shape == (96, 96, 3)
    assert after["mask"].dtype == np.bool_
    assert after["mask"].any()
    assert ((crop[..., 0] > 127) == after["mask"]).mean() > 0.8


def test_the_whole_of_what_an_expression_names_is_kept() -> None:
    mask = np.zeros((20, 100), bool)
    mask[:, 70:90] = True
    for seed in range(20):
        _, after = augment.square_crop(
            np.zeros((20, 100, 3), np.uint8), {"mask": mask}, Random(seed), size=20, whole=True
        )
        assert after["mask"].all()


@pytest.mark.parametrize("shrink", [True, False])
def test_a_pair_is_cut_at_the_same_place(shrink: bool) -> None:
    clean = np.random.default_rng(0).integers(0, 255, (90, 140, 3), dtype=np.uint8)
    source, label = augment.short_side_crop(clean, {"clean": clean.copy()}, Random(3), size=64, shrink=shrink)
    assert source.shape == (64, 64, 3)
    assert np.array_equal(source, label["clean"])
    small, _ = augment.short_side_crop(clean[:10, :10], {}, Random(3), size=64, shrink=False)
    assert small.shape == (64, 64, 3)


def test_a_label_of_another_size_than_its_picture_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"label\.mask is \(3, 3\) where its picture is \(4, 4\)"):
        augment.whole(np.zeros((4, 4, 3), np.uint8), {"mask": np.zeros((3, 3), bool)}, Random(0))


def _sample(number: int) -> tuple[bytes, str]:
    image, label = dotted()
    crop, after = augment.person_crop(image, label, augment.generator(f"train-{number}", seed=7, epoch=2), half=0.3)
    return crop.tobytes(), repr(sorted(after["joints"].items()))


def test_the_same_sample_is_the_same_with_any_number_of_workers() -> None:
    alone = [_sample(n) for n in range(8)]
    with ProcessPoolExecutor(2, get_context("forkserver"), addsitedir, (str(Path(__file__).parents[3]),)) as pool:
        shared = list(pool.map(_sample, reversed(range(8))))
    assert shared[::-1] == alone
    assert len({crop for crop, _ in alone}) == 8
    assert augment.generator("a", seed=7, epoch=1).random() != augment.generator("a", seed=7, epoch=2).random()


def test_nothing_given_is_changed() -> None:
    image, label = dotted()
    before, words = image.copy(), repr(label)
    augment.person_crop(image, label, Random(1), half=1.0)
    augment.flip(image, label)
    assert np.array_equal(image, before)
    assert repr(label) == words

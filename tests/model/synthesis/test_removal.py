"""Removal and addition on a photograph: what triplets hold, and which regions make none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from instructdiffusion.model.data.readers import Example
from instructdiffusion.model.data.samples import Unusable
from instructdiffusion.model.data.shards import Manifest, Triplet, read_triplets, write_shard
from instructdiffusion.model.synthesis.inpainters import inpainter
from instructdiffusion.model.synthesis.regions import bare, kind, named, placeless, with_article
from instructdiffusion.model.synthesis.removal import edits
from instructdiffusion.model.task import psnr
from instructdiffusion.model.tasks import TASKS, understand

SIZE = 96
MakeRegion = Callable[..., Example]


def pair(example: Example, seed: int = 0) -> tuple[Triplet, Triplet]:
    remove, add = edits(example, inpainter("patchmatch"), Random(seed), SIZE)
    return remove, add


def test_a_removal_backwards_is_an_addition(region: MakeRegion) -> None:
    remove, add = pair(region())
    assert np.array_equal(remove.source, add.target)
    assert np.array_equal(remove.target, add.source)
    assert (remove.ask.task, add.ask.task) == ("remove", "add")
    assert "orange dahlia" in remove.ask.instruction
    assert "an orange dahlia" in add.ask.instruction


def test_only_what_the_mask_covers_changes(region: MakeRegion) -> None:
    for triplet in pair(region()):
        mask = triplet.label["mask"]
        assert np.array_equal(triplet.source[~mask], triplet.target[~mask])
        assert (triplet.label["region"] <= mask).all()
        assert mask.sum() > triplet.label["region"].sum()


def test_the_orange_goes_with_the_dahlia(region: MakeRegion) -> None:
    remove, _ = pair(region())
    orange, left = (p[remove.label["region"]].astype(int) for p in (remove.source, remove.target))
    assert np.median(orange[:, 0] - orange[:, 2]) > 60
    assert np.median(left[:, 0] - left[:, 2]) < 20


@pytest.mark.parametrize("phrase", ["orange dahlia", "dahlia on the right"])
def test_the_target_reaches_the_bar_of_its_task(region: MakeRegion, phrase: str) -> None:
    for triplet in pair(region(phrase)):
        task = TASKS[triplet.ask.task]
        scores = task.score(triplet.target, triplet.source, triplet.label, triplet.ask)
        assert scores[task.metric.name] >= task.metric.bar
        assert scores["background"] == 60.0
        assert task.score(triplet.source, triplet.source, triplet.label, triplet.ask)[task.metric.name] == 0.0


def test_a_removal_is_understood_as_one(region: MakeRegion) -> None:
    remove, _ = pair(region())
    heard = understand(remove.ask.instruction)
    assert heard is not None
    assert heard == remove.ask


def test_the_same_seed_gives_the_same_triplets(region: MakeRegion) -> None:
    for one, other in zip(pair(region(), 7), pair(region(), 7), strict=True):
        assert one.ask == other.ask
        assert np.array_equal(one.source, other.source)
        assert np.array_equal(one.target, other.target)
    crops = {pair(region(), seed)[0].source.tobytes() for seed in range(4)}
    assert len(crops) > 1


def test_a_triplet_says_how_it_was_made_and_survives_a_shard(region: MakeRegion, tmp_path: Path) -> None:
    remove, add = pair(region())
    shard = write_shard(tmp_path / "one.tar", [remove, add])
    Manifest(size=SIZE, split="train", seed=0, counts={"remove": 1, "add": 1}, shards=(shard,)).save(tmp_path)
    again = list(read_triplets(tmp_path))
    assert [t.key for t in again] == ["flower-1-remove", "flower-1-add"]
    for triplet in again:
        facts = triplet.provenance
        assert facts["operation"] == triplet.ask.task
        assert facts["inpainter"] == "patchmatch"
        assert facts["mask_area"] == round(float(triplet.label["mask"].mean()), 4)


def test_a_box_stands_in_for_an_outline(region: MakeRegion) -> None:
    remove, _ = pair(region(mask=None, box=[190.0, 103.0, 427.0, 340.0]))
    ys, xs = np.nonzero(remove.label["region"])
    assert remove.label["region"].sum() == (np.ptp(ys) + 1) * (np.ptp(xs) + 1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"phrase": "  "}, "phrase: none"),
        ({"mask": None}, "mask: none, or of another size"),
        ({"mask": np.ones((5, 5), bool)}, "mask: none, or of another size"),
        ({"mask": None, "box": [300, 200, 304, 204]}, "region: too small or too large"),
        ({"mask": None, "box": [0, 0, 600, 400]}, "region: too small or too large"),
        ({"mask": None, "box": [560, 20, 620, 80]}, "edit: hardly shows"),
    ],
)
def test_a_region_that_makes_no_edit_is_left_out_with_its_reason(
    region: MakeRegion, change: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Unusable) as refused:
        pair(region(**change))
    assert refused.value.reason == reason
    assert "flower-1" in str(refused.value)


def test_a_broken_picture_is_left_out_with_its_reason(broken: Example) -> None:
    with pytest.raises(Unusable, match=r"x\.jpg") as refused:
        pair(broken)
    assert refused.value.reason == "picture: missing or broken"


@pytest.mark.parametrize(
    ("phrase", "first"),
    [
        ("orange cat", "an orange cat"),
        ("brown dogs on grass", "brown dogs on grass"),
        ("glass of beers", "a glass of beers"),
        ("school bus", "a school bus"),
        ("tall grass", "tall grass"),
        ("three people", "three people"),
    ],
)
def test_a_new_thing_has_the_article_it_needs(phrase: str, first: str) -> None:
    assert named(phrase) == first
    assert with_article(f"Put a {phrase} on the left.", phrase) == f"Put {first} on the left."


def test_phrases_are_taken_apart() -> None:
    assert bare("The red car. ") == "red car"
    assert kind("brown dogs on grass") == "dogs"
    assert placeless("dog on the far left side") == "dog"
    assert placeless("dog on the sofa") == "dog on the sofa"


def test_a_hole_in_a_photograph_is_filled_better_than_with_its_mean(region: MakeRegion) -> None:
    """Where nothing hides what is behind, it can be told how good the guess is."""
    picture = region().source()[:96, :96]
    mask = np.zeros((96, 96), bool)
    mask[30:60, 30:60] = True
    mean = picture.copy()
    mean[mask] = picture[~mask].mean(axis=0).astype(np.uint8)
    assert psnr(inpainter("patchmatch").fill(picture, mask), picture, mask) > psnr(mean, picture, mask) + 2

"""Versions of data sets: what differs, and what one was made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from instructdiffusion.model.data.shards import Manifest
from instructdiffusion.model.data.versions import Change, changes, flat, lineage
from instructdiffusion.model.files import digest_of
from instructdiffusion.model.synthesis.write import synthesize


@pytest.fixture
def made(tmp_path: Path) -> Manifest:
    return synthesize(tmp_path / "made", split="train", counts={"denoise": 4}, size=32, seed=0, workers=1)


def test_equal_versions_differ_in_nothing(made: Manifest) -> None:
    assert list(changes(made, made.model_copy())) == []


def test_a_difference_is_told_with_both_sides(made: Manifest, tmp_path: Path) -> None:
    more = synthesize(tmp_path / "more", split="train", counts={"denoise": 4, "deblur": 2}, size=32, seed=1, workers=1)
    found = list(changes(made, more))
    assert Change("triplets", 4, 6) in found
    assert Change("triplets of task deblur", None, 2) in found
    assert Change("seed", 0, 1) in found
    assert Change("shards that only one has", 1, 1) in found
    assert not any(change.what.startswith("licence") for change in found)


def test_settings_of_every_step_are_held_against_each_other(made: Manifest, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    loose, strict = (made.heir(folder, "filter", {"policy": {"psnr": limit}}) for limit in (45, 30))
    assert Change("filter.policy.psnr", 45, 30) in list(changes(loose, strict))


def test_a_line_goes_back_to_the_first_step(made: Manifest, tmp_path: Path) -> None:
    first = tmp_path / "made"
    filtered = made.heir(first, "filter", {"policy": "own"}, counts={"denoise": 3})
    filtered.save(tmp_path / "filtered")
    filtered.heir(tmp_path / "filtered", "encode", {"model": "x"}).save(tmp_path / "encoded")
    line = list(lineage(tmp_path / "encoded"))
    assert [(m.back, m.made, m.triplets) for m in line] == [(0, "encode", 3), (1, "filter", 3), (2, "synthesize", 4)]
    assert [m.digest for m in line] == [
        digest_of(tmp_path / name / "manifest.json") for name in ("encoded", "filtered", "made")
    ]
    assert line[1].settings == {"policy": "own"}


def test_named_things_in_settings_go_by_their_names() -> None:
    tree = {"size": 64, "sources": [{"name": "people", "limit": 5}, {"name": "scenes", "scenes": 9}]}
    assert flat(tree) == {"size": 64, "sources.people.limit": 5, "sources.scenes.scenes": 9}
    assert flat({"steps": [1, 2], "none": {}}) == {"steps": [1, 2]}

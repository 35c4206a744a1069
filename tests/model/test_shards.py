"""Shards: what is written is read back, twice is the same, and damage is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import webdataset

from instructdiffusion.model.data.rle import decode_rle, encode_rle
from instructdiffusion.model.data.shards import (
    MANIFEST,
    Manifest,
    Shard,
    Triplet,
    read_samples,
    read_triplets,
    triplet_of,
    write_shard,
)
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.files import digest_of
from instructdiffusion.model.synthesis.scenes import Studio
from instructdiffusion.model.synthesis.write import compose, mixture, synthesize
from instructdiffusion.model.task import Ask
from instructdiffusion.model.tasks import TASKS

COUNTS = {"remove": 2, "keypoint": 3}


def test_a_triplet_survives_the_disk(shards: Path) -> None:
    studio = Studio.open(32, "test")
    for read in read_triplets(shards):
        made = compose(studio, read.ask.task, read.provenance["seed"])
        assert (read.key, read.ask, read.provenance) == (made.key, made.ask, made.provenance)
        assert np.array_equal(read.source, made.source)
        assert np.array_equal(read.target, made.target)
        for name, value in made.label.items():
            assert (
                np.array_equal(read.label[name], value) if isinstance(value, np.ndarray) else read.label[name] == value
            )


def test_a_target_that_is_nearly_its_source_is_kept_as_a_change_and_either_way_read_to_the_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    source, other = rng.integers(0, 256, (2, 40, 32, 3), np.uint8)
    near = source.copy()
    near[5:20, 3:9] = other[5:20, 3:9]  # up and down, so that numbers wrap around
    targets = {"same": source, "near": near, "far": other, "small": other[:8]}
    ask = Ask("edit", "paint it", ())
    triplets = [Triplet(key, ask, source, target, {"clean": target}) for key, target in targets.items()]
    shard = write_shard(tmp_path / "a.tar", triplets)
    samples = [*read_samples(tmp_path, shard)]
    assert [sample["__key__"] for sample in samples if "change.png" in sample] == ["same", "near"]
    assert [sample["__key__"] for sample in samples if "target.png" in sample] == ["far", "small"]
    for sample, target in zip(samples, targets.values(), strict=True):
        read = triplet_of(sample, tmp_path / "a.tar")
        assert np.array_equal(read.source, source)
        assert np.array_equal(read.target, target)
        assert read.label["clean"] is read.target


def test_other_programs_find_the_same_in_a_shard_by_webdataset(shards: Path) -> None:
    for shard in Manifest.load(shards).shards:
        found = webdataset.WebDataset(str(shards / shard.name), shardshuffle=False)
        for ours, theirs in zip(read_samples(shards, shard), found, strict=True):
            assert ours == {name: theirs[name] for name in theirs if name == "__key__" or name[:2] != "__"}


def test_the_same_request_gives_the_same_bytes_on_any_number_of_workers(tmp_path: Path) -> None:
    one = synthesize(tmp_path / "one", split="test", counts=COUNTS, size=32, seed=1, workers=1)
    two = synthesize(tmp_path / "two", split="test", counts=COUNTS, size=32, seed=1, workers=2)
    other = synthesize(tmp_path / "three", split="test", counts=COUNTS, size=32, seed=2, workers=1)
    assert one == two
    assert one.shards != other.shards


def test_a_finished_shard_is_not_made_again_but_another_request_is(tmp_path: Path) -> None:
    first = synthesize(tmp_path, split="test", counts=COUNTS, size=32, seed=1, workers=1)
    written = (tmp_path / first.shards[0].name).stat().st_mtime_ns
    assert synthesize(tmp_path, split="test", counts=COUNTS, size=32, seed=1, workers=1) == first
    assert (tmp_path / first.shards[0].name).stat().st_mtime_ns == written
    assert synthesize(tmp_path, split="test", counts=COUNTS, size=32, seed=2, workers=1).shards != first.shards


def test_a_shard_whose_mark_is_damaged_is_made_again_to_the_same_bytes(tmp_path: Path) -> None:
    first = synthesize(tmp_path, split="test", counts=COUNTS, size=32, seed=1, workers=1)
    (mark,) = tmp_path.glob("shard-*.json")
    for content in (b"{}", b"caf\xe9", mark.read_bytes()[:-1]):
        mark.write_bytes(content)
        assert synthesize(tmp_path, split="test", counts=COUNTS, size=32, seed=1, workers=1) == first
        assert Shard.model_validate_json(mark.read_bytes()) == first.shards[0]


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    manifest = synthesize(tmp_path, split="test", counts=COUNTS, size=32, seed=1, workers=1)
    shard = tmp_path / manifest.shards[0].name
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 0xFF
    shard.write_bytes(data)
    with pytest.raises(DataError, match=f"{shard.name} is damaged"):
        list(read_triplets(tmp_path))
    shard.unlink()
    with pytest.raises(DataError, match=f"{shard.name} is missing"):
        list(read_triplets(tmp_path))


def test_a_shard_that_is_no_archive_is_named_with_the_folder_to_delete(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"no archive")
    shard = Shard(name=path.name, digest=digest_of(path), count=1)
    with pytest.raises(DataError, match=rf"a\.tar can't be read \(.*\); delete {tmp_path} and run the step again"):
        list(read_samples(tmp_path, shard))


def test_a_folder_without_a_manifest_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no manifest\.json"):
        Manifest.load(tmp_path)
    for content in (b"{}", b"[]", b"caf\xe9", b""):
        (tmp_path / MANIFEST).write_bytes(content)
        with pytest.raises(DataError, match=r"manifest\.json is broken \(.*\); run the synthesize step again"):
            Manifest.load(tmp_path)


def test_a_picture_too_small_for_joints_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="size=16"):
        synthesize(tmp_path, split="test", counts=COUNTS, size=16, seed=0)


def test_the_mixture_has_every_task_and_about_the_total() -> None:
    counts = mixture(1000)
    assert set(counts) == set(TASKS)
    assert abs(sum(counts.values()) - 1000) <= len(counts)


@pytest.mark.parametrize("seed", range(6))
def test_a_mask_survives_run_length_encoding(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((7, 5)) > rng.random()
    assert np.array_equal(decode_rle(encode_rle(mask)), mask)
    assert sum(encode_rle(mask)["counts"]) == mask.size


def test_run_lengths_go_down_the_columns_and_start_with_zeros() -> None:
    mask = np.array([[True, False], [True, True]])
    assert encode_rle(mask) == {"size": [2, 2], "counts": [0, 2, 1, 1]}

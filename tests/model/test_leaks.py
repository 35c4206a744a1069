"""The leak gate: whatever is scored on is recognised among what is trained on, and nothing else is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import published
import pytest

from instructdiffusion.model.data.build import build
from instructdiffusion.model.data.looks import ALIKE, apart, look, plain
from instructdiffusion.model.data.offers import Order
from instructdiffusion.model.data.shards import Manifest, Triplet, read_triplets, write_shard
from instructdiffusion.model.data.sources import DataSet, Sources
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.files import digest_of
from instructdiffusion.model.leaks import leaks, place_of, screen
from instructdiffusion.model.synthesis.write import synthesize
from instructdiffusion.model.task import Image


def saved(folder: Path, triplets: list[Triplet], like: Manifest) -> Path:
    """A data set of these triplets."""
    shard = write_shard(folder / "shard-00000.tar", triplets)
    counts: dict[str, int] = {}
    for triplet in triplets:
        counts[triplet.ask.task] = counts.get(triplet.ask.task, 0) + 1
    like.model_copy(update={"shards": (shard,), "counts": counts}).save(folder)
    return folder


def compressed(picture: Image) -> Image:
    """A picture after a resize and a JPEG compression."""
    small = cv2.resize(picture, None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 75])[1], 1), np.uint8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    synthesize(
        folder, split="train", counts={"denoise": 20, "recolour": 20, "keypoint": 20}, size=64, seed=0, workers=1
    )
    return folder


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("held-out")
    synthesize(folder, split="test", counts={"recolour": 10, "keypoint": 10}, size=64, seed=0, workers=1)
    return folder


@pytest.fixture
def gopro(tmp_path: Path) -> Path:
    """A data set with a train and a test split."""
    folder = published.gopro(tmp_path / "gopro", 3)
    published.gopro(folder, 2, "test")
    return folder


def built(folder: Path, out: Path, split: str = "train") -> Path:
    source = DataSet(name="blurred", path=str(folder), split=split)
    build(Order(Sources(sources=(source,)), size=32, seed=0), out, workers=1)
    return out


def test_scenes_of_held_out_photographs_are_no_leak(trained: Path, held_out: Path) -> None:
    report = leaks([trained], held_out)
    assert (report.clean, report.found, report.triplets) == (True, 0, 60)
    assert report.against == {str(held_out): 20}
    assert report.held_out == digest_of(held_out / "manifest.json")
    assert report.insist() is report


def test_a_planted_triplet_is_named_with_what_it_was_recognised_by(
    trained: Path, held_out: Path, tmp_path: Path
) -> None:
    triplets, planted = list(read_triplets(trained)), list(read_triplets(held_out))[3]
    disguised = replace(
        planted, key="new-name", source=compressed(planted.source), target=compressed(planted.target), provenance={}
    )
    for smuggled, by in ((replace(planted, key="new-name"), "picture"), (disguised, "look")):
        folder = saved(tmp_path / by, [*triplets, smuggled], Manifest.load(trained))
        report = leaks([folder], held_out)
        assert (report.found, report.by) == (1, {by: 1})
        assert (report.leaks[0].trained, report.leaks[0].held_out) == ("new-name", planted.key)
        with pytest.raises(DataError, match=f"1 of 61 .* held out .*: new-name is {planted.key}"):
            report.insist()


def test_captions_give_away_what_looks_different(trained: Path, held_out: Path, tmp_path: Path) -> None:
    ours, theirs = next(read_triplets(trained)), next(read_triplets(held_out))
    caption = {"caption": "Two brown dogs asleep on a red sofa."}
    also = {"caption_after": "two brown dogs asleep, on a red sofa"}
    short = {"caption": "a dog"}
    captioned = saved(tmp_path / "captioned", [replace(ours, provenance=caption)], Manifest.load(trained))
    same = saved(tmp_path / "same", [replace(theirs, provenance=also)], Manifest.load(held_out))
    assert leaks([captioned], same).by == {"caption": 1}
    vague = saved(tmp_path / "vague", [replace(ours, provenance=short)], Manifest.load(trained))
    other = saved(tmp_path / "other", [replace(theirs, provenance=short)], Manifest.load(held_out))
    assert leaks([vague], other).clean


def test_a_public_data_set_is_held_out_by_its_test_split_or_the_one_that_is_named(
    gopro: Path, held_out: Path, tmp_path: Path
) -> None:
    crops = built(gopro, tmp_path / "train")
    report = leaks([crops], held_out, [str(gopro)])
    assert (report.clean, report.against[str(gopro)]) == (True, 2)
    same = leaks([crops], held_out, [f"{gopro}:train"])
    assert (same.found, same.by) == (3, {"picture": 3})


def test_a_crop_is_recognised_by_how_its_whole_picture_looked(gopro: Path, held_out: Path, tmp_path: Path) -> None:
    crops = built(gopro, tmp_path / "train")
    copies = tmp_path / "copies"
    for path in gopro.glob("train/*/*/*.png"):  # the same pictures under other names
        name = copies / "test" / f"scene-{path.stem}" / path.parent.name / "000000.png"
        name.parent.mkdir(parents=True, exist_ok=True)
        name.write_bytes(path.read_bytes())
    report = leaks([crops], held_out, [str(copies)])
    assert (report.found, report.by) == (3, {"look": 3})


def test_a_listed_benchmark_is_held_out(trained: Path, held_out: Path, tmp_path: Path) -> None:
    triplet = next(read_triplets(trained))
    folder = tmp_path / "bench"
    published.save(folder / "1.png", triplet.source)
    line = {"key": "1", "source": "1.png", "instruction": "Remove the dog."}
    (folder / "samples.jsonl").write_text(json.dumps(line) + "\n")
    report = leaks([trained], held_out, [str(folder)])
    assert [(leak.trained, leak.held_out) for leak in report.leaks] == [(triplet.key, "bench/1")]


def test_nothing_is_held_out_in_a_folder_of_something_else(trained: Path, held_out: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    with pytest.raises(DataError, match="notes is no data set that is known here"):
        leaks([trained], held_out, [str(tmp_path / "notes")])


def test_what_leaks_is_refused_or_left_out(trained: Path, held_out: Path, tmp_path: Path) -> None:
    triplets, planted = list(read_triplets(trained)), list(read_triplets(held_out))[:2]
    folder = saved(tmp_path / "planted", [*triplets, *planted], Manifest.load(trained))
    with pytest.raises(DataError, match="2 of 62 triplets"):
        screen(folder, tmp_path / "refused", held_out)
    assert not (tmp_path / "refused/manifest.json").exists()

    report = screen(folder, tmp_path / "clean", held_out, drop=True)
    kept, manifest = list(read_triplets(tmp_path / "clean")), Manifest.load(tmp_path / "clean")
    assert (report.clean, report.found) == (True, 2)
    assert report.trained == {str(tmp_path / "clean"): digest_of(tmp_path / "clean/manifest.json")}
    assert [t.key for t in kept] == [t.key for t in triplets]
    assert sum(manifest.counts.values()) == 60
    assert (manifest.made, manifest.parents) == ("screen", (digest_of(folder / "manifest.json"),))
    assert leaks([tmp_path / "clean"], held_out).clean

    with pytest.raises(DataError, match=r"everything in .* is held out"):
        screen(held_out, tmp_path / "none", held_out, drop=True)
    with pytest.raises(DataError, match="2 of 122 triplets"):  # of other data nothing is dropped
        screen(trained, tmp_path / "also", held_out, also=[folder], drop=True)


def test_a_target_that_is_held_out_is_recognised_whatever_became_of_it_and_of_the_source(
    held_out: Path, tmp_path: Path
) -> None:
    ours, theirs = (
        published.own_triplets(tmp_path / name, published.own_line(number, split=split))
        for number, (name, split) in enumerate((("ours", "train"), ("theirs", "test")), 1)
    )
    target = published.texture(1, (120, 80))
    for number, (folder, seen) in enumerate(((ours, target), (theirs, compressed(target))), 1):
        published.save(folder / f"before/{number}.png", published.texture(10 + number, seen.shape[1::-1]))
        published.save(folder / f"after/{number}.png", seen)
    report = leaks([built(ours, tmp_path / "data")], held_out, [str(theirs)])
    assert (report.found, report.by) == (1, {"look": 1})
    (triplet,) = read_triplets(tmp_path / "data")
    assert triplet.provenance.pop("look_after")  # as versions before this one made it
    old = saved(tmp_path / "old", [triplet], Manifest.load(tmp_path / "data"))
    assert leaks([old], held_out, [str(theirs)]).by == {"look": 1}


def test_plain_pictures_are_no_leak_for_looking_alike_and_are_counted(held_out: Path, tmp_path: Path) -> None:
    ours, theirs = (
        published.own_triplets(tmp_path / name, published.own_line(number, split=split))
        for number, (name, split) in enumerate((("ours", "train"), ("theirs", "test")), 1)
    )
    ramp = np.repeat(np.linspace(0, 255, 40)[None, :, None], 32, 0).repeat(3, 2).astype(np.uint8)
    published.save(theirs / "before/2.png", ramp)
    report = leaks([built(ours, tmp_path / "data")], held_out, [str(theirs)])
    assert (report.clean, report.plain) == (True, 2)


@pytest.mark.parametrize("picture", ["black", "blue", "ramp", "steps"])
def test_a_plain_picture_has_no_look(picture: str) -> None:
    x = np.linspace(0, 255, 64)
    made = {"black": np.zeros((64, 64)), "blue": np.full((64, 64), 90.0), "ramp": np.tile(x, (64, 1))}
    gray = made.get(picture, (x[None] + x[:, None]) / 2)
    assert plain(look(np.repeat(gray[..., None], 3, 2).astype(np.uint8)))


def test_what_is_left_is_counted_by_source_and_licence_as_it_was_written(gopro: Path, tmp_path: Path) -> None:
    clean = published.own_triplets(tmp_path / "own", published.own_line(1, licence="CC0"))
    rows = (("blurred", gopro), ("asked", clean))
    sources = Sources(sources=tuple(DataSet(name=name, path=str(path), split="train") for name, path in rows))
    build(Order(sources, size=32, seed=0), tmp_path / "data", workers=1)
    screen(tmp_path / "data", tmp_path / "out", built(gopro, tmp_path / "held"), drop=True)
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.counts == {"edit": 1}
    assert {name: origin.counts for name, origin in manifest.sources.items()} == {"blurred": {}, "asked": {"edit": 1}}
    assert (manifest.licences, manifest.shards[0].licences) == (("CC0",), (("CC0", 1),))


def test_what_is_clean_comes_through_as_it_is(trained: Path, held_out: Path, tmp_path: Path) -> None:
    screen(trained, tmp_path / "out", held_out)
    assert digest_of(tmp_path / "out/manifest.json") == digest_of(trained / "manifest.json")
    assert next(read_triplets(tmp_path / "out")).key == next(read_triplets(trained)).key


def test_looks_outlive_compression_and_tell_pictures_apart(trained: Path) -> None:
    pictures = [triplet.source for triplet in read_triplets(trained, ["keypoint"])]
    looks = np.array([look(picture) for picture in pictures], np.uint64)
    for index, picture in enumerate(pictures):
        bits = apart(looks, look(compressed(picture)))
        assert bits[index] <= ALIKE
        assert bits.argmin() == index
        assert not plain(int(looks[index]))


@pytest.mark.parametrize(
    ("text", "address", "split"),
    [
        ("/data/coco", "/data/coco", ""),
        ("/data/coco:val2017", "/data/coco", "val2017"),
        ("s3://bucket/coco", "s3://bucket/coco", ""),
        ("s3://bucket/coco:testA", "s3://bucket/coco", "testA"),
    ],
)
def test_a_place_is_an_address_and_perhaps_a_split(text: str, address: str, split: str) -> None:
    assert place_of(text) == (address, split)

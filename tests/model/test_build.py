"""Data sets built of sources: the same bytes however the work is divided or interrupted, and nothing bad is fatal."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from random import Random

import drawings
import numpy as np
import published
import pytest
import torch

from instructdiffusion.model.data.build import build, hands
from instructdiffusion.model.data.offers import Offer, Order, numbered
from instructdiffusion.model.data.parts import Part, join
from instructdiffusion.model.data.readers import readers
from instructdiffusion.model.data.samples import Unusable
from instructdiffusion.model.data.shards import Manifest, read_triplets
from instructdiffusion.model.data.sources import DataSet, Scenes, Sources, Synthesis
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.synthesis.write import mixture, synthesize


@pytest.fixture
def gopro(tmp_path: Path) -> Path:
    """Six pairs; one blurred picture is cut short, and another lacks its sharp one."""
    folder = published.gopro(tmp_path / "gopro", 6)
    scene = folder / "train/GOPR0372_07_00"
    data = (scene / "blur/000002.png").read_bytes()
    (scene / "blur/000002.png").write_bytes(data[: len(data) // 2])
    (scene / "sharp/000004.png").unlink()
    return folder


def order(*sources: DataSet | Synthesis | Scenes, per_shard: int = 2) -> Order:
    return Order(Sources(sources=sources), size=32, seed=3, per_shard=per_shard)


def of(folder: Path, name: str = "blurred", **more: object) -> DataSet:
    return DataSet.model_validate({"name": name, "path": str(folder), "split": "train", **more})


def files(folder: Path) -> dict[str, bytes]:
    """What a data set is: its shards and its manifest."""
    return {
        path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".tar" or path.stem == "manifest"
    }


def test_large_networks_are_loaded_by_one_process(tmp_path: Path) -> None:
    def workers(**more: object) -> int:
        told = {"name": "a", "path": "/data/phrasecut", "split": "train", "make": ["remove"], **more}
        return hands(order(Synthesis.model_validate(told)))

    many = os.cpu_count() or 1
    for name, size in (("small.pt", 1000), ("large.pt", 600_000_000)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)  # a hole takes no room
    assert workers() == workers(inpainter="opencv:ns") == many
    assert workers(inpainter=f"lama:{tmp_path}/large.pt") == workers(captioner="blip2:Salesforce/blip2") == 1
    assert workers(inpainter=f"lama:{tmp_path}/small.pt") == (1 if torch.cuda.is_available() else many)


def test_a_bad_picture_costs_itself_alone_and_is_counted_by_reason(gopro: Path, tmp_path: Path) -> None:
    manifest = build(order(of(gopro)), tmp_path / "out", workers=1)
    origin = manifest.sources["blurred"]
    assert manifest.counts == origin.counts == {"deblur": 4}
    assert origin.skipped == {"clean picture: missing on disk": 1, "picture: missing or broken": 1}
    assert (origin.dataset, origin.weight, origin.offered) == ("GoPro", 2.0, 6)
    assert manifest.licences == ("CC BY 4.0",)
    triplets = list(read_triplets(tmp_path / "out"))
    assert [triplet.provenance["example"][-1] for triplet in triplets] == ["0", "1", "3", "5"]
    assert all(triplet.ask.task == "deblur" for triplet in triplets)


def test_parts_and_workers_change_no_byte(gopro: Path, tmp_path: Path) -> None:
    wanted = order(of(gopro), of(published.gier(tmp_path / "gier"), "asked"), Scenes(scenes=14))
    build(wanted, tmp_path / "one", workers=1)
    build(wanted, tmp_path / "two", workers=2)
    parts = [tmp_path / f"part-{number}" for number in (1, 2, 3)]
    for number, folder in enumerate(parts, 1):
        build(wanted, folder, part=Part(number, 3), workers=1)
    join(parts[::-1], tmp_path / "joined")
    assert files(tmp_path / "one") == files(tmp_path / "two") == files(tmp_path / "joined")
    assert len(files(tmp_path / "one")) > 8
    assert all(Manifest.load(part).total for part in parts)
    assert len({t.key for t in read_triplets(tmp_path / "joined")}) == Manifest.load(tmp_path / "joined").total


def test_scenes_are_those_of_the_synthesis(tmp_path: Path) -> None:
    build(order(Scenes(scenes=20), per_shard=1000), tmp_path / "built", workers=1)
    synthesize(tmp_path / "made", split="train", counts=mixture(20), size=32, seed=3, workers=1)
    for one, other in zip(read_triplets(tmp_path / "built"), read_triplets(tmp_path / "made"), strict=True):
        assert (one.key, one.ask) == (other.key, other.ask)
        assert np.array_equal(one.target, other.target)


def test_finished_shards_are_kept_damaged_ones_are_made_again(gopro: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = build(order(of(gopro)), out, workers=1)
    made = {shard.name: (out / shard.name).stat().st_ino for shard in first.shards}
    damaged = out / first.shards[0].name
    damaged.write_bytes(damaged.read_bytes()[:-700])
    assert build(order(of(gopro)), out, workers=1) == first
    assert {name for name, inode in made.items() if (out / name).stat().st_ino != inode} == {damaged.name}
    assert build(order(of(gopro, weight=0.5)), out, workers=1).shards == first.shards


def test_a_data_set_that_has_grown_is_noticed(gopro: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = build(order(of(gopro)), out, workers=1)
    scene = gopro / "train/GOPR0372_07_00"
    for kind in ("blur", "sharp"):
        shutil.copy(scene / kind / "000005.png", scene / kind / "000003a.png")
    after = build(order(of(gopro)), out, workers=1)
    assert after.total == before.total + 1
    assert after.shards[0] == before.shards[0]
    build(order(of(gopro)), tmp_path / "fresh", workers=1)
    assert files(out) == files(tmp_path / "fresh")


def test_only_so_many_only_with_a_licence_and_several_copies(gopro: Path, tmp_path: Path) -> None:
    people = drawings.coco(tmp_path / "coco", *(drawings.person(n, 7, drawings.COCO_JOINTS) for n in (1, 2)))
    source = of(people, "people", split="train2017", limit=1, copies=3)
    manifest = build(order(source), tmp_path / "a", workers=1)
    assert manifest.counts == {"keypoint": 3}
    (licence,) = manifest.licences
    allowed = build(order(of(people, "p", split="train2017", licences=[licence])), tmp_path / "b", workers=1)
    assert allowed.counts == {"keypoint": 2}
    some = order(of(people, "p", split="train2017", licences=["CC0"]), of(gopro, licences=["cc by*"]))
    manifest = build(some, tmp_path / "c", workers=1)
    assert manifest.sources["p"].skipped == {"licence: not on the list": 2}
    assert manifest.counts == {"deblur": 4}


def test_a_disk_that_is_taken_away_is_not_taken_for_bad_pictures(gopro: Path, tmp_path: Path) -> None:
    wanted = order(of(gopro))
    offered = [offer for _, offer in numbered(wanted.sources.sources[0], wanted) if isinstance(offer, Offer)]
    gopro.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=f"{gopro} can't be read any more") as caught:
        list(offered[0].make())
    assert not isinstance(caught.value, Unusable)  # which would be counted and forgotten


def test_nothing_of_use_is_an_error_that_says_why(gopro: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no triplet could be made .*licence: not on the list"):
        build(order(of(gopro, licences=["CC0"])), tmp_path / "out", workers=1)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"split": "test"}, "no split 'test' of GoPro; it has train"),
        ({"path": "/nowhere"}, "/nowhere is no folder"),
    ],
)
def test_a_source_that_is_not_there_is_named(change: dict[str, str], told: str, gopro: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=told):
        build(order(of(gopro).model_copy(update=change)), tmp_path / "out", workers=1)


def test_photographs_without_a_task_are_refused(tmp_path: Path) -> None:
    drawings.picture(tmp_path / "photos/00000/000000000.jpg")
    (tmp_path / "photos/00000/000000000.txt").write_text("a house")
    split = DataSet(name="p", path=str(tmp_path / "photos"), split="train")
    with pytest.raises(ConfigError, match=r"source p: Photo folder .* add make: \[denoise"):
        build(order(split), tmp_path / "out", workers=1)


def test_a_folder_keeps_its_part(tmp_path: Path) -> None:
    scenes = order(Scenes(scenes=12))
    build(scenes, tmp_path / "out", part=Part(1, 2), workers=1)
    with pytest.raises(ConfigError, match=r"holds part 1/2 .* give part 2/2 a folder of its own"):
        build(scenes, tmp_path / "out", part=Part(2, 2), workers=1)


def test_parts_that_do_not_make_a_whole_are_refused(tmp_path: Path) -> None:
    scenes = order(Scenes(scenes=12))
    folders = [tmp_path / str(number) for number in (1, 2, 3)]
    for number, folder in enumerate(folders, 1):
        build(scenes, folder, part=Part(number, 3), workers=1)
    with pytest.raises(DataError, match="part 2/3, 3/3 is missing"):
        join(folders[:1], tmp_path / "joined")
    shutil.copytree(folders[0], tmp_path / "copy")
    with pytest.raises(DataError, match="both hold part 1/3"):
        join([*folders, tmp_path / "copy"], tmp_path / "joined")
    build(Order(scenes.sources, 32, 4, 2), tmp_path / "other", part=Part(3, 3), workers=1)
    with pytest.raises(DataError, match="other is of other sources, size, seed"):
        join([*folders[:2], tmp_path / "other"], tmp_path / "joined")


@pytest.mark.parametrize("text", ["3", "0/2", "3/2", "a/b", "1/-2", ""])
def test_a_part_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="as in 3/16"):
        Part.of(text)


def test_a_fan_out_killed_at_random_gives_the_same_bytes_and_does_nothing_twice(tmp_path: Path) -> None:
    rng, kills, count = Random(5), 0, 16
    pairs, todo, finished = (
        order(of(published.gopro(tmp_path / "gopro", 6 * count))),
        [*range(1, count + 1)],
        dict[Path, int](),
    )
    server = multiprocessing.get_context("forkserver")
    modules = [type(reader).__module__ for reader in readers().values()]
    server.set_forkserver_preload([build.__module__, *modules])  # a process then starts in no time
    while todo:
        number = todo.pop(0)
        out = tmp_path / "parts" / str(number)
        process = server.Process(target=build, args=(pairs, out), kwargs={"part": Part(number, count), "workers": 1})
        process.start()
        process.join(rng.uniform(0.01, 0.1) if kills < 2 * count else 60)
        if process.exitcode is None:
            process.kill()
            process.join()
            kills += 1
        assert process.exitcode in (0, -signal.SIGKILL)
        there = {shard: shard.stat().st_ino for shard in map(_shard, tmp_path.glob("parts/*/*.*.json"))}
        assert {shard: there[shard] for shard in finished} == finished
        finished = there
        if process.exitcode:
            todo.append(number)
    assert kills > 4
    join([tmp_path / "parts" / str(number) for number in range(1, count + 1)], tmp_path / "joined")
    build(pairs, tmp_path / "whole", workers=1)
    assert files(tmp_path / "joined") == files(tmp_path / "whole")


def _shard(mark: Path) -> Path:
    """The shard that a mark vouches for."""
    return mark.with_name(json.loads(mark.read_text())["shard"]["name"])

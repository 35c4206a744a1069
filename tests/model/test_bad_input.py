"""What the world hands in goes through a whole build: a clear error or a counted skip, and nothing else is lost.

What a single reader says of its own broken files, its tests say.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pictures
import published
import pytest
from faults import full

from instructdiffusion.model.data.build import build
from instructdiffusion.model.data.listing import indexes
from instructdiffusion.model.data.offers import Order
from instructdiffusion.model.data.shards import Manifest, Shard, read_samples, read_triplets
from instructdiffusion.model.data.sources import DataSet, Scenes, Source, Sources, Synthesis
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.files import digest_of
from instructdiffusion.model.quality.filtering import filter_shards
from instructdiffusion.model.synthesis.adapt import marked

DAMAGES = ("denoise", "deblur", "watermark")


def order(*sources: Source, per_shard: int = 4) -> Order:
    return Order(Sources(sources=sources), size=64, seed=1, per_shard=per_shard)


def made(folder: Path, *make: str, **more: Any) -> Synthesis:
    return Synthesis.model_validate({"name": "made", "path": str(folder), "split": "train", "make": make, **more})


def labelled(folder: Path, split: str = "train") -> DataSet:
    return DataSet(name="given", path=str(folder), split=split)


def test_photographs_of_every_kind_are_damaged_and_marked_and_the_bad_ones_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for path in pictures.spread(folder).values():
        path.with_suffix(".txt").write_text("a meadow")
    (folder / "plain.txt").with_name("cut.txt").write_bytes(b"caf\xe9")  # one that is bad in two ways counts once
    manifest = build(order(made(folder, *DAMAGES)), tmp_path / "out", workers=1)
    skipped = manifest.sources["made"].skipped
    assert skipped == {"caption: empty or not UTF-8": 1, "picture: missing or broken": 3, "picture: too narrow": 1}
    assert manifest.counts == dict.fromkeys(DAMAGES, len(pictures.FINE))
    assert all(t.target.shape == (64, 64, 3) for t in read_triplets(tmp_path / "out"))
    assert marked(tmp_path / "marked", photos=[folder], size=64, seed=0).total == len(pictures.FINE) + 1


def test_edits_of_every_kind_of_picture_are_built_and_the_bad_ones_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    before, after = (pictures.spread(folder / name) for name in ("before", "after"))
    lines = [
        {"source": f"before/{before[name].name}", "target": f"after/{after[name].name}", "instruction": "make it dusk"}
        for name in before
    ]
    (folder / "triplets.jsonl").write_bytes("\n".join(map(json.dumps, lines)).encode() + b'\n{"source": "caf\xe9"}')
    manifest = build(order(labelled(folder)), tmp_path / "out", workers=1)
    assert manifest.sources["given"].skipped == {
        "line: not UTF-8": 1,
        "picture: missing or broken": 4,
        "picture: too narrow": 1,
    }
    assert manifest.counts == {"edit": len(pictures.FINE)}


def test_regions_in_every_kind_of_picture_are_edited_and_the_bad_ones_are_counted(tmp_path: Path) -> None:
    paths = list(pictures.spread(tmp_path / "cut/images", ".jpg").values())
    square = [[10, 10], [40, 10], [40, 40], [10, 40]]
    tasks = []
    for number, path in enumerate(paths):
        path.rename(path.with_name(f"{number}.jpg"))
        tasks.append({"task_id": f"{number}__0", "image_id": number, "phrase": "red house", "Polygons": [[square]]})
    (tmp_path / "cut/refer_train.json").write_text(json.dumps(tasks))
    manifest = build(order(made(tmp_path / "cut", "remove")), tmp_path / "out", workers=1)
    assert sum(manifest.counts.values()) + sum(manifest.sources["made"].skipped.values()) == len(paths)
    assert manifest.counts["remove"] >= 6


def test_a_target_of_another_size_is_brought_to_the_source_and_one_of_another_shape_is_counted(tmp_path: Path) -> None:
    folder = published.own_triplets(
        tmp_path / "mine", published.own_line(1), published.own_line(2, target="after/wide.png")
    )
    published.save(folder / "after/1.png", published.texture(1, (80, 64)))  # twice the source
    published.save(folder / "after/wide.png", published.texture(1, (80, 32)))
    manifest = build(order(labelled(folder)), tmp_path / "out", workers=1)
    assert manifest.counts == {"edit": 1}
    assert manifest.sources["given"].skipped == {"label: of another size than its picture": 1}


def test_a_disk_that_fills_up_ends_a_build_in_one_line_and_the_finished_shards_are_kept(tmp_path: Path) -> None:
    sources = (DataSet(name="few", path=str(published.own_triplets(tmp_path / "mine", published.own_line(1))),
                       split="train"), Scenes(scenes=8))  # fmt: skip
    wanted, out = order(*sources), tmp_path / "out"
    with full(20_000), pytest.raises(DataError, match=r"can't write .*scenes-00000\.tar: .*; free space"):
        build(wanted, out, workers=1)
    assert [path.name for path in out.glob("*.tar")] == ["few-00000.tar"]
    assert not list(out.glob(".*"))
    first = (out / "few-00000.tar").stat().st_mtime_ns
    build(wanted, out, workers=1)
    assert (out / "few-00000.tar").stat().st_mtime_ns == first
    build(wanted, tmp_path / "whole", workers=1)
    assert digest_of(out / "manifest.json") == digest_of(tmp_path / "whole/manifest.json")

    with full(20_000), pytest.raises(DataError, match=r"can't write .*; free space"):
        filter_shards(out, tmp_path / "kept")
    assert not (tmp_path / "kept/manifest.json").exists()
    assert filter_shards(out, tmp_path / "kept").total


def test_a_full_folder_of_temporary_files_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with (
        indexes(1) as (index,),
        full(2_000_000),
        pytest.raises(DataError, match=r"no room for temporary files \(.*\); free space or set TMPDIR"),
    ):
        all(index.add(number, "x" * 200) for number in range(200_000))


def test_an_archive_of_triplets_writes_nothing_wherever_its_names_lead(tmp_path: Path) -> None:
    path = tmp_path / "in/shard.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar:
        for name in ("../../evil.source.png", "/tmp/evil.source.png"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
        link = tarfile.TarInfo("link.source.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    shard = Shard(name="shard.tar", digest=digest_of(path), count=2)
    samples = list(read_samples(path.parent, shard))
    assert all(set(sample.values()) <= {b"", sample["__key__"]} for sample in samples)
    assert [p.name for p in tmp_path.rglob("*")] == ["in", "shard.tar"]


def test_a_manifest_that_names_a_shard_elsewhere_is_refused(tmp_path: Path) -> None:
    build(order(Scenes(scenes=2)), tmp_path / "out", workers=1)
    text = (tmp_path / "out/manifest.json").read_text()
    (tmp_path / "out/manifest.json").write_text(text.replace("scenes-00000.tar", "../out/scenes-00000.tar"))
    with pytest.raises(DataError, match=r"manifest\.json is broken \(String should match pattern"):
        Manifest.load(tmp_path / "out")

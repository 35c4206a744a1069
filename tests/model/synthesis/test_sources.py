"""Synthesis as sources of a data set: made in parts, counted and described as every other source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import published
import pytest

from instructdiffusion.model.data.build import build
from instructdiffusion.model.data.offers import Order
from instructdiffusion.model.data.parts import Part, join
from instructdiffusion.model.data.shards import Manifest, read_triplets
from instructdiffusion.model.data.sources import DataSet, Source, Sources, Synthesis, sources_of
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.quality.filtering import filter_shards


@pytest.fixture(scope="module")
def regions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published.phrasecut(tmp_path_factory.mktemp("phrasecut"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published.photographs_with_captions(tmp_path_factory.mktemp("photos"))


def made(name: str, folder: Path, *make: str, split: str = "train", **more: object) -> Synthesis:
    return Synthesis.model_validate({"name": name, "path": str(folder), "split": split, "make": make, **more})


def order(*sources: Source, per_shard: int = 4) -> Order:
    return Order(Sources(sources=sources), size=64, seed=3, per_shard=per_shard)


def only_split(folder: Path) -> str:
    from instructdiffusion.model.data.readers import reader_for

    (split,) = reader_for(folder).splits(folder)
    return split


def test_regions_become_removals_and_additions_and_photographs_are_damaged(
    regions: Path, photos: Path, tmp_path: Path
) -> None:
    sources = (
        made("edits", regions, "remove", "add", inpainter="patchmatch"),
        made("damage", photos, "denoise", "watermark", split=only_split(photos), copies=2),
    )
    manifest = build(order(*sources), tmp_path / "out", workers=1)
    assert manifest.counts == {"add": 1, "remove": 1, "denoise": 4, "watermark": 4}
    assert manifest.sources["edits"].skipped == {"region: too small or too large": 1}
    assert manifest.sources["damage"].skipped == {"picture: missing or broken": 1}
    triplets = list(read_triplets(tmp_path / "out"))
    assert len({t.key for t in triplets}) == 10
    for triplet in triplets:
        facts = triplet.provenance
        assert triplet.key.startswith(facts["source"])
        assert facts["operation"] == triplet.ask.task
        assert {"dataset", "example", "picture", "licence", "look", "seed"} <= facts.keys()
    (removal,) = [t for t in triplets if t.ask.task == "remove"]
    assert removal.provenance["inpainter"] == "patchmatch"
    assert "orange dahlia" in removal.ask.instruction
    first, second = [t for t in triplets if t.ask.task == "denoise"][:2]
    assert not np.array_equal(first.source, second.source)
    assert filter_shards(tmp_path / "out", tmp_path / "kept").total == 10


def test_parts_and_workers_change_no_byte(regions: Path, photos: Path, tmp_path: Path) -> None:
    sources = (
        made("edits", regions, "remove", "add", copies=3),
        made("damage", photos, "deblur", split=only_split(photos)),
    )
    wanted = order(*sources, per_shard=2)
    build(wanted, tmp_path / "whole", workers=2)
    parts = [tmp_path / f"part-{number}" for number in (1, 2)]
    for number, folder in enumerate(parts, 1):
        build(wanted, folder, part=Part(number, 2), workers=1)
    join(parts, tmp_path / "joined")
    shards = [shard.digest for shard in Manifest.load(tmp_path / "whole").shards]
    assert len(shards) == 2
    assert [shard.digest for shard in Manifest.load(tmp_path / "joined").shards] == shards


def test_what_can_not_be_made_of_a_data_set_is_told_before_anything_is(
    regions: Path, photos: Path, tmp_path: Path
) -> None:
    gopro = published.gopro(tmp_path / "gopro")
    for source, told in (
        (made("a", regions, "denoise"), r"source a: denoise can't be made of PhraseCut; choose from remove, add"),
        (made("b", photos, "remove", split=only_split(photos)), "remove can't be made of Photo folder; choose from"),
        (made("c", gopro, "deblur"), "deblur can't be made of GoPro; leave make out"),
        (made("d", regions, "remove", inpainter="magic"), "no inpainter 'magic'; choose one of opencv"),
        (DataSet(name="e", path=str(regions), split="train"), r"PhraseCut .* add make: \[remove, add\]"),
    ):
        with pytest.raises(ConfigError, match=told):
            build(order(source), tmp_path / "out", workers=1)
    with pytest.raises(DataError, match="no such file; name LaMa's"):
        build(order(made("f", regions, "remove", inpainter="lama:/gone.pt")), tmp_path / "out", workers=1)
    assert not list(tmp_path.glob("out/*.tar"))


def test_a_sources_file_may_say_what_to_make() -> None:
    text = "sources: [{name: r, path: /data/phrasecut, split: train, make: [remove], inpainter: 'opencv:ns'}]"
    (source,) = sources_of(text, "s.yaml").sources
    assert isinstance(source, Synthesis)
    assert (source.make, source.inpainter, source.weight) == (("remove",), "opencv:ns", None)
    with pytest.raises(ConfigError, match=r"sources\.0\.make\.0: input should be 'remove'"):
        sources_of(text.replace("[remove]", "[paint]"), "s.yaml")

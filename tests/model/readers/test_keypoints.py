"""People and their joints, from files as their authors write them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from drawings import COCO_JOINTS, CROWD_JOINTS, aic, coco, mpii, people, person, picture, write

from instructdiffusion.model.data import lexicon
from instructdiffusion.model.data.augment import generator, person_crop, uncropped
from instructdiffusion.model.data.readers import Example, reader_for
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.tasks.keypoint import Keypoint

SAMPLES = next(
    (p / "shared/data/keypoints" for p in Path(__file__).parents if (p / "shared/data/keypoints").is_dir()), None
)
needs_samples = pytest.mark.skipif(SAMPLES is None, reason="the shared samples are not beside the repository")
NONE_NEAR = "keypoints: none annotated inside the picture and near the box"


def read(folder: Path, split: str | None = None) -> list[Example]:
    reader = reader_for(folder)
    return list(reader.examples(folder, split or reader.splits(folder)[0]))


def skipped(folder: Path) -> dict[str, int]:
    reader = reader_for(folder)
    return dict(reader.counts(folder, reader.splits(folder)[0]).skipped)


def test_coco_gives_a_person_with_the_joints_that_are_annotated(tmp_path: Path) -> None:
    folder = coco(tmp_path, person(3, 7, COCO_JOINTS))
    assert reader_for(folder).name == "COCO keypoints"
    (example,) = read(folder)
    assert (example.key, example.task, example.picture) == ("train2017-3", "keypoint", "coco/000000000007")
    assert example.facts == {
        "licence": "Attribution License http://creativecommons.org/licenses/by/2.0/",
        "address": "http://f/7",
    }
    label = example.label
    assert label["phrase"] == "person"
    assert label["box"] == [15, 4, 35, 44]
    assert label["joints"]["nose"] == [20, 6]
    assert label["joints"]["left eye"] == [30, 8]
    assert "right ankle" not in label["joints"]  # v = 0: unknown, not absent
    assert not label["visible"]["nose"]
    assert label["visible"]["left eye"]
    assert example.source().shape == (48, 64, 3)


def test_what_a_person_is_asked_and_painted_can_be_read_back(tmp_path: Path) -> None:
    (example,) = read(coco(tmp_path, person(3, 7, COCO_JOINTS)))
    task, rng = Keypoint(), Random(2)
    source, label = person_crop(example.source(), example.label, generator(example.key, seed=1))
    ask = task.ask(label, rng)
    assert task.score(task.paint(source, label, ask), source, label, ask)["pck"] == 1.0
    assert set(dict(ask.marks)) <= set(label["joints"])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"keypoints": [0] * 51}, NONE_NEAR),
        ({"keypoints": [1, 2, 2]}, "keypoints: not three finite numbers a joint"),
        ({"keypoints": None}, "keypoints: not three finite numbers a joint"),
        ({"keypoints": ["1", 2, 2] * 17}, "keypoints: not three finite numbers a joint"),
        ({"keypoints": [500, 500, 2] * 17}, NONE_NEAR),
        ({"bbox": [900, 900, 5, 5]}, "bbox: outside the picture, empty or not finite"),
        ({"bbox": [5, 5, 0, 0]}, "bbox: outside the picture, empty or not finite"),
        ({"bbox": [5, 5]}, "bbox: not four finite numbers"),
        ({"iscrowd": 1}, "iscrowd: a crowd, not a person"),
        ({"image_id": 99}, "image_id: no such picture"),
        ({"image_id": 8}, "picture: missing on disk"),
        ({"category_id": 2}, "category_id: no category with joints"),
    ],
)
def test_a_person_that_cannot_be_used_is_left_out_and_counted(tmp_path: Path, changes: Any, reason: str) -> None:
    good, bad = person(3, 7, COCO_JOINTS), person(4, 7, COCO_JOINTS, **changes)
    coco(tmp_path)
    write(tmp_path / "annotations/person_keypoints_train2017.json", people(COCO_JOINTS, bad, good, images=(7, 8)))
    assert [example.key for example in read(tmp_path)] == ["train2017-3"]
    counts = reader_for(tmp_path).counts(tmp_path, "train2017")
    assert (counts.pictures, counts.examples, counts.skipped) == (1, 1, {reason: 1})


def test_an_annotation_given_twice_counts_once(tmp_path: Path) -> None:
    folder = coco(tmp_path, person(3, 7, COCO_JOINTS), person(3, 7, COCO_JOINTS))
    assert len(read(folder)) == 1
    assert skipped(folder) == {"id: given twice": 1}


def test_a_box_that_leaves_the_picture_is_cut_to_it(tmp_path: Path) -> None:
    (example,) = read(coco(tmp_path, person(3, 7, COCO_JOINTS, bbox=[-10, -5, 60, 500])))
    assert example.label["box"] == [0, 0, 50, 48]


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda d: d["images"].append({**d["images"][0], "width": 9}), r"images\[1\]\.id is 7, which another"),
        (lambda d: d["images"][0].pop("file_name"), r"images\[0\]\.file_name is no name"),
        (lambda d: d["images"][0].update(file_name="../../etc/passwd"), r"images\[0\]\.file_name is no name"),
        (lambda d: d["images"][0].update(width="wide"), r"images\[0\]: width and height"),
        (lambda d: d["images"].clear(), "images: missing or empty"),
        (lambda d: d["categories"].clear(), "categories: no category with keypoints"),
        (lambda d: d["categories"][0]["keypoints"].append("tentacle"), r"categories\.keypoints: joint 'tentacle'"),
    ],
)
def test_a_broken_file_is_named_with_the_field_at_fault(tmp_path: Path, break_it: Any, said: str) -> None:
    document = people(COCO_JOINTS, person(3, 7, COCO_JOINTS))
    break_it(document)
    coco(tmp_path)
    write(tmp_path / "annotations/person_keypoints_train2017.json", document)
    with pytest.raises(DataError, match=rf"person_keypoints_train2017\.json: {said}"):
        read(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace(b'"drawn"', b'"\xff\xfe"'),
        lambda text: text.replace(b"[15, 4, 20, 40]", b"[NaN, 4, 20, 40]"),
        lambda text: b"",
    ],
    ids=["cut short", "not UTF-8", "NaN", "empty"],
)
def test_a_file_that_is_no_json_is_refused_by_name(tmp_path: Path, damage: Any) -> None:
    path = coco(tmp_path, person(3, 7, COCO_JOINTS)) / "annotations/person_keypoints_train2017.json"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"person_keypoints_train2017\.json is no JSON in UTF-8, or was cut short"):
        read(tmp_path)


def test_missing_pictures_and_unknown_splits_are_said_at_once(tmp_path: Path) -> None:
    coco(tmp_path, person(3, 7, COCO_JOINTS))
    with pytest.raises(DataError, match="no split 'test' of COCO keypoints; it has train2017"):
        list(reader_for(tmp_path).examples(tmp_path, "test"))
    shutil.rmtree(tmp_path / "train2017")
    with pytest.raises(DataError, match="train2017 is missing: no pictures"):
        read(tmp_path)


def test_crowdpose_speaks_of_joints_as_coco_does(tmp_path: Path) -> None:
    someone = person(1, 7, CROWD_JOINTS)
    someone["keypoints"][-6:] = [25, 5, 2, 25, 9, 2]
    write(tmp_path / "crowdpose_train.json", people(CROWD_JOINTS, someone))
    picture(tmp_path / "images/000000000007.jpg")
    assert reader_for(tmp_path).name == "CrowdPose"
    (example,) = read(tmp_path)
    assert example.label["joints"]["top of the head"] == [25, 5]
    assert example.label["joints"]["neck"] == [25, 9]
    assert "left shoulder" in example.label["joints"]


def test_mpii_is_read_from_its_matlab_file(tmp_path: Path) -> None:
    folder = mpii(tmp_path)
    assert reader_for(folder).name == "MPII"
    first, second = read(folder)
    assert first.label["joints"] == {"top of the head": [30, 5], "right ankle": [25, 40], "left wrist": [40, 25]}
    assert first.label["visible"] == {"top of the head": True, "right ankle": False, "left wrist": False}
    assert first.label["box"] == [10, 3, 50, 43]  # 200 pixels times the scale, around the centre moved down
    assert second.label["joints"] == {"pelvis": [32, 24]}
    assert [e.key for e in (first, second)] == ["train-0-0", "train-0-1"]
    assert first.picture == "mpii/a.jpg"
    assert skipped(folder) == {NONE_NEAR: 1}


def test_a_damaged_matlab_file_is_refused_by_name(tmp_path: Path) -> None:
    path = mpii(tmp_path) / "mpii_human_pose_v1_u12_1.mat"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"mpii_human_pose_v1_u12_1\.mat is no Matlab file"):
        read(tmp_path)


def test_ai_challenger_lists_people_by_picture(tmp_path: Path) -> None:
    joints = [value for i in range(14) for value in (20 + i, 10 + i, 1 + i % 3)]
    entry = {
        "image_id": "abc",
        "url": "http://f/abc",
        "keypoint_annotations": {"human2": joints, "human1": joints, "human3": joints[:-1]},
        "human_annotations": {"human1": [10, 5, 40, 40], "human2": [10, 5, 10, 5], "human3": [10, 5, 40, 40]},
    }
    folder = aic(tmp_path, entry, entry, {"image_id": "gone", "keypoint_annotations": {}}, {"url": ""})
    assert reader_for(folder).name == "AIC"
    (example,) = read(folder)
    assert example.key == "train-abc-human1"
    assert example.label["joints"]["right shoulder"] == [20, 10]
    assert example.label["visible"]["right shoulder"]
    assert not example.label["visible"]["right elbow"]  # 2: behind something
    assert "right wrist" not in example.label["joints"]  # 3: not annotated
    assert example.facts == {"address": "http://f/abc"}
    assert skipped(folder) == {
        "bbox: outside the picture, empty or not finite": 1,
        "image_id: given twice": 1,
        "image_id: missing": 1,
        "keypoint_annotations, human_annotations: missing": 1,
        "keypoint_annotations: not three finite numbers a joint": 1,
    }


def test_an_unknown_folder_and_a_doubtful_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data set that is known here"):
        reader_for(tmp_path)
    mpii(coco(tmp_path))
    with pytest.raises(DataError, match="could be"):
        reader_for(tmp_path)


@needs_samples
@pytest.mark.parametrize(
    ("name", "layout", "images", "examples", "pictures"),
    [
        ("coco", "annotations/person_keypoints_test.json", "test", 12, 4),
        ("crowdpose", "crowdpose_test.json", "images", 4, 2),
        ("mpii", "annot/valid.json", "images", 5, 5),
        ("aic", "annotations/aic_test.json", "images", 9, 3),
    ],
)
def test_the_samples_of_each_data_set_are_read(
    tmp_path: Path, name: str, layout: str, images: str, examples: int, pictures: int
) -> None:
    assert SAMPLES is not None
    for file in (SAMPLES / name).glob("*.jpg"):
        (tmp_path / images).mkdir(exist_ok=True)
        (tmp_path / images / file.name).symlink_to(file)
    write(tmp_path / layout, json.loads((SAMPLES / name / f"test_{name}.json").read_text()))
    found = read(tmp_path)
    counts = reader_for(tmp_path).counts(tmp_path, found[0].key.split("-")[0])
    assert (len(found), counts.pictures) == (examples, pictures)
    for example in found:
        assert set(example.label["joints"]) <= lexicon.JOINTS
        source, label = person_crop(example.source(), example.label, Random(0), train=False)
        assert source.shape == (256, 256, 3)
        points = np.array(list(label["joints"].values()))
        assert ((points >= 0) & (points <= 255)).all()


def test_an_animal_is_asked_for_by_its_name_and_brings_the_area_of_its_outline(tmp_path: Path) -> None:
    document = people(lexicon.AP_10K, person(3, 7, lexicon.AP_10K, area=120.5))
    document["categories"][0]["name"] = "polar_bear"
    write(tmp_path / "annotations/ap10k-val-split1.json", document)
    picture(tmp_path / "data/000000000007.jpg")
    assert reader_for(tmp_path).name == "AP-10K"
    (example,) = read(tmp_path)
    assert (example.label["phrase"], example.label["area"]) == ("polar bear", 120.5)
    assert "left eye" in example.label["joints"]


def test_human_art_finds_its_pictures_below_its_own_folder(tmp_path: Path) -> None:
    document = people(COCO_JOINTS, person(3, 7, COCO_JOINTS))
    document["images"][0]["file_name"] = "HumanArt/images/oil_painting/7.jpg"
    write(tmp_path / "annotations/validation_humanart.json", document)
    picture(tmp_path / "images/oil_painting/7.jpg")
    assert reader_for(tmp_path).name == "Human-Art"
    (example,) = read(tmp_path)
    assert example.source().shape == (48, 64, 3)


def test_what_was_found_in_a_crop_is_put_back_into_the_picture(tmp_path: Path) -> None:
    (example,) = read(coco(tmp_path, person(3, 7, COCO_JOINTS)))
    _, cropped = person_crop(example.source(), example.label, Random(0), size=64, train=False)
    back = uncropped(cropped["joints"], example.label["box"], 64)
    for name, point in back.items():
        assert point == pytest.approx(example.label["joints"][name], abs=0.01)

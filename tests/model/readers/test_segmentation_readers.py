"""Masks by class and by expression, from files as their authors write them."""

from __future__ import annotations

import json
import os
import pickle
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from drawings import LABELS, instances, picture, ref, refer, stuff, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from pycocotools import mask as coco_mask

from instructdiffusion.model.data.outlines import outline, unpacked
from instructdiffusion.model.data.readers import Example, reader_for
from instructdiffusion.model.data.readers.pickled import unpickled
from instructdiffusion.model.data.readers.referring import words
from instructdiffusion.model.data.readers.segmentation import NEVER_ANNOTATED, phrase
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.tasks.segmentation import Referring


def read(folder: Path, split: str | None = None) -> list[Example]:
    reader = reader_for(folder)
    return list(reader.examples(folder, split or reader.splits(folder)[0]))


def skipped(folder: Path) -> dict[str, int]:
    reader = reader_for(folder)
    return dict(reader.counts(folder, reader.splits(folder)[0]).skipped)


def test_coco_stuff_gives_each_class_that_is_there(tmp_path: Path) -> None:
    folder = stuff(tmp_path)
    assert reader_for(folder).name == "COCO-Stuff"
    there = {e.label["phrase"]: e for e in read(folder) if e.label["mask"].any()}
    assert sorted(there) == ["grass", "house", "sky"]
    house = there["house"]
    assert (house.key, house.task, house.picture) == ("train2017-000000000009-127", "segmentation", "coco/000000000009")
    mask = np.zeros((48, 64), bool)
    mask[16:32, 16:32] = True
    assert np.array_equal(house.label["mask"], mask)
    assert not any(e.label["mask"][0, 0] for e in there.values())  # 255: unlabelled
    assert house.source().shape == (48, 64, 3)


def test_a_class_asked_for_as_absent_is_nowhere_in_the_map(tmp_path: Path) -> None:
    names = [f"class{i}" for i in range(30)]
    stuff(tmp_path)
    (tmp_path / "labels.txt").write_text("0: unlabeled\n" + "".join(f"{i + 1}: {n}\n" for i, n in enumerate(names)))
    shares = []
    for number in range(60):
        rng = Random(number)
        values = np.repeat(np.array(rng.sample(range(30), 6), np.uint8), 8)[:, None].repeat(64, axis=1)
        values[0, :8] = 29  # too small to be asked for, yet there
        Pillow.fromarray(values).save(tmp_path / f"annotations/train2017/{number:012d}.png")
        picture(tmp_path / f"images/train2017/{number:012d}.jpg")
    (tmp_path / "annotations/train2017/000000000009.png").unlink(missing_ok=True)
    there = Counter[str]()
    for example in read(tmp_path):
        name = example.label["phrase"]
        values = np.asarray(Pillow.open(tmp_path / f"annotations/train2017/{example.picture.split('/')[1]}.png"))
        assert example.label["mask"].any() == (names.index(name) in values)
        shares.append(not example.label["mask"].any())
        there[example.key] += 1
    assert max(there.values()) == 1
    assert abs(np.mean(shares) - 0.2) < 0.04


def test_classes_that_nobody_looked_for_are_never_called_absent(tmp_path: Path) -> None:
    stuff(tmp_path)
    absent = {e.label["phrase"] for e in read(tmp_path) if not e.label["mask"].any()}
    assert absent <= {"person", "car", "cat"}
    assert "hat" in NEVER_ANNOTATED & set(LABELS.values())


def test_classes_become_words_that_stay_true() -> None:
    assert phrase("wall-brick", {"wall-brick"}) == "brick wall"
    assert phrase("wall-other", {"wall-other", "car"}) == "wall"
    assert phrase("wall-other", {"wall-other", "wall-brick"}) == "other wall"
    assert phrase("sky-other", {"sky-other", "clouds"}) == "other sky"
    assert phrase("door-stuff", {"door-stuff"}) == "door"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.full((10, 64), 123, np.uint8), "map: another size than its picture"),
        (np.full((48, 64), 200, np.uint8), "map: values that labels.txt doesn't list"),
        (np.full((48, 64), 255, np.uint8), "map: nothing is labelled"),
        (np.zeros((48, 64, 3), np.uint8), "map or picture: broken (map)"),
    ],
)
def test_a_map_that_does_not_fit_is_left_out_and_counted(tmp_path: Path, values: Any, reason: str) -> None:
    folder = stuff(tmp_path, values=values)
    assert read(folder) == []
    assert skipped(folder) == {reason: 1}


def test_a_missing_picture_and_a_broken_list_of_labels_are_said(tmp_path: Path) -> None:
    folder = stuff(tmp_path)
    (folder / "images/train2017/000000000009.jpg").unlink()
    assert skipped(folder) == {"picture: missing on disk": 1}
    (folder / "labels.txt").write_text("0: unlabeled\n1; person\n")
    with pytest.raises(DataError, match=r"labels\.txt line 2 is no new"):
        read(folder)
    (folder / "labels.txt").write_bytes(b"1: caf\xe9\n")
    with pytest.raises(DataError, match=r"labels\.txt is not UTF-8"):
        read(folder)


def test_refcoco_gives_each_expression_its_mask(tmp_path: Path) -> None:
    folder = refer(tmp_path, ref(3, 1, "The red house.", "house"), ref(4, 2, "grass"), ref(5, 1, "a", split="val"))
    assert reader_for(folder).name == "RefCOCO"
    red, house, grass = read(folder, "train")
    assert [e.key for e in (red, house, grass)] == ["train-3-30", "train-3-31", "train-4-40"]
    assert red.label["phrase"] == "red house"
    assert red.label["mask"].sum() == 256
    assert red.label["mask"][8:24, 8:24].all()
    assert grass.label["mask"][24:].all()
    assert grass.label["mask"].sum() == 24 * 64
    assert red.picture == "coco/000000000005"
    assert red.source().shape == (48, 64, 3)
    task = Referring()
    ask = task.ask(red.label, Random(1))
    assert task.score(task.paint(red.source(), red.label, ask), red.source(), red.label, ask)["iou"] > 0.95


@pytest.mark.parametrize(
    ("name", "file", "said"),
    [
        ("refcoco+", "refs(unc).p", "RefCOCO+"),
        ("refcocog", "refs(umd).p", "RefCOCOg"),
        ("x", "grefs(unc).json", "gRefCOCO"),
    ],
)
def test_its_relatives_are_told_apart(tmp_path: Path, name: str, file: str, said: str) -> None:
    folder = refer(tmp_path, ref(3, 1, "house"), name=name, file=file)
    assert reader_for(folder).name == said
    assert len(read(folder, "train")) == 1


def test_grefcoco_names_many_objects_or_none(tmp_path: Path) -> None:
    refs = ref(1, [1, 2], "all"), ref(2, [-1], "a dog", no_target=True)
    folder = refer(tmp_path, *refs, name="grefcoco", file="grefs(unc).json")
    everything, nothing = read(folder, "train")
    assert everything.label["mask"].sum() == 256 + 24 * 64
    assert nothing.label["mask"].shape == (48, 64)
    assert not nothing.label["mask"].any()
    assert nothing.label["phrase"] == "dog"


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (ref(1, 99, "x"), "ann_id: no such annotation"),
        (ref(1, 1, "x", image_id=77), "image_id: no such picture"),
        (ref(1, 1, " . "), "sentences.sent: empty or not UTF-8"),
        (ref(1, 1, "caf\udce9"), "sentences.sent: empty or not UTF-8"),
        ("text", "ref: not a mapping"),
        ({"split": "train"}, "ref_id: missing"),
        (ref(9, 1, "again"), "ref_id: given twice"),
    ],
)
def test_an_expression_that_cannot_be_used_is_left_out_and_counted(tmp_path: Path, made: Any, reason: str) -> None:
    folder = refer(tmp_path, ref(9, 1, "house"))
    data = (
        pickle.dumps([ref(9, 1, "house"), json.loads(json.dumps(made))], protocol=2) if reason.startswith("s") else None
    )
    whole = pickle.dumps([ref(9, 1, "house"), made], protocol=0) if "\\udce9" not in repr(made) else data
    assert whole is not None
    (folder / "refs(unc).p").write_bytes(whole)
    assert len(read(folder, "train")) == 1
    assert skipped(folder) == {reason: 1}


def test_a_sentence_of_python_2_that_is_not_utf_8_costs_only_itself(tmp_path: Path) -> None:
    folder = refer(tmp_path, ref(9, 1, "house"))
    # Python 2 wrote texts as bytes: b"house" with a letter of another encoding in it.
    data = pickle.dumps([ref(9, 1, "house"), ref(8, 1, "cafe")], protocol=2)
    bad = data.replace(b"X\x04\x00\x00\x00cafe", b"U\x04caf\xe9")
    assert bad != data
    (folder / "refs(unc).p").write_bytes(bad)
    assert [e.label["phrase"] for e in read(folder, "train")] == ["house"]
    assert skipped(folder)["sentences.sent: empty or not UTF-8"] == 1


class Program:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/this-must-not-exist",)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ([Program()], r"posix\.system"),
        ([np.float64(1)], r"numpy"),
        ([Path()], "pathlib"),
        ([{1, 2}], r"__builtin__\.set"),
    ],
)
def test_a_pickle_that_asks_for_more_than_plain_values_is_refused_by_name(
    tmp_path: Path, value: Any, named: str
) -> None:
    path = tmp_path / "refs(unc).p"
    path.write_bytes(pickle.dumps(value, protocol=2))
    with pytest.raises(DataError, match=rf"refs\(unc\)\.p is no pickle of plain values: it asks for {named}"):
        unpickled(path)
    assert not Path("/tmp/this-must-not-exist").exists()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=60) | st.binary(max_size=40).map(lambda b: b"\x80\x02" + b + b"."))
def test_any_bytes_are_a_plain_list_or_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "refs(unc).p"
    path.write_bytes(data)
    try:
        assert isinstance(unpickled(path), list)
    except DataError as error:
        assert str(path) in str(error)  # noqa: PT017 (either outcome is right)


def test_outlines_of_two_annotations_with_one_id_are_refused(tmp_path: Path) -> None:
    folder = refer(tmp_path, ref(3, 1, "house"))
    document = instances()
    document["annotations"][1]["id"] = 1
    write(folder / "instances.json", document)
    with pytest.raises(DataError, match=r"instances\.json: annotations\[1\]\.id is 1, which another annotation has"):
        read(folder, "train")


@pytest.mark.parametrize(
    "broken",
    [
        None,
        [],
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [[1, 2, 3, 4, 5, float("nan")]],
        [[1, 2, 3, 4, 5, 1e12]],
        [["1", 2, 3, 4, 5, 6]],
        {"size": [48, 64], "counts": [10]},
        {"size": [48, 64], "counts": [-1, 48 * 64 + 1]},
        {"size": [10, 10], "counts": [50, 50]},
        {"size": [48, 64], "counts": "zzzz"},
        {"size": [48, 64], "counts": "\u00e9"},
        {"size": [48, 64]},
    ],
)
def test_an_outline_that_is_none_of_this_picture_is_no_mask(broken: Any) -> None:
    assert outline(broken, (64, 48)) is None


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(1, 12).flatmap(
        lambda height: st.lists(st.lists(st.booleans(), min_size=height, max_size=height), min_size=1, max_size=12)
    )
)
def test_packed_runs_are_what_pycocotools_packed(columns: list[list[bool]]) -> None:
    mask = np.array(columns, bool).T
    packed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    value = {"size": list(packed["size"]), "counts": packed["counts"].decode()}
    found = outline(value, (mask.shape[1], mask.shape[0]))
    assert found is not None
    assert np.array_equal(found, mask)
    assert unpacked(value["counts"] + "z") is None


def test_an_expression_loses_its_article_and_full_stop_only() -> None:
    assert words(" The  man's left hand. ") == "man's left hand"
    assert words("theatre") == "theatre"
    assert words("a") == "a"
    assert words("line\nbreak") == "line break"
    assert words(None) is None

"""ADE20K, PASCAL-Context, PASCAL VOC and RefClef: the sets that tables 3 and 4 of the paper are scored on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import drawings
import numpy as np
import published
import pytest
from published import SIDE, ade150, ade847, pascal_context, refclef, regions, voc

from instructdiffusion.model.data.readers import Counts, Example, reader_for, readers
from instructdiffusion.model.data.readers.ade import spoken
from instructdiffusion.model.data.readers.pascal import label_map
from instructdiffusion.model.data.samples import triplets_of
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.leaks import Known, traces

Build = Callable[..., Path]
QUARTERS = regions((SIDE, SIDE), 0, 1, 2, 3)


def quarter(number: int) -> np.ndarray:
    return np.asarray(np.equal(QUARTERS, number))


BORDER = np.zeros((SIDE, SIDE), bool)
BORDER[46:50], BORDER[:, 46:50] = True, True
#: Of each set: how its folder is built, the split, and of each class its name, what it is called, and where it is.
SETS: list[tuple[Build, str, str, dict[str, tuple[str, np.ndarray]], np.ndarray]] = [
    (
        *(ade150, "ADE20K-150", "validation"),
        {
            "wall": ("wall", quarter(0)),
            "building, edifice": ("building", quarter(1)),
            "screen, crt screen": ("screen", quarter(3)),
        },
        quarter(2),
    ),
    (
        *(ade847, "ADE20K-847", "validation"),
        {
            "bag": ("bag", quarter(0)),
            "bag,handbag,pocketbook,purse": ("handbag", quarter(1)),
            "adding machine,totalizer": ("adding machine", quarter(2)),
        },
        quarter(3),
    ),
    (
        *(voc, "PASCAL VOC", "val"),
        {
            "diningtable": ("dining table", quarter(0) & ~BORDER),
            "cat": ("cat", quarter(3) & ~BORDER),
        },
        BORDER,
    ),
    (
        *(pascal_context, "PASCAL-Context", "val-459"),
        {
            "accordion": ("accordion", quarter(0)),
            "table": ("table", quarter(1)),
            "pottedplant": ("potted plant", quarter(3)),
        },
        quarter(2),
    ),
    (
        *(pascal_context, "PASCAL-Context", "val-59"),
        {"table": ("table", quarter(1)), "pottedplant": ("potted plant", quarter(3))},
        quarter(0) | quarter(2),
    ),
]
BUILDS = pytest.mark.parametrize("build", [ade150, ade847, voc, pascal_context])


def read(folder: Path, split: str) -> list[Example]:
    return list(reader_for(folder).examples(folder, split))


def counted(folder: Path, split: str | None = None) -> Counts:
    reader = reader_for(folder)
    return reader.counts(folder, split or reader.splits(folder)[0])


@pytest.mark.parametrize(("build", "name", "split", "there", "void"), SETS)
def test_every_class_that_is_there_is_asked_for_once_and_no_other(
    build: Build, name: str, split: str, there: dict[str, tuple[str, np.ndarray]], void: np.ndarray, tmp_path: Path
) -> None:
    folder = build(tmp_path / "set")
    reader = reader_for(folder)
    assert reader.name == name
    assert split in reader.splits(folder)
    assert reader.weight == 0  # the paper trains on none of them
    examples = read(folder, split)
    assert {e.label["class"]: e.label["phrase"] for e in examples} == {n: phrase for n, (phrase, _) in there.items()}
    for example in examples:
        assert np.array_equal(example.label["mask"], there[example.label["class"]][1])
        assert np.array_equal(example.label["void"], void)
        assert example.source().shape == (SIDE, SIDE, 3)
        assert example.picture == ("ade/ADE_val_00000001" if "ADE" in name else "voc/2008_000002")
    assert (counted(folder, split).pictures, counted(folder, split).examples) == (1, len(there))


def test_a_folder_of_pascal_context_is_scored_with_either_list(tmp_path: Path) -> None:
    folder = pascal_context(tmp_path)
    assert readers()["PASCAL-Context"].splits(folder) == ("val-459", "val-59")
    (folder / "SegmentationClass").mkdir()  # as VOC 2010 has
    (folder / "ImageSets/Segmentation").mkdir()
    (folder / "ImageSets/Segmentation/val.txt").write_text("2008_000002\n")
    assert reader_for(folder).name == "PASCAL-Context"
    (folder / "59_labels.txt").unlink()
    assert reader_for(folder).splits(folder) == ("val-459",)
    assert counted(folder).skipped == {"map: missing on disk": 1}


def test_a_class_is_called_by_a_name_that_no_other_has_first() -> None:
    names = (
        "bag",
        "bag, handbag, purse",
        "control panel",
        "control panel, instrument panel, board",
        "instrument panel",
    )
    assert [*spoken((*names, "pot", "pot")).values()] == [
        "bag",
        "handbag",
        "control panel",
        "board",
        "instrument panel",
        "pot",
    ]


@BUILDS
@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.zeros((10, SIDE), np.uint8), "map: another size than its picture"),
        (regions((SIDE, SIDE), 200, 200, 200, 200), "map: values that {listed} doesn't list"),
        (None, "map: nothing is labelled"),
        (b"\x89PNG not a map", "map or picture: broken (map)"),
    ],
)
def test_a_map_that_does_not_fit_is_left_out_and_counted(
    build: Build, values: Any, reason: str, tmp_path: Path
) -> None:
    nothing = {ade847: 65535, voc: 255}.get(build, 0)
    kind = np.uint16 if build in (ade847, pascal_context) else np.uint8
    empty = np.full((SIDE, SIDE), nothing, kind)
    folder = build(tmp_path, (empty if values is None or isinstance(values, bytes) else values).astype(kind))
    reader = readers()[reader_for(folder).name]
    if isinstance(values, bytes):
        (path,) = (p for p in folder.rglob("*") if p.suffix in (".mat", ".tif") or p.suffix == ".png")
        path.write_bytes(values)
    skipped = {key: n for key, n in counted(folder).skipped.items() if "missing" not in key}
    assert skipped == {reason.format(listed=getattr(reader, "listed")): 1}  # noqa: B009
    assert read(folder, reader.splits(folder)[0]) == []


@pytest.mark.parametrize(
    ("build", "split", "file", "text", "said"),
    [
        (
            ade150,
            "validation",
            "objectInfo150.txt",
            "Idx\tName\n1 wall\n",
            r"objectInfo150\.txt line 2 is no new '<number>",
        ),
        (ade150, "validation", "objectInfo150.txt", None, r"objectInfo150\.txt is missing; download objectInfo150"),
        (ade847, "validation", "ade20k_847.txt", None, r"ade20k_847\.txt is missing; download OpenSeg's list"),
        (ade847, "validation", "ade20k_847.txt", "1:wall\n1:sky\n", r"ade20k_847\.txt line 2 is no new"),
        (pascal_context, "val-459", "labels.txt", "", r"labels\.txt lists no class"),
        (pascal_context, "val-59", "59_labels.txt", "1: wombat\n", r"59_labels\.txt names 'wombat', which labels\.txt"),
        (voc, "val", "ImageSets/Segmentation/val.txt", "../../x\n", r"val\.txt line 1 is no name of a picture: '\.\./"),
        (voc, "val", "ImageSets/Segmentation/val.txt", b"caf\xe9\n", r"val\.txt is not UTF-8 \(byte 3\)"),
    ],
)
def test_a_broken_list_is_named_in_one_line(
    build: Build, split: str, file: str, text: Any, said: str, tmp_path: Path
) -> None:
    folder = build(tmp_path)
    if text is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=said) as raised:
        read(folder, split)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ({"Other": np.zeros((2, 2))}, "has no LabelMap of whole numbers"),
        ({"LabelMap": np.zeros((2, 2))}, "has no LabelMap of whole numbers"),
        ({"LabelMap": np.array([["a", 1]], object)}, "has no LabelMap of whole numbers"),
        (None, "is no Matlab file, or was cut short"),
    ],
)
def test_a_matlab_file_without_a_map_is_refused_by_name(held: Any, said: str, tmp_path: Path) -> None:
    from scipy.io import savemat

    savemat(tmp_path / "a.mat", held or {"LabelMap": np.ones((99, 99), np.uint16)})
    if held is None:
        (tmp_path / "a.mat").write_bytes((tmp_path / "a.mat").read_bytes()[:1000])
    with pytest.raises(DataError, match=rf"map .*a\.mat {said}"):
        label_map(tmp_path / "a.mat")


def test_to_learn_from_small_classes_are_left_out_and_to_score_on_none_is(tmp_path: Path) -> None:
    values = regions((SIDE, SIDE), 1, 1, 1, 1)
    values[0, :3] = 2
    learnt, scored = (ade150(tmp_path / split, values, split) for split in ("training", "validation"))
    assert [e.label["class"] for e in read(learnt, "training")] == ["wall"]
    assert counted(learnt).skipped == {"map: a class smaller than a cell of the latent grid": 1}
    assert [e.label["class"] for e in read(scored, "validation")] == ["wall", "building, edifice"]


def test_absent_classes_are_asked_for_only_where_every_class_was_looked_for(tmp_path: Path) -> None:
    values = regions((SIDE, SIDE), 1, 2, 3, 4)
    folder = voc(tmp_path / "voc", values, "train")
    (absent,) = (e for e in read(folder, "train") if not e.label["mask"].any())
    assert absent.label["class"] not in ("aeroplane", "bicycle", "bird", "boat")
    assert "void" not in absent.label
    for build, split in ((ade150, "training"), (ade847, "training"), (pascal_context, "train")):
        folder = build(tmp_path / build.__name__, split=split)
        assert all(e.label["mask"].any() for e in read(folder, reader_for(folder).splits(folder)[0]))


def test_what_only_scoring_needs_is_in_no_triplet(tmp_path: Path) -> None:
    folder = voc(tmp_path, split="train")
    for example in read(folder, "train"):
        (triplet,) = triplets_of(example, readers()["PASCAL VOC"], source="voc", size=64, seed=1)
        assert set(triplet.label) == {"phrase", "class", "mask"}


def test_a_picture_of_voc_that_is_trained_on_is_found_in_pascal_context_and_in_clwd(tmp_path: Path) -> None:
    known = Known()
    known.add(traces(str(pascal_context(tmp_path / "VOC2010"))))
    (told, *_) = traces(f"{voc(tmp_path / 'VOC2012', split='train')}:train")
    leak = known.leak(told)
    assert leak is not None
    assert (leak.by, leak.told) == ("picture", "both of picture voc/2008_000002")
    clwd = published.clwd(tmp_path / "CLWD")  # it numbers its pictures anew: they are known by how they look
    published.save(clwd / "train/Watermark_free_image/1.jpg", published.texture(2))
    (told,) = traces(f"{clwd}:train")
    leak = known.leak(told)
    assert leak is not None
    assert leak.by == "look"


def test_both_sets_of_ade20k_name_a_picture_alike(tmp_path: Path) -> None:
    known = Known()
    known.add(traces(str(ade150(tmp_path / "a"))))
    assert all(known.leak(trace) for trace in traces(str(ade847(tmp_path / "b"))))


def clef(number: int, ann: str, *said: str, split: str) -> dict[str, Any]:
    return drawings.ref(number, ann, *said, split=split, image_id=807)


def test_refclef_gives_each_expression_its_mask_in_every_split_it_is_of(tmp_path: Path) -> None:
    folder = refclef(
        tmp_path,
        clef(1, "807_1", "left half", split="testA"),
        clef(2, "807_2", "the top", split="testBC"),
        clef(3, "807_3", "left and top", split="val"),
    )
    reader = reader_for(folder)
    assert (reader.name, reader.weight) == ("RefClef", 0)
    assert reader.splits(folder) == ("train", "val", "testA", "testB", "testC")
    (left,), (top,), (both,) = (read(folder, split) for split in ("testA", "testC", "val"))
    assert [e.key for e in read(folder, "testB")] == ["testB-2-20"]
    assert (left.picture, left.label["phrase"], top.label["phrase"]) == ("saiapr/807", "left half", "top")
    wanted = np.zeros((SIDE, SIDE), bool)
    wanted[:, :48] = True
    assert np.array_equal(left.label["mask"], wanted)
    wanted[:32] = True
    assert np.array_equal(both.label["mask"], wanted)
    assert left.source().shape == (SIDE, SIDE, 3)


def test_refclef_is_told_from_refcoco_by_its_other_list_or_its_folder(tmp_path: Path) -> None:
    folder = refclef(tmp_path, clef(1, "807_1", "left", split="val"))
    shutil.copytree(folder, tmp_path / "mine")
    assert reader_for(tmp_path / "mine").name == "RefClef"
    (folder / "refs(berkeley).p").unlink()
    assert reader_for(folder).name == "RefClef"
    shutil.copytree(folder, tmp_path / "refcoco")
    assert reader_for(tmp_path / "refcoco").name == "RefCOCO"


def test_refcocog_is_scored_in_its_other_division_too(tmp_path: Path) -> None:
    made = drawings.ref(1, 1, "house", split="val"), drawings.ref(2, 2, "grass", split="train")
    folder = drawings.refer(tmp_path, *made, name="refcocog", file="refs(umd).p")
    assert reader_for(folder).splits(folder) == ("train", "val", "test")
    drawings.refer(tmp_path, drawings.ref(7, 2, "the lawn", split="val"), name="refcocog", file="refs(google).p")
    assert reader_for(folder).splits(folder) == ("train", "val", "test", "val-google")
    assert [e.key for e in read(folder, "val")] == ["val-1-10"]
    assert [e.key for e in read(folder, "val-google")] == ["val-google-7-70"]

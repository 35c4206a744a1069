"""Regions and captioned photographs as PhraseCut, Open Images, SA-1B and img2dataset publish them."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import published
import pytest
from PIL import Image as Pillow
from pycocotools import mask as coco

from instructdiffusion.model.data.readers import PHOTO, REGION, Reader, reader_for, readers
from instructdiffusion.model.errors import DataError

SIZE = (20, 10)  # width, height


def picture(path: Path, size: tuple[int, int] = SIZE, gray: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.new("RGB", size, (gray, gray, gray)).save(path)


def task(number: str, **changes: Any) -> dict[str, Any]:
    """One phrase of PhraseCut: a square of 4 x 4 and a triangle."""
    made = {
        "task_id": number,
        "image_id": 2370799,
        "ann_ids": [1, 2],
        "instance_boxes": [[2, 2, 4, 4], [10, 1, 5, 5]],
        "Polygons": [[[[2, 2], [6, 2], [6, 6], [2, 6]]], [[[10, 1], [15, 1], [10, 6]]]],
        "phrase": "brown dogs on grass",
        "phrase_structure": {"name": "dogs", "attributes": ["brown"], "type": "attribute"},
    }
    return {**made, **changes}


def phrasecut(root: Path, tasks: Any = None) -> Reader:
    picture(root / "images/2370799.jpg")
    (root / "refer_val.json").write_text(json.dumps(list(tasks or [task("2370799__1_2")])))
    return readers()["PhraseCut"]


def sa1b(root: Path, **changes: Any) -> Reader:
    mask = np.zeros((10, 20), np.uint8)
    mask[3:7, 5:12] = 1
    runs = coco.encode(np.asfortranarray(mask))
    region = {
        "id": 12,
        "segmentation": {"size": [10, 20], "counts": runs["counts"].decode()},
        "bbox": [5.0, 3.0, 7.0, 4.0],
        "area": 28,
        "predicted_iou": 0.98,
        "stability_score": 0.97,
        "crop_box": [0, 0, 20, 10],
        "point_coords": [[6.0, 4.0]],
        **changes,
    }
    head = {"image_id": 1, "width": 20, "height": 10, "file_name": "sa_1.jpg"}
    picture(root / "sa_000000/sa_1.jpg")
    (root / "sa_000000/sa_1.json").write_text(json.dumps({"image": head, "annotations": [region]}))
    return readers()["SA-1B"]


BOX_HEAD = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
)
MASK_HEAD = "MaskPath,ImageID,LabelName,BoxID,BoxXMin,BoxXMax,BoxYMin,BoxYMax,PredictedIoU,Clicks"
IMAGE = "677c122b0eaa5d16"
MASK = f"{IMAGE}_m04yx4_9a041d52.png"


def white_left(size: tuple[int, int]) -> bytes:
    """A mask, white in its left half."""
    mask, buffer = Pillow.new("1", size, 0), io.BytesIO()
    mask.paste(1, (0, 0, size[0] // 2, size[1]))
    mask.save(buffer, "PNG")
    return buffer.getvalue()


def openimages(root: Path, rows: tuple[str, ...] | None = None, *, packed: bool = False, half: int = 2) -> Reader:
    picture(root / f"train_6/{IMAGE}.jpg")
    (root / "oidv7-class-descriptions-boxable.csv").write_text("LabelName,DisplayName\n/m/04yx4,Man\n/m/0bt9lr,Dog\n")
    made = rows or (f"{MASK},{IMAGE},/m/04yx4,9a041d52,0.0,0.5,0.0,1.0,0.86864,0.95 0.65 1;0.89 0.56 1",)
    (root / "train-annotations-object-segmentation.csv").write_text("\n".join((MASK_HEAD, *made)) + "\n")
    data = white_left((SIZE[0] // half, SIZE[1] // half))
    if packed:
        with zipfile.ZipFile(root / "train-masks-6.zip", "w") as file:
            file.writestr(MASK, data)
    else:
        (root / "train-masks").mkdir(exist_ok=True)
        (root / "train-masks" / MASK).write_bytes(data)
    return readers()["Open Images"]


def boxes(root: Path, *rows: str) -> Reader:
    picture(root / f"validation/{IMAGE}.jpg")
    (root / "class-descriptions-boxable.csv").write_text("/m/04yx4,Man\n/m/0bt9lr,Dog\n")  # as in V5: no head
    (root / "validation-annotations-bbox.csv").write_text("\n".join((BOX_HEAD, *rows)) + "\n")
    return readers()["Open Images"]


def photos(root: Path) -> Reader:
    for shard in ("00000", "00001"):
        picture(root / shard / f"{shard}0001.jpg")
        (root / shard / f"{shard}0001.txt").write_text("a cat\nasleep")
        note = {"url": "https://example.org/1.jpg", "caption": "a cat", "LICENSE": "CC BY 2.0", "NSFW": "UNLIKELY"}
        (root / shard / f"{shard}0001.json").write_text(json.dumps(note))
        (root / f"{shard}_stats.json").write_text("{}")
    return readers()["Photo folder"]


def captions(root: Path) -> Reader:
    picture(root / "train/1.png")
    (root / "captions.jsonl").write_text('{"file_name": "train/1.png", "text": "a cat"}\n')
    return readers()["Photo folder"]


EVERY = pytest.mark.parametrize("make", [phrasecut, sa1b, openimages, photos, captions])


@EVERY
def test_a_data_set_is_recognised_and_its_examples_load(make: Any, tmp_path: Path) -> None:
    reader = make(tmp_path)
    assert reader_for(tmp_path) is reader
    for split in reader.splits(tmp_path):
        found = list(reader.examples(tmp_path, split))
        counts = reader.counts(tmp_path, split)
        assert (counts.examples, dict(counts.skipped)) == (len(found), {})
        assert found
        for example in found:
            source, target, label = example.loaded()
            assert source.shape == (10, 20, 3)
            assert target is None
            assert example.task in (REGION, PHOTO)
            if example.task == REGION:
                assert label["mask"].shape == source.shape[:2]
                assert label["mask"].any()


def test_phrasecut_draws_all_things_that_a_phrase_names(tmp_path: Path) -> None:
    (only,) = phrasecut(tmp_path).examples(tmp_path, "val")
    _, _, label = only.loaded()
    assert (only.key, only.picture) == ("val-2370799__1_2", "visual-genome/2370799")
    assert label["phrase"] == "brown dogs on grass"
    assert label["box"] == [2, 1, 15, 6]
    assert label["mask"][2:6, 2:6].all()
    assert label["mask"][1, 10:14].all()
    assert not label["mask"][6:].any()


def test_phrasecut_says_why_phrases_are_left_out(tmp_path: Path) -> None:
    tasks = [
        task("1"),
        task("1"),
        task("2", phrase=" "),
        task("3", image_id=5),
        task("4", image_id="../../secret"),
        task("5", Polygons=[]),
        task("6", Polygons=[[[[100, 100], [104, 100], [104, 104]]]]),
        task("7", Polygons=[[[[2, 2], [None, 2], [6, 6]]]]),
        task("8", Polygons=[[[[2, 2], [30, 2], [1e9, 6]]]]),
        {"phrase": "no id"},
    ]
    counts = phrasecut(tmp_path, tasks).counts(tmp_path, "val")
    assert counts.examples == 1
    assert dict(counts.skipped) == {
        "Polygons: empty or outside the picture": 1,
        "Polygons: no lists of points in or near the picture": 3,
        "phrase: empty or not UTF-8": 1,
        "picture: missing on disk": 2,
        "task_id: given twice": 1,
        "task_id: missing": 1,
    }


def test_nan_in_a_list_is_a_counted_skip_or_a_clear_error(tmp_path: Path) -> None:
    reader = phrasecut(tmp_path)
    (tmp_path / "refer_val.json").write_text(json.dumps([task("1", Polygons=[[[[2, 2], [float("nan"), 2], [6, 6]]]])]))
    with pytest.raises(DataError, match=r"refer_val.json is no JSON"):  # JSON knows no NaN
        list(reader.examples(tmp_path, "val"))


def test_sa1b_gives_regions_without_words(tmp_path: Path) -> None:
    (only,) = sa1b(tmp_path).examples(tmp_path, "train")
    _, _, label = only.loaded()
    assert (only.key, only.picture) == ("train-sa_1-12", "sa-1b/sa_1")
    assert "phrase" not in label
    assert label["box"] == [5, 3, 12, 7]
    assert label["mask"].sum() == 28
    assert only.facts == {"predicted_iou": "0.98", "stability_score": "0.97"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"segmentation": {"size": [20, 10], "counts": "0"}}, "segmentation.size: missing or not the picture's"),
        ({"segmentation": None}, "segmentation.size: missing or not the picture's"),
        ({"bbox": [5, 3, 0, 0]}, "bbox: not four finite numbers, empty or outside the picture"),
        ({"bbox": [25, 3, 4, 4]}, "bbox: not four finite numbers, empty or outside the picture"),
        ({"bbox": [float("nan"), 3, 4, 4]}, "bbox: not four finite numbers, empty or outside the picture"),
    ],
)
def test_regions_that_do_not_fit_their_picture_are_counted(
    changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    assert dict(sa1b(tmp_path, **changes).counts(tmp_path, "train").skipped) == {reason: 1}


def test_an_empty_mask_is_named_when_loaded(tmp_path: Path) -> None:
    runs = coco.encode(np.zeros((10, 20), np.uint8, order="F"))["counts"].decode()
    (only,) = sa1b(tmp_path, segmentation={"size": [10, 20], "counts": runs}).examples(tmp_path, "train")
    with pytest.raises(DataError, match=r"sa_1.json annotations\[0\]: an empty mask"):
        only.loaded()


@pytest.mark.parametrize(("text", "said"), [('{"image": {', "is no JSON"), ('{"image": {}}', "annotations: missing")])
def test_a_broken_file_of_sa1b_is_named_with_its_field(text: str, said: str, tmp_path: Path) -> None:
    reader = sa1b(tmp_path)
    (tmp_path / "sa_000000/sa_1.json").write_text(text)
    with pytest.raises(DataError, match=f"sa_1.json.* {said}"):
        list(reader.examples(tmp_path, "train"))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("half", [1, 2])
def test_open_images_masks_are_brought_to_the_pictures_size(packed: bool, half: int, tmp_path: Path) -> None:
    (only,) = openimages(tmp_path, packed=packed, half=half).examples(tmp_path, "train")
    _, _, label = only.loaded()
    assert (only.key, only.picture) == (f"train-{MASK[:-4]}", f"open-images/{IMAGE}")
    assert (label["phrase"], label["box"]) == ("man", [0, 0, 10, 10])
    assert label["mask"][:, :10].all()
    assert not label["mask"][:, 10:].any()


def test_open_images_lists_each_pictures_licence(tmp_path: Path) -> None:
    reader = openimages(tmp_path)
    head = "ImageID,Subset,OriginalURL,OriginalLandingURL,License,AuthorProfileURL,Author,Title"
    row = f"{IMAGE},train,https://a/o.jpg,https://a/p,https://creativecommons.org/licenses/by/2.0/,https://a/u,Ann,One"
    (tmp_path / "train-images-boxable-with-rotation.csv").write_text(f"{head}\n{row}\n")
    (only,) = reader.examples(tmp_path, "train")
    assert only.facts == {
        "licence": "https://creativecommons.org/licenses/by/2.0/",
        "address": "https://a/p",
        "author": "Ann",
    }


def test_open_images_without_outlines_gives_boxes(tmp_path: Path) -> None:
    row = f"{IMAGE},xclick,{{}},1,{{}},0,0,{{}},0,0"
    reader = boxes(
        tmp_path,
        row.format("/m/0bt9lr", "0.25,0.75,0.5,1", 0),
        row.format("/m/0bt9lr", "0.25,0.75,0.5,1", 1),
        row.format("/m/none", "0.25,0.75,0.5,1", 0),
        row.format("/m/0bt9lr", "0.75,0.25,0.5,1", 0),
        row.format("/m/0bt9lr", "nan,0.75,0.5,1", 0),
        row.format("/m/0bt9lr", "x,0.75,0.5,1", 0),
        row.replace(IMAGE, "none").format("/m/0bt9lr", "0.25,0.75,0.5,1", 0),
        row.replace(IMAGE, "../../secret").format("/m/0bt9lr", "0.25,0.75,0.5,1", 0),
    )
    (only,) = reader.examples(tmp_path, "validation")
    assert only.loaded()[2] == {"phrase": "dog", "box": [5, 5, 15, 10]}
    assert dict(reader.counts(tmp_path, "validation").skipped) == {
        "IsGroupOf: a group, not one object": 1,
        "LabelName: no such class": 1,
        "XMin to YMax: not finite, empty or outside the picture": 2,
        "XMin to YMax: not numbers": 1,
        "picture: missing on disk": 2,
    }


def test_open_images_masks_that_are_missing_or_given_twice_are_counted(tmp_path: Path) -> None:
    row = f"{MASK},{IMAGE},/m/04yx4,9a041d52,0.0,0.5,0.0,1.0,0.8,"
    reader = openimages(tmp_path, (row, row, row.replace("9a041d52", "00000000"), f"../{row}"))
    counts = reader.counts(tmp_path, "train")
    assert (counts.examples, dict(counts.skipped)) == (
        1,
        {"MaskPath: given twice": 1, "MaskPath: missing on disk": 2},
    )


def test_a_broken_table_is_named_with_its_column(tmp_path: Path) -> None:
    reader = openimages(tmp_path)
    path = tmp_path / "train-annotations-object-segmentation.csv"
    path.write_text(path.read_text().replace("LabelName", "Label"))
    with pytest.raises(DataError, match=r"train-annotations-object-segmentation.csv: no column 'LabelName'"):
        list(reader.examples(tmp_path, "train"))
    path.write_bytes(b"MaskPath\ncaf\xe9\n")
    with pytest.raises(DataError, match="is not UTF-8"):
        list(reader.examples(tmp_path, "train"))


def test_photographs_have_captions_and_what_is_known_of_them(tmp_path: Path) -> None:
    found = list(photos(tmp_path).examples(tmp_path, "train"))
    assert [example.key for example in found] == ["00000-000000001", "00001-000010001"]
    assert found[0].label == {"caption": "a cat asleep"}
    assert found[0].facts == {"address": "https://example.org/1.jpg", "licence": "CC BY 2.0", "nsfw": "UNLIKELY"}


def test_photographs_without_a_usable_caption_are_counted(tmp_path: Path) -> None:
    reader = photos(tmp_path)
    for name, text in (("a", None), ("b", b"  \n"), ("c", b"caf\xe9")):
        picture(tmp_path / f"00001/{name}.jpg")
        if text is not None:
            (tmp_path / f"00001/{name}.txt").write_bytes(text)
    assert dict(reader.counts(tmp_path, "train").skipped) == {
        "caption: empty or not UTF-8": 2,
        "caption: no .txt beside the picture": 1,
    }


def test_two_photographs_of_one_name_have_two_keys(tmp_path: Path) -> None:
    for name in ("1.jpg", "1.png"):
        picture(tmp_path / name)
    (tmp_path / "1.txt").write_text("a cat")
    assert [e.key for e in readers()["Photo folder"].examples(tmp_path, "train")] == ["1", "1~2"]


def test_lines_that_are_no_captions_are_counted(tmp_path: Path) -> None:
    reader = captions(tmp_path)
    lines = (b'{"file_name": "train/1.png", "text": "again"}', b'{"file_name": "../1.png", "text": "x"}', b"[1]", b"{")
    more = (b'{"file_name": "train/2.png", "caption": "x"}', b'{"file_name": "train/1.png"}', b'{"text": "caf\xe9"}')
    with (tmp_path / "captions.jsonl").open("ab") as file:
        file.write(b"\n".join((*lines, *more)))
    assert dict(reader.counts(tmp_path, "train").skipped) == {
        "file_name: given twice": 1,
        "file_name: missing, or leads out of the folder": 1,
        "line: no JSON": 1,
        "line: no object": 1,
        "line: not UTF-8": 1,
        "picture: missing on disk": 1,
        "text: empty or not UTF-8": 1,
    }


def test_a_picture_that_its_camera_turned_keeps_its_regions(tmp_path: Path) -> None:
    reader = phrasecut(tmp_path)
    exif = Pillow.Exif()
    exif[0x0112] = 6
    Pillow.new("RGB", SIZE).save(tmp_path / "images/2370799.jpg", exif=exif)
    source, _, label = next(reader.examples(tmp_path, "val")).loaded()
    assert source.shape[:2] == label["mask"].shape == (10, 20)


def test_a_list_of_any_length_is_read_in_the_same_memory(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        reader = phrasecut(tmp_path / str(count), (task(str(number)) for number in range(count)))
        return published.peak(reader.name, tmp_path / str(count), "val", count)

    assert peak(3000) < peak(300) + 1_500_000  # examples would be far more


def test_a_folder_of_any_length_is_read_in_the_same_memory(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        root = tmp_path / str(count)
        picture(root / "0.jpg")
        (root / "0.txt").write_text("a cat")
        for number in range(1, count):
            for ending in ("jpg", "txt"):
                os.link(root / f"0.{ending}", root / f"{number}.{ending}")
        return published.peak("Photo folder", root, "train", count)

    assert peak(4000) < peak(200) + 1_500_000

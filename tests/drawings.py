"""Tiny data sets in the formats of their authors, drawn here: no photograph and no line is taken from anywhere."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw

COCO_JOINTS = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder"),
    *("left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip"),
    *("left_knee", "right_knee", "left_ankle", "right_ankle"),
)
CROWD_JOINTS = (
    *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
    *("left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "head", "neck"),
)


def picture(path: Path, size: tuple[int, int] = (64, 48)) -> Path:
    """A sky, a meadow and a house, written as the name's ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    drawn = Pillow.new("RGB", size, (120, 170, 230))
    pen = ImageDraw.Draw(drawn)
    pen.rectangle((0, height // 2, width, height), fill=(70, 140, 60))
    pen.rectangle((width // 4, height // 3, width // 2, 2 * height // 3), fill=(190, 60, 50))
    drawn.save(path, quality=92) if path.suffix == ".jpg" else drawn.save(path)
    return path


def write(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def person(number: int, image: int, joints: tuple[str, ...], **changes: Any) -> dict[str, Any]:
    """A person whose joints stand in two columns, the first joint hidden and the last not annotated."""
    points = [(20 + 10 * (i % 2), 6 + 2 * i, 2) for i in range(len(joints))]
    points[0], points[-1] = (*points[0][:2], 1), (0, 0, 0)
    made = {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "iscrowd": 0,
        "area": 400,
        "bbox": [15, 4, 20, 40],
        "num_keypoints": len(joints) - 1,
        "keypoints": [value for point in points for value in point],
    }
    return {**made, **changes}


def people(joints: tuple[str, ...], *persons: dict[str, Any], images: tuple[int, ...] = (7,)) -> dict[str, Any]:
    """A file as COCO writes it, its pictures 64 x 48."""
    return {
        "info": {"description": "drawn"},
        "licenses": [{"id": 4, "name": "Attribution License", "url": "http://creativecommons.org/licenses/by/2.0/"}],
        "images": [
            {
                "id": i,
                "file_name": f"{i:012d}.jpg",
                "width": 64,
                "height": 48,
                "license": 4,
                "flickr_url": f"http://f/{i}",
            }
            for i in images
        ],
        "annotations": list(persons),
        "categories": [{"id": 1, "name": "person", "supercategory": "person", "keypoints": list(joints)}],
    }


def coco(folder: Path, *persons: dict[str, Any], split: str = "train2017") -> Path:
    """COCO's joints with one picture on disk."""
    write(folder / f"annotations/person_keypoints_{split}.json", people(COCO_JOINTS, *persons))
    picture(folder / split / "000000000007.jpg")
    return folder


def mpii(folder: Path) -> Path:
    """MPII's Matlab file: a picture with two people, one with a person without joints, and one to test on."""
    from scipy.io import savemat

    def point(number: int, x: float, y: float, seen: Any) -> dict[str, Any]:
        return {"id": number, "x": x, "y": y, "is_visible": seen}

    def someone(*points: dict[str, Any]) -> dict[str, Any]:
        return {"scale": 0.2, "objpos": {"x": 31.0, "y": 21.0}, "annopoints": {"point": _structs(points)}}

    two = _structs(
        [
            someone(point(9, 31.0, 6.0, "1"), point(0, 26.0, 41.0, "0"), point(15, 41.0, 26.0, np.zeros((0, 0)))),
            someone(point(6, 33.0, 25.0, "1")),
        ]
    )
    none = {"scale": 0.2, "objpos": {"x": 31.0, "y": 21.0}, "annopoints": np.zeros((0, 0))}
    listed = [
        {"image": {"name": "a.jpg"}, "annorect": two},
        {"image": {"name": "b.jpg"}, "annorect": none},
        {"image": {"name": "c.jpg"}, "annorect": np.zeros((0, 0))},
    ]
    folder.mkdir(parents=True, exist_ok=True)
    release = {"annolist": _structs(listed), "img_train": np.array([1, 1, 0]), "version": "1"}
    savemat(folder / "mpii_human_pose_v1_u12_1.mat", {"RELEASE": release}, do_compression=True)
    for name in ("a.jpg", "b.jpg"):
        picture(folder / "images" / name)
    return folder


def _structs(values: Any) -> np.ndarray:
    """A Matlab array of structures with the same fields."""
    values = list(values)
    array = np.zeros((1, len(values)), dtype=[(name, object) for name in values[0]])
    for place, value in enumerate(values):
        for name, part in value.items():
            array[0, place][name] = part
    return array


LABELS = {0: "unlabeled", 1: "person", 3: "car", 17: "cat", 26: "hat", 124: "grass", 128: "house", 157: "sky-other"}


def stuff(folder: Path, *, values: np.ndarray | None = None, split: str = "train2017") -> Path:
    """COCO-Stuff with one picture: sky, grass and a house; a few classes are in the list and not in the map."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "labels.txt").write_text("".join(f"{n}: {name}\n" for n, name in LABELS.items()))
    if values is None:
        values = np.full((48, 64), 156, np.uint8)
        values[24:] = 123
        values[16:32, 16:32] = 127
        values[0, 0] = 255
    picture(folder / "images" / split / "000000000009.jpg")
    maps = folder / "annotations" / split
    maps.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(values).save(maps / "000000000009.png")
    return folder


def ref(number: int, ann: Any, *said: str, split: str = "train", **changes: Any) -> dict[str, Any]:
    sentences = [{"sent_id": 10 * number + i, "sent": s, "raw": s, "tokens": s.split()} for i, s in enumerate(said)]
    made = {"ref_id": number, "ann_id": ann, "image_id": 5, "split": split, "category_id": 1, "sentences": sentences}
    return {**made, "file_name": "COCO_train2014_000000000005_1.jpg", **changes}


def instances() -> dict[str, Any]:
    """Two outlines of one picture: a square as a polygon, and run lengths of the lower half."""
    return {
        "images": [{"id": 5, "file_name": "COCO_train2014_000000000005.jpg", "width": 64, "height": 48}],
        "annotations": [
            {"id": 1, "image_id": 5, "iscrowd": 0, "segmentation": [[8, 8, 24, 8, 24, 24, 8, 24]], "category_id": 1},
            {
                "id": 2,
                "image_id": 5,
                "iscrowd": 0,
                "category_id": 1,
                "segmentation": {"size": [48, 64], "counts": [24, 24] * 64},
            },
        ],
        "categories": [{"id": 1, "name": "house"}],
    }


def refer(root: Path, *refs: Any, name: str = "refcoco", file: str = "refs(unc).p") -> Path:
    """A folder of referring expressions beside the pictures of COCO 2014; pickled as Python 2 would."""
    folder = root / name
    write(folder / "instances.json", instances())
    if file.endswith(".json"):
        write(folder / file, list(refs))
    else:
        (folder / file).write_bytes(pickle.dumps(list(refs), protocol=2))
    picture(root / "images/mscoco/images/train2014/COCO_train2014_000000000005.jpg")
    return folder


def aic(folder: Path, *entries: dict[str, Any]) -> Path:
    base = folder / "ai_challenger_keypoint_train_20170902"
    write(base / "keypoint_train_annotations_20170909.json", list(entries))
    picture(base / "keypoint_train_images_20170902" / "abc.jpg")
    return folder

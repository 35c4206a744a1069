"""Small public data sets that triplets can be made of, beside those in `drawings`."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Sequence
from math import cos, pi, sin
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from instructdiffusion.model.task import Image

SIDE = 96


def texture(seed: int, size: tuple[int, int] = (SIDE, SIDE)) -> Image:
    """A picture (width x height) that is the same nowhere twice."""
    small = np.random.default_rng(seed).integers(0, 240, (6, 8, 3), np.uint8)
    return np.asarray(Pillow.fromarray(small).resize(size, Pillow.Resampling.BILINEAR))


def save(path: Path, pixels: Image) -> Image:
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(pixels).save(path)
    return pixels


def gopro(root: Path, count: int = 3, split: str = "train") -> Path:
    """Pairs in which the damaged picture is the clean one, 9 levels lighter; no two splits share a picture."""
    for number in range(count):
        picture = texture(number + 1000 * (split == "test"), (SIDE + 32, SIDE))
        clean = save(root / f"{split}/GOPR0372_07_00/sharp/{number:06d}.png", picture)
        save(root / f"{split}/GOPR0372_07_00/blur/{number:06d}.png", clean + np.uint8(9))
    return root


def sidd(root: Path) -> Path:
    """A photograph as large as a tile, with single-pixel noise."""
    clean = texture(1, (512, 512))
    noise = np.random.default_rng(2).integers(0, 10, clean.shape, np.uint8)
    for kind, pixels in (("NOISY", clean + noise), ("GT", clean)):
        save(root / f"Data/0001_001_S6_00100_00060_3200_L/0001_{kind}_SRGB_010.PNG", pixels)
    return root


def clwd(root: Path) -> Path:
    for folder in ("Watermarked_image", "Watermark_free_image"):
        save(root / f"train/{folder}/1.jpg", texture(4))
    return root


def gier(root: Path, count: int = 2) -> Path:
    """Pairs whose target is the source without its middle."""
    pairs = []
    for number in range(count):
        source = save(root / f"images/{number}_in.png", texture(number))
        target = source.copy()
        target[32:64, 32:64] = 250
        save(root / f"images/{number}_out.png", target)
        said = {"expert_summary": ["brighten the middle"], "amateur_summary": ["add light"]}
        pairs.append({"input": f"{number}_in.png", "output": f"{number}_out.png", "dataset": "reddit", **said})
    (root / "GIER.json").write_text(json.dumps(pairs))
    return root


def pix2pix(root: Path, edit: str = "add a dog on the left") -> Path:
    """One prompt of InstructPix2Pix, unpacked: black, and white on its left half."""
    folder = root / "0000000"
    dark = save(folder / "1_0.jpg", np.zeros((SIDE, SIDE, 3), np.uint8))
    light = dark.copy()
    light[:, : SIDE // 2] = 255
    save(folder / "1_1.jpg", light)
    (folder / "prompt.json").write_text(json.dumps({"input": "a lawn", "edit": edit, "output": "a dog"}))
    (folder / "metadata.jsonl").write_text(json.dumps({"seed": 1}))
    return root


def gqa(root: Path) -> Path:
    """A photograph with an object painted out."""
    thing = {"name": "dog", "attributes": [], "relations": [], "bbox": [0, 0, 5, 5], "bidirected": True}
    scene = {"width": SIDE, "height": SIDE, "objects": {"7": thing}, "image_relative_positions": {"7": "to the left"}}
    root.mkdir(parents=True, exist_ok=True)
    (root / "train_scenes.json").write_text(json.dumps({"11": scene}))
    source = save(root / "images/11.jpg", texture(5))
    target, mask = source.copy(), np.zeros_like(source)
    target[20:40, 20:40], mask[20:40, 20:40] = 128, 255
    save(root / "images_inpainted/11/7.jpg", target)
    save(root / "masks/11/7.jpg", mask)
    return root


def phrasecut(root: Path, split: str = "train") -> Path:
    """A photograph with a dahlia, its outline and its phrase; and a phrase whose region is a few pixels."""
    from instructdiffusion.model.data.photos import photographs

    speck = [[2, 2], [6, 2], [6, 6]]
    tasks = [_phrase(11, 0, "orange dahlia", _ellipse(308, 221, 137, 137)), _phrase(11, 1, "small bud", speck)]
    return _phrasecut(root, split, {11: photographs("test")[1]}, tasks)


def phrasecut_of_things(root: Path, split: str = "train") -> Path:
    """Photographs with a cup and with a badge, to be put elsewhere; and with a helmet, which its picture cuts off."""
    from instructdiffusion.model.data.photos import photographs

    tasks = [
        _phrase(21, 0, "red cup on a saucer", _ellipse(280, 205, 200, 185)),
        _phrase(22, 0, "round badge", _ellipse(170, 386, 43, 43)),
        _phrase(22, 1, "black helmet", _ellipse(400, 425, 120, 80)),
        _phrase(22, 2, "star", _ellipse(20, 20, 9, 9)),
    ]
    astronaut, cup = photographs("train")[:2]
    return _phrasecut(root, split, {21: cup, 22: astronaut}, tasks)


def open_images(root: Path, split: str = "validation") -> Path:
    """The photograph with the dahlia, its box and its licence."""
    from instructdiffusion.model.data.photos import photographs

    picture = save(root / f"{split}/0a.jpg", photographs("test")[1])
    height, width = picture.shape[:2]
    sides = ",".join(str(side) for side in (190 / width, 426 / width, 103 / height, 339 / height))
    tables = {
        "class-descriptions-boxable.csv": "/m/0c9ph5,Flower",
        f"{split}-annotations-bbox.csv": f"ImageID,LabelName,XMin,XMax,YMin,YMax\n0a,/m/0c9ph5,{sides}",
        f"{split}-images-with-rotation.csv": "ImageID,License,OriginalLandingURL\n0a,https://x.org/by/2.0/,https://x.org",
    }
    for name, text in tables.items():
        (root / name).write_text(f"{text}\n")
    return root


def regions(size: tuple[int, int], *values: int, kind: Any = np.uint8) -> np.ndarray:
    """A map (width x height) of four values: of its upper left, upper right, lower left and lower right quarter."""
    quarters = np.array(values, kind).reshape(2, 2)
    return np.kron(quarters, np.ones((size[1] // 2, size[0] // 2), kind))


def ade150(root: Path, values: np.ndarray | None = None, split: str = "validation") -> Path:
    """A wall, a building, unlabelled, and a screen; names have synonyms, and spaces where the list has them."""
    lines = (
        "Idx\tRatio\tTrain\tVal\tName",
        "1\t0.1576\t11664\t1172\twall",
        "2\t0.1072\t6046\t612\tbuilding, edifice ",
        "22 \t0.0074\t709\t75\tsilver screen, screen",
        "131\t0.0004\t108\t13\tscreen, crt screen",
    )
    save(root / f"images/{split}/ADE_val_00000001.jpg", texture(1))
    (root / "objectInfo150.txt").write_text("\n".join(lines))
    save(root / f"annotations/{split}/ADE_val_00000001.png", _or(values, 1, 2, 0, 131))
    return root


def ade847(root: Path, values: np.ndarray | None = None, split: str = "validation") -> Path:
    """Two kinds of bags, the last class of the list, and unlabelled; in 16 bits."""
    lines = ("0:invalid_class_id", "115:bag", "253:bag,handbag,pocketbook,purse", "847:adding machine,totalizer")
    save(root / f"images_detectron2/{split}/ADE_val_00000001.jpg", texture(1))
    (root / "ade20k_847.txt").write_text("\n".join(lines))
    save(
        root / f"annotations_detectron2/{split}/ADE_val_00000001.tif", _or(values, 114, 252, 846, 65535, kind=np.uint16)
    )
    return root


def voc(root: Path, values: np.ndarray | None = None, split: str = "val") -> Path:
    """A dining table, background and a cat, with a border of void between all."""
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / f"ImageSets/Segmentation/{split}.txt").write_text("2008_000002\n")
    save(root / "JPEGImages/2008_000002.jpg", texture(2))
    if values is None:
        values = regions((SIDE, SIDE), 11, 0, 0, 8)
        values[46:50], values[:, 46:50] = 255, 255
    indexed = Pillow.fromarray(values).convert("P")
    indexed.putpalette([(37 * number) % 256 for number in range(768)])
    (root / "SegmentationClass").mkdir()
    indexed.save(root / "SegmentationClass/2008_000002.png")
    return root


def pascal_context(root: Path, values: np.ndarray | None = None, split: str = "val") -> Path:
    """An accordion, a table, something unknown and a potted plant; the last and the table are of the 59."""
    from scipy.io import savemat

    (root / "ImageSets/Main").mkdir(parents=True)
    (root / f"ImageSets/Main/{split}.txt").write_text("2008_000002\n2008_000003\n")
    for number in (2, 3):
        save(root / f"JPEGImages/2008_00000{number}.jpg", texture(number))
    names = {1: "accordion", 308: "pottedplant", 397: "table", 431: "unknown"}
    (root / "labels.txt").write_text("".join(f"{number}: {name}\n" for number, name in names.items()))
    (root / "59_labels.txt").write_text("1 : pottedplant\n2 : diningtable\n")
    (root / "trainval").mkdir()
    labels = _or(values, 1, 397, 431, 308, kind=np.uint16)
    savemat(root / "trainval/2008_000002.mat", {"LabelMap": labels}, do_compression=True)
    return root


def refclef(root: Path, *refs: dict[str, Any]) -> Path:
    """Refs to two regions of a picture, pickled as Python 2 would, in the folders of the authors' tool."""
    from pycocotools import mask as coco

    left, top = np.zeros((2, SIDE, SIDE), np.uint8)
    left[:, :48], top[:32] = 1, 1
    packed = [coco.encode(np.asfortranarray(mask)) for mask in (left, top)]
    parts = [{"size": part["size"], "counts": part["counts"].decode()} for part in packed]
    annotations = [
        {"id": f"807_{i}", "image_id": 807, "segmentation": [part], "mask_name": f"807_{i}.mat", "category_id": 1}
        for i, part in enumerate(parts, 1)
    ]
    annotations.append({"id": "807_3", "image_id": 807, "segmentation": parts, "category_id": 1})
    images = [{"id": 807, "file_name": "807.jpg", "width": SIDE, "height": SIDE}]
    save(root / "images/saiapr_tc-12/807.jpg", texture(6))
    folder = root / "refclef"
    folder.mkdir()
    (folder / "instances.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    (folder / "refs(unc).p").write_bytes(pickle.dumps(list(refs), protocol=2))
    (folder / "refs(berkeley).p").write_bytes(pickle.dumps([], protocol=2))
    return folder


def _or(values: np.ndarray | None, *quarters: int, kind: Any = np.uint8) -> np.ndarray:
    return regions((SIDE, SIDE), *quarters, kind=kind) if values is None else values


def _phrasecut(root: Path, split: str, pictures: dict[int, Image], tasks: list[dict[str, Any]]) -> Path:
    for number, picture in pictures.items():
        save(root / f"images/{number}.jpg", picture)
    (root / f"refer_{split}.json").write_text(json.dumps(tasks))
    return root


def _phrase(image: int, number: int, phrase: str, outline: Sequence[Sequence[float]]) -> dict[str, Any]:
    return {"task_id": f"{image}__{number}", "image_id": image, "phrase": phrase, "Polygons": [[outline]]}


def _ellipse(x: float, y: float, wide: float, high: float) -> list[list[float]]:
    return [[x + wide * cos(turn * pi / 16), y + high * sin(turn * pi / 16)] for turn in range(32)]


def prompts(root: Path) -> Path:
    """A pair of captions that is an edit, one that is not, and a line that is cut short."""
    edit = {"caption": "a hut", "edit": "as an oil painting", "output": "a hut in oil", "url": "https://x.org/1.jpg"}
    root.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(edit), json.dumps({"input": "a tree", "edit": " ", "output": "a bush"}), "{broken")
    (root / "gpt-generated-prompts.jsonl").write_text("\n".join(lines))
    return root


def photographs_with_captions(root: Path) -> Path:
    """Two photographs with a text beside each, as img2dataset writes them; one is cut short."""
    from instructdiffusion.model.data.photos import photographs

    for number, picture in enumerate(photographs("train")[:3]):
        save(root / f"00000/00000000{number}.jpg", picture)
        (root / f"00000/00000000{number}.txt").write_text("a photograph")
    broken = root / "00000/000000002.jpg"
    broken.write_bytes(broken.read_bytes()[:600])
    return root


COUNTING = """
import sys, tracemalloc
from pathlib import Path
from instructdiffusion.model.data.readers import readers
name, root, split, count = sys.argv[1:]
for number in (1, 2):  # the first pass imports and caches
    tracemalloc.start()
    assert sum(1 for _ in readers()[name].examples(Path(root), split)) == int(count)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
print(most)
"""


def peak(name: str, root: Path, split: str, count: int) -> int:
    """Bytes that reading ``count`` examples takes at most, in a process whose own tables are small."""
    run = [sys.executable, "-c", COUNTING, name, str(root), split, str(count)]
    return int(subprocess.run(run, check=True, capture_output=True, text=True).stdout)


def own_triplets(root: Path, *lines: Any) -> Path:
    """Pictures 1 and 2, gray before and white after, and a list of what becomes what."""
    for name, gray in (("before", 90), ("after", 255)):
        (root / name).mkdir(parents=True)
        for number in (1, 2):
            Pillow.new("RGB", (40, 32), (gray, gray, gray)).save(root / name / f"{number}.png")
    rows = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (root / "triplets.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return root


def own_line(number: int = 1, **changes: Any) -> dict[str, Any]:
    given = {"source": f"before/{number}.png", "target": f"after/{number}.png", "instruction": "make it white"}
    return {**given, **changes}

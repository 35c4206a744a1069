"""Tasks that the model was never trained on, as probes with a score (section 4.7 of the paper shows pictures only).

Detection asks to paint a class and takes boxes from what was marked. Classification asks for each of some classes and
believes the one of which most was marked. Faces are asked for like joints, five landmarks at a time.
"""

from __future__ import annotations

import glob
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import cv2
import numpy as np

from instructdiffusion.model.benchmark import (
    Benchmark,
    Case,
    Measure,
    Order,
    Row,
    Sample,
    Tools,
    held_out,
    scenes,
    studio,
)
from instructdiffusion.model.data.augment import person_crop, uncropped
from instructdiffusion.model.data.pictures import load
from instructdiffusion.model.data.readers import Example
from instructdiffusion.model.data.readers.folders import folders_in, pictures_in
from instructdiffusion.model.data.shards import Triplet
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.metrics import coco
from instructdiffusion.model.metrics.answers import ACCURACY, accuracy
from instructdiffusion.model.metrics.joints import NME, nme
from instructdiffusion.model.metrics.regions import EMPTY
from instructdiffusion.model.metrics.value import Indices, mean
from instructdiffusion.model.synthesis.objects import KINDS
from instructdiffusion.model.task import Image, Mask
from instructdiffusion.model.tasks.keypoint import MOST_JOINTS, Keypoint
from instructdiffusion.model.tasks.segmentation import Segmentation

KEYPOINT, SEGMENTATION = Keypoint(), Segmentation()
CHOICES = 4  # classes that a picture could be of, the true one among them
LANDMARKS = {  # how many points of each part a file of 68 has, in its order (iBUG 300-W)
    "jaw": 17, "right eyebrow": 5, "left eyebrow": 5, "nose bridge": 4, "nose": 5, "right eye": 6, "left eye": 6,
    "outer lip": 12, "inner lip": 8,
}  # fmt: skip
NUMBERS = (
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen"),
    *("fourteen", "fifteen", "sixteen", "seventeen"),
)
OF_68 = tuple(f"{part} point {number}" for part, count in LANDMARKS.items() for number in NUMBERS[:count])
OF_5 = ("left eye", "right eye", "nose", "left corner of the mouth", "right corner of the mouth")
EYES = {68: ("right eye point one", "left eye point four"), 5: ("left eye", "right eye")}


class Detection(Benchmark):
    """Boxes of a class, from the regions that were painted."""

    name = "detection"
    about = "boxes from marked regions by COCO's AP, one query a class: COCO-Stuff, or composed scenes"
    tasks = ("segmentation",)

    def read(self, order: Order, data: Path) -> Iterator[Case]:
        for number, example in enumerate(held_out(order, data, self.tasks)):
            if order.samples and number >= order.samples:
                return
            yield Case(example.key, partial(_query, example))

    def composed(self, order: Order) -> Iterator[Case]:
        for key, load_one in scenes(order, self.tasks, self.count):
            yield Case(key, partial(_scene, key, load_one))

    def row(self, sample: Sample, outputs: Sequence[Image], tools: Tools) -> Row:
        found = _region(sample, outputs)
        return {
            "class": sample.label["class"],
            "there": sample.label["boxes"],
            "found": [[*box, float(found[_inside(box)].mean())] for box in boxes(found)],
        }

    def measures(self, tools: Tools) -> tuple[Measure, ...]:
        return (Measure(coco.AP, list, _detected),)


class Classification(Benchmark):
    """What a picture shows, out of four."""

    name = "classification"
    about = "the class of a picture by asking for each of four, by accuracy: a folder a class, or composed scenes"

    def read(self, order: Order, data: Path) -> Iterator[Case]:
        classes = _classes(data / order.split)
        in_turn = (path for row in itertools.zip_longest(*classes.values()) for path in row if path)
        names = {path: name for name, paths in classes.items() for path in paths}
        for path in itertools.islice(in_turn, order.samples or None):
            key = path.relative_to(data).as_posix()
            kinds = _options(names[path], list(classes), Random(f"{order.seed}/{key}"))
            for choice, kind in enumerate(kinds):
                yield Case(f"{key}-{choice}", partial(_picture, key, choice, path, kind, names[path]))

    def composed(self, order: Order) -> Iterator[Case]:
        for number in range(order.samples or self.count):
            key = f"{order.seed}-benchmark-classification-{number}"
            for choice in range(CHOICES):
                yield Case(f"{key}-{choice}", partial(_choice, key, choice, order.size))

    def row(self, sample: Sample, outputs: Sequence[Image], tools: Tools) -> Row:
        share = float(_region(sample, outputs).mean())
        return {"choice": sample.label["choice"], "truth": sample.label["truth"], "share": share}

    def measures(self, tools: Tools) -> tuple[Measure, ...]:
        spec = ACCURACY.model_copy(update={"parameters": (("choices", float(CHOICES)),)})
        return (Measure(spec, _classified, mean),)


class Faces(Benchmark):
    """Landmarks of faces: pictures with a `.pts` file of 5 or 68 points beside each (300-W's form)."""

    name = "faces"
    about = "5 or 68 landmarks of faces by NME: a folder of pictures with .pts files"
    cuts = True

    def read(self, order: Order, data: Path) -> Iterator[Case]:
        files = sorted(data.rglob("*.pts"))
        if not files:
            raise DataError(f"{data} holds no .pts file; name a folder of pictures with their landmarks beside them")
        for file in files[: order.samples or None]:
            points = landmarks(file)
            name = file.relative_to(data).with_suffix("").as_posix()
            for start in range(0, len(points), MOST_JOINTS):
                yield Case(f"{name}-{start}", partial(_face, name, file, points, start, order.size))

    def row(self, sample: Sample, outputs: Sequence[Image], tools: Tools) -> Row:
        read = KEYPOINT.read(outputs[-1], sample.source, sample.asks[-1])["joints"]
        found = {name: (j["x"], j["y"]) for name, j in read.items() if j["confidence"] > 0}
        box = sample.label["box"]
        back = uncropped(found, box, sample.source.shape[0])
        return {"found": back, "wanted": sample.label["wanted"], "size": max(box[2] - box[0], box[3] - box[1])}

    def measures(self, tools: Tools) -> tuple[Measure, ...]:
        return (Measure(NME, _aligned, mean),)


def boxes(region: Mask) -> list[list[int]]:
    """The box [left, top, right, bottom] of each connected part of a region that is large enough to be something."""
    count, _, stats, _ = cv2.connectedComponentsWithStats(region.astype(np.uint8), connectivity=8)
    parts = stats[1:count] if count > 1 else np.zeros((0, 5), int)
    return [[int(x), int(y), int(x + w), int(y + h)] for x, y, w, h, area in parts if area >= EMPTY * region.size]


def landmarks(path: Path) -> dict[str, list[float]]:
    """The points of a `.pts` file by name.

    Raises:
        DataError: it holds neither 5 nor 68 points.
    """
    try:
        inside = re.search(r"\{(.*)\}", path.read_text(), re.DOTALL)
        points = [[float(v) for v in line.split()] for line in inside[1].strip().splitlines()] if inside else []
    except ValueError:
        points = []
    names = {5: OF_5, 68: OF_68}.get(len(points))
    if names is None or any(len(point) != 2 for point in points):
        raise DataError(f"{path} holds no 5 or 68 points between braces; download it again")
    return dict(zip(names, points, strict=True))


def _region(sample: Sample, outputs: Sequence[Image]) -> Mask:
    return SEGMENTATION.region(outputs[-1], sample.source, sample.asks[-1])


def _inside(box: Sequence[int]) -> tuple[slice, slice]:
    return slice(box[1], box[3]), slice(box[0], box[2])


def _query(example: Example) -> Sample:
    source, _, label = example.loaded()
    ask = SEGMENTATION.ask(label, Random(example.key))
    target = SEGMENTATION.paint(source, label, ask)
    known = {"class": label.get("class", label["phrase"]), "boxes": boxes(np.asarray(label["mask"]))}
    return Sample(example.key, source, (ask,), (target,), known, example.picture)


def _scene(key: str, load_one: Callable[[], Triplet]) -> Sample:
    triplet = load_one()
    mask, instances = np.asarray(triplet.label["mask"]), np.asarray(triplet.label["instances"])
    there = [box for i in np.unique(instances[mask]) for box in _outline(instances == i)]
    known = {"class": triplet.label["phrase"], "boxes": there}
    return Sample(key, triplet.source, (triplet.ask,), (triplet.target,), known, key)


def _outline(mask: Mask) -> list[list[int]]:
    ys, xs = np.nonzero(mask)
    return [[int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]] if len(xs) else []


def _detected(units: Sequence[Sequence[Row]]) -> Callable[[Indices], float]:
    numbers = {name: i for i, name in enumerate(sorted({row["class"] for rows in units for row in rows}), 1)}

    def entry(row: Row, box: Sequence[float]) -> dict[str, Any]:
        left, top, right, bottom = box[:4]
        return {"category_id": numbers[row["class"]], "bbox": [left, top, right - left, bottom - top]}

    made = [
        (
            [entry(row, box) for row in rows for box in row["there"]],
            [{**entry(row, box), "score": box[4]} for row in rows for box in row["found"]],
        )
        for rows in units
    ]
    return coco.precision("bbox")(made)


def _choice(key: str, choice: int, size: int) -> Sample:
    """One thing on a photograph, and one of the four classes that it could be."""
    rng = Random(key)
    scene = studio(size).scene(rng, most=1)
    truth, source = scene.things[0].kind, scene.render()
    kinds = _options(truth, KINDS, rng)
    mask = scene.mask(0) if kinds[choice] == truth else np.zeros((size, size), np.bool_)
    ask = SEGMENTATION.ask({"phrase": kinds[choice], "mask": mask}, rng)
    target = SEGMENTATION.paint(source, {"mask": mask}, ask)
    known = {"choice": kinds[choice], "truth": truth}
    return Sample(f"{key}-{choice}", source, (ask,), (target,), known, key)


def _options(truth: str, kinds: Iterable[str], rng: Random) -> list[str]:
    """The true class among others, in any order."""
    return rng.sample([truth, *rng.sample([k for k in kinds if k != truth], CHOICES - 1)], CHOICES)


def _classes(folder: Path) -> dict[str, list[Path]]:
    """The pictures of each class, by the name of its folder.

    Raises:
        DataError: there are too few to choose from.
    """
    found = {one: [folder / one / name for name in pictures_in(folder / one)] for one in folders_in(folder)}
    classes = {one: paths for one, paths in found.items() if paths}
    if len(classes) < CHOICES:
        raise DataError(
            f"{folder} holds {len(classes)} folders of pictures, one a class; it takes {CHOICES} to choose from: "
            "name the folder above them, or theirs with --split"
        )
    return classes


def _picture(key: str, choice: int, path: Path, kind: str, truth: str) -> Sample:
    """A picture, and one of the four classes that it could be; where what it shows is, nobody knows."""
    ask = SEGMENTATION.ask({"phrase": kind.replace("_", " "), "mask": None}, Random(f"{key}-{choice}"))
    return Sample(f"{key}-{choice}", load(path), (ask,), (None,), {"choice": kind, "truth": truth}, key)


def _classified(rows: Sequence[Row]) -> float | None:
    """Whether the class marked most is the true one; less than a trace counts as nothing marked."""
    shares = {row["choice"]: row["share"] if row["share"] >= EMPTY else 0.0 for row in rows}
    return accuracy(shares, rows[0]["truth"]) if len(shares) == CHOICES else None


def _face(name: str, file: Path, points: dict[str, list[float]], start: int, size: int) -> Sample:
    """A face, cut out by its landmarks, and five of them."""
    pictures = [p for p in sorted(file.parent.glob(f"{glob.escape(file.stem)}.*")) if p != file]
    if not pictures:
        raise DataError(f"{file} has no picture beside it; put it there under the same name")
    key, part = f"{name}-{start}", list(points)[start : start + MOST_JOINTS]
    low, high = np.min(list(points.values()), 0), np.max(list(points.values()), 0)
    box = [float(side) for side in (*low, *high)]
    crop, cut = person_crop(
        load(pictures[0]), {"phrase": "face", "joints": points, "box": box}, Random(0), size=size, train=False
    )
    ask = KEYPOINT.asking(cut, part, Random(key))
    target = KEYPOINT.paint(crop, cut, ask) if set(part) <= set(cut["joints"]) else None
    return Sample(key, crop, (ask,), (target,), {"wanted": points, "box": box}, name)


def _aligned(rows: Sequence[Row]) -> float:
    found = {name: point for row in rows for name, point in row["found"].items()}
    wanted = rows[0]["wanted"]
    return nme(found, wanted, EYES[len(wanted)], rows[0]["size"])


BENCHMARKS = (Detection(), Classification(), Faces())

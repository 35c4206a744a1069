"""Regions of photographs with words or outlines, to make edits from: PhraseCut, Open Images and SA-1B.

An example is one region. Its label holds the `box` [left, top, right, bottom] in pixels, mostly a `mask`, made when it
is loaded, and a `phrase`, which SA-1B lacks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from instructdiffusion.model.data.listing import Index, entries, indexes
from instructdiffusion.model.data.outlines import outline
from instructdiffusion.model.data.pictures import load, size_of
from instructdiffusion.model.data.readers import REGION, Example
from instructdiffusion.model.data.readers.editing import text_of
from instructdiffusion.model.data.readers.folders import folders_in, names
from instructdiffusion.model.data.readers.people import MISSING, numbers, within
from instructdiffusion.model.data.readers.walk import Skip, Walker
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.task import Mask

BROKEN = "picture: broken or far too large"
MOST_BYTES = 64_000_000  # of one picture's annotations; SA-1B's have less than one
Size = tuple[int, int]  # width, height
Box = tuple[float, float, float, float]  # left, top, right, bottom


class Regions(Walker):
    """What the data sets of regions have in common."""

    task = REGION
    weight = 0.0  # never trained on as they are

    def recognises(self, folder: Path) -> bool:
        return bool(self.splits(folder))


class PhraseCut(Regions):
    """VGPhraseCut: `refer_<split>.json` and `images/<image>.jpg`, or Visual Genome's `VG_100K/` and `VG_100K_2/`."""

    name = "PhraseCut"
    licence = "no licence stated for phrases and outlines; pictures of Visual Genome under their Flickr licences"
    address = "https://github.com/ChenyunWu/PhraseCutDataset"

    def splits(self, folder: Path) -> tuple[str, ...]:
        return tuple(s for s in ("train", "val", "test", "miniv") if (folder / f"refer_{s}.json").is_file())

    def walk(self, folder: Path, split: str) -> Iterator[Example | Skip]:
        last: tuple[Path | None, Size | None] = None, None
        with indexes(1) as (seen,):
            for number, task in enumerate(entries(folder / f"refer_{split}.json")):
                if not isinstance(task, dict) or "task_id" not in task:
                    yield Skip("task_id: missing", f"{split}-{number}")
                    continue
                path = _first(folder, *(f"{p}/{task.get('image_id')}.jpg" for p in ("images", "VG_100K", "VG_100K_2")))
                if path is not None and path != last[0]:
                    last = path, sized(path)
                yield self._region(split, task, path, last[1], seen)

    def _region(
        self, split: str, task: Mapping[str, Any], path: Path | None, size: Size | None, seen: Index
    ) -> Example | Skip:
        key, phrase = f"{split}-{task['task_id']}", text_of(task.get("phrase"))
        if not seen.add(key):
            return Skip("task_id: given twice", key)
        if phrase is None:
            return Skip("phrase: empty or not UTF-8", key)
        if path is None:
            return Skip(MISSING, key)
        if size is None:
            return Skip(BROKEN, key)
        polygons = flat(task.get("Polygons"), size)
        if polygons is None:
            return Skip("Polygons: no lists of points in or near the picture", key)
        box = clipped(_around(polygons), size)
        if box is None:
            return Skip("Polygons: empty or outside the picture", key)
        label = {"phrase": phrase, "box": list(box)}
        mask = partial(drawn, polygons, size, f"{path} region {key}")
        picture = f"visual-genome/{task.get('image_id')}"
        return Example(key, self.task, picture, partial(load, path, size=size), label, lazy={"mask": mask})


class Sa1b(Regions):
    """SA-1B: `sa_<number>.jpg` and `sa_<number>.json` beside it, in the folder or in folders like `sa_000000/`."""

    name = "SA-1B"
    licence = "SA-1B Dataset Research License"
    address = "https://ai.meta.com/datasets/segment-anything/"

    def splits(self, folder: Path) -> tuple[str, ...]:
        places = ("sa_*.json", "sa_*/sa_*.json")
        return ("train",) if any(next(folder.glob(place), None) for place in places) else ()

    def walk(self, folder: Path, split: str) -> Iterator[Example | Skip]:
        yield from self._folder(folder, split)
        for name in folders_in(folder):
            if name.startswith("sa_"):
                yield from self._folder(folder / name, split)

    def _folder(self, folder: Path, split: str) -> Iterator[Example | Skip]:
        for name in names(folder, lambda e: e.name.startswith("sa_") and e.name.endswith(".json")):
            path = folder / name
            picture = path.with_suffix(".jpg")
            size = sized(picture) if picture.is_file() else None
            if not picture.is_file():
                yield Skip(MISSING, f"{split}-{path.stem}")
            elif size is None:
                yield Skip(BROKEN, f"{split}-{path.stem}")
            else:
                yield from self._regions(f"{split}-{path.stem}", path, picture, size)

    def _regions(self, key: str, path: Path, picture: Path, size: Size) -> Iterator[Example | Skip]:
        source, seen = partial(load, picture, size=size), set()
        for number, entry in enumerate(_annotations(path)):
            given = entry.get("id") if isinstance(entry, dict) else None
            this = f"{key}-{given if given is not None else number}"
            found = entry.get("segmentation") if isinstance(entry, dict) else None
            four = numbers(entry.get("bbox"), 4) if isinstance(entry, dict) else None
            box = clipped((four[0], four[1], four[0] + four[2], four[1] + four[3]), size) if four else None
            if this in seen:
                yield Skip("id: given twice", this)
            elif not isinstance(found, dict) or found.get("size") != [size[1], size[0]]:
                yield Skip("segmentation.size: missing or not the picture's", this)
            elif box is None:
                yield Skip("bbox: not four finite numbers, empty or outside the picture", this)
            else:
                seen.add(this)
                facts = {n: str(entry[n]) for n in ("predicted_iou", "stability_score") if n in entry}
                mask = partial(drawn, found, size, f"{path} annotations[{number}]")
                label = {"box": list(box)}
                name = f"sa-1b/{path.stem}"
                yield Example(this, self.task, name, source, label, facts=facts, lazy={"mask": mask})


def sized(path: Path) -> Size | None:
    """Width and height of a picture, None when it is broken."""
    try:
        return size_of(path)
    except DataError:
        return None


def clipped(box: Box, size: Size) -> Box | None:
    """The part of a box that is inside a picture, None when less than a pixel is."""
    left, top = max(0.0, box[0]), max(0.0, box[1])
    right, bottom = min(float(size[0]), box[2]), min(float(size[1]), box[3])
    if not all(map(math.isfinite, box)) or right - left < 1 or bottom - top < 1:
        return None
    return (round(left, 2), round(top, 2), round(right, 2), round(bottom, 2))


def flat(polygons: Any, size: Size) -> list[list[float]] | None:
    """PhraseCut's polygons, a list for each thing, as COCO writes them: x, y, x, y...; None when they are no such.

    Corners far from the picture are refused: drawing to them would take for ever.
    """
    if not isinstance(polygons, list) or not all(isinstance(thing, list) for thing in polygons):
        return None
    far, found = 2 * max(size), []
    for polygon in (polygon for thing in polygons for polygon in thing):
        points = [numbers(point, 2) for point in polygon] if isinstance(polygon, list) else [None]
        if any(point is None or max(map(abs, point)) > far for point in points):
            return None
        if len(points) >= 3:  # fewer enclose nothing
            found.append([value for point in points if point is not None for value in point])
    return found


def drawn(found: Any, size: Size, where: str) -> Mask:
    """The mask of an outline: polygons or run lengths.

    Raises:
        DataError: it is neither, or nothing is inside; says `where`.
    """
    mask = outline(found, size)
    if mask is None or not mask.any():
        raise DataError(
            f"{where}: {'an empty mask' if mask is not None else 'no polygons or run lengths'}; leave it out"
        )
    return np.asarray(mask)


def _around(polygons: list[list[float]]) -> Box:
    """The box around polygons; an empty one when there are none."""
    xs, ys = [x for p in polygons for x in p[::2]], [y for p in polygons for y in p[1::2]]
    return (min(xs), min(ys), max(xs), max(ys)) if xs else (0.0, 0.0, 0.0, 0.0)


def _first(folder: Path, *candidates: str) -> Path | None:
    paths = (within(folder, name) for name in candidates)
    return next((path for path in paths if path is not None and path.is_file()), None)


def _annotations(path: Path) -> list[Any]:
    """The regions that one file of SA-1B lists.

    Raises:
        DataError: it is no JSON, far too large, or lists none; names it and the field.
    """
    if path.stat().st_size > MOST_BYTES:
        raise DataError(f"{path} has {path.stat().st_size} bytes, far more than any picture's regions; leave it out")
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path} is no JSON in UTF-8, or was cut short; download it again") from error
    found = document.get("annotations") if isinstance(document, dict) else None
    if not isinstance(found, list):
        raise DataError(f"{path}: annotations: missing or no list; download it again")
    return found


READERS = (PhraseCut(), Sa1b())

"""COCO-Stuff: every pixel's class, as the maps of things and stuff that its authors publish.

An example is a picture and a class: each class that is there, and in one example of five one that isn't. A class counts
as absent only where nothing hints at it: not a pixel has it, no class that people would call the same is there, hardly
anything is left unlabelled, and it is a class that annotators did look for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray

from instructdiffusion.model.data.augment import CELL
from instructdiffusion.model.data.pictures import coco_picture, load, load_map, size_of
from instructdiffusion.model.data.readers import Example
from instructdiffusion.model.data.readers.walk import Skip, Walker, first_folder
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.tasks.segmentation import ABSENT

UNLABELLED = 255
UNKNOWN = 0.1  # share of unlabelled pixels beyond which nothing is said to be absent
#: Classes of the list that COCO never annotated: they are in pictures, but in no map.
NEVER_ANNOTATED = frozenset(
    ("street sign", "hat", "shoe", "eye glasses", "plate", "mirror", "window", "desk", "door", "blender", "hair brush")
)
#: Stuff that may show on anything labelled as something else, a person's clothes for instance.
NEVER_ABSENT = frozenset(
    (
        *("branch", "cardboard", "cloth", "clothes", "dirt", "leaves", "light", "metal", "paper", "plastic", "roof"),
        *("stone", "straw", "textile", "wood", "wall", "floor", "ceiling", "ground", "solid", "structural"),
        *("furniture", "food", "plant"),
    )
)
#: People may mean one by the other: where one of a group is, none of it is said to be absent.
ALIKE: tuple[frozenset[str], ...] = tuple(
    frozenset(names.split(", "))
    for names in (
        "fruit, apple, banana, orange, food",
        "vegetable, broccoli, carrot, salad, food",
        "sea, river, water, waterdrops",
        "mountain, hill, rock, stone",
        "carpet, rug, mat, floor",
        "sand, dirt, mud, ground, gravel, road, pavement, platform, railroad, playingfield",
        "tree, bush, plant, leaves, branch, potted plant, flower, grass, moss, straw, playingfield",
        "house, skyscraper, building, roof, bridge, tent",
        "blanket, towel, cloth, textile, napkin, clothes, curtain, pillow, banner",
        "cabinet, cupboard, shelf, furniture, table, dining table, desk, counter, chair, couch, bed, bench",
        "fence, railing, cage, net",
        "snow, fog, clouds, sky",
        "cup, wine glass, bottle, bowl, vase",
        "car, truck, bus",
        "window, mirror, door",
        "sandwich, hot dog, pizza, donut, cake, food",
        "suitcase, backpack, handbag",
        "tv, laptop",
        "microwave, oven",
    )
)
_PICTURES = ("images/{split}", "{split}")
_MAPS = (
    "annotations/{split}",
    "annotations/stuffthingmaps_trainval2017/{split}",
    "stuffthingmaps_trainval2017/{split}",
)


class CocoStuff(Walker):
    """COCO-Stuff 164K: `labels.txt`, `images/<split>/*.jpg` and `annotations/<split>/*.png` (stuffthingmaps)."""

    name = "COCO-Stuff"
    task = "segmentation"
    licence = "annotations CC BY 4.0; pictures under their owners' Flickr licences"
    address = "https://github.com/nightrome/cocostuff"
    weight = 0.1  # one class a picture and epoch; a picture has about eight and two that are absent
    flips = True

    def recognises(self, folder: Path) -> bool:
        return (folder / "labels.txt").is_file() and bool(self.splits(folder))

    def splits(self, folder: Path) -> tuple[str, ...]:
        years = ("train2017", "val2017")
        return tuple(s for s in years if any((folder / m.format(split=s)).is_dir() for m in _MAPS))

    def walk(self, folder: Path, split: str) -> Iterator[Example | Skip]:
        names = classes(folder / "labels.txt")
        maps = first_folder(folder, *(m.format(split=split) for m in _MAPS))
        pictures = first_folder(folder, *(p.format(split=split) for p in _PICTURES))
        for path in sorted(maps.glob("*.png")):
            picture = pictures / f"{path.stem}.jpg"
            if not picture.is_file():
                yield Skip("picture: missing on disk", f"{split}-{path.stem}")
            else:
                yield from self._classes(split, path, picture, names)

    def _classes(self, split: str, path: Path, picture: Path, names: dict[int, str]) -> Iterator[Example | Skip]:
        key = f"{split}-{path.stem}"
        try:
            values, size = load_map(path), size_of(picture)
        except DataError as error:
            yield Skip(f"map or picture: broken ({'map' if str(path) in str(error) else 'picture'})", key)
            return
        if (values.shape[1], values.shape[0]) != size:
            yield Skip("map: another size than its picture", key)
            return
        counted = {int(v): int(n) for v, n in enumerate(np.bincount(values.ravel(), minlength=256)) if n}
        unlabelled = counted.pop(UNLABELLED, 0) / values.size
        if not counted.keys() <= names.keys():
            yield Skip("map: values that labels.txt doesn't list", key)
            return
        if not counted:
            yield Skip("map: nothing is labelled", key)
            return
        there = {names[value] for value in counted}
        source, stem = partial(load, picture, size=size), path.stem
        name = coco_picture(int(stem)) if stem.isdecimal() else f"coco/{stem}"
        shown = [value for value, number in counted.items() if number >= CELL * values.size]
        for value in counted:
            if value not in shown:
                yield Skip("map: a class smaller than a cell of the latent grid", f"{key}-{value}")
        absent = _absent(Random(key), len(shown), there, names) if unlabelled <= UNKNOWN else []
        for value in (*shown, *absent):
            label = {"phrase": phrase(names[value], there), "class": names[value], "mask": _mask(values, value)}
            yield Example(f"{key}-{value}", self.task, name, source, label)


def classes(path: Path) -> dict[int, str]:
    """Names by the value of a pixel: one less than the number in `labels.txt`, whose 0 is unlabelled.

    Raises:
        DataError: the file is missing or broken; names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; download labels.txt of COCO-Stuff into the folder") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}); download it again") from error
    found: dict[int, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        match = re.fullmatch(r"\s*(\d{1,3})\s*:\s*(.+?)\s*", line)
        if match is None or int(match[1]) - 1 in found or int(match[1]) > UNLABELLED:
            raise DataError(f"{path} line {number} is no new '<number>: <name>': {line[:60]!r}; download it again")
        found[int(match[1]) - 1] = match[2]
    found.pop(-1, None)
    if not found:
        raise DataError(f"{path} lists no class; download it again")
    return found


def phrase(name: str, there: set[str]) -> str:
    """A class in words: "wall-brick" is a brick wall; "wall-other" is any wall while there is no wall beside it."""
    head, _, kind = name.partition("-")
    if kind in ("", "stuff"):
        return head
    if kind == "other":
        others = {h for n in there if n != name for h in (n.partition("-")[0],)}
        alike = set().union(*(group for group in ALIKE if head in group)) | {head}
        return f"other {head}" if others & alike else head
    return f"{head} {kind}" if head == "window" else f"{kind} {head}"


def _absent(rng: Random, present: int, there: set[str], names: dict[int, str]) -> list[int]:
    """Classes to ask for that aren't there: on average as many as make up their share of all examples."""
    heads = {name.partition("-")[0] for name in there}
    close = set().union(*(group for group in ALIKE if group & heads)) | heads
    candidates = [
        value
        for value, name in sorted(names.items())
        if "-" not in name and name not in close and name not in NEVER_ABSENT and name not in NEVER_ANNOTATED
    ]
    wanted = present * ABSENT / (1 - ABSENT)
    count = int(wanted) + (rng.random() < wanted % 1)
    return rng.sample(candidates, min(count, len(candidates)))


def _mask(values: NDArray[np.uint8], value: int) -> NDArray[np.bool_]:
    return np.asarray(values == value)


READERS = (CocoStuff(),)

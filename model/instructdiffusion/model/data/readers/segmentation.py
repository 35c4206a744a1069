"""COCO-Stuff: every pixel's class, as the maps of things and stuff that its authors publish.

An example is a picture and a class: each class that is there, and in one example of five one that isn't. A class counts
as absent only where nothing hints at it: not a pixel has it, no class that people would call the same is there, hardly
anything is left unlabelled, and it is a class that annotators did look for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from instructdiffusion.model.data.pictures import coco_picture
from instructdiffusion.model.data.readers.maps import Classes, Maps, Pair, listed_classes
from instructdiffusion.model.data.readers.walk import first_folder

UNLABELLED = 255
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


class CocoStuff(Maps):
    """COCO-Stuff 164K: `labels.txt`, `images/<split>/*.jpg` and `annotations/<split>/*.png` (stuffthingmaps)."""

    name = "COCO-Stuff"
    licence = "annotations CC BY 4.0; pictures under their owners' Flickr licences"
    address = "https://github.com/nightrome/cocostuff"
    weight = 0.1  # one class a picture and epoch; a picture has about eight and two that are absent
    listed = "labels.txt"

    def recognises(self, folder: Path) -> bool:
        return (folder / "labels.txt").is_file() and bool(self.splits(folder))

    def splits(self, folder: Path) -> tuple[str, ...]:
        years = ("train2017", "val2017")
        return tuple(s for s in years if any((folder / m.format(split=s)).is_dir() for m in _MAPS))

    def classes(self, folder: Path, split: str) -> Classes:
        # A pixel's value is one less than the number in the list, whose 0 is unlabelled.
        numbers = listed_classes(folder / "labels.txt", what="labels.txt of COCO-Stuff")
        return Classes({number - 1: name for number, name in numbers.items() if number}, {UNLABELLED})

    def pairs(self, folder: Path, split: str) -> Iterator[Pair]:
        maps = first_folder(folder, *(m.format(split=split) for m in _MAPS))
        pictures = first_folder(folder, *(p.format(split=split) for p in _PICTURES))
        for path in sorted(maps.glob("*.png")):
            yield Pair(path.stem, pictures / f"{path.stem}.jpg", path)

    def picture(self, stem: str) -> str:
        return coco_picture(int(stem)) if stem.isdecimal() else f"coco/{stem}"

    def teaches(self, split: str) -> bool:
        return True  # absent classes are scored too: N-acc is measured on them

    def phrases(self, names: tuple[str, ...], there: Collection[str]) -> Mapping[str, str]:
        return {name: phrase(name, there) for name in names}

    def absent(self, names: Mapping[int, str], there: Collection[str]) -> list[int]:
        heads = {name.partition("-")[0] for name in there}
        close = set().union(*(group for group in ALIKE if group & heads)) | heads
        return [
            value
            for value, name in sorted(names.items())
            if "-" not in name and name not in close and name not in NEVER_ABSENT and name not in NEVER_ANNOTATED
        ]


def phrase(name: str, there: Collection[str]) -> str:
    """A class in words: "wall-brick" is a brick wall; "wall-other" is any wall while there is no wall beside it."""
    head, _, kind = name.partition("-")
    if kind in ("", "stuff"):
        return head
    if kind == "other":
        others = {h for n in there if n != name for h in (n.partition("-")[0],)}
        alike = set().union(*(group for group in ALIKE if head in group)) | {head}
        return f"other {head}" if others & alike else head
    return f"{head} {kind}" if head == "window" else f"{kind} {head}"


READERS = (CocoStuff(),)

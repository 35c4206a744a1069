"""PASCAL VOC 2012's segmentation, and PASCAL-Context, which labels all of VOC 2010's pictures.

Both name pictures by VOC's numbers, so that a picture is known again in either.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from instructdiffusion.model.data.pictures import MOST_PIXELS, ClassMap
from instructdiffusion.model.data.readers.maps import NUMBERED, Classes, Maps, Pair, listed_classes, stems
from instructdiffusion.model.errors import DataError

VOC = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
BORDER = 255  # around each thing, and over what is too hard to label
#: Names that are written as one word.
WORDS = {"diningtable": "dining table", "pottedplant": "potted plant", "tvmonitor": "tv monitor"}
#: Names of the list of 59 that the list of 459 spells otherwise.
ALIASES = {"diningtable": "table", "bedcloth": "bedclothes", "clothes": "cloth"}
_NOBODY_KNOWS = "unknown"  # a class of the 459
_LISTS = "ImageSets/{kind}/{split}.txt"


class Pascal(Maps):
    """VOC's pictures, in the order of its own lists."""

    def picture(self, stem: str) -> str:
        return f"voc/{stem}"

    def phrases(self, names: tuple[str, ...], there: Collection[str]) -> Mapping[str, str]:
        return {name: WORDS.get(name, name) for name in names}


class Voc(Pascal):
    """PASCAL VOC 2012: `JPEGImages`, `SegmentationClass/*.png` and `ImageSets/Segmentation/<split>.txt`.

    The background is no class to ask for, and is wrong to paint; the border of 255 is void. All 20 classes were looked
    for in every picture, so that in `train` some are asked for that aren't there.
    """

    name = "PASCAL VOC"
    licence = "no licence stated for the annotations; pictures under their owners' Flickr licences"
    address = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/"
    listed = "PASCAL VOC"

    def splits(self, folder: Path) -> tuple[str, ...]:
        if not (folder / "SegmentationClass").is_dir() or (folder / "trainval").is_dir():  # the latter: PASCAL-Context
            return ()
        return tuple(s for s in ("train", "val") if (folder / _LISTS.format(kind="Segmentation", split=s)).is_file())

    def classes(self, folder: Path, split: str) -> Classes:
        return Classes(dict(enumerate(VOC, 1)), {BORDER}, {0})

    def pairs(self, folder: Path, split: str) -> Iterator[Pair]:
        for stem in stems(folder / _LISTS.format(kind="Segmentation", split=split)):
            yield Pair(stem, folder / f"JPEGImages/{stem}.jpg", folder / f"SegmentationClass/{stem}.png")

    def absent(self, names: Mapping[int, str], there: Collection[str]) -> list[int]:
        return [value for value, name in names.items() if name not in there]


class PascalContext(Pascal):
    """PASCAL-Context in the folder of VOC 2010: `trainval/*.mat`, `labels.txt` of 459 classes, `59_labels.txt`.

    It has two splits for each of VOC's: `val-459`, and, where `59_labels.txt` is there, `val-59`, which asks for the 59
    classes that are most frequent; all else is void then, and so is what its annotators called unknown. They named
    things in their own words, "rock" or "stone", so that nothing is said to be absent.
    """

    name = "PASCAL-Context"
    licence = "no licence stated for the annotations; pictures under their owners' Flickr licences"
    address = "https://cs.stanford.edu/~roozbeh/pascal-context/"
    listed = "labels.txt"

    def splits(self, folder: Path) -> tuple[str, ...]:
        if not (folder / "trainval").is_dir():
            return ()
        there = [s for s in ("train", "val") if (folder / _LISTS.format(kind="Main", split=s)).is_file()]
        counts = ("459", "59") if (folder / "59_labels.txt").is_file() else ("459",)
        return tuple(f"{split}-{count}" for count in counts for split in there)

    def classes(self, folder: Path, split: str) -> Classes:
        names = listed_classes(folder / "labels.txt", what="labels.txt of PASCAL-Context")
        wanted = {name for name in names.values() if name != _NOBODY_KNOWS}
        if split.endswith("-59"):
            path = folder / "59_labels.txt"
            wanted = {ALIASES.get(name, name) for name in listed_classes(path, NUMBERED).values()}
            if strange := sorted(wanted - set(names.values())):
                raise DataError(f"{path} names {strange[0]!r}, which labels.txt doesn't; download both again")
        asked = {value: name for value, name in names.items() if name in wanted and value}
        return Classes(asked, {0, *names} - asked.keys())

    def pairs(self, folder: Path, split: str) -> Iterator[Pair]:
        for stem in stems(folder / _LISTS.format(kind="Main", split=split.partition("-")[0])):
            yield Pair(stem, folder / f"JPEGImages/{stem}.jpg", folder / f"trainval/{stem}.mat")

    def values(self, path: Path) -> ClassMap:
        return label_map(path)


def label_map(path: Path) -> ClassMap:
    """The map `LabelMap` in a Matlab file.

    Raises:
        DataError: there is none, it is far too large, or the file is broken; names it.
    """
    from scipy.io import loadmat, whosmat

    try:
        with path.open("rb") as file:
            kinds = {name: (shape, kind) for name, shape, kind in whosmat(file)}
            shape, kind = kinds.get("LabelMap", ((), ""))
            fits = kind in ("uint8", "uint16") and len(shape) == 2 and 0 < shape[0] * shape[1] <= MOST_PIXELS
            found: ClassMap | None = loadmat(file, variable_names=["LabelMap"])["LabelMap"] if fits else None
    except Exception as error:  # scipy raises whatever the damage leads to
        raise DataError(f"map {path} is no Matlab file, or was cut short; download it again") from error
    if found is None:
        raise DataError(f"map {path} has no LabelMap of whole numbers; download it again")
    return found


READERS = (Voc(), PascalContext())
